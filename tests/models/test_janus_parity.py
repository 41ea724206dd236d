"""Janus against tensors of the released implementation, stage by stage, at the tolerances of the data's README.

Three tiny checkpoints in the layouts of Janus-1.3B (safetensors), Janus-Pro-1B (one pickle) and Janus-Pro-7B (sharded
pickles) go through the real loader in float32 on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from janus_app.models.common import prompts
from janus_app.models.common.chat import answer_tokens
from janus_app.models.common.image_processor import to_picture
from janus_app.models.common.tokenizer import EOS, IMAGE
from janus_app.models.janus.draw import SamplingRule, decode_tokens, draw_tokens
from janus_app.nn import sampling
from janus_app.nn.prefill import next_positions, prefill, prompt_embeds
from janus_app.types import ChatRequest, Finished, GenerateRequest, TextDelta, Turn, result_of
from tests.conftest import CASES, GOLDEN
from tests.models.golden import FEATURES, LOGITS, PIXELS, UNDERSTANDING, Case, close, nearly_equal_pictures

DRAWN = ("greedy", "greedy_long_cfg3", "sample_noise", "sample_noise_t07_cfg1", "seeded_multinomial")


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    yield Case(request.param)


def test_preprocessing(case: Case) -> None:
    for name, expected in case.expected("preprocess").items():
        picture = Image.open(GOLDEN / "images" / f"{name.removesuffix('_upscaled')}.png")
        if name.endswith("_upscaled"):
            picture = picture.convert("RGB").resize((50, 37), Image.Resampling.BICUBIC)
        close(case.model.processor(picture), expected, 1e-6)


@pytest.mark.parametrize("name", UNDERSTANDING)
@torch.inference_mode()
def test_understanding(case: Case, name: str) -> None:
    expected, network = case.expected(f"und_{name}"), case.model.network
    ids, pictures = case.question(name)
    assert ids == expected["input_ids"][0].tolist()
    pixels = case.pixels(pictures)
    if pixels is not None:
        close(pixels, expected["pixel_values"][0], 1e-6)
        close(network.vision_model.vision_tower(pixels), expected["vision_features"], FEATURES)
        close(network.picture_embeds(pixels), expected["image_embeds"], FEATURES)
    embeds = prompt_embeds(network, ids, case.model.tokenizer.id(IMAGE), pixels)
    close(embeds[None], expected["inputs_embeds"], FEATURES)
    close(network.language_model.lm_head(network(embeds[None])), expected["logits"], LOGITS)
    end = case.model.tokenizer.id(EOS)
    answer = list(answer_tokens(network, embeds, ends=(end,), limit=32, temperature=0, top_p=1, seed=0))
    assert answer == [t for t in expected["greedy_tokens"][0].tolist() if t != end]


@torch.inference_mode()
def test_left_padded_batch(case: Case) -> None:
    network, rows = case.model.network, []
    for name in ("rgb", "multi_turn"):
        ids, pictures = case.question(name)
        rows.append(prompt_embeds(network, ids, case.model.tokenizer.id(IMAGE), case.pixels(pictures)))
    assert len(rows[0]) != len(rows[1])
    hidden, cache = prefill(network, rows, 8)
    logits = network.language_model.lm_head(hidden[:, -1])
    close(logits, case.expected("und_batch_left_padded")["first_step_logits"], LOGITS)
    # and a padded row goes on exactly as it would alone
    token = logits.argmax(-1)
    batched = network(network.text_embeds(token[:, None]), next_positions(cache, 1), cache)
    for row in range(2):
        _, alone = prefill(network, [rows[row]], 8)
        close(network(network.text_embeds(token[row : row + 1, None]), None, alone)[0], batched[row], LOGITS)


def prompt_rows(case: Case, name: str) -> list[Tensor]:
    request = GenerateRequest(case.meta["gen"][name]["prompt"], guidance=2.0)
    return case.model.prompt_rows(request)


@pytest.mark.parametrize("name", DRAWN)
def test_drawing(case: Case, name: str) -> None:
    """Every token the reference drew, under its own noise; then the pixels and the 8-bit picture."""
    recorded, expected, network = case.meta["gen"][name], case.expected(f"gen_{name}"), case.model.network
    count, cells = expected["image_tokens"].shape
    if recorded["mode"] == "noise":
        rows = iter(expected["exp_noise"])
        one = lambda: next(rows)  # noqa: E731
    else:  # the reference's one stream for all pictures together
        stream = torch.Generator("cpu").manual_seed(recorded["seed"] or 0)
        one = lambda: torch.empty(count, network.config.vq.codebook_size).exponential_(1, generator=stream)  # noqa: E731
    temperature = 0.0 if recorded["mode"] == "greedy" else recorded["temperature"]
    rule = SamplingRule(recorded["cfg_weight"], temperature, lambda wanted: torch.stack([one() for _ in range(wanted)]))
    *_, tokens = draw_tokens(network, prompt_rows(case, name), count, rule, torch.full((cells,), -1))
    assert tokens.tolist() == expected["image_tokens"].tolist()
    pixels = result_of(decode_tokens(network, tokens))
    close(pixels, expected["pixels"], PIXELS)
    for picture, exact in zip(pixels, expected["image_uint8"], strict=True):
        nearly_equal_pictures(to_picture(picture), exact)


@pytest.mark.parametrize("name", DRAWN)
@torch.inference_mode()
def test_teacher_forced_image_logits(case: Case, name: str) -> None:
    recorded, expected, network = case.meta["gen"][name], case.expected(f"gen_{name}"), case.model.network
    ids = case.model.tokenizer.encode(prompts.drawing(recorded["prompt"], case.model.style))
    assert ids == expected["prompt_ids"].flatten().tolist()
    tokens = expected["image_tokens"]
    rows = prompt_rows(case, name)
    for picture, fixed in enumerate(tokens):
        drawn = network.token_embeds(fixed[:7])
        embeds = torch.stack([torch.cat([row, drawn]) for row in rows])
        raw = network.gen_head(network(embeds)[:, -8:]).transpose(0, 1)
        close(raw, expected["raw_logits_first8"][:, 2 * picture : 2 * picture + 2], LOGITS)
        mixed = sampling.mix_guidance(raw[:, 0], raw[:, 1], recorded["cfg_weight"])
        close(mixed, expected["cfg_logits_first8"][:, picture], LOGITS * 10)  # guidance multiplies the error


@torch.inference_mode()
def test_picture_tokenizer(case: Case) -> None:
    expected, vq = case.expected("vq"), case.model.network.gen_vision_model
    latents = vq.latents(expected["pixels_in"])
    close(latents, expected["pre_quant"], FEATURES)
    ids = vq.nearest(latents)
    assert ids.tolist() == expected["token_ids"].tolist()
    close(vq.lookup(ids), expected["quantized"], FEATURES)
    close(vq.decode(ids), expected["pixels_out"], PIXELS)
    close(case.model.network.token_embeds(ids), expected["gen_embeds"], FEATURES)


def test_seeded_picture_through_the_verb(case: Case) -> None:
    """`generate` itself draws the reference's seeded picture: for one picture the streams are the same."""
    recorded = case.meta["gen"]["greedy"]
    request = GenerateRequest(recorded["prompt"], guidance=recorded["cfg_weight"], temperature=0)
    *_, last = case.model.generate(request)
    assert isinstance(last, Finished)
    assert list(last.pictures[0].image_tokens) == case.expected("gen_greedy")["image_tokens"][0].tolist()


def test_answer_through_the_verb(case: Case) -> None:
    recorded = case.meta["und"]["rgb"]["conversation"][0]
    picture = Image.open(GOLDEN / "images" / "rgb.png")
    turn = Turn("user", recorded["content"].removeprefix(IMAGE), (picture,))
    events = list(case.model.chat(ChatRequest((turn,), temperature=0, max_new_tokens=32)))
    last = events[-1]
    assert isinstance(last, Finished) and last.usage is not None
    expected = case.expected("und_rgb")
    assert list(last.token_ids) == expected["greedy_tokens"][0].tolist()[: len(last.token_ids)]
    assert last.usage.prompt_tokens == expected["input_ids"].shape[1]
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == last.text


def test_golden_folder_is_complete() -> None:
    for name in CASES:
        for stage in (*(f"und_{n}" for n in UNDERSTANDING), *(f"gen_{n}" for n in DRAWN), "vq", "preprocess"):
            assert Path(GOLDEN / name / "expected" / f"{stage}.safetensors").is_file()
