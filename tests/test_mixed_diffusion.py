"""Transfusion, LMFusion and LLaVAFusion on tiny random checkpoints: what they must equal, and what they refuse."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor
from transformers import LlamaForCausalLM as TheirLlama
from transformers import LlavaNextForConditionalGeneration
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.models.common.answering import WordRule
from janus_app.models.mixed_diffusion.answer import Word, answer
from janus_app.models.mixed_diffusion.config import CELL, parse_config
from janus_app.models.mixed_diffusion.layouts import base_name
from janus_app.models.mixed_diffusion.modeling import MixedNetwork
from janus_app.models.mixed_diffusion.pipeline import MixedModel, Start
from janus_app.models.registry import detect_family
from janus_app.nn.fast.linear import Linear
from janus_app.nn.llama import KVCache, LlamaForCausalLM
from janus_app.paths import ASSETS
from janus_app.registry.catalog import load_catalog
from janus_app.runtime import loader
from janus_app.runtime.devices import Placement
from janus_app.runtime.fit import plan_load
from janus_app.runtime.session import ModelSession
from janus_app.types import (
    ChatRequest,
    EditRequest,
    Event,
    Finished,
    GenerateRequest,
    Notice,
    Preview,
    Progress,
    Turn,
    drain,
    finish,
    result_of,
)
from tests import tiny_mixed
from tests.conftest import loaded
from tests.pretended_card import pretended_cards
from tests.test_metamorph_parity import picture
from tests.tiny_mixed import CELLS, LANGUAGE, LINEAR, LLAVAFUSION, LMFUSION, SIDE, TRANSFUSION

IDS = [256, *range(40, 52)]
CHECKPOINTS = {"transfusion": TRANSFUSION, "lmfusion": LMFUSION, "llavafusion": LLAVAFUSION}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of each system, and the bases of two of them in components."""
    root = tmp_path_factory.mktemp("mixed")
    tiny_mixed.write_llama(root / "components" / "llama")
    tiny_mixed.write_llava(root / "components" / "llava")
    for name, config in CHECKPOINTS.items():
        tiny_mixed.write_checkpoint(root / name, config)
    return root


def load(folder: Path) -> MixedModel:
    return cast(MixedModel, loaded(folder).model)


@pytest.fixture(scope="module")
def transfusion(root: Path) -> MixedModel:
    return load(root / "transfusion")


@pytest.fixture(scope="module")
def lmfusion(root: Path) -> MixedModel:
    return load(root / "lmfusion")


@pytest.fixture(scope="module")
def llavafusion(root: Path) -> MixedModel:
    return load(root / "llavafusion")


@pytest.fixture
def photo() -> Image.Image:
    return picture("image").resize((SIDE, SIDE))


def code_of(work: Callable[[], Any]) -> str:
    with pytest.raises(AppError) as refused:
        work()
    return refused.value.code


# ---- the language half is its base


def logits_of(network: MixedNetwork, ids: Sequence[int]) -> Tensor:
    with torch.inference_mode():
        return network.language_model.lm_head(network.read(network.new_cache(1, len(ids)), ids))


def test_lmfusion_s_words_have_the_logits_of_its_base_bit_for_bit(root: Path, lmfusion: MixedModel) -> None:
    theirs = TheirLlama.from_pretrained(root / "components" / "llama").eval()
    alone = LlamaForCausalLM(lmfusion.network.config.language)  # the same kernels, and no picture half beside it
    alone.load_state_dict(theirs.state_dict())
    alone.model.fuse()
    with torch.inference_mode():
        embeds = alone.model.embed_tokens(torch.tensor([IDS]))
        cache = KVCache(lmfusion.network.config.language, 1, len(IDS), device=embeds.device, dtype=embeds.dtype)
        base = alone.lm_head(alone.model(embeds, None, cache)[0])
        reference = theirs(torch.tensor([IDS])).logits[0]
    assert torch.equal(logits_of(lmfusion.network, IDS), base)
    torch.testing.assert_close(base, reference, atol=1e-5, rtol=1e-5)  # transformers rounds in another order


def greedy(model: MixedModel, text: str, *images: Image.Image, count: int = 8) -> Finished:
    return finish(model.chat(ChatRequest((Turn("user", text, images),), temperature=0, max_new_tokens=count)))


def test_lmfusion_answers_as_its_base_generates(root: Path, lmfusion: MixedModel) -> None:
    theirs = TheirLlama.from_pretrained(root / "components" / "llama").eval()
    ids = lmfusion.prompts.conversation([Turn("user", "what is a frog?")])
    with torch.inference_mode():
        written = theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=8)[0, len(ids) :].tolist()
    answered = list(greedy(lmfusion, "what is a frog?").token_ids)
    ends = [*lmfusion.prompts.ends]
    assert answered == [token for token in written if token not in ends] and answered


def test_llavafusion_answers_about_a_picture_as_its_base_does(root: Path, llavafusion: MixedModel) -> None:
    folder = root / "components" / "llava"
    theirs = LlavaNextForConditionalGeneration.from_pretrained(folder).eval()
    asked, shown = Turn("user", "what is it?", (picture("image"),)), picture("image")
    processor = LlavaNextImageProcessorPil(**json.loads((folder / "preprocessor_config.json").read_text("utf-8")))
    batch = processor([shown.convert("RGB")], return_tensors="pt")
    assert llavafusion.reader is not None
    size = len(llavafusion.reader.encode(shown))
    ids = llavafusion.prompts.conversation([asked], [size])
    assert ids.count(CELL) == size > 4
    row = torch.tensor([[261 if token == CELL else token for token in ids]])
    with torch.inference_mode():
        written = theirs.generate(row, **batch, attention_mask=torch.ones_like(row), do_sample=False, max_new_tokens=8)[
            0, len(ids) :
        ].tolist()
    answered = list(greedy(llavafusion, "what is it?", shown).token_ids)
    assert answered == [token for token in written if token not in llavafusion.prompts.ends] and answered


def test_a_folder_without_picture_half_is_its_base_and_says_what_drawing_needs(
    root: Path, tmp_path: Path, lmfusion: MixedModel, photo: Image.Image
) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    base = str(root / "components" / "llama")
    (folder / "config.json").write_text(json.dumps({**LMFUSION, "base": base}), "utf-8")
    model = load(folder)
    assert model.capabilities.verbs == {"chat"}
    assert torch.equal(logits_of(model.network, IDS), logits_of(lmfusion.network, IDS))
    assert greedy(model, "hello").token_ids == greedy(lmfusion, "hello").token_ids
    for work in (
        lambda: finish(model.generate(GenerateRequest("a cat"))),
        lambda: finish(model.edit(EditRequest("blue", photo, method="instruct"))),
        lambda: greedy(model, "what is it?", photo),
    ):
        assert code_of(work) == "picture_half_missing"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("model.layers.0.mlp.up_proj.weight", "language_model.model.layers.0.mlp.up_proj.weight"),
        ("lm_head.weight", "language_model.lm_head.weight"),
        ("language_model.model.norm.weight", "language_model.model.norm.weight"),
        ("language_model.lm_head.weight", "language_model.lm_head.weight"),
        ("model.language_model.norm.weight", "language_model.model.norm.weight"),
        ("vision_tower.vision_model.pre_layrnorm.bias", "reader.vision_tower.pre_layrnorm.bias"),
        ("model.vision_tower.vision_model.pre_layrnorm.bias", "reader.vision_tower.pre_layrnorm.bias"),
        ("multi_modal_projector.linear_1.bias", "reader.multi_modal_projector.linear_1.bias"),
        ("model.image_newline", "reader.image_newline"),
    ],
)
def test_the_tensors_of_a_base_are_known_by_old_and_new_names(theirs: str, ours: str) -> None:
    assert base_name(theirs) == ours


# ---- words and pictures in one sequence


def plain_states(network: MixedNetwork, inputs: Tensor, pictures: Sequence[int], mask: Tensor) -> Tensor:
    """Final states [T, hidden] of a whole sequence at once: each position through the weights of its kind.

    pictures: the number of the picture of each position, 0 for words.
    """
    language = network.config.language
    is_cell = torch.tensor(pictures)[:, None] > 0
    half = language.head_dim // 2
    angles = torch.arange(len(inputs))[:, None] * language.rope_theta ** -(torch.arange(half) / half)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    repeats = language.num_attention_heads // language.num_key_value_heads

    def turned(heads: Tensor) -> Tensor:
        return heads * cos + torch.cat([-heads[..., half:], heads[..., :half]], -1) * sin

    def normed(x: Tensor, norm: Any) -> Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + language.rms_norm_eps).rsqrt() * norm.weight

    def heads_of(flat: Tensor) -> Tensor:
        return flat.unflatten(-1, (-1, language.head_dim)).transpose(0, 1)

    x = inputs
    for words, cells in zip(network.language_model.model.blocks, network.picture_blocks.blocks, strict=True):

        def of_kind(compute: Callable[[Any], Tensor], words: Any = words, cells: Any = cells) -> Tensor:
            return torch.where(is_cell, compute(cells), compute(words))

        y = of_kind(lambda block: normed(x, block.input_layernorm))  # noqa: B023
        q, k, v = (
            heads_of(of_kind(lambda block: F.linear(y, getattr(block.self_attn, name).weight)))  # noqa: B023
            for name in ("q_proj", "k_proj", "v_proj")
        )
        k, v = (part.repeat_interleave(repeats, 0) for part in (turned(k), v))
        scores = turned(q) @ k.transpose(1, 2) / language.head_dim**0.5
        attended = (scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + of_kind(lambda block: F.linear(attended, block.self_attn.o_proj.weight))  # noqa: B023
        y = of_kind(lambda block: normed(x, block.post_attention_layernorm))  # noqa: B023
        x = x + of_kind(
            lambda block: F.linear(
                F.silu(F.linear(y, block.mlp.gate_proj.weight)) * F.linear(y, block.mlp.up_proj.weight),  # noqa: B023
                block.mlp.down_proj.weight,
            )
        )
    return torch.where(is_cell, normed(x, network.picture_blocks.norm), normed(x, network.language_model.model.norm))


def numbered(ids: Sequence[int]) -> list[int]:
    """The number of the picture of each position of `ids`, 0 for words."""
    numbers, count = list[int](), 0
    for before, token in zip([0, *ids], ids, strict=False):
        count += token == CELL and before != CELL
        numbers.append(count if token == CELL else 0)
    return numbers


def plain_mask(pictures: Sequence[int]) -> Tensor:
    number = torch.tensor(pictures)
    same = (number[:, None] == number) & (number > 0)
    return torch.ones(len(pictures), len(pictures)).tril().bool() | same


def test_words_see_what_is_before_them_and_cells_their_whole_picture() -> None:
    table = [  # word, word, two cells, word, two cells of another picture, word; a row sees the columns with a 1
        "10000000",
        "11000000",
        "11110000",
        "11110000",
        "11111000",
        "11111110",
        "11111110",
        "11111111",
    ]
    expected = torch.tensor([[letter == "1" for letter in row] for row in table])
    assert torch.equal(plain_mask([0, 0, 1, 1, 0, 2, 2, 0]), expected)


@pytest.mark.parametrize("name", ["transfusion", "lmfusion"])
def test_what_a_position_is_influenced_by_is_what_the_table_says(name: str, request: pytest.FixtureRequest) -> None:
    """Every input is changed in turn. The mask is transitive, so layers do not add to what influences what."""
    model: MixedModel = request.getfixturevalue(name)
    network = model.network
    if name == "lmfusion":  # its U-Net mixes the cells of a picture before any attention
        network.codec, unet = request.getfixturevalue("transfusion").network.codec, network.codec
        request.addfinalizer(lambda: setattr(network, "codec", unet))
    ids = [256, 40, *[CELL] * CELLS, 41, *[CELL] * CELLS, 42]
    latents = [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    seen = list[Tensor]()
    hooks = [
        blocks.register_forward_hook(lambda module, given, out: seen.append(out[0]))
        for blocks in {network.language_model.model, network.picture_blocks}
    ]

    def states(ids: Sequence[int], latents: Sequence[Tensor]) -> Tensor:
        seen.clear()
        network.read(network.new_cache(1, len(ids)), ids, latents)
        return torch.cat(seen)

    numbers = numbered(ids)
    before, columns = states(ids, latents), list[Tensor]()
    for place, token in enumerate(ids):
        changed_ids, changed = [*ids], [latent.clone() for latent in latents]
        if token == CELL:
            cell = numbers[:place].count(numbers[place])
            row, column = divmod(cell, 4)
            changed[numbers[place] - 1][..., 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 1
        else:
            changed_ids[place] += 10 if token != 256 else -10
        columns.append((states(changed_ids, changed) - before).abs().amax(-1) > 0)
    for hook in hooks:
        hook.remove()
    assert torch.equal(torch.stack(columns, dim=1), plain_mask(numbers))


def noise_by_recomputing(
    model: MixedModel, ids: Sequence[int], given: Sequence[Tensor], latents: Tensor, time: Tensor
) -> Tensor:
    """The noise in latents [1, C, h, w] behind a prompt, from the whole sequence."""
    network, clean = model.network, torch.zeros(1, dtype=torch.long)
    whole = [*ids, *[CELL] * CELLS]
    numbers = numbered(whole)
    inputs = network.embeds([max(token, -2) for token in whole])
    for number, latent in enumerate(given, 1):
        inputs[torch.tensor(numbers) == number] = network.codec.encode(latent, clean)[0][0]
    cells, skips = network.codec.encode(latents, time[None])
    inputs[-CELLS:] = cells[0]
    states = plain_states(network, inputs, numbers, plain_mask(numbers))
    return network.codec.decode(states[None, -CELLS:], skips, time[None])


@torch.inference_mode()
def latents_by_recomputing(
    model: MixedModel, rows: Sequence[tuple[Sequence[int], Sequence[Tensor]]], guidance: float, seed: int, steps: int
) -> Tensor:
    """The whole drawing written out: rows are the unconditional prompt and the conditional one."""
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", clip_sample=False, prediction_type="epsilon", timestep_spacing="leading"
    )
    scheduler.set_timesteps(steps)
    stream = torch.Generator().manual_seed(seed)
    latents = torch.randn(4, 8, 8, generator=stream)[None]
    for time in scheduler.timesteps:
        without, caption = (noise_by_recomputing(model, ids, given, latents, time) for ids, given in rows)
        mixed = without + guidance * (caption - without)
        latents = scheduler.step(mixed, time, latents, generator=stream).prev_sample
    return latents


def drawn_latents(model: MixedModel, request: GenerateRequest | EditRequest, given: Sequence[Tensor] = ()) -> Tensor:
    """The latents that a request ends with."""
    kept = list[Tensor]()
    decode = model.autoencoder.decode
    model.autoencoder.decode = lambda latents: (kept.append(latents), decode(latents))[1]  # type: ignore[method-assign]
    try:
        finish(model.generate(request) if isinstance(request, GenerateRequest) else model.edit(request))
    finally:
        del model.autoencoder.decode
    return torch.cat(kept)


@pytest.mark.parametrize("name", ["transfusion", "lmfusion", "llavafusion"])
def test_drawing_equals_a_plain_recomputation_of_the_whole_sequence_in_each_step(
    name: str, request: pytest.FixtureRequest
) -> None:
    model: MixedModel = request.getfixturevalue(name)
    drawn = drawn_latents(model, GenerateRequest("a red cat", guidance=3.0, steps=4, seed=7))
    rows = [(model.prompts.drawing(""), ()), (model.prompts.drawing("a red cat"), ())]
    plain = latents_by_recomputing(model, rows, 3.0, 7, 4)
    assert float(plain.abs().max()) > 0.1
    torch.testing.assert_close(drawn, plain, atol=1e-5 * float(plain.abs().max()), rtol=1e-5)


def test_an_edit_by_instruction_equals_a_plain_recomputation(lmfusion: MixedModel, photo: Image.Image) -> None:
    asked = EditRequest("make it red", photo, method="instruct", guidance=2.0, image_guidance=1.0, steps=3, seed=3)
    given = [lmfusion.latent(photo)]
    rows = [(lmfusion.prompts.drawing(text, 1), given) for text in ("", "make it red")]
    plain = latents_by_recomputing(lmfusion, rows, 2.0, 3, 3)
    torch.testing.assert_close(drawn_latents(lmfusion, asked), plain, atol=1e-5 * float(plain.abs().max()), rtol=1e-5)
    whole = EditRequest("make it red", photo, method="instruct", guidance=2.0, image_guidance=1.5, steps=3, seed=3)
    assert float((drawn_latents(lmfusion, whole) - plain).abs().max()) > 1e-3  # a third row: no picture either


def test_blocks_of_their_own_with_the_weights_of_words_draw_what_shared_ones_draw(
    root: Path, tmp_path: Path, transfusion: MixedModel
) -> None:
    folder = tmp_path / "untied"
    config = {**TRANSFUSION, "image": {**LINEAR, "untied": True}}
    tiny_mixed.write_checkpoint(folder, config)
    model = load(folder)
    theirs, ours = transfusion.network.state_dict(), model.network.state_dict()
    for name, tensor in ours.items():
        tensor.copy_(theirs[name.replace("image_model.", "language_model.model.")])
    asked = GenerateRequest("a cat", guidance=3.0, steps=3, count=2)
    assert torch.equal(drawn_latents(model, asked), drawn_latents(transfusion, asked))
    assert model.network.picture_blocks is not model.network.language_model.model
    assert transfusion.network.picture_blocks is transfusion.network.language_model.model


def test_words_go_on_behind_a_picture_as_if_all_were_read_anew(transfusion: MixedModel) -> None:
    network, prompts = transfusion.network, transfusion.prompts
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    ids = prompts.conversation([Turn("user", "draw a frog")])

    def draw(cache: KVCache, number: int) -> Iterator[Event]:
        yield Progress("draw", 0, 1)
        return latent

    cache = network.new_cache(1, len(ids) + 40)
    hidden = network.read(cache, ids)[-1:]
    chosen = int(network.language_model.lm_head(hidden).argmax())
    rule = WordRule((), chosen)  # whatever it says first begins a picture
    parts = answer(network, cache, hidden, rule, cast(Any, draw), words=3, cells=CELLS, picture_end=prompts.picture_end)
    words = [part.id for part in parts if isinstance(part, Word)]
    assert words[:2] == [chosen, prompts.picture_end]
    whole = [*ids, chosen, *[CELL] * CELLS, prompts.picture_end]
    with torch.inference_mode():
        inputs, numbers = network.embeds([max(token, -2) for token in whole]), numbered(whole)
        inputs[torch.tensor(numbers) > 0] = network.codec.encode(latent, torch.zeros(1, dtype=torch.long))[0][0]
        for word in words[2:]:
            states = plain_states(network, inputs, numbers, plain_mask(numbers))
            assert int(network.language_model.lm_head(states[-1]).argmax()) == word
            inputs, numbers = torch.cat([inputs, network.embeds([word])]), [*numbers, 0]
    assert len(words) == 4


def plain_time(time: Any, t: int) -> Tensor:
    rates = torch.exp(-math.log(10_000) * torch.arange(8) / 8)
    return time.linear_2(F.silu(time.linear_1(torch.cat([(t * rates).cos(), (t * rates).sin()])[None])))


@torch.inference_mode()
def test_a_patch_and_its_time_go_through_one_linear_each_way(transfusion: MixedModel) -> None:
    codec: Any = transfusion.network.codec
    latent, time = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), plain_time(codec.time, 300)
    patches = [latent[0, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].flatten() for r in range(4) for c in range(4)]
    inputs, skips = codec.encode(latent, torch.tensor([300]))
    torch.testing.assert_close(inputs[0], codec.encoder(torch.stack(patches) + time), atol=1e-5, rtol=1e-5)
    back = codec.decode(inputs, skips, torch.tensor([300]))
    numbers = codec.decoder(inputs[0, 6]).view(4, 2, 2)  # the third patch of the second row
    torch.testing.assert_close(back[0, :, 2:4, 4:6], numbers, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_u_net_goes_down_before_the_transformer_and_up_behind_it(lmfusion: MixedModel) -> None:
    codec: Any = lmfusion.network.codec
    latent, time = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), plain_time(codec.time, 300)

    def normed(x: Tensor, norm: Any) -> Tensor:
        return F.silu(F.group_norm(x, 4, norm.weight, norm.bias, 1e-6))

    def block(x: Tensor, layers: Any) -> Tensor:
        inner = layers.conv1(normed(x, layers.norm1)) + layers.time_emb_proj(F.silu(time))[..., None, None]
        shortcut = x if layers.conv_shortcut is None else layers.conv_shortcut(x)
        return shortcut + layers.conv2(normed(inner, layers.norm2))

    high = block(codec.conv_in(latent), codec.down[0][0])
    conv = codec.shrink[0].conv
    low = block(F.conv2d(high, conv.weight, conv.bias, stride=2, padding=1), codec.down[1][0])
    inputs, skips = codec.encode(latent, torch.tensor([300]))
    torch.testing.assert_close(inputs[0], codec.encoder(low[0].flatten(1).T), atol=1e-5, rtol=1e-5)
    states = torch.randn(1, CELLS, tiny_mixed.HIDDEN, generator=torch.Generator().manual_seed(2))
    x = codec.decoder(states)[0].T.view(1, -1, 4, 4)
    x = block(torch.cat([x, low], 1), codec.up[1][0])
    x = codec.grow[0].conv(x.repeat_interleave(2, -1).repeat_interleave(2, -2))
    x = block(torch.cat([x, high], 1), codec.up[0][0])
    out = codec.decode(states, skips, torch.tensor([300]))
    torch.testing.assert_close(out, codec.conv_out(normed(x, codec.norm_out)), atol=1e-4, rtol=1e-4)


def test_the_noise_schedule_is_the_cosine_of_the_paper(transfusion: MixedModel) -> None:
    """Nichol and Dhariwal (2021), eq. 17: f(t) / f(0) with f = cos^2((t / T + s) / (1 + s) * pi / 2), s = 0.008,
    and betas of at most 0.999."""

    def f(t: int) -> float:
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    kept, expected = 1.0, list[float]()
    for t in range(1000):
        kept *= 1 - min(1 - f(t + 1) / f(t), 0.999)
        expected.append(kept)
    signal = transfusion.scheduler().alphas_cumprod
    torch.testing.assert_close(signal.double(), torch.tensor(expected).double(), atol=1e-6, rtol=1e-3)
    assert abs(float(signal[499].sqrt()) - math.cos(math.pi / 4)) < 0.02  # Transfusion, section 2
    assert transfusion.scheduler().config.prediction_type == "epsilon"


# ---- what the verbs promise


def test_a_session_draws_chats_and_edits_with_it(root: Path, photo: Image.Image) -> None:
    session = ModelSession(load_catalog(), Hub())
    drain(session.load(str(root / "transfusion"), "cpu", "fp32"))
    drawn = finish(session.run(GenerateRequest("a cat", steps=2, guidance=2.0, count=2, seed=4)))
    assert [one.seed for one in drawn.pictures] == [4, 5] and drawn.pictures[0].image.size == (SIDE, SIDE)
    assert drawn.provenance is not None and drawn.provenance.family == "mixed_diffusion"
    told = finish(session.run(ChatRequest((Turn("user", "what is it?", (photo,)),), max_new_tokens=4)))
    assert told.usage is not None and told.usage.prompt_tokens > CELLS
    for method in ("instruct", "image to image"):
        assert finish(session.run(EditRequest("blue", photo, method=method, steps=2))).pictures
    variant = load_catalog().resolve(str(root / "llavafusion"))
    assert variant.edit_methods == ("masked", "image to image") and variant.size == (SIDE, SIDE)
    assert (variant.context, variant.settings["steps"].default) == (200, 100)


def test_a_picture_depends_on_its_seed_alone_and_every_step_shows_a_preview(transfusion: MixedModel) -> None:
    events = list(transfusion.generate(GenerateRequest("a cat", steps=3, guidance=2.0, count=2, seed=10)))
    both = cast(Finished, events[-1]).pictures
    (second,) = finish(transfusion.generate(GenerateRequest("a cat", steps=3, guidance=2.0, seed=11))).pictures
    assert np.abs(np.asarray(both[1].image, np.int16) - np.asarray(second.image, np.int16)).max() <= 1
    assert both[0].image.tobytes() != both[1].image.tobytes()
    previews = [event for event in events if isinstance(event, Preview)]
    assert [preview.done for preview in previews] == [2, 4, 6] and len(previews[0].images) == 2


def test_closing_a_drawing_stops_it_within_a_step(transfusion: MixedModel) -> None:
    calls = list[Tensor]()
    encode = transfusion.network.codec.encode
    transfusion.network.codec.encode = lambda *given: (calls.append(given[0]), encode(*given))[1]  # type: ignore[assignment]
    try:
        events = transfusion.generate(GenerateRequest("a cat", steps=50))
        next(event for event in events if isinstance(event, Progress))
        events.close()
    finally:
        del transfusion.network.codec.encode
    assert len(calls) == 1


def test_the_prompt_without_a_caption_is_read_once_for_all_pictures(transfusion: MixedModel) -> None:
    transfusion._unconditional = None
    read, prefix = list[list[int]](), transfusion.network.prefix
    transfusion.network.prefix = lambda ids, *given: (read.append(list(ids)), prefix(ids, *given))[1]  # type: ignore[method-assign]
    try:
        for seed in range(2):
            finish(transfusion.generate(GenerateRequest("a cat", steps=2, guidance=2.0, seed=seed, count=2)))
    finally:
        del transfusion.network.prefix
    nothing, caption = transfusion.prompts.drawing(""), transfusion.prompts.drawing("a cat")
    assert read.count(nothing) == 1 and read.count(caption) == 2


def test_a_masked_edit_changes_no_pixel_outside_the_mask(lmfusion: MixedModel, photo: Image.Image) -> None:
    mask = Image.new("L", photo.size)
    mask.paste(255, (0, 0, 8, 8))
    (changed,) = finish(lmfusion.edit(EditRequest("blue", photo, mask, "masked", steps=3))).pictures
    before, after = np.asarray(photo, np.int16), np.asarray(changed.image, np.int16)
    latents, clean = (
        drawn_latents(lmfusion, EditRequest("blue", photo, mask, "masked", steps=3)),
        lmfusion.latent(photo),
    )
    kept = latents == clean
    assert kept[..., 4:, :].all() and kept[..., 4:].all() and not kept[..., :4, :4].any()
    assert (before != after)[:8, :8].any() and not (before != after)[8:].any() and not (before != after)[:, 8:].any()


def test_image_to_image_starts_from_the_noised_picture(lmfusion: MixedModel, photo: Image.Image) -> None:
    clean = lmfusion.latent(photo)

    def distance(strength: float) -> float:
        asked = EditRequest("blue", photo, method="image to image", strength=strength, steps=20, guidance=1.0)
        return float((drawn_latents(lmfusion, asked) - clean).norm())

    assert distance(0.05) < distance(0.6)
    asked = EditRequest("blue", photo, method="image to image", strength=0.25, steps=8)
    assert sum(isinstance(event, Preview) for event in lmfusion.edit(asked)) == 2


def test_a_model_that_begins_a_picture_draws_it_into_its_answer(root: Path, photo: Image.Image) -> None:
    model = load(root / "transfusion")
    state = model.network.state_dict()
    state["language_model.model.embed_tokens.weight"][:, 0] = 30  # one direction that outweighs all others
    state["language_model.lm_head.weight"].zero_()[model.prompts.picture_start, 0] = 1
    model.network.language_model.model.norm.weight.data.fill_(1.0)
    asked = ChatRequest((Turn("user", "draw"),), temperature=0, max_new_tokens=8, seed=2)
    *events, last = model.chat(asked)
    assert isinstance(last, Finished) and [one.seed for one in last.pictures] == [2, 3, 4, 5]
    assert last.pictures[0].painted_with == {"guidance": 5.0, "steps": 3}
    assert [event.message.code for event in events if isinstance(event, Notice)] == ["answer_pictures_most"]


# ---- other devices and precisions


def asked(photo: Image.Image) -> list[GenerateRequest | EditRequest | ChatRequest]:
    return [
        GenerateRequest("a cat", steps=3, guidance=2.0, count=2, seed=6),
        EditRequest("blue", photo, method="instruct", steps=2, guidance=2.0, seed=6),
        ChatRequest((Turn("user", "what is it?", (photo,)),), temperature=0, max_new_tokens=5),
    ]


def done(model: MixedModel, photo: Image.Image) -> tuple[list[Tensor], tuple[int, ...]]:
    """The pixels and the words of a drawing, an edit and an answer."""
    drawn, edited, told = (
        finish(events)
        for events in (
            model.generate(cast(GenerateRequest, asked(photo)[0])),
            model.edit(cast(EditRequest, asked(photo)[1])),
            model.chat(cast(ChatRequest, asked(photo)[2])),
        )
    )
    pictures = (*drawn.pictures, *edited.pictures)
    return [torch.from_numpy(np.array(one.image)).float() for one in pictures], told.token_ids


@pytest.mark.parametrize("name", ["transfusion", "lmfusion"])
def test_a_card_draws_edits_and_chats_as_the_cpu(
    root: Path, name: str, photo: Image.Image, request: pytest.FixtureRequest
) -> None:
    pixels, words = done(request.getfixturevalue(name), photo)
    with pretended_cards(float64=False) as cards:
        found, told = done(cast(MixedModel, loaded(root / name, device="cuda").model), photo)
    assert told == words and len(cards.recorded) == 3
    for one, other in zip(found, pixels, strict=True):
        assert float((one - other).abs().mean()) <= 0.01


def test_layers_in_main_memory_compute_the_same(root: Path, lmfusion: MixedModel, photo: Image.Image) -> None:
    pytest.importorskip("accelerate")
    folder, cpu = root / "lmfusion", torch.device("cpu")
    pixels, words = done(lmfusion, photo)
    with pretended_cards() as cards:
        plan = plan_load(load_catalog().resolve(str(folder)), folder, "cuda:0").choose("fp32")
        placement = Placement("cuda+cpu", torch.device("cuda", 0), (), host=True)
        model = result_of(loader.load(replace(plan, placement=placement, split={1: cpu}))).model
        found, told = done(cast(MixedModel, model), photo)
    assert told == words and len(cards.recorded) == 2  # words pass the layers that move; pictures have their own
    for one, other in zip(found, pixels, strict=True):
        assert float((one - other).abs().mean()) <= 0.01


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_both_halves_are_made_smaller_and_still_draw(root: Path, precision: str, photo: Image.Image) -> None:
    if precision == "nf4":
        pytest.importorskip("bitsandbytes")
    model = cast(MixedModel, loaded(root / "lmfusion", precision).model)
    pixels, words = done(model, photo)
    assert all(bool(torch.isfinite(one).all()) for one in pixels) and words
    network = model.network
    assert network.image_model is not None
    kinds = {type(next(blocks.blocks).mlp.down_proj) for blocks in (network.language_model.model, network.image_model)}
    assert len(kinds) == 1 and (kinds == {Linear}) == (precision == "bf16")


# ---- refusals


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    """A copy of LMFusion and its base that a test may damage."""
    for name in ("lmfusion", "components"):
        shutil.copytree(root / name, tmp_path / name)
    return tmp_path / "lmfusion"


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")


def test_a_base_that_is_missing_or_of_another_kind_or_size_is_named(copied: Path) -> None:
    base = copied.parent / "components" / "llama"
    rewrite(copied / "config.json", language={**LANGUAGE, "num_hidden_layers": 3})
    assert code_of(lambda: load(copied)) == "language_half_differs"
    rewrite(copied / "config.json", language=LANGUAGE)
    rewrite(base / "config.json", model_type="qwen2")
    assert code_of(lambda: load(copied)) == "language_half_unknown"
    rewrite(base / "config.json", model_type="llama", vocab_size=200)
    rewrite(copied / "config.json", language=None)
    assert code_of(lambda: load(copied)) == "weights_shape_differs"
    shutil.rmtree(base)
    with pytest.raises(AppError, match="components") as refused:
        load(copied)
    assert refused.value.code == "language_half_missing"


def test_a_base_with_another_tokenizer_is_refused(copied: Path) -> None:
    file = copied.parent / "components" / "llama" / "tokenizer.json"
    tokenizer = json.loads(file.read_text("utf-8"))
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 263, "content": "<one_more>"})
    file.write_text(json.dumps(tokenizer), "utf-8")
    assert code_of(lambda: load(copied)) == "tokenizer_too_large"


def test_a_picture_half_without_its_autoencoder_or_in_pieces_is_refused(copied: Path) -> None:
    rewrite(copied / "config.json", image={**LMFUSION["image"], "codec": "linear"})
    with pytest.raises(AppError) as refused:
        load(copied)
    assert "codec" in str(refused.value)
    shutil.rmtree(copied / "vae")
    assert code_of(lambda: load(copied)) == "picture_autoencoder_missing"


@pytest.mark.parametrize("steps", [0, 10_000])
def test_steps_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(AppError, match="from 1 to 250"):
        GenerateRequest("a cat", steps=steps)


def test_more_than_the_context_holds_is_refused_or_left_out(transfusion: MixedModel, photo: Image.Image) -> None:
    assert code_of(lambda: finish(transfusion.generate(GenerateRequest("x" * 190)))) == "prompt_too_long"
    many = EditRequest("x" * 100, photo, method="instruct", more_images=(photo,) * 4)
    assert code_of(lambda: finish(transfusion.edit(many))) == "prompt_too_long_with_pictures"
    assert code_of(lambda: greedy(transfusion, "what?", *[photo] * 11)) == "question_too_long"
    turns = [Turn("user", "what?", (photo,) * 3), Turn("assistant", "a cat")] * 4
    request = ChatRequest((*turns, Turn("user", "and now?")), max_new_tokens=2)
    notices = [event.message.code for event in transfusion.chat(request) if isinstance(event, Notice)]
    assert "conversation_shortened" in notices


@pytest.mark.parametrize(
    ("section", "field", "value", "code"),
    [
        ("image", "codec", "vq", "config_value_not_computed"),
        ("image", "patch", 0, "config_number_out_of_range"),
        ("image", "widths", [8, 16, 32], "config_parts_differ"),
        ("image", "groups", 5, "config_parts_differ"),
        ("diffusion", "_class_name", "EulerDiscreteScheduler", "denoiser_unknown"),
        ("diffusion", "steps", 10_000, "config_number_out_of_range"),
    ],
)
def test_absurd_configs_are_refused(copied: Path, section: str, field: str, value: Any, code: str) -> None:
    config = json.loads((copied / "config.json").read_text("utf-8"))
    rewrite(copied / "config.json", **{section: {**config.get(section, {}), field: value}})
    assert code_of(lambda: load(copied)) == code


# ---- real sizes


def real_config(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((ASSETS / "checkpoints" / f"{name}.json").read_text("utf-8"))["config"]
    return config


@pytest.mark.parametrize(
    ("name", "billions"), [("transfusion-7b", 7.0), ("lmfusion-8b", 15.3), ("llavafusion-8b", 16.0)]
)
def test_the_real_sizes_are_built_without_memory(name: str, billions: float) -> None:
    config = real_config(name)
    network = detect_family(config).meta_network(config)
    state = network.state_dict()
    assert all(tensor.is_meta for tensor in state.values())
    total = sum(tensor.numel() for tensor in state.values())
    assert total == load_catalog()[name].parameters and abs(total / 1e9 - billions) < 0.03 * billions
    codec = sum(tensor.numel() for key, tensor in state.items() if key.startswith("codec."))
    assert abs(codec / 1e9 - 0.27) < 0.005  # of both papers


@pytest.mark.parametrize(
    ("billions", "width", "layers", "inner", "heads"),
    [(0.16, 768, 16, 2048, 12), (0.37, 1024, 24, 2816, 16), (0.76, 1536, 24, 4096, 24), (1.4, 2048, 24, 5632, 16)],
)
def test_the_smaller_transfusions_have_the_paper_s_parameters(
    billions: float, width: int, layers: int, inner: int, heads: int
) -> None:
    config = real_config("transfusion-7b")
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": inner}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": heads}
    config |= {"language": {**config["language"], **sizes}, "image": {**config["image"], "codec": "linear"}}
    network = detect_family(config).meta_network(config)
    total = sum(tensor.numel() for key, tensor in network.state_dict().items() if not key.startswith("vae."))
    assert abs(total / 1e9 - billions) < 0.04 * billions


def test_the_fit_advisor_knows_the_size_before_any_file_is_there() -> None:
    need = {
        name: plan_load(load_catalog()[name], None, "cpu").plan("bf16").need
        for name in ("lmfusion-8b", "llavafusion-8b")
    }
    assert need["lmfusion-8b"].weights == 30_902_130_596 and need["lmfusion-8b"].work > 0
    assert need["llavafusion-8b"].weights > need["lmfusion-8b"].weights


def test_the_layout_of_the_table_in_the_docs_is_read(root: Path) -> None:
    config = parse_config(real_config("transfusion-7b"))
    assert config.image is not None and (config.image.grid(8) ** 2, config.steps, config.guidance) == (256, 100, 5.0)
    assert Start().strength == 1.0
