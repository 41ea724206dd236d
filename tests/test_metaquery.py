"""MetaQuery beside its parity: structure, what is computed once, the verbs, loading, and bad input."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from janus_app.catalog import load_catalog
from janus_app.cli import main
from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.models import sampling
from janus_app.models.base import (
    ChatRequest,
    EditRequest,
    Event,
    Finished,
    GenerateRequest,
    Notice,
    Picture,
    Preview,
    Progress,
    TextDelta,
    Turn,
)
from janus_app.models.checkpoint import read_json
from janus_app.models.metaquery.config import parse_config
from janus_app.models.metaquery.connector import HEAD_DIM, connector, rotate
from janus_app.models.metaquery.denoise import Guidance
from janus_app.models.metaquery.sketch import Sketch
from janus_app.records import read_record
from janus_app.studio import Studio, drain
from tests.conftest import GOLDEN as JANUS
from tests.conftest import loaded
from tests.metaquery_golden import CHECKPOINTS, GOLDEN, Case, done, model, picture, relative

LLAVA, QWEN = "llavaov_sana", "qwen25vl_sana"


def last(events: Iterator[Event]) -> Finished:
    event = list(events)[-1]
    assert isinstance(event, Finished)
    return event


def gap(one: Image.Image, other: Image.Image) -> int:
    """Largest difference of two pictures in levels."""
    pair = [torch.tensor(list(image.tobytes()), dtype=torch.int16) for image in (one, other)]
    return int((pair[0] - pair[1]).abs().max())


# ---- structure


def test_epsilons_and_the_absence_of_a_last_norm() -> None:
    for name in CHECKPOINTS:
        encoder, _, gelu, _, norm = model(name).network.connector
        assert (norm.eps, gelu.approximate) == (1e-5, "tanh")
        assert [child for child, _ in encoder.named_children()] == ["layers"]
        for layer in encoder.layers:
            assert layer.input_layernorm.eps == layer.post_attention_layernorm.eps == 1e-6


def test_positions_are_turned_before_lengths_are_taken() -> None:
    torch.manual_seed(0)
    attention = connector(128, 1, 8)[0].layers[0].self_attn
    for norm in (attention.q_norm, attention.k_norm):
        nn.init.uniform_(norm.gamma, 0.5, 2)
    x = torch.randn(1, 5, 128)

    def by_hand(norm_first: bool) -> Tensor:
        q, k, v = (p(x).view(5, 2, 64).transpose(0, 1) for p in (attention.q_proj, attention.k_proj, attention.v_proj))

        def turn(part: Tensor) -> Tensor:
            """Pairs (i, i + 32) turned by position / 10000^(i / 32)."""
            angle = torch.arange(5.0)[:, None] / 10000 ** (torch.arange(32.0) / 32)
            a, b = part[..., :32], part[..., 32:]
            return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)

        def length(part: Tensor, gamma: Tensor) -> Tensor:
            return part / part.norm(dim=-1, keepdim=True) * gamma * 8

        both = [(q, attention.q_norm.gamma), (k, attention.k_norm.gamma)]
        q, k = (turn(length(part, g)) if norm_first else length(turn(part), g) for part, g in both)
        mixed = torch.softmax(q @ k.transpose(1, 2) / 8, dim=-1) @ v
        return attention.o_proj(mixed.transpose(0, 1).reshape(1, 5, 128))

    assert relative(attention(x), by_hand(norm_first=False)) < 1e-5
    assert relative(attention(x), by_hand(norm_first=True)) > 1e-2
    assert relative(rotate(x.view(1, 5, 2, HEAD_DIM).transpose(1, 2))[:, :, 0], x[:, 0].view(1, 2, 64)) == 0


def test_queries_see_one_another_both_ways() -> None:
    torch.manual_seed(0)
    layers, x = connector(64, 2, 8), torch.randn(1, 6, 64)
    other = x.clone()
    other[0, -1] += 1
    assert relative(layers(other)[:, 0], layers(x)[:, 0]) > 1e-4
    other = x.clone()
    other[0, 0] += 1
    assert relative(layers(other)[:, -1], layers(x)[:, -1]) > 1e-4


def test_pictures_have_positions_in_three_dimensions() -> None:
    reader = model(QWEN).reader
    seen = [reader.see(picture("b"), framed=True)]
    ids = model(QWEN).reading.prompt("blue", [picture("b")], seen)
    positions, offset = reader.place(ids, seen)
    places = torch.tensor(ids) == reader.image_id
    frame, row, column = positions[:, 0, places]
    _, rows, columns = (seen[0].grid // 2).tolist()
    assert len(set(frame.tolist())) == 1 and len(set(row.tolist())) == rows and len(set(column.tolist())) == columns
    assert offset == int(positions.max()) + 1 - len(ids) < 0


# ---- what is computed once


@pytest.mark.parametrize("name", [LLAVA, "llavaov_sd15"])
@torch.inference_mode()
def test_held_conditioning_is_the_plain_way(name: str) -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0
    from diffusers.models.transformers.sana_transformer import SanaAttnProcessor2_0

    network = model(name).network
    plain = copy.deepcopy(network.transformer)
    for path, module in plain.named_modules():
        if path.endswith("attn2"):
            module.set_processor(SanaAttnProcessor2_0() if name == LLAVA else AttnProcessor2_0())
    torch.manual_seed(1)
    width = network.connector[1].out_features
    captions = torch.randn(3, network.config.queries, width)
    latents = torch.randn(2, network.config.latent_channels, 16, 16)
    model(name).denoiser.hold(captions)
    projected: list[int] = []
    watched = [m for p, m in network.transformer.named_modules() if p.endswith(("attn2.to_k", "attn2.to_v"))]
    hooks = [m.register_forward_hook(lambda *_: projected.append(1)) for m in watched]
    for time in (torch.tensor(999), torch.tensor(374)):
        ours = model(name).denoiser(latents, time)
        theirs = plain(
            latents.repeat(3, 1, 1, 1),
            encoder_hidden_states=captions.repeat_interleave(2, 0),
            timestep=time.expand(6),
            return_dict=False,
        )[0]
        assert relative(ours, theirs.unflatten(0, (3, 2))) < 1e-6
    for hook in hooks:
        hook.remove()
    assert watched and not projected  # no step asked for keys or values again


def test_a_prompt_is_read_once_however_many_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, calls = model(LLAVA), Counter[str]()

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counted(ours.reader, "read")
    counted(ours.reader, "_see")
    ours.reading._kept.clear()
    last(ours.generate(GenerateRequest("a fox", negative="dull", count=3, steps=1)))
    assert calls == {"read": 2}
    last(ours.generate(GenerateRequest("a wolf", negative="dull", steps=1)))
    assert calls == {"read": 3}  # the negative prompt was kept
    last(ours.generate(GenerateRequest("a bear", guidance=1, steps=1)))
    assert calls == {"read": 4}  # guidance 1 needs no negative row
    last(ours.edit(EditRequest("a hat", picture("a"), method="instruct", count=2, steps=1)))
    assert calls == {"read": 7, "_see": 2}  # three rows show the picture or a black one: two looks


# ---- the verbs


def test_drawing_is_the_recorded_picture_with_progress_and_previews() -> None:
    case, ours = Case(f"{LLAVA}.t2i"), model(LLAVA)
    ours.sketch = Sketch(ours.capabilities.size[0])
    request = GenerateRequest(case.captions[0], count=2, guidance=case.meta["gs"], steps=6, seed=case.meta["seed"])
    events = list(ours.generate(request))
    steps = [(e.done, e.total) for e in events if isinstance(e, Progress) and e.stage == "draw"]
    assert steps == [(2 * i, 12) for i in range(1, 7)]
    previews = [e for e in events if isinstance(e, Preview)]
    assert len(previews) == 6 and all(len(p.images) == 2 for p in previews)
    assert {image.size for p in previews for image in p.images} == {(128, 128)}
    finished = events[-1]
    assert isinstance(finished, Finished) and [p.seed for p in finished.pictures] == [1, 2]
    exact = (case.expected["image"][0] * 255).round()
    drawn = torch.tensor(list(finished.pictures[0].image.tobytes())).view(128, 128, 3)[::2, ::2].permute(2, 0, 1)
    assert (drawn - exact).abs().max() <= 1
    alone = last(ours.generate(GenerateRequest(case.captions[0], guidance=case.meta["gs"], steps=6, seed=2)))
    assert gap(alone.pictures[0].image, finished.pictures[1].image) <= 1
    assert gap(finished.pictures[0].image, finished.pictures[1].image) > 50


def test_an_edit_sees_its_pictures_in_order() -> None:
    ours = model(LLAVA)
    pair = (picture("a"), picture("b"))

    def drawn(*pictures: Image.Image) -> Picture:
        request = EditRequest("The same robot", pictures[0], method="instruct", steps=2, more_images=pictures[1:])
        return last(ours.edit(request)).pictures[0]

    both = drawn(*pair).image
    assert gap(both, drawn(pair[1], pair[0]).image) > 5 and gap(both, drawn(pair[0]).image) > 5


def test_closing_stops_within_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, ran = model(LLAVA), []
    real = ours.denoiser.network.forward
    monkeypatch.setattr(ours.denoiser.network, "forward", lambda *a, **k: (ran.append(1), real(*a, **k))[1])
    work = ours.generate(GenerateRequest("a fox", steps=20))
    for event in work:
        if isinstance(event, Progress) and event.stage == "draw" and event.done == 2:
            break
    work.close()
    assert len(ran) == 2
    assert len(last(ours.generate(GenerateRequest("a fox", steps=1))).pictures) == 1


@pytest.mark.parametrize("name", [LLAVA, QWEN])
def test_chat_is_the_language_models(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the same model run on the whole conversation for every token, without a cache."""
    ours = model(name)
    reader, states, read = ours.reader, list[Tensor](), ours.reader.read
    turns = (Turn("user", "What is this?", (picture("a"),)), Turn("assistant", "A dog."), Turn("user", "Sure?"))

    def noted(*args: Any) -> Tensor:
        states.append(read(*args)[:, -1:])
        return states[-1]

    monkeypatch.setattr(reader, "read", noted)
    events = list(ours.chat(ChatRequest(turns, temperature=1.0, top_p=1.0, seed=5, max_new_tokens=6)))
    answer = events[-1]
    assert isinstance(answer, Finished) and len(answer.token_ids) == 6
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == answer.text

    stream = torch.Generator().manual_seed(5)
    seen = [reader.see(picture("a"), framed=False)]
    ids = reader.tokenizer.encode(ours.talk.template.pieces(turns, [len(seen[0].features)]), begin=False)
    assert answer.usage is not None and answer.usage.prompt_tokens == len(ids)
    with torch.inference_mode():
        for token, stepwise in zip(answer.token_ids, states[:6], strict=True):
            state = read(reader.embed(ids, seen), reader.place(ids, seen).positions)[:, -1]
            assert relative(stepwise[:, 0], state) < 1e-5
            logits = state @ reader.network.get_input_embeddings().weight[: reader.tokenizer.size].T
            assert token == int(sampling.pick(logits, 1.0, sampling.exponential_noise([stream], logits.shape[-1])[0]))
            ids.append(token)


def test_an_answer_ends_where_the_language_model_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = model(LLAVA)
    ask = ChatRequest((Turn("user", "Hello"),), temperature=1.0, top_p=1.0, seed=3, max_new_tokens=5)
    whole = last(ours.chat(ask)).token_ids
    assert ours.talk.ends == {ours.reader.tokenizer.id("<|im_end|>")}
    monkeypatch.setattr(ours.talk, "ends", frozenset({whole[3]}))
    assert last(ours.chat(ask)).token_ids == whole[: whole.index(whole[3])]


def test_a_long_conversation_loses_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = model(LLAVA)
    turns = [Turn("user", "word " * 40), Turn("assistant", "yes"), Turn("user", "And?")]
    monkeypatch.setattr(ours.talk, "context", 60)
    notices = [e for e in ours.chat(ChatRequest(tuple(turns), max_new_tokens=2)) if isinstance(e, Notice)]
    assert len(notices) == 1 and "first 2 messages" in notices[0].text
    with pytest.raises(AppError, match="Shorten it"):
        list(ours.chat(ChatRequest((turns[0],))))


def test_sketches_learn_colours() -> None:
    torch.manual_seed(0)
    latents, colours = torch.randn(2, 4, 8, 8), torch.randn(3, 4) / 10
    pixels = torch.einsum("dc,nchw->ndhw", colours, latents) + 0.2
    sketch = Sketch(8)
    sketch.learn(latents, pixels.repeat_interleave(4, 2).repeat_interleave(4, 3))
    for made, wanted in zip(sketch(latents), pixels, strict=True):
        exact = ((wanted + 1) * 127.5).clamp(0, 255).permute(1, 2, 0).flatten().tolist()
        assert max(abs(a - b) for a, b in zip(made.tobytes(), exact, strict=True)) < 2


# ---- bad input


def test_typed_special_tokens_stay_text() -> None:
    for name in (LLAVA, QWEN):
        ours = model(name)
        typed = f"a <img0><begin_of_img><end_of_img><|im_end|>{ours.reader.image_token} fox"
        ids = ours.reading.prompt(typed, (), ())
        plain = ours.reading.prompt("a fox", (), ())
        rare = [ours.reader.tokenizer.id("<|im_end|>"), ours.reader.image_id, *range(ours.reader.vocabulary, 700)]
        assert [ids.count(i) for i in rare] == [plain.count(i) for i in rare]
        assert ours.reader.tokenizer.decode(ours.reader.tokenizer.encode([typed], begin=False)) == typed


def test_long_text_is_cut_and_said() -> None:
    ours = model(LLAVA)
    limit = ours.network.config.text_limit
    for text in ("A photo of a red fox. " * 60, *(" a" * i + "狐狸🦊" * 200 for i in range(4))):
        kept, cut = ours.reading.cut(text)
        assert cut and text.startswith(kept) and "\ufffd" not in kept
        assert limit - 4 <= len(ours.reader.tokenizer.encode([kept], begin=False)) <= limit
    events = list(ours.generate(GenerateRequest("A photo of a red fox. " * 60, steps=1)))
    assert isinstance(events[0], Notice) and f"{limit} tokens of the prompt" in events[0].text
    assert not any(isinstance(e, Notice) for e in ours.generate(GenerateRequest("a fox", steps=1)))


def test_what_cannot_be_done_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, a = model(LLAVA), picture("a")
    with pytest.raises(AppError, match="no picture to edit"):
        EditRequest("a hat", None, method="instruct")  # type: ignore[arg-type]
    with pytest.raises(AppError, match="cannot edit by 'variation'"):
        ours.edit(EditRequest("a hat", a, method="variation"))
    with pytest.raises(AppError, match="image tokens"):
        ours.generate(GenerateRequest("a fox", image_tokens=(1, 2)))
    with pytest.raises(AppError, match="Crop it"):
        list(ours.edit(EditRequest("a hat", Image.new("RGB", (2000, 8)), method="instruct")))
    monkeypatch.setattr(ours.reader.config.text_config, "max_position_embeddings", 50)
    with pytest.raises(AppError, match="Use fewer pictures"):
        list(ours.edit(EditRequest("a hat", a, method="instruct")))


def test_pictures_beyond_what_a_model_takes_are_refused() -> None:
    studio = Studio(load_catalog(), Hub())
    a = picture("a")
    drain(studio.load(str(JANUS / "janus_pro_1b" / "checkpoint"), "cpu", "fp32"))
    with pytest.raises(AppError, match=r"one picture at a time and got 5"):
        drain(studio.run(EditRequest("x", a, method="variation", more_images=(a,) * 4)))
    drain(studio.load(str(GOLDEN / "ckpt_llavaov_sd15"), "cpu", "fp32"))
    with pytest.raises(AppError, match=r"8 pictures at a time and got 9"):
        drain(studio.run(EditRequest("x", a, method="instruct", more_images=(a,) * 8)))
    finished = drain(studio.run(EditRequest("x", a, method="instruct", more_images=(a,), steps=1)))
    assert isinstance(finished, Finished) and len(finished.pictures) == 1


def test_the_command_takes_several_pictures(tmp_path: Path) -> None:
    a, b = (str(GOLDEN / "images" / f"{name}.png") for name in "ab")
    call = ["edit", "--model", str(GOLDEN / "ckpt_llavaov_sd15"), "--device", "cpu", "--precision", "fp32"]
    call += ["--image", a, "--prompt", "Add a hat", "--steps", "2"]
    assert main([*call, "--out", str(tmp_path / "one.png")]) == 0
    assert main([*call, "--also", b, "--out", str(tmp_path / "two.png")]) == 0
    assert gap(*(Image.open(tmp_path / f"{name}.png") for name in ("one", "two"))) > 5
    assert read_record(tmp_path / "two.png").settings["method"] == "instruct"


# ---- loading


def checkpoint(tmp_path: Path, name: str = "llavaov_sd15", **changes: Any) -> Path:
    """A copy of a checkpoint with its components beside it and fields of config.json changed."""
    folder = tmp_path / "mine"
    shutil.copytree(GOLDEN / f"ckpt_{name}", folder)
    shutil.copytree(GOLDEN / "components", tmp_path / "components")
    config = read_json(folder / "config.json") | changes
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(AppError) as caught:
        loaded(folder)
    return str(caught.value)


def test_a_missing_component_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, mllm_id="owner/absent-model")
    assert "needs owner/absent-model" in refusal(folder) and str(folder / "components") in refusal(folder)
    shutil.rmtree(tmp_path / "components")
    assert "is not here" in refusal(folder)


@pytest.mark.parametrize("spelling", ["owner/name", "owner--name", "name"])
def test_components_inside_or_beside_are_found_by_their_id(tmp_path: Path, spelling: str) -> None:
    folder = checkpoint(tmp_path, mllm_id="owner/name")
    place = (folder if spelling == "name" else tmp_path) / "components" / spelling
    place.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "components" / "llava-onevision-mini-ov-hf").rename(place)
    assert loaded(folder).model.capabilities.size == (64, 64)


def test_a_language_model_missing_or_of_another_size(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, mllm_id="components/llava-onevision-tiny-ov-hf")
    assert "of another size than components/llava-onevision-tiny-ov-hf" in refusal(folder)
    again = checkpoint(tmp_path / "2")
    file = again / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "mllm_backbone" not in k}, file)
    assert "without (all of) its language model" in refusal(again)


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    assert "latent channels" in refusal(checkpoint(tmp_path / "1", in_channels=8))
    assert "not the id of a repository" in refusal(checkpoint(tmp_path / "2", vae_id="../elsewhere"))
    folder = checkpoint(tmp_path / "3")
    language = tmp_path / "3" / "components" / "llava-onevision-mini-ov-hf"
    (language / "config.json").write_text('{"model_type": "llama"}', "utf-8")
    assert "built on llava_onevision or qwen2_5_vl" in refusal(folder)
    (language / "config.json").write_text(
        '{"model_type": "llava_onevision", "text_config": {"hidden_size": "x"}}', "utf-8"
    )
    assert "llava-onevision-mini-ov-hf cannot be used" in refusal(folder)
    (language / "config.json").unlink()
    assert "config.json is missing" in refusal(folder)
    with pytest.raises(AppError, match="num_metaqueries"):
        parse_config(read_json(GOLDEN / "ckpt_llavaov_sd15" / "config.json") | {"num_metaqueries": 0})


def untied(folder: Path) -> Path:
    """Say that the language model's head is not its embedding."""
    language = folder.parent / "components" / "llava-onevision-mini-ov-hf"
    config = read_json(language / "config.json")
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (language / "config.json").write_text(json.dumps(config), "utf-8")
    return language


def test_words_need_a_head(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    language = untied(folder)
    silent: Any = loaded(folder).model
    assert silent.capabilities.verbs == {"generate", "edit"}
    with pytest.raises(AppError, match="no head for words"):
        silent.chat(ChatRequest((Turn("user", "Hello"),)))
    head = torch.zeros(448, 64)
    head[77] = 1  # every answer is this token, or none where the sum of a state is below 0
    save_file({"lm_head.weight": head, "other.weight": torch.zeros(3)}, language / "model.safetensors")
    speaking: Any = loaded(folder).model
    assert torch.equal(speaking.talk.head, head[: speaking.reader.tokenizer.size])
    ask = ChatRequest((Turn("user", "Hello"),), temperature=0, max_new_tokens=3)
    assert set(last(speaking.chat(ask)).token_ids) <= {0, 77}


def test_quantised_linears_keep_their_biases() -> None:
    small: Any = loaded(GOLDEN / "ckpt_llavaov_sd15", "int8").model
    full = model("llavaov_sd15")
    ours, theirs = (m.network.mllm.language_model.layers[1].self_attn for m in (small, full))
    assert type(ours.q_proj).__name__ == type(ours.o_proj).__name__ == "Int8Linear"
    assert torch.equal(ours.q_proj.bias, theirs.q_proj.bias) and ours.o_proj.bias is None
    states = [done(m.reading.rows("a fox", "", (), Guidance(1.0))) for m in (small, full)]
    assert 0 < relative(*states) < 0.1


def test_a_folder_is_recognised_and_known_parts_can_be_fetched(tmp_path: Path) -> None:
    catalog = load_catalog()
    found = catalog.resolve(str(GOLDEN / "ckpt_qwen25vl_sana"))
    assert (found.family, found.size, dict(found.components)) == ("metaquery", (128, 128), {})
    known = catalog["metaquery-l"].components
    folder = checkpoint(tmp_path, mllm_id=known["mllm"].repo, diffusion_model_id=known["diffusion"].repo, input_size=16)
    shutil.rmtree(tmp_path / "components")
    assert catalog.resolve(str(folder)).components == known


def test_nobody_offers_the_weights() -> None:
    for name in ("metaquery-b", "metaquery-l", "metaquery-xl"):
        variant = load_catalog()[name]
        with pytest.raises(AppError, match=f"No public weights.*{name}"):
            list(Hub().fetch(variant))


def test_other_families_do_without_the_heavy_libraries() -> None:
    code = "import sys, janus_app.loader, janus_app.models.families; print(' '.join(sys.modules))"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in names and not {"diffusers", "transformers"} & set(names)
