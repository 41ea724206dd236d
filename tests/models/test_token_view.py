"""The token view tells what drawing would have told: against a loop that decodes step by step, and against drawing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from janus_app.errors import AppError
from janus_app.models.common.chat import answer_tokens
from janus_app.models.common.prompts import conversation
from janus_app.models.common.rank import question, yes_no_token_ids
from janus_app.models.common.tokenizer import EOS, IMAGE, IMAGE_BEGIN, IMAGE_END, PAD, Special
from janus_app.models.janus.pipeline import JanusModel
from janus_app.models.janusflow.pipeline import JanusFlowModel
from janus_app.types import (
    Event,
    Finished,
    GenerateRequest,
    Inspection,
    InspectRequest,
    Notice,
    Picture,
    Progress,
    RankRequest,
    SwapRequest,
)
from tests.conftest import GOLDEN, loaded

PROMPT, NEGATIVE = "A small red house.", "blurred, and much longer than the prompt is"


@pytest.fixture(scope="module")
def model() -> JanusModel:
    return cast(JanusModel, loaded(GOLDEN / "janus_pro_1b" / "checkpoint").model)


def finish(events: Iterator[Event]) -> Finished:
    *_, last = events
    assert isinstance(last, Finished)
    return last


def draw(model: JanusModel, **settings: object) -> Picture:
    return finish(model.generate(GenerateRequest(PROMPT, **settings))).pictures[0]  # type: ignore[arg-type]


def inspect(model: JanusModel, request: InspectRequest) -> Inspection:
    found = finish(model.inspect(request)).inspection
    assert found is not None
    return found


@torch.inference_mode()
def twin(model: JanusModel, request: InspectRequest) -> list[tuple[float, float, float, list[float]]]:
    """(probability, entropy, gap, all odds) of each token, the slow way: every row read anew from its beginning for
    every token, without cache or batch, in float64 from the logits on."""

    def row(text: str) -> torch.Tensor:
        pieces = [*conversation([[text]], model.style, system=""), Special(IMAGE_BEGIN)]
        return model._embed(model.tokenizer.encode(pieces))

    words = row(request.prompt)
    ids = model.tokenizer.encode([*conversation([[request.prompt]], model.style, system=""), Special(IMAGE_BEGIN)])
    padded = [ids[0], *[model.tokenizer.id(PAD)] * (len(ids) - 2), ids[-1]]
    other = row(request.negative) if request.negative else model._embed(padded)
    facts = []
    for place, token in enumerate(request.image_tokens):
        before = model.network.token_embeds(torch.tensor(request.image_tokens[:place], dtype=torch.long))
        c, u = (
            model.network.gen_head(model.network(torch.cat([prompt, before])[None]))[0, -1].double()
            for prompt in (words, other)
        )
        odds = F.softmax((u + request.guidance * (c - u)) / (request.temperature or 1), dim=-1)
        entropy = sum(-p * math.log2(p) for p in odds.tolist() if p > 0)
        gap = float(F.kl_div(F.log_softmax(u, -1), F.log_softmax(c, -1), log_target=True, reduction="sum"))
        facts.append((float(odds[token]), entropy, gap / math.log(2), odds.tolist()))
    return facts


@pytest.mark.parametrize(
    ("guidance", "temperature", "negative"), [(5.0, 1.0, ""), (1.0, 0.4, ""), (3.0, 0.0, NEGATIVE)]
)
def test_token_facts_equal_those_of_drawing_step_by_step(
    model: JanusModel, guidance: float, temperature: float, negative: str
) -> None:
    tokens = draw(model, seed=4).image_tokens
    request = InspectRequest(PROMPT, tokens, negative, guidance, temperature, alternatives=5)
    found = inspect(model, request)
    assert found.columns == 6 and [cell.token for cell in found.cells] == list(tokens)
    for cell, (probability, entropy, gap, odds) in zip(found.cells, twin(model, request), strict=True):
        assert cell.probability == pytest.approx(probability, abs=1e-4)
        assert cell.entropy == pytest.approx(entropy, abs=1e-4)
        assert cell.gap == pytest.approx(gap, abs=1e-4) and gap > 0
        likely = sorted(odds, reverse=True)[:5]
        assert [p for _, p in cell.alternatives] == pytest.approx(likely, abs=1e-4)
        assert [odds[t] for t, _ in cell.alternatives] == pytest.approx(likely, abs=1e-4)


def test_inspection_in_parts_equals_inspection_at_once(model: JanusModel, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = draw(model, seed=4).image_tokens
    whole = inspect(model, InspectRequest(PROMPT, tokens))
    monkeypatch.setattr("janus_app.models.janus.inspect.CELLS_PER_STEP", 7)
    events = list(model.inspect(InspectRequest(PROMPT, tokens)))
    done = dict.fromkeys(
        e.done for e in events if isinstance(e, Progress)
    )  # the last is said while the picture is decoded
    assert list(done) == [0, 7, 14, 21, 28, 35, 36]
    parts = cast(Finished, events[-1]).inspection
    assert parts is not None
    assert [c.entropy for c in parts.cells] == pytest.approx([c.entropy for c in whole.cells], abs=1e-4)
    assert parts.image.tobytes() == draw(model, seed=4).image.tobytes()


@pytest.mark.parametrize("keep", [0, 1, 17, 35, 36])
def test_continuing_from_kept_tokens_with_the_same_seed_draws_the_same_picture(model: JanusModel, keep: int) -> None:
    before = draw(model, seed=21)
    again = draw(model, seed=21, image_tokens=before.image_tokens, keep=keep)
    assert again.image_tokens == before.image_tokens and again.image.tobytes() == before.image.tobytes()


def test_continuing_with_another_seed_keeps_the_tokens_and_changes_the_rest(model: JanusModel) -> None:
    before = draw(model, seed=21).image_tokens
    request = GenerateRequest(PROMPT, seed=99, count=2, image_tokens=before, keep=13)
    one, two = finish(model.generate(request)).pictures
    for other in (one, two):
        assert other.image_tokens[:13] == before[:13] and other.image_tokens[13:] != before[13:]
    assert one.image_tokens != two.image_tokens
    assert draw(model, seed=99).image_tokens[:13] != before[:13], "the kept tokens are not those of the seed"


def test_swapped_token_changes_its_own_cell_only(model: JanusModel) -> None:
    tokens = draw(model, seed=5).image_tokens
    request = SwapRequest(tokens, 8, (tokens[8], (tokens[8] + 1) % 320))
    same, other = finish(model.swap(request)).pictures
    assert same.image_tokens == tokens and same.image.tobytes() == draw(model, seed=5).image.tobytes()
    assert [i for i, (a, b) in enumerate(zip(tokens, other.image_tokens, strict=True)) if a != b] == [8]
    assert draw(model, image_tokens=other.image_tokens).image.tobytes() == other.image.tobytes()


def test_tokens_of_another_model_are_refused(model: JanusModel) -> None:
    for tokens in ((1,) * 35, (320,) * 36):
        for act in (
            lambda t: model.inspect(InspectRequest(PROMPT, t)),
            lambda t: model.generate(GenerateRequest(PROMPT, image_tokens=t, keep=3)),
            lambda t: model.swap(SwapRequest(t, 0, (1,))),
        ):
            with pytest.raises(AppError, match="36 image tokens below 320"):
                list(act(tokens))
    with pytest.raises(AppError, match="no image tokens"):
        InspectRequest(PROMPT, ())
    with pytest.raises(AppError, match="kept tokens must be a whole number from 0 to 2"):
        GenerateRequest(PROMPT, image_tokens=(1, 2), keep=3)


def test_rank_score_is_the_share_of_yes_at_the_first_token(model: JanusModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A twin through the answering loop: its first logits, caught on their way out."""
    monkeypatch.setattr("janus_app.models.common.rank.MIN_YES_NO", 0.0)
    picture = draw(model, seed=3).image
    (score,) = finish(model.rank(RankRequest(PROMPT, (picture,)))).scores
    text = question(PROMPT)
    assert text == "Is there a small red house in the picture?" and question("一只猫。") == "图里有一只猫吗?"
    pieces = [Special(IMAGE_BEGIN), Special(IMAGE, model.picture_tokens), Special(IMAGE_END), f"\n{text}"]
    prompt = model._embed(model.tokenizer.encode(conversation([pieces], model.style)), [picture])
    caught: list[torch.Tensor] = []
    hook = model.network.language_model.lm_head.register_forward_hook(lambda *a: caught.append(a[2]))
    list(answer_tokens(model.network, prompt, ends=(model.tokenizer.id(EOS),), limit=1, temperature=0, top_p=1, seed=0))
    hook.remove()
    odds = caught[0][0].double().softmax(-1)
    yes, no = yes_no_token_ids(model.tokenizer)
    assert yes and no and not set(yes) & set(no)
    share = float(odds[yes].sum() / (odds[yes].sum() + odds[no].sum()))
    assert 0 < share < 1 and score == pytest.approx(share, abs=1e-5)


@torch.inference_mode()
def test_rank_falls_back_to_naming_without_yes_or_no(model: JanusModel) -> None:
    """Random weights: the score is the geometric mean of the prompt's tokens, each odds read in a run of its own."""
    picture = draw(model, seed=3).image
    *before, last = model.rank(RankRequest(PROMPT, (picture,)))
    assert any(isinstance(event, Notice) for event in before)
    (score,) = cast(Finished, last).scores
    pieces = [Special(IMAGE_BEGIN), Special(IMAGE, model.picture_tokens), Special(IMAGE_END), "\nWhat do you see?"]
    asked = conversation([pieces], model.style)
    start = len(model.tokenizer.encode(asked))
    ids = model.tokenizer.encode([*asked, " I see a small red house."])
    odds = []
    for place in range(start, len(ids)):
        hidden = model.network(model._embed(ids[:place], [picture])[None])
        logits = model.network.language_model.lm_head(hidden[0, -1]).double()
        odds.append(float(logits.softmax(-1)[ids[place]]))
    assert len(odds) > 3 and score == pytest.approx(math.prod(odds) ** (1 / len(odds)), rel=1e-3)


def test_flow_models_rank_pictures() -> None:
    flow = cast(JanusFlowModel, loaded(GOLDEN / "janusflow_1_3b" / "checkpoint").model)
    pictures = Image.new("RGB", (96, 96), "white"), Image.new("RGB", (96, 96), "red")
    scores = finish(flow.rank(RankRequest(PROMPT, pictures))).scores
    assert len(scores) == 2 and all(0 < score < 1 for score in scores)
