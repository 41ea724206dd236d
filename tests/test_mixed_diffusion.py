"""Transfusion, LMFusion and LLaVAFusion on tiny random checkpoints: what they must equal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor
from transformers import LlamaForCausalLM as TheirLlama
from transformers import LlavaNextForConditionalGeneration
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from janus_app.models.common.answering import WordRule
from janus_app.models.mixed_diffusion.answer import Word, answer
from janus_app.models.mixed_diffusion.bases import UNUSED, network_name
from janus_app.models.mixed_diffusion.config import CELL
from janus_app.models.mixed_diffusion.modeling import MixedNetwork
from janus_app.models.mixed_diffusion.pipeline import MixedModel
from janus_app.nn.llama import KVCache, LlamaForCausalLM
from janus_app.types import (
    EditRequest,
    Event,
    GenerateRequest,
    Progress,
    Turn,
    finish,
)
from tests import tiny_mixed
from tests.test_metamorph_parity import picture
from tests.tiny_mixed import (
    CELLS,
    IDS,
    LINEAR,
    LMFUSION,
    TRANSFUSION,
    code_of,
    drawn_latents,
    greedy,
    llavafusion,
    lmfusion,
    load,
    photo,
    root,
    transfusion,
)

__all__ = ["llavafusion", "lmfusion", "photo", "root", "transfusion"]  # fixtures


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
        ("gen_head.vision_head.weight", f"{UNUSED}gen_head.vision_head.weight"),
    ],
)
def test_the_tensors_of_a_base_are_known_by_old_and_new_names(theirs: str, ours: str) -> None:
    assert network_name(theirs) == ours


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
