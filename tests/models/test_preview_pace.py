"""Previews take a fifth of the time at most, costly ones a sixtieth, and keep coming after a slow first one."""

from __future__ import annotations

from janus_app.models.common.preview_pace import PreviewPace


def previews(row: float, costs: list[float], rows: int = 24, cheapest: float | None = None) -> list[int]:
    """The rows, of `row` seconds each, after which a preview came. The last of `costs` is that of all further ones."""
    pace, now, shown = PreviewPace(cheapest).begun(0.0), 0.0, []
    for number in range(1, rows + 1):
        now += row
        if pace.due(now):
            shown.append(number)
            begin, now = now, now + costs[min(len(shown), len(costs)) - 1]
            pace.took(begin, now)
    return shown


def test_slow_first_preview_does_not_keep_the_others_away() -> None:
    shown = previews(row=0.04, costs=[1.0, 0.005])
    assert shown[0] == 1 and len(shown) >= 6 and shown[-1] >= 22


def test_slow_moment_of_the_machine_does_not_keep_the_others_away() -> None:
    assert previews(row=0.04, costs=[0.02, 0.005, 0.9, 0.005])[-1] >= 22


def test_previews_take_a_fifth_of_the_time_at_most() -> None:
    shown = previews(row=0.5, costs=[0.4], rows=100)
    assert len(shown) * 0.4 <= 100 * 0.5 / 4 + 2 * 0.4


def test_quick_previews_come_ten_times_a_second_at_most() -> None:
    assert len(previews(row=0.01, costs=[0.0], rows=100)) <= 10


def test_costly_previews_take_a_sixtieth_of_the_time_and_the_first_is_none_of_them() -> None:
    assert previews(row=1.0, costs=[2.0], rows=119, cheapest=2.0) == []
    assert 1 <= len(previews(row=1.0, costs=[2.0], rows=300, cheapest=2.0)) <= 300 / 60 / 2 + 1


def test_first_decoding_counts_where_nothing_is_set_up_by_it() -> None:
    for set_up, due in ((False, False), (True, True)):
        pace = PreviewPace().begun(0.0)
        pace.like(0.0, 3.0, count=2, set_up=set_up)
        assert pace.costly and pace.spent == 3.0 and pace.due(4.0) is due
        assert pace.cheapest == (None if set_up else 6.0)
