"""Transfusion, LMFusion and LLaVAFusion on tiny random checkpoints: what their verbs promise and what they refuse."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.models.mixed_diffusion.config import parse_config
from janus_app.models.mixed_diffusion.pipeline import MixedModel, Start
from janus_app.models.registry import detect_family
from janus_app.nn.fast.linear import Linear
from janus_app.paths import ASSETS
from janus_app.registry.catalog import load_catalog
from janus_app.runtime import loader
from janus_app.runtime.devices import Placement
from janus_app.runtime.fit import plan_load
from janus_app.runtime.session import ModelSession
from janus_app.types import (
    ChatRequest,
    EditRequest,
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
from tests.conftest import loaded
from tests.pretended_card import pretended_cards
from tests.tiny_mixed import (
    CELLS,
    LANGUAGE,
    LMFUSION,
    SIDE,
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


def test_the_autoencoder_may_lie_where_the_config_says(copied: Path) -> None:
    before = load(copied).network.vae.state_dict()
    moved = shutil.move(copied / "vae", copied.parent / "another")
    for name in ("../another", str(moved)):
        rewrite(copied / "config.json", image={**LMFUSION["image"], "vae": name})
        after = load(copied).network.vae.state_dict()
        assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    rewrite(copied / "config.json", image={**LMFUSION["image"], "vae": "../nowhere"})
    with pytest.raises(AppError, match="nowhere") as refused:
        load(copied)
    assert refused.value.code == "picture_autoencoder_missing"


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
    # The picture decoder is in bfloat16 too where the processor multiplies that.
    assert need["lmfusion-8b"].weights in (30_902_130_596, 30_734_822_870) and need["lmfusion-8b"].work > 0
    assert need["llavafusion-8b"].weights > need["lmfusion-8b"].weights


def test_the_layout_of_the_table_in_the_docs_is_read(root: Path) -> None:
    config = parse_config(real_config("transfusion-7b"))
    assert config.image is not None and (config.image.grid(8) ** 2, config.steps, config.guidance) == (256, 100, 5.0)
    assert Start().strength == 1.0
