"""Shared by all tests: where the parity data lies, checkpoints, and a page to visit."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradio_client import Client

    from janus_app.runtime.loader import LoadedModel
    from tests.page_server import Served

# Small models on a busy machine: more threads only wait for each other. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "0")
os.environ["JANUS_APP_WEIGHT_CHECK"] = "off"  # most models of the tests have random weights
os.environ["LC_ALL"] = "C.UTF-8"  # sentences on the command line are in English, whatever the machine speaks

# A shell starts background jobs with SIGINT ignored, and so would every process that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

GOLDEN = Path(__file__).parent / "golden" / "janus"
CASES = ("janus_1_3b", "janus_pro_1b", "janus_pro_7b")


def loaded(folder: Path, precision: str = "fp32", device: str = "cpu", **facts: Any) -> LoadedModel:
    """The checkpoint in a folder, loaded as a session does it. `facts` are fields of its row that its name hides."""
    from dataclasses import replace

    from janus_app.registry.catalog import load_catalog
    from janus_app.runtime.fit import plan_load
    from janus_app.runtime.loader import load
    from janus_app.types import result_of

    variant = replace(load_catalog().resolve(str(folder)), **facts)
    return result_of(load(plan_load(variant, folder, device).choose(precision)))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from tests.page_server import serve

    with serve(tmp_path_factory.mktemp("page"), pace=0.005) as served:
        yield served


@pytest.fixture
def client(page: Served) -> Client:
    from gradio_client import Client

    return Client(page.url, verbose=False)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The counts of the download suite, where it ran."""
    server = sys.modules.get("tests.fake_hub")
    if server is not None and server.COUNTS.sent:
        terminalreporter.write_line(f"downloads: {server.COUNTS.line()}")


def pytest_collection_finish() -> None:
    """What was imported stays to the end. Loading and dropping models collects garbage, which need not look at it."""
    gc.collect()
    gc.freeze()
