"""A cluster of two machines, as far as one machine can be two: a head and a member, each with its own processes.

They are started with the commands of docs/cluster.md, on this machine's own address: Ray lets nobody join a head on the
loopback address. Only what they started is ended.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # none is written into the home of who runs the tests
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["JANUS_APP_WEIGHT_CHECK"] = "off"

from janus_app.cluster.ray_serve import RayServe
from janus_app.cluster.session import ClusterSession
from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.types import drain

ROOT = Path(__file__).parent.parent.parent
OTHER = str(ROOT / "tests" / "golden" / "janus" / "janus_1_3b" / "checkpoint")
MODEL = str(ROOT / "tests" / "golden" / "janus" / "janus_pro_1b" / "checkpoint")
PATIENCE = 240  # seconds: a busy machine needs a while to start its processes again


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@dataclass
class Machine:
    """The processes of one machine of the cluster."""

    process: subprocess.Popen[str]
    known: dict[int, psutil.Process] = field(default_factory=dict)

    def processes(self) -> list[psutil.Process]:
        """All that it has started so far and that still run, also those whose parent is gone."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.known[child.pid] = child
        for process in list(self.known.values()):
            with suppress(psutil.NoSuchProcess):
                for child in process.children(recursive=True):
                    self.known[child.pid] = child
        return [process for process in self.known.values() if process.is_running()]

    def cut_power(self) -> None:
        """Nothing of it does one step more. All processes are halted before one is killed: none sees another go."""
        processes = self.processes()
        for act in (psutil.Process.suspend, psutil.Process.kill):
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    act(process)
        self.process.kill()
        self.process.wait(PATIENCE)

    def end(self) -> None:
        """Stop it as a service manager does; then nothing of it runs."""
        begun = self.processes()
        self.process.terminate()
        self.process.wait(PATIENCE)
        _, left = psutil.wait_procs(begun, timeout=20)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def start(*arguments: str, folder: Path) -> Machine:
    command = [sys.executable, "-m", "janus_app", "cluster", *arguments, "--block"]
    environment = {**os.environ, "RAY_TMPDIR": str(folder)}
    return Machine(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True))


def started(*arguments: str, folder: Path) -> Machine:
    """A machine that runs. Ray gives up where its own processes take half a minute to start, and is started again."""
    for _ in range(3):
        machine = start(*arguments, folder=folder)
        assert machine.process.stdout is not None
        if machine.process.stdout.readline():  # what the command says once Ray runs
            return machine
        machine.end()
    raise AssertionError(f"Ray could not start: {arguments}")


def own_address() -> str:
    """The address that this machine has in its network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("10.255.255.255", 1))  # sends nothing
        return str(probe.getsockname()[0])


@dataclass
class TwoMachines:
    """The session of a page, and the processes of the machines behind it. `address` is that of the head."""

    address: str
    session: ClusterSession
    head: Machine
    member: Machine
    folder: Path

    def replace_member(self) -> None:
        """Another machine joins in the place of the lost one."""
        self.member = started("join", self.address, folder=self.folder)


@pytest.fixture(scope="session")
def machines() -> Iterator[TwoMachines]:
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short: names of sockets have a limit
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    host = own_address()
    address = f"{host}:{port}"
    with ExitStack() as ends:
        ends.callback(shutil.rmtree, folder, ignore_errors=True)
        head = started("head", "--host", host, "--port", str(port), folder=folder)
        ends.callback(head.end)
        with ThreadPoolExecutor(1) as pool:  # both take a while
            joining = pool.submit(started, "join", address, folder=folder)
            session = ends.enter_context(closing(ClusterSession(load_catalog(), Hub(), RayServe(address))))
            both = TwoMachines(address, session, head, joining.result(), folder)
        ends.callback(lambda: both.member.end())
        until(lambda: session.room == 2)
        yield both


@pytest.fixture(scope="session")
def cluster(machines: TwoMachines) -> ClusterSession:
    """The session with two ready replicas, one on each machine."""
    drain(machines.session.load(MODEL, "cpu", "fp32"))
    until(lambda: machines.session.state.replicas == (2, 2))
    return machines.session


@pytest.fixture(scope="session")
def alone() -> ModelSession:
    """One model in this process."""
    session = ModelSession(load_catalog(), Hub())
    drain(session.load(MODEL, "cpu", "fp32"))
    return session
