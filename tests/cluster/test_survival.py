"""A replica, and then a machine, that is lost. It is the last file: afterwards the cluster has one machine."""

from __future__ import annotations

import os
import signal

from janus_app.cluster.session import ClusterSession
from janus_app.runtime.session import ModelSession
from janus_app.types import (
    GenerateRequest,
)
from tests.cluster.conftest import TwoMachines, until
from tests.cluster.drawings import PROMPT, check_drawings, eight_drawings, losses, pixels


def test_a_replica_that_is_killed_at_the_third_row_costs_no_drawing(
    cluster: ClusterSession, alone: ModelSession
) -> None:
    victim = cluster.replicas[0]

    def kill() -> None:
        os.kill(victim.report.process, signal.SIGKILL)

    before = victim.report.process
    events = eight_drawings(cluster, kill)
    check_drawings(events, alone)
    assert sum(losses(events)) == 1
    until(lambda: cluster.state.replicas == (2, 2))
    assert victim.report.process != before


def test_a_machine_whose_daemon_is_killed_at_the_third_row_costs_no_drawing(
    cluster: ClusterSession, alone: ModelSession, machines: TwoMachines
) -> None:
    events = eight_drawings(cluster, machines.member.daemon().kill)
    check_drawings(events, alone)
    assert max(losses(events)) == 1
    until(lambda: cluster.room == 1)
    assert pixels(cluster.result(GenerateRequest(PROMPT, seed=2))) == pixels(
        alone.result(GenerateRequest(PROMPT, seed=2))
    )
