"""Several drawings of a region, of which the one is taken that the kept rest of the picture fits best."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import Tensor

from janus_app.models.janus import candidates, pipeline
from janus_app.models.janus.draw import SamplingRule, draw_tokens
from janus_app.models.janus.pipeline import JanusModel
from janus_app.models.janus.think import SECOND_ATTEMPT
from janus_app.nn import sampling
from janus_app.types import EditRequest, drain
from tests.conftest import GOLDEN, loaded

FOLDER = GOLDEN / "janus_pro_1b" / "checkpoint"
SIDE = 96
TOP = Image.new("L", (SIDE, SIDE))
TOP.paste(255, (0, 0, SIDE, SIDE // 2))
REQUEST = EditRequest("a blue cat", Image.effect_noise((SIDE, SIDE), 90).convert("RGB"), TOP, "region", temperature=0.7)


@pytest.fixture(scope="module")
def model() -> JanusModel:
    model = loaded(FOLDER).model
    assert isinstance(model, JanusModel)
    return model


def kept_tokens(model: JanusModel, request: EditRequest = REQUEST) -> Tensor:
    """The picture's tokens; -1 in its upper half, which is drawn anew."""
    tokens = model._encode(request.image.resize((model.side, model.side)))
    return torch.where(torch.arange(len(tokens)) < len(tokens) // 2, -1, tokens)


@torch.inference_mode()
def likelihood(model: JanusModel, prompt: Tensor, tokens: Tensor, known: Tensor) -> float:
    """Written out: for every kept token behind a drawn one the whole sequence before it is run anew."""
    total, first = 0.0, int((known < 0).nonzero()[0])
    for cell in range(first + 1, len(known)):
        if known[cell] >= 0:
            embeds = torch.cat([prompt, model.network.token_embeds(tokens[:cell])])[None]
            logits = model.network.gen_head(model.network(embeds, None, None)[:, -1])[0]
            total += float(logits.float().log_softmax(-1)[tokens[cell]])
    return total


def test_a_seed_of_any_size_is_another_stream() -> None:
    seeds = (5, 2**32 + 5, 2**53 + 5, 2**54 + 5)
    drawn = {sampling.exponential_noise([sampling.generator(seed)], 4).sum().item() for seed in seeds}
    assert len(drawn) == len(seeds)
    expected = torch.rand(3, generator=torch.Generator("cpu").manual_seed(2**32 - 1))
    assert torch.equal(torch.rand(3, generator=sampling.generator(2**32 - 1)), expected), "as PyTorch's below"


def test_candidates_are_sampled_at_a_temperature_of_1_and_the_first_at_its_own() -> None:
    torch.manual_seed(0)
    logits, noise = torch.randn(3, 50), torch.empty(200, 3, 50).exponential_()
    changed = candidates.varied(noise.clone(), own=1, temperature=0.3)
    for before, after in zip(noise, changed, strict=True):
        chosen = sampling.sample(logits, 0.3, after)
        assert chosen[0] == sampling.sample(logits, 0.3, before)[0]
        assert torch.equal(chosen[1:], sampling.sample(logits, 1.0, before)[1:])
    assert torch.equal(candidates.varied(noise.clone(), own=1, temperature=1.5), noise)


def test_likelihood_is_that_of_the_kept_tokens_behind_the_first_drawn_one(model: JanusModel) -> None:
    known = kept_tokens(model)
    known[0] = 7  # before all drawn ones
    tokens = torch.where(known < 0, 3, known)
    prompt = model.prompt_rows(REQUEST)[0]
    ours = candidates.kept_log_likelihood(model.network, prompt, tokens, known)
    assert float(ours) == pytest.approx(likelihood(model, prompt, tokens, known), rel=1e-5)


@torch.inference_mode()
def test_the_fitting_one_of_the_drawings_is_taken(model: JanusModel) -> None:
    """Each of two pictures is the best of its own drawings, drawn here one at a time."""
    request = replace(REQUEST, count=2, seed=11, guidance=2.0)
    known, rows = kept_tokens(model), model.prompt_rows(request)
    count, codes = candidates.candidates_for(known, request.temperature), model.network.config.vq.codebook_size
    assert count == candidates.MOST
    found = drain(model.edit(request)).pictures  # type: ignore[union-attr]
    best = []
    for seed, picture in enumerate(found, start=request.seed):
        drawings = []
        for number in range(count):
            stream = sampling.generator(seed + number * SECOND_ATTEMPT)

            def noise(cells: int, stream: torch.Generator = stream) -> Tensor:
                return sampling.exponential_noise([stream], codes, cells)

            rule = SamplingRule(request.guidance, 1.0 if number else request.temperature, noise)
            *_, tokens = draw_tokens(model.network, rows, 1, rule, known)
            drawings.append(tokens[0].clone())
        scores = [likelihood(model, rows[0], tokens, known) for tokens in drawings]
        assert len({tuple(tokens.tolist()) for tokens in drawings}) > 1
        best.append(scores.index(max(scores)))
        assert picture.image_tokens == tuple(drawings[best[-1]].tolist())
    assert any(best), "the first drawing is the best by chance"


def test_one_drawing_where_nothing_can_choose_between_them(model: JanusModel, monkeypatch: pytest.MonkeyPatch) -> None:
    known = kept_tokens(model)
    assert candidates.candidates_for(known, 0) == 1
    assert candidates.candidates_for(known.flip(0), 1) == 1, "no kept token is behind the drawn ones"
    assert candidates.candidates_for(torch.cat([torch.tensor([-1]), torch.ones(575, dtype=torch.long)]), 1) == 8


def test_without_memory_for_several_drawings_there_is_one(model: JanusModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pipeline, "kept_log_likelihood", full)
    alone = drain(model.edit(REQUEST)).pictures[0]  # type: ignore[union-attr]
    monkeypatch.setattr(pipeline, "candidates_for", lambda known, temperature: 1)
    assert alone.image_tokens == drain(model.edit(REQUEST)).pictures[0].image_tokens  # type: ignore[union-attr]
