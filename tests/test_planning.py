"""Plans of pictures in words, as `training.planner` teaches them to the embedded Janus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from janus_app.models.common.tokenizer import IMAGE_BEGIN, Tokenizer
from janus_app.runtime.adapters import Adapter
from tests.test_adapters import with_adapters
from training.lora import Lora
from training.planner import CHECKPOINT, RANK, asked, batch, losses, scene_of, written
from training.world import grid


@pytest.mark.parametrize("zh", [False, True])
def test_a_plan_says_what_stands_where_and_is_read_back(zh: bool) -> None:
    rng = np.random.default_rng(0)
    scenes = [asked(rng)[1] for _ in range(60)]
    plans = [written(scene, zh) for scene in scenes]
    assert [scene_of(plan) for plan in plans] == scenes
    assert len(set(plans)) > 50
    for nonsense in (
        "",
        "a red cat",
        "a red cat on the left, a red cat on the left, on a white background",
        plans[0] + "x",
    ):
        assert scene_of(nonsense) is None


def test_a_batch_learns_the_words_of_plans_and_the_tiles_behind_them() -> None:
    tokenizer = Tokenizer(CHECKPOINT / "tokenizer.json")
    ids, learned, ends, tiles = batch(np.random.default_rng(0), tokenizer, 4)
    for row, learns, end, picture in zip(ids, learned, ends.tolist(), tiles, strict=True):
        said = row[1:][learns[:-1]].tolist()
        assert said[-1] == int(row[end]) == tokenizer.id(IMAGE_BEGIN)
        scene = scene_of(tokenizer.decode(said[:-1]).strip())
        assert scene is not None and grid(scene).tolist() == picture.tolist()


def test_the_saved_adapter_computes_what_was_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lora = Lora(CHECKPOINT, RANK)
    optimizer = torch.optim.Adam([*lora.a, *lora.b], lr=2e-3)
    data = batch(np.random.default_rng(0), Tokenizer(CHECKPOINT / "tokenizer.json"), 2)
    lost = []
    for _ in range(4):
        optimizer.zero_grad()
        loss, _ = losses(lora, *data)
        loss.backward()
        optimizer.step()
        lost.append(float(loss.detach()))
    assert lost[-1] < lost[0]
    lora.save(tmp_path / "adapter", "janus-embedded")
    model = with_adapters(CHECKPOINT, Adapter("planner", tmp_path / "adapter"))
    with torch.inference_mode():
        inputs = lora.network.text_embeds(data[0])
        torch.testing.assert_close(model.network(inputs), lora.network(inputs), atol=2e-2, rtol=0)
        assert (model.network(inputs) - with_adapters(CHECKPOINT).network(inputs)).abs().max() > 0.1


def test_training_continues_from_a_saved_adapter(tmp_path: Path) -> None:
    torch.manual_seed(2)
    first, second = Lora(CHECKPOINT, RANK), Lora(CHECKPOINT, RANK)
    for half in first.b:
        torch.nn.init.normal_(half, std=0.1)
    first.save(tmp_path, "janus-embedded")
    second.begin_with(tmp_path)
    for name, tensor in first.halves().items():
        torch.testing.assert_close(second.halves()[name], tensor, rtol=1e-3, atol=1e-4)
    assert all(half.requires_grad for half in (*second.a, *second.b))
