"""JanusFlow against tensors of the released implementation, stage by stage, at the tolerances of the data's README.

A tiny checkpoint with its autoencoder goes through the real loader in float32 on the CPU. The reference recomputes
the prompt at every step under a mask; we read it once: the velocities must be the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from PIL import Image
from torch import Tensor

from janus_app.models.common.chat import answer_tokens
from janus_app.models.common.image_processor import to_picture
from janus_app.models.common.tokenizer import EOS, IMAGE, IMAGE_BEGIN
from janus_app.models.janusflow.velocity import PromptVelocity
from janus_app.nn.diffusion import FlowSchedule, IntervalGuidance, integrate_flow
from janus_app.nn.prefill import prefill, prompt_embeds
from janus_app.types import ChatRequest, Finished, TextDelta, Turn
from tests.conftest import GOLDEN
from tests.models.golden import FEATURES, LOGITS, PIXELS, UNDERSTANDING, Case, close, nearly_equal_pictures

FLOW = 5e-5  # velocities and latents
DRAWN = ("cfg1_3steps", "cfg2_4steps", "cfg2_30steps", "cfg5_7steps")


@pytest.fixture(scope="module")
def case() -> Iterator[Case]:
    yield Case("janusflow_1_3b")


def test_preprocessing(case: Case) -> None:
    for name, expected in case.expected("preprocess").items():
        picture = Image.open(GOLDEN / "images" / f"{name.removesuffix('_upscaled')}.png")
        if name.endswith("_upscaled"):
            picture = picture.convert("RGB").resize((50, 37), Image.Resampling.BICUBIC)
        close(case.model.processor(picture), expected, 1e-6)


@pytest.mark.parametrize("name", UNDERSTANDING)
@torch.inference_mode()
def test_understanding(case: Case, name: str) -> None:
    expected, network, words = case.expected(f"und_{name}"), case.model.network, case.model.tokenizer
    ids, pictures = case.question(name)
    # We write a placeholder where the reference writes begin-of-image: a learned row replaces the embedding of both.
    theirs = [words.id(IMAGE) if i == words.id(IMAGE_BEGIN) else i for i in expected["input_ids"][0].tolist()]
    assert ids == theirs
    pixels = case.pixels(pictures)
    if pixels is not None:
        close(pixels, expected["pixel_values"][0], 1e-6)
        close(network.vision_und_enc_model.vision_tower(pixels), expected["vision_features"], FEATURES)
        close(network.picture_embeds(pixels)[:, 1:], expected["image_embeds"], FEATURES)
        assert torch.equal(network.picture_embeds(pixels)[0, 0], network.beg_of_und_embed[0])
    embeds = prompt_embeds(network, ids, words.id(IMAGE), pixels)
    close(embeds[None], expected["inputs_embeds"], FEATURES)
    close(network.language_model.lm_head(network(embeds[None])), expected["logits"], LOGITS)
    end = words.id(EOS)
    answer = list(answer_tokens(network, embeds, ends=(end,), limit=32, temperature=0, top_p=1, seed=0))
    assert answer == [t for t in expected["greedy_tokens"][0].tolist() if t != end]


@torch.inference_mode()
def test_left_padded_batch(case: Case) -> None:
    network, rows = case.model.network, []
    for name in ("rgb", "multi_turn"):
        ids, pictures = case.question(name)
        rows.append(prompt_embeds(network, ids, case.model.tokenizer.id(IMAGE), case.pixels(pictures)))
    assert len(rows[0]) != len(rows[1])
    hidden, _ = prefill(network, rows, 1)
    logits = network.language_model.lm_head(hidden[:, -1])
    close(logits, case.expected("und_batch_left_padded")["first_step_logits"], LOGITS)


def velocity_of(case: Case, name: str) -> PromptVelocity:
    ids = case.model.prompt_ids(case.meta["gen"][name]["prompt"])
    # the reference's ids end in begin-of-image, whose place the time embedding takes
    assert [*ids, case.model.tokenizer.id(IMAGE_BEGIN)] == case.expected(f"gen_{name}")["prompt_ids"].flatten().tolist()
    return PromptVelocity(case.model.network, ids)


@pytest.mark.parametrize("name", DRAWN)
@torch.inference_mode()
def test_intermediate_tensors_of_the_first_step(case: Case, name: str) -> None:
    """Encoder, time embedding and the language model's output at noise, each on its own."""
    expected, network = case.expected(f"gen_{name}"), case.model.network
    count = len(expected["z0"])
    time = network.time_embeds(torch.zeros(count))
    close(time, expected["step0_t_emb"][:count], FEATURES)
    tokens, skip = network.encode(expected["z0"], time)
    close(skip, expected["step0_enc_out"][:count], FEATURES)
    seen: list[Tensor] = []
    hook = network.language_model.model.register_forward_hook(lambda *call: seen.append(call[2]))
    try:
        velocity_of(case, name).raw(expected["z0"], 0.0, both=True)
    finally:
        hook.remove()
    close(seen[-1][:, 1:], expected["step0_llm_hidden"], FEATURES)
    assert seen[-1].shape[1] == 1 + tokens.shape[1], "the prompt itself is not computed again"


@pytest.mark.parametrize("name", DRAWN)
def test_velocities_on_the_reference_s_path(case: Case, name: str) -> None:
    recorded, expected = case.meta["gen"][name], case.expected(f"gen_{name}")
    velocity, steps = velocity_of(case, name), recorded["steps"]
    assert torch.allclose(expected["timesteps"].double() / 1000, torch.arange(steps).double() / steps)
    for step, (raw, guided) in enumerate(zip(expected["v_raw_first4"], expected["v_cfg_first4"], strict=True)):
        z, t = expected["z_per_step"][step], step / steps
        conditional, unconditional = velocity.raw(z, t, both=True)
        assert unconditional is not None
        close(torch.cat([conditional, unconditional]), raw, FLOW)
        close(velocity(z, t, recorded["cfg_weight"]), guided, FLOW)


@pytest.mark.parametrize("name", DRAWN)
def test_drawing_from_noise_to_pixels(case: Case, name: str) -> None:
    recorded, expected = case.meta["gen"][name], case.expected(f"gen_{name}")
    vae, steps = case.model.autoencoder, recorded["steps"]
    run = integrate_flow(
        velocity_of(case, name), expected["z0"], FlowSchedule(steps), guidance=IntervalGuidance(recorded["cfg_weight"])
    )
    path = [expected["z0"], *(step.latent for step in run)]
    for mine, theirs in zip(path, [*expected["z_per_step"], expected["final_latent"]], strict=True):
        close(mine, theirs, FLOW)
    close(path[-1] / vae._scale + vae._shift, expected["vae_input"], FLOW * 8)  # the scale is about an eighth
    pixels = vae.decode(path[-1])
    close(pixels, expected["pixels"], PIXELS)
    for picture, exact in zip(pixels, expected["image_uint8"], strict=True):
        nearly_equal_pictures(to_picture(picture), exact)


def test_autoencoder(case: Case) -> None:
    expected, vae = case.expected("vae"), case.model.autoencoder
    close(vae.decode((expected["z"] - vae._shift) * vae._scale), expected["decoded"], PIXELS)
    close(vae.encode(expected["x"]) / vae._scale + vae._shift, expected["encoded_mean"], FEATURES)


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
