"""The flow benchmark at a size at which it only shows that both implementations agree."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import flow_speed


def test_the_reference_and_the_app_agree(capsys: pytest.CaptureFixture[str]) -> None:
    assert flow_speed.main(["--tiny", "--json", "--device", "cpu"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(r["prompt"], r["wanted"]) for r in rows} == {(40, 1), (40, 5), (100, 1), (100, 5)}
    assert len(rows) == 6 and all(r["difference"] < flow_speed.FLOAT32 for r in rows)


def test_the_benchmark_fails_where_they_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    right = flow_speed.ours
    monkeypatch.setattr(flow_speed, "ours", lambda *given: right(*given) * 1.01)
    with pytest.raises(SystemExit, match="disagree"):
        flow_speed.main(["--tiny", "--device", "cpu"])


@torch.inference_mode()
def test_causal_lower_right_equals_an_explicit_mask() -> None:
    """The first is used on CUDA, the second elsewhere."""
    from torch.nn.attention.bias import causal_lower_right

    from janus_app.nn.llama import causal_attention

    stream = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 8, generator=stream) for n in (5, 9, 9))
    seen = torch.ones(5, 9, dtype=torch.bool).tril(4)
    bias = causal_lower_right(5, 9)
    torch.testing.assert_close(
        torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias),
        causal_attention(query, key, value, seen),
    )
