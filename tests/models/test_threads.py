"""As many threads as a container may use, whatever the machine has."""

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
def test_a_quota_bounds_the_threads(
    limit: str, quota: float | None, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "cpu.max").write_text(limit + "\n", "ascii")
    limit_threads_to_cgroup(tmp_path)
    assert (cpu_quota(tmp_path), torch.get_num_threads()) == (quota, threads)


def test_the_person_s_own_number_and_a_missing_limit_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    limit_threads_to_cgroup(tmp_path)
    assert torch.get_num_threads() == 4
    (tmp_path / "cpu.max").write_text("100000 100000", "ascii")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    limit_threads_to_cgroup(tmp_path)
    assert torch.get_num_threads() == 4
