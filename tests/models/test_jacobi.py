"""Jacobi decoding draws the tokens of ordinary decoding in fewer passes, with the distribution of the model."""

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

CODES, TEMPERATURE = 4, 2.5  # probabilities flat enough that most outcomes occur


@pytest.fixture
def wide_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows as on a GPU: more guesses, and more of them wrong."""
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
@pytest.mark.usefixtures("wide_windows")
@torch.inference_mode()
def test_the_tokens_are_those_of_ordinary_decoding(
    model: JanusModel, count: int, temperature: float, negative: str, kept: str
) -> None:
    """Also with prompts of unequal length, around known cells, and with every picture at a different cell."""
    network, known = model.network, known_cells(kept)
    rows = model.prompt_rows(GenerateRequest("A small red house.", negative=negative))
    *_, plain = draw_tokens(network, rows, count, rule_of(network, 5, count, temperature), known)
    steps = list(jacobi_decode(network, rows, count, rule_of(network, 5, count, temperature), known))
    assert torch.equal(steps[-1][1], plain)
    cells = [cell for cell, _ in steps]
    assert cells == sorted(cells) and cells[-1] == drawn_range(known)[1]


@pytest.mark.usefixtures("wide_windows")
@torch.inference_mode()
def test_final_tokens_never_change_and_passes_are_saved(model: JanusModel) -> None:
    """Greedy decoding of an untrained network becomes periodic, which is easy to guess."""
    network, known = model.network, torch.full((36,), -1)
    rows = model.prompt_rows(GenerateRequest("A small red house."))
    seen = []
    for cell, tokens in jacobi_decode(network, rows, 1, rule_of(network, 0, 1, 0.0), known):
        seen.append((cell, tokens.clone()))
    final = seen[-1][1]
    assert all(torch.equal(tokens[:, : cell + 1], final[:, : cell + 1]) for cell, tokens in seen)
    assert len(seen) < 36


def probabilities_of_three(network: JanusNetwork, prompts: Tensor) -> dict[tuple[int, ...], float]:
    """The probability of every first three tokens, from the network alone: no cache, no window, no noise."""
    probabilities: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        longer = {}
        for tokens, before in probabilities.items():
            drawn = network.token_embeds(torch.tensor([tokens] * 2, dtype=torch.long))
            with_words, without = network.gen_head(network(torch.cat([prompts, drawn], dim=1))[:, -1])
            for token, p in enumerate((mix_guidance(with_words, without, 4.0) / TEMPERATURE).softmax(-1).tolist()):
                longer[(*tokens, token)] = before * p
        probabilities = longer
    return probabilities


def chi_square_p(counts: Counter[tuple[int, ...]], probabilities: dict[tuple[int, ...], float]) -> float:
    """The p-value of Pearson's chi-square test; outcomes expected less than 5 times are one class."""
    total = sum(counts.values())
    expected = {outcome: p * total for outcome, p in probabilities.items()}
    rare = [outcome for outcome, n in expected.items() if n < 5]
    cells = [(counts[o], n) for o, n in expected.items() if n >= 5]
    cells.append((sum(counts[o] for o in rare), sum(expected[o] for o in rare)))
    square = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells)
    assert len(cells) > 10
    half = torch.tensor([(len(cells) - 1) / 2, square / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


@torch.inference_mode()
def drawn_by_jacobi(network: JanusNetwork, prompts: Tensor, pictures: int) -> Counter[tuple[int, ...]]:
    known, counts = torch.full((3,), -1), Counter[tuple[int, ...]]()
    for seed in range(0, pictures, 4):
        *_, (_, tokens) = jacobi_decode(network, list(prompts), 4, rule_of(network, seed, 4, TEMPERATURE), known)
        counts.update(tuple(row) for row in tokens.tolist())
    return counts


@pytest.mark.usefixtures("wide_windows")
@torch.inference_mode()
def test_the_distribution_is_that_of_the_model(small: JanusNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = small.text_embeds(torch.tensor([[5, 17, 40, 6], [5, 1, 1, 6]]))
    probabilities = probabilities_of_three(small, prompts)
    assert abs(sum(probabilities.values()) - 1) < 1e-5 and len(probabilities) == CODES**3
    assert chi_square_p(drawn_by_jacobi(small, prompts, 1200), probabilities) > 0.01
    # The test notices a rule that accepts one guess too many.
    monkeypatch.setattr(jacobi, "count_accepted", lambda guesses, drawn: torch.ones(len(guesses), dtype=torch.long))
    assert chi_square_p(drawn_by_jacobi(small, prompts, 1200), probabilities) < 1e-6


def test_the_window_shrinks_with_the_number_of_rows() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [window_size(rows, gpu) for rows in (1, 2, 3, 4, 8, 16, 32)] == [16, 16, 10, 8, 4, 2, 1]
    assert [window_size(rows, cpu) for rows in (1, 2, 3, 4, 8)] == [8, 4, 2, 2, 1]


@torch.inference_mode()
def test_a_warm_up_leaves_the_state_unchanged(model: JanusModel) -> None:
    """CUDA graphs rely on it: restoring `state` undoes a pass."""
    network, known, drawn = model.network, torch.full((36,), -1), []
    rows = model.prompt_rows(GenerateRequest("A small red house."))
    for warming_up in (False, True):
        rule = rule_of(network, 3, 2)
        hidden, cache = prefill_prompts(network, rows, known[:0].repeat(2, 1), rule, 36 + 8)
        decoder, final = JacobiDecoder(network, cache, hidden, known, rule, 8, 2), [0, 0]
        while min(final) < 35:
            decoder.use_noise(final)
            if warming_up:
                warm_up(decoder.advance, cache.capacity, torch.device("cpu"), decoder.state)
            decoder.advance(cache.capacity)
            final = decoder.final_cells()
        drawn.append(decoder.tokens.tolist())
    assert drawn[0] == drawn[1]


# ---- behind the verbs


def pictures(model: JanusModel, request: GenerateRequest | EditRequest) -> tuple[tuple[Picture, ...], list[object]]:
    *events, last = model.edit(request) if isinstance(request, EditRequest) else model.generate(request)
    assert isinstance(last, Finished)
    return last.pictures, events


@pytest.mark.usefixtures("wide_windows")
def test_generate_with_turbo_draws_the_same_pictures(model: JanusModel) -> None:
    plain, _ = pictures(model, GenerateRequest("A small red house.", count=3, seed=4))
    fast, events = pictures(model, GenerateRequest("A small red house.", count=3, seed=4, turbo=True))
    assert [p.image_tokens for p in fast] == [p.image_tokens for p in plain]
    assert [p.image.tobytes() for p in fast] == [p.image.tobytes() for p in plain]
    done = [e.done for e in events if isinstance(e, Progress) and e.stage == "draw"]
    assert done == sorted(done) and done[-1] == 108 and all(n % 3 == 0 for n in done)
    assert any(isinstance(e, Preview) for e in events)


def test_edit_with_turbo_draws_the_same_tokens(model: JanusModel) -> None:
    source = pictures(model, GenerateRequest("A small red house.", seed=1))[0][0].image
    mask = Image.new("L", source.size)
    ImageDraw.Draw(mask).rectangle((40, 40, 70, 60), fill=255)
    made = [
        pictures(model, EditRequest("A red house.", source, mask, seed=2, turbo=fast))[0][0].image_tokens
        for fast in (False, True)
    ]
    assert made[0] == made[1]


def test_sixteen_pictures_are_drawn_without_turbo(model: JanusModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many rows leave a window of one token, which would be slower than ordinary decoding."""
    from janus_app.models.janus import pipeline

    monkeypatch.setattr(pipeline, "jacobi_decode", None)
    assert len(pictures(model, GenerateRequest("A house.", count=16, turbo=True))[0]) == 16


def test_logits_that_overflow_raise_an_error(small: JanusNetwork) -> None:
    prompts = small.text_embeds(torch.tensor([[5, 6], [5, 6]]))
    prompts[0, 1, 0] = float("inf")
    with pytest.raises(AppError, match="infinities"):
        for _ in itertools.islice(
            jacobi_decode(small, list(prompts), 1, rule_of(small, 0, 1), torch.full((9,), -1)), 3
        ):
            pass
