"""The speed benchmark at a size at which it only shows that the implementations agree, and operations per token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from janus_app.nn import sampling

pytest.importorskip("transformers", reason="transformers is not installed (requirements-dev.txt)")
from benchmarks import speed

TINY = ["--tiny", "--device", "cpu", "--precision", "fp32"]


def test_the_reference_and_the_app_draw_the_same_tokens_and_the_app_needs_fewer_operations(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    assert speed.main([*TINY, "--json", str(file)]) == 0
    rows: list[dict[str, Any]] = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert all(set(row) == {"case", "side", "metric", "value"} for row in rows)
    apart = [row["value"] for row in rows if row["metric"] == "first_mismatch"]
    assert apart == [None, None]
    steps = {(row["case"], row["side"]): row["value"] for row in rows if row["metric"] == "operations_per_token"}
    for case in {case for case, _ in steps}:
        assert steps[case, "ours"] < 0.7 * steps[case, "reference"] < steps[case, "transformers"]
        assert steps[case, "ours"] == int(steps[case, "ours"])  # the same at every token


def test_the_benchmark_fails_where_they_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "mix_guidance", lambda c, u, weight: u + (weight + 1) * (c - u))
    with pytest.raises(SystemExit, match="different tokens"):
        speed.main([*TINY, "--count", "1"])


def test_the_first_mismatch_is_the_earliest_of_all_pictures() -> None:
    mine = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]])
    other = torch.tensor([[1, 2, 3, 9], [1, 2, 9, 4]])
    assert speed.first_mismatch(mine, other) == 2 and speed.first_mismatch(mine, mine) is None
