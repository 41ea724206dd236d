"""PyTorch uses as many threads as the container's CPU quota, however many processors the machine has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from janus_app.runtime.devices import cpu_quota, limit_threads_to_cgroup


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("limit", "quota", "threads"),
    [
        ("max 100000", None, 4),
        ("150000 100000", 1.5, 2),
        ("10000 100000", 0.1, 1),
        ("800000 100000", 8, 4),
        ("?", None, 4),
    ],
)
def test_the_quota_limits_the_threads(
    limit: str, quota: float | None, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "cpu.max").write_text(limit + "\n", "ascii")
    limit_threads_to_cgroup(tmp_path)
    assert (cpu_quota(tmp_path), torch.get_num_threads()) == (quota, threads)


def test_threads_stay_without_a_quota_and_where_the_user_set_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    limit_threads_to_cgroup(tmp_path)
    assert torch.get_num_threads() == 4
    (tmp_path / "cpu.max").write_text("100000 100000", "ascii")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    limit_threads_to_cgroup(tmp_path)
    assert torch.get_num_threads() == 4
