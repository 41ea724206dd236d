"""Turbo draws the plain way's tokens in fewer passes, and what it draws is distributed as the model says."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import cast

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.random_checkpoint import Size
from benchmarks.speed_ways import random_network
from janus_app.errors import AppError
from janus_app.models.janus import jacobi
from janus_app.models.janus.draw import SamplingRule, draw_tokens, drawn_range, prefill_prompts
from janus_app.models.janus.jacobi import JacobiDecoder, jacobi_decode, window_size
from janus_app.models.janus.modeling import JanusNetwork
from janus_app.models.janus.pipeline import JanusModel
from janus_app.nn import sampling
from janus_app.nn.fast.cuda_graphs import warm_up
from janus_app.nn.sampling import mix_guidance
from janus_app.types import EditRequest, Finished, GenerateRequest, Picture, Preview, Progress
from tests.conftest import GOLDEN, loaded

CODES, WARMTH = 4, 2.5  # flat enough odds that most outcomes happen


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows as on a card: more guesses, and more to be wrong."""
    monkeypatch.setitem(jacobi.MAX_INPUTS, "cpu", 32)


@pytest.fixture(scope="module")
def model() -> JanusModel:
    return cast(JanusModel, loaded(GOLDEN / "janus_pro_1b" / "checkpoint").model)


@pytest.fixture(scope="module")
def small() -> JanusNetwork:
    """Random weights and four codes: few enough outcomes to count them all."""
    network = random_network(Size(32, 64, 2, 2, 256, 96, 32, CODES, 64, 1), torch.device("cpu"), torch.float32)
    network.language_model.model.fuse()
    return network


def rule_of(network: JanusNetwork, seed: int, count: int, temperature: float = 1.0) -> SamplingRule:
    streams, codes = sampling.generators(seed, count), network.config.vq.codebook_size
    return SamplingRule(4.0, temperature, lambda cells: sampling.exponential_noise(streams, codes, cells))


def known_cells(kept: str) -> Tensor:
    known = torch.full((36,), -1)
    if kept != "none":
        known[:4] = 7
    if kept == "scattered":
        known[10:13], known[20], known[30:] = 9, 11, 3
    return known


@pytest.mark.parametrize("kept", ["none", "beginning", "scattered"])
@pytest.mark.parametrize("negative", ["", "dark, blurry, and much longer than the prompt"])
@pytest.mark.parametrize(("count", "temperature"), [(1, 1.0), (3, 0.7), (1, 0.0)])
@pytest.mark.usefixtures("wide")
@torch.inference_mode()
def test_the_tokens_are_the_plain_way_s(
    model: JanusModel, count: int, temperature: float, negative: str, kept: str
) -> None:
    """Also behind prompts of unequal length, around kept cells, and where every picture is at another cell."""
    network, known = model.network, known_cells(kept)
    rows = model._prompt_rows(GenerateRequest("A small red house.", negative=negative))
    *_, plain = draw_tokens(network, rows, count, rule_of(network, 5, count, temperature), known)
    steps = list(jacobi_decode(network, rows, count, rule_of(network, 5, count, temperature), known))
    assert torch.equal(steps[-1][1], plain)
    cells = [cell for cell, _ in steps]
    assert cells == sorted(cells) and cells[-1] == drawn_range(known)[1]


@pytest.mark.usefixtures("wide")
@torch.inference_mode()
def test_what_is_certain_stays_and_passes_are_saved(model: JanusModel) -> None:
    """Greedy drawing of an untrained network settles on a pattern, which is soon guessed."""
    network, known = model.network, torch.full((36,), -1)
    rows = model._prompt_rows(GenerateRequest("A small red house."))
    seen = []
    for cell, tokens in jacobi_decode(network, rows, 1, rule_of(network, 0, 1, 0.0), known):
        seen.append((cell, tokens.clone()))
    final = seen[-1][1]
    assert all(torch.equal(tokens[:, : cell + 1], final[:, : cell + 1]) for cell, tokens in seen)
    assert len(seen) < 36


def odds_of_three(network: JanusNetwork, prompts: Tensor) -> dict[tuple[int, ...], float]:
    """The probability of every three first tokens, from the network alone: no cache, no window, no noise."""
    odds: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        longer = {}
        for tokens, before in odds.items():
            drawn = network.token_embeds(torch.tensor([tokens] * 2, dtype=torch.long))
            with_words, without = network.gen_head(network(torch.cat([prompts, drawn], dim=1))[:, -1])
            for token, p in enumerate((mix_guidance(with_words, without, 4.0) / WARMTH).softmax(-1).tolist()):
                longer[(*tokens, token)] = before * p
        odds = longer
    return odds


def chance_of(counts: Counter[tuple[int, ...]], odds: dict[tuple[int, ...], float]) -> float:
    """Pearson's chi-square test: how likely counts at least so odd are, outcomes expected less than 5 times in one."""
    total = sum(counts.values())
    expected = {outcome: p * total for outcome, p in odds.items()}
    rare = [outcome for outcome, n in expected.items() if n < 5]
    cells = [(counts[o], n) for o, n in expected.items() if n >= 5]
    cells.append((sum(counts[o] for o in rare), sum(expected[o] for o in rare)))
    square = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells)
    assert len(cells) > 10
    half = torch.tensor([(len(cells) - 1) / 2, square / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


@torch.inference_mode()
def drawn_by_turbo(network: JanusNetwork, prompts: Tensor, pictures: int) -> Counter[tuple[int, ...]]:
    known, counts = torch.full((3,), -1), Counter[tuple[int, ...]]()
    for seed in range(0, pictures, 4):
        *_, (_, tokens) = jacobi_decode(network, list(prompts), 4, rule_of(network, seed, 4, WARMTH), known)
        counts.update(tuple(row) for row in tokens.tolist())
    return counts


@pytest.mark.usefixtures("wide")
@torch.inference_mode()
def test_the_distribution_is_the_model_s(small: JanusNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = small.text_embeds(torch.tensor([[5, 17, 40, 6], [5, 1, 1, 6]]))
    odds = odds_of_three(small, prompts)
    assert abs(sum(odds.values()) - 1) < 1e-5 and len(odds) == CODES**3
    assert chance_of(drawn_by_turbo(small, prompts, 1200), odds) > 0.01
    # The test sees a rule that takes one guess too many.
    monkeypatch.setattr(jacobi, "count_accepted", lambda guesses, drawn: torch.ones(len(guesses), dtype=torch.long))
    assert chance_of(drawn_by_turbo(small, prompts, 1200), odds) < 1e-6


def test_a_pass_reads_as_many_inputs_as_cost_little() -> None:
    cpu, card = torch.device("cpu"), torch.device("cuda")
    assert [window_size(rows, card) for rows in (1, 2, 3, 4, 8, 16, 32)] == [16, 16, 10, 8, 4, 2, 1]
    assert [window_size(rows, cpu) for rows in (1, 2, 3, 4, 8)] == [8, 4, 2, 2, 1]


@torch.inference_mode()
def test_a_rehearsed_pass_leaves_no_trace(model: JanusModel) -> None:
    """What recording on a card relies on: undoing `state` undoes the pass."""
    network, known, drawn = model.network, torch.full((36,), -1), []
    rows = model._prompt_rows(GenerateRequest("A small red house."))
    for rehearsing in (False, True):
        rule = rule_of(network, 3, 2)
        hidden, cache = prefill_prompts(network, rows, known[:0].repeat(2, 1), rule, 36 + 8)
        passes, places = JacobiDecoder(network, cache, hidden, known, rule, 8, 2), [0, 0]
        while min(places) < 35:
            passes.take_noise(places)
            if rehearsing:
                warm_up(passes.advance, cache.capacity, passes.state)
            passes.advance(cache.capacity)
            places = passes.places()
        drawn.append(passes.tokens.tolist())
    assert drawn[0] == drawn[1]


# ---- behind the verbs


def pictures(model: JanusModel, request: GenerateRequest | EditRequest) -> tuple[tuple[Picture, ...], list[object]]:
    *events, last = model.edit(request) if isinstance(request, EditRequest) else model.generate(request)
    assert isinstance(last, Finished)
    return last.pictures, events


@pytest.mark.usefixtures("wide")
def test_generate_with_turbo_makes_the_same_pictures(model: JanusModel) -> None:
    plain, _ = pictures(model, GenerateRequest("A small red house.", count=3, seed=4))
    fast, events = pictures(model, GenerateRequest("A small red house.", count=3, seed=4, turbo=True))
    assert [p.image_tokens for p in fast] == [p.image_tokens for p in plain]
    assert [p.image.tobytes() for p in fast] == [p.image.tobytes() for p in plain]
    done = [e.done for e in events if isinstance(e, Progress)]
    assert done == sorted(done) and done[-1] == 108 and all(n % 3 == 0 for n in done)
    assert any(isinstance(e, Preview) for e in events)


def test_edits_with_turbo_keep_what_is_kept(model: JanusModel) -> None:
    source = pictures(model, GenerateRequest("A small red house.", seed=1))[0][0].image
    mask = Image.new("L", source.size)
    ImageDraw.Draw(mask).rectangle((40, 40, 70, 60), fill=255)
    made = [
        pictures(model, EditRequest("A red house.", source, mask, seed=2, turbo=fast))[0][0].image_tokens
        for fast in (False, True)
    ]
    assert made[0] == made[1]


def test_sixteen_pictures_take_the_plain_way(model: JanusModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many rows leave a window of one token, which would be a slower plain way."""
    from janus_app.models.janus import pipeline as verbs

    monkeypatch.setattr(verbs, "draw_turbo", None)
    assert len(pictures(model, GenerateRequest("A house.", count=16, turbo=True))[0]) == 16


def test_numbers_that_overflow_are_a_sentence(small: JanusNetwork) -> None:
    prompts = small.text_embeds(torch.tensor([[5, 6], [5, 6]]))
    prompts[0, 1, 0] = float("inf")
    with pytest.raises(AppError, match="infinities"):
        for _ in itertools.islice(
            jacobi_decode(small, list(prompts), 1, rule_of(small, 0, 1), torch.full((9,), -1)), 3
        ):
            pass
