"""Who is served next, which replicas there are, and how a job in parts is one job: bookkeeping without any process."""

from __future__ import annotations

from PIL import Image

from janus_app.cluster.line import Changes, Line, Replica, Ticket, Wanted, changes
from janus_app.cluster.spread import Shown, Whole, split
from janus_app.types import (
    ChatRequest,
    Finished,
    GenerateRequest,
    Progress,
    RankRequest,
    TextDelta,
    Turn,
)

A, B = Wanted("a"), Wanted("b")


def replicas(*models: Wanted, ready: bool = True) -> list[Replica]:
    return [Replica(number, model, model, ready=ready, used=float(number)) for number, model in enumerate(models)]


def started(found: Changes) -> list[str]:
    return ["AB"[wanted == B] for wanted in found.start]


def decide(held: list[Replica], *tickets: Ticket, capacity: int = 3, idle: float | None = None) -> Changes:
    return changes(held, tickets, capacity, A, idle, now=100.0)


def test_room_that_nobody_asks_for_belongs_to_the_model_of_the_page() -> None:
    assert started(decide([])) == ["A", "A", "A"]
    assert started(decide(replicas(A, B))) == ["A"]
    assert decide(replicas(A, A, B)) == Changes()


def test_a_model_that_has_no_replica_takes_the_one_that_is_idle_longest() -> None:
    held = replicas(A, A, A)
    found = decide(held, Ticket(B))
    assert started(found) == ["B"] and found.stop == (held[0],)
    busy = replicas(A, A, A)
    for replica in busy:
        replica.ticket = Ticket(A)
    assert decide(busy, Ticket(B)) == Changes()  # nothing is taken from a job


def test_a_model_grows_only_by_what_others_can_spare() -> None:
    assert started(decide(replicas(A, A, B), Ticket(B), Ticket(B))) == ["B"]
    assert decide(replicas(A, A, B), Ticket(A), Ticket(A), Ticket(B), Ticket(B)) == Changes()
    assert decide(replicas(A, B, B), Ticket(B), Ticket(B), Ticket(B)) == Changes()  # the last of the page's stays


def test_the_last_replica_of_another_model_goes_back_to_the_page_when_nobody_used_it_for_a_while() -> None:
    held = replicas(A, B)
    found = decide(held, Ticket(A), Ticket(A), capacity=2)
    assert started(found) == ["A"] and found.stop == (held[1],)
    held[1].used = 99.0
    assert decide(held, Ticket(A), Ticket(A), capacity=2) == Changes()


def test_replicas_of_a_machine_that_is_gone_are_given_up() -> None:
    held = replicas(A, A) + replicas(A, ready=False)
    assert decide(held, capacity=2).stop == (held[2],)
    assert decide(held, capacity=3) == Changes()


def test_idle_replicas_end_and_are_not_replaced_until_they_are_asked_for() -> None:
    held = replicas(A, A, B)
    assert decide(held, idle=50).stop == tuple(held) and decide(held, idle=50).start == ()
    assert decide(held, idle=99).stop == (held[0],) or decide(held, idle=99.5).stop == (held[0],)
    assert started(decide([], Ticket(A), idle=50)) == ["A"]


def test_a_ticket_for_the_whole_cluster_waits_for_all_and_holds_back_who_comes_later() -> None:
    line = Line()
    for replica in replicas(A, A):
        line.add(replica)
    first, alone, later = line.join(A), line.join(None), line.join(A)
    assert [line.place(ticket, 0) for ticket in (first, alone, later)] == [0, 1, 2]
    line.leave(first)
    assert [line.place(ticket, 0) for ticket in (alone, later)] == [0, 2]
    line.leave(alone)
    assert line.place(later, 0) == 0


def test_a_job_gets_no_second_replica_while_another_one_waits() -> None:
    line = Line()
    for replica in replicas(A, A):
        line.add(replica)
    ticket = line.join(A)
    alone = line.join(None)
    line.widen(ticket, 2)
    assert len(ticket.replicas) == 1
    line.leave(alone)
    line.widen(ticket, 2)
    assert len(ticket.replicas) == 2


def test_a_lost_replica_is_replaced_for_its_job_before_later_jobs_are_served() -> None:
    line, held = Line(), replicas(A, A)
    for replica in held:
        line.add(replica)
    first, second, third = line.join(A), line.join(A), line.join(A)
    line.lose(held[0])
    assert [line.place(ticket, 0) for ticket in (first, third)] == [1, 2]
    line.leave(second)
    assert first.replicas == [held[1]] and line.place(third, 0) == 1


def test_shares_of_a_count_are_in_order_and_nearly_equal() -> None:
    ask = ChatRequest((Turn("user", "Hello"),))
    parts = split(GenerateRequest("x", count=7, seed=5), 3)
    assert [(part.seed, part.count) for part in parts if isinstance(part, GenerateRequest)] == [(5, 3), (8, 2), (10, 2)]
    assert split(ask, 3) == [ask] and len(split(GenerateRequest("x", count=2), 9)) == 2
    rank = RankRequest("x", (Image.new("L", (6, 6)),))
    assert split(rank, 4) == [rank]


def test_text_that_comes_in_other_pieces_the_second_time_is_cut_where_it_is_new() -> None:
    shown = Shown()
    first = [shown.new(TextDelta("abc", (1,))), shown.new(TextDelta("de", (2, 3)))]
    shown.again()
    second = [shown.new(TextDelta("a", (1,))), shown.new(TextDelta("bcdefg", (2, 3, 4)))]
    assert first == [TextDelta("abc", (1,)), TextDelta("de", (2, 3))]
    assert second == [None, TextDelta("fg", (4,))]


def test_time_left_of_a_job_in_parts_is_that_of_the_slowest_part_that_runs() -> None:
    whole = Whole(None, split(GenerateRequest("a", count=2), 2))
    assert seconds_left(whole, 0, 40.0) == 40.0
    assert seconds_left(whole, 1, 9.0) == 40.0
    assert whole.take(0, Finished()) is None
    assert seconds_left(whole, 1, 5.0) == 5.0
    assert seconds_left(whole, 1, None) is None


def seconds_left(whole: Whole, part: int, left: float | None) -> float | None:
    event = whole.take(part, Progress("draw", 1, 4, "tokens", seconds_left=left))
    assert isinstance(event, Progress)
    return event.seconds_left
