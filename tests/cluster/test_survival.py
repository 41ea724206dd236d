"""A replica, and then a machine, that is lost."""

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


def test_a_machine_that_loses_its_power_at_the_third_row_costs_no_drawing_and_another_may_take_its_place(
    cluster: ClusterSession, alone: ModelSession, machines: TwoMachines
) -> None:
    try:
        events = eight_drawings(cluster, machines.member.cut_power)
        check_drawings(events, alone)
        assert max(losses(events)) == 1
        until(lambda: cluster.room == 1)
        assert pixels(cluster.result(GenerateRequest(PROMPT, seed=2))) == pixels(
            alone.result(GenerateRequest(PROMPT, seed=2))
        )
    finally:
        machines.replace_member()
    until(lambda: cluster.state.replicas == (2, 2))
