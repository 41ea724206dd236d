"""Replicas on Ray Serve: each is a Serve application of its own, so that the head chooses which one does a job.

Serve places a replica on a machine, looks after its health and starts it again when it was lost. Its HTTP proxy and
Ray's dashboard stay off: only the head speaks to the replicas.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from janus_app.cluster.line import Replica
from janus_app.cluster.replica import ReplicaProcess, Report
from janus_app.errors import AppError
from janus_app.paths import ROOT
from janus_app.types import Event, Request

SLOT = "janus_app_replica"  # the resource of Ray that says for how many replicas a machine without cards has room
OBJECT_STORE_BYTES = 200 * 2**20  # previews and finished pictures pass through it, one at a time
_PATIENCE = 1.0  # seconds between two looks whether a replica is ready


class Lost(Exception):
    """A replica, its machine or the way to it is gone."""


def room(resources: Mapping[str, float]) -> tuple[int, dict[str, Any]]:
    """For how many replicas a cluster has room, and what Ray is to reserve for each: a card, or a slot without any."""
    cards = int(resources.get("GPU", 0))
    if cards:
        return cards, {"num_cpus": 0, "num_gpus": 1}
    return int(resources.get(SLOT, 0)), {"num_cpus": 0, "resources": {SLOT: 1}}


def environment(slots: int, host: str = "127.0.0.1") -> dict[str, str]:
    """The variables with which Ray's processes start on a machine with room for `slots` replicas.

    With a loopback `host` every port is bound to it alone.
    """
    threads = max(1, (os.cpu_count() or 1) // max(1, slots))
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_worker_niceness": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if host == "127.0.0.1" else "1",  # 0: Ray uses no other address
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),  # where replicas find this package
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }


def require_ray() -> None:
    """Raises AppError where Ray is not installed. Does not import it: that is when it reads its variables."""
    try:
        found = importlib.util.find_spec("ray") is not None
    except ValueError:  # as of a module that was replaced by None
        found = False
    if not found:
        raise AppError("cluster_packages_missing")


def import_ray() -> Any:
    """Ray, with its messages on the terminal off."""
    import ray
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):  # its messages about lost replicas; a job has sentences of its own
        worker.print_to_stdstream = lambda *_, **__: None
    logging.getLogger("ray").setLevel(logging.ERROR)
    return ray


class RayServe:
    """The replicas of a cluster: `address` is local:N, or HOST:PORT of a cluster that runs already."""

    def __init__(self, address: str) -> None:
        kind, _, number = address.partition(":")
        self.own = kind == "local"
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.own:
            if not (number.isdecimal() and 1 <= int(number) <= 64):
                raise AppError("cluster_count_malformed", given=address)
            require_ray()
            os.environ.update(environment(int(number)), RAY_AUTH_TOKEN=secrets.token_hex(32))
            options |= {
                "address": "local",  # without it Ray joins a cluster that already runs on this machine
                "resources": {SLOT: int(number)},
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
            }
        else:
            require_ray()
            os.environ.update(environment(1, kind))
            options["address"] = address
        self.ray = import_ray()
        try:
            self._init(options)
        except Exception as error:
            code = "cluster_not_started" if self.own else "cluster_unreachable"
            raise AppError(code, address=address, reason=_first_line(error)) from None
        self.limit = int(number) if self.own else None
        self._calls: dict[Replica, Any] = {}  # the running question whether it is ready
        if not self.capacity():
            raise AppError("cluster_without_room", address=address)
        self._start_serve()

    def _init(self, options: dict[str, Any]) -> None:
        """Start or join, and try again once: Ray gives its own processes half a minute, too little when busy."""
        try:
            self.ray.init(**options)
        except Exception:
            self.ray.shutdown()
            self.ray.init(**options)

    def _start_serve(self) -> None:
        try:
            from ray import serve
        except ImportError:  # Ray without Serve
            raise AppError("cluster_packages_missing") from None
        logging.getLogger("ray.serve").setLevel(logging.ERROR)  # its import and its start have set another level
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        for name in serve.status().applications:  # of a head that ended without a farewell
            if name.startswith("janus_app-"):
                serve.delete(name)

    def capacity(self) -> int:
        """For how many replicas there is room now."""
        found = room(self.ray.cluster_resources())[0]
        return found if self.limit is None else min(found, self.limit)

    def start(self, replicas: Sequence[Replica]) -> None:
        """Let replicas start; they are ready when `report` says so."""
        from ray import serve
        from ray.serve.api import RunTarget

        reserved = room(self.ray.cluster_resources())[1]
        deployment = serve.deployment(ReplicaProcess).options(
            num_replicas=1,
            max_ongoing_requests=8,  # the head gives it one job at a time; a cancelled one may be ending
            ray_actor_options=reserved,
            graceful_shutdown_timeout_s=5,
            graceful_shutdown_wait_loop_s=0.2,
            health_check_period_s=5,
            health_check_timeout_s=30,
        )
        targets = [
            RunTarget(deployment.bind(replica.load), name=_name(replica), route_prefix=None) for replica in replicas
        ]
        handles = serve.run_many(
            targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
        )
        for replica, handle in zip(replicas, handles, strict=True):
            replica.handle = handle

    def stop(self, replica: Replica) -> None:
        """Take a replica away, without waiting for its end."""
        from ray import serve

        def delete() -> None:
            with contextlib.suppress(Exception):  # it may be gone with its machine
                serve.delete(_name(replica))

        self._calls.pop(replica, None)
        threading.Thread(target=delete, name="delete", daemon=True).start()

    def report(self, replica: Replica) -> Report | None:
        """What a replica says of itself, None where it is not ready yet. Raises AppError for a model it cannot load."""
        from ray import serve

        call = self._calls.pop(replica, None) or replica.handle.report.remote()
        try:
            found: Report = call.result(timeout_s=_PATIENCE)
            return found
        except TimeoutError:
            self._calls[replica] = call
            application = serve.status().applications.get(_name(replica))
            if application is not None and application.status == "DEPLOY_FAILED":
                raise AppError("cluster_replica_failed", reason=_first_line(application.message)) from None
            return None
        except Exception as error:
            raise _as_ours(error) from None

    def stream(self, replica: Replica, request: Request | None) -> Stream:
        return Stream(replica.handle.options(stream=True).run.remote(request))

    def close(self) -> None:
        """End what was started here; a cluster that ran already goes on, without our replicas."""
        from ray import serve

        if not self.own:
            with contextlib.suppress(Exception):
                for name in serve.status().applications:
                    if name.startswith("janus_app-"):
                        serve.delete(name)
        self.ray.shutdown()


class Stream:
    """The events of a job on a replica. Raises Lost, and what the job raised."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __iter__(self) -> Iterator[Event]:
        try:
            yield from self._response
        except Exception as error:
            raise _as_ours(error) from None

    def cancel(self) -> None:
        with contextlib.suppress(Exception):
            self._response.cancel()


def _name(replica: Replica) -> str:
    return f"janus_app-{replica.number}"


def _as_ours(error: Exception) -> Exception:
    """What a job raised in a replica, or Lost."""
    from ray.exceptions import RayError, RayTaskError
    from ray.serve.exceptions import RayServeException

    if isinstance(error, RayTaskError):
        cause = error.cause
        return cause if isinstance(cause, Exception) and not isinstance(cause, RayError) else Lost(str(error))
    return Lost(str(error)) if isinstance(error, RayError | RayServeException) else error


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300].rstrip(".") if lines else type(error).__name__
