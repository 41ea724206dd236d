"""The speed benchmark at a size at which it only shows that the implementations agree, and operations per token."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from janus_app.nn import sampling
from janus_app.runtime import machine_speed

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


def test_sides_that_memory_does_not_hold_at_once_are_made_in_turns_and_draw_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also in int8, whose row has every side too."""
    alive: list[weakref.ref[Any]] = []
    make = speed.ways.random_network

    def noted(*given: Any) -> Any:
        network = make(*given)
        alive.append(weakref.ref(network))
        assert sum(one() is not None for one in alive) == 1
        return network

    monkeypatch.setattr(speed.ways, "random_network", noted)
    monkeypatch.setattr(speed, "fits_together", lambda network, device: False)
    assert speed.main(["--tiny", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert len(alive) == 4 * (1 + 3)
    for case in ("fp32, 1", "fp32, 2", "int8, 1", "int8, 2"):
        for side in speed.SIDES:
            assert f"| tiny {case} pictures, prompt 12 | {side} |" in out
    features = ", ".join(machine_speed.processor_features())
    assert features in out.splitlines()[0] and machine_speed.processor_name() in out.splitlines()[0]


def test_the_benchmark_fails_where_the_app_is_slower_than_another(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {"ratio_to_reference": 1.5, "ratio_to_transformers": 0.94}
    assert speed.slower("trunk bf16, 4 pictures", ours) == [
        "trunk bf16, 4 pictures: 0.94 times as fast as transformers"
    ]
    monkeypatch.setattr(speed, "slower", lambda case, ours: [f"{case}: 0.50 times as fast as reference"])
    with pytest.raises(SystemExit, match=r"slower than another implementation.*tiny fp32, 1 pictures"):
        speed.main(
            [
                "--size",
                "tiny",
                "--device",
                "cpu",
                "--precision",
                "fp32",
                "--count",
                "1",
                "--cells",
                "4",
                "--rounds",
                "1",
                "--prompt",
                "8",
            ]
        )


def test_the_first_mismatch_is_the_earliest_of_all_pictures() -> None:
    mine = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]])
    other = torch.tensor([[1, 2, 3, 9], [1, 2, 9, 4]])
    assert speed.first_mismatch(mine, other) == 2 and speed.first_mismatch(mine, mine) is None
