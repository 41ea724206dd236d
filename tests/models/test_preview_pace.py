"""Previews take a fifth of the time at most, costly ones a sixtieth, and keep coming after a slow first one."""

from __future__ import annotations

from janus_app.models.common.preview_pace import PreviewPace


def previews(row: float, costs: list[float], rows: int = 24, cheapest: float | None = None) -> list[int]:
    """The rows, of `row` seconds each, after which a preview came. The last of `costs` is that of all further ones."""
    pace, now, shown = PreviewPace(cheapest), 0.0, []
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


def test_slow_decoding_of_an_earlier_job_does_not_keep_the_previews_away() -> None:
    assert len(previews(row=0.04, costs=[0.005], cheapest=1.0)) >= 6


def test_slow_moment_of_the_machine_does_not_keep_the_others_away() -> None:
    assert previews(row=0.04, costs=[0.02, 0.005, 0.9, 0.005])[-1] >= 22


def test_costly_previews_take_a_fifth_of_the_time_at_most() -> None:
    shown = previews(row=0.5, costs=[0.4], rows=100)
    assert len(shown) * 0.4 <= 100 * 0.5 / 4 + 2 * 0.4


def test_quick_previews_come_ten_times_a_second_at_most() -> None:
    assert len(previews(row=0.01, costs=[0.0], rows=100)) <= 10
