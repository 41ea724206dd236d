"""MetaQuery beside its parity: the verbs, and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from janus_app.cli import main
from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.models.common.latent_preview import LatentPreview
from janus_app.models.metaquery.family import FAMILY
from janus_app.nn import sampling
from janus_app.outputs.metadata import read_metadata
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.offload import dispatch
from janus_app.runtime.session import ModelSession
from janus_app.types import (
    ChatRequest,
    EditRequest,
    Finished,
    GenerateRequest,
    Notice,
    Picture,
    Preview,
    Progress,
    TextDelta,
    Turn,
    drain,
)
from tests.conftest import GOLDEN as JANUS
from tests.conftest import loaded
from tests.metaquery_golden import GOLDEN, LLAVA, QWEN, Case, last, model, picture, relative


def gap(one: Image.Image, other: Image.Image) -> int:
    """Largest difference of two pictures in levels."""
    pair = [torch.tensor(list(image.tobytes()), dtype=torch.int16) for image in (one, other)]
    return int((pair[0] - pair[1]).abs().max())


# ---- the verbs


def test_drawing_matches_the_recorded_picture_with_progress_and_previews() -> None:
    case, ours = Case(f"{LLAVA}.t2i"), model(LLAVA)
    ours.preview = LatentPreview(ours.network.config.scale)
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


def test_edit_reads_its_pictures_in_order() -> None:
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
def test_chat_equals_greedy_decoding_of_the_language_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
    seen = [reader.encode_image(picture("a"), framed=False)]
    ids = reader.tokenizer.encode(ours.mllm_chat.template.pieces(turns, [len(seen[0].features)]), begin=False)
    assert answer.usage is not None and answer.usage.prompt_tokens == len(ids)
    with torch.inference_mode():
        for token, stepwise in zip(answer.token_ids, states[:6], strict=True):
            state = read(reader.embed(ids, seen), reader.positions(ids, seen).positions)[:, -1]
            assert relative(stepwise[:, 0], state) < 1e-5
            logits = state @ reader.network.get_input_embeddings().weight[: reader.tokenizer.size].T
            assert token == int(sampling.sample(logits, 1.0, sampling.exponential_noise([stream], logits.shape[-1])[0]))
            ids.append(token)


def test_answer_stops_at_the_end_tokens_of_the_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = model(LLAVA)
    ask = ChatRequest((Turn("user", "Hello"),), temperature=1.0, top_p=1.0, seed=3, max_new_tokens=5)
    whole = last(ours.chat(ask)).token_ids
    assert ours.mllm_chat.ends == {ours.reader.tokenizer.id("<|im_end|>")}
    monkeypatch.setattr(ours.mllm_chat, "ends", frozenset({whole[3]}))
    assert last(ours.chat(ask)).token_ids == whole[: whole.index(whole[3])]


def test_long_conversation_drops_its_oldest_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = model(LLAVA)
    turns = [Turn("user", "word " * 40), Turn("assistant", "yes"), Turn("user", "And?")]
    monkeypatch.setattr(ours.mllm_chat, "context", 60)
    notices = [e for e in ours.chat(ChatRequest(tuple(turns), max_new_tokens=2)) if isinstance(e, Notice)]
    assert len(notices) == 1 and "first 2 messages" in notices[0].text
    with pytest.raises(AppError, match="Shorten it"):
        list(ours.chat(ChatRequest((turns[0],))))


def test_preview_learns_the_colours_of_latents() -> None:
    torch.manual_seed(0)
    latents, colours = torch.randn(2, 4, 8, 8), torch.randn(3, 4) / 10
    pixels = torch.einsum("dc,nchw->ndhw", colours, latents) + 0.2
    preview = LatentPreview(1)
    preview.fit(latents, pixels.repeat_interleave(4, 2).repeat_interleave(4, 3))
    for made, wanted in zip(preview(latents), pixels, strict=True):
        exact = ((wanted + 1) * 127.5).clamp(0, 255).permute(1, 2, 0).flatten().tolist()
        assert max(abs(a - b) for a, b in zip(made.tobytes(), exact, strict=True)) < 2


# ---- bad input


def test_typed_special_tokens_stay_text() -> None:
    for name in (LLAVA, QWEN):
        ours = model(name)
        typed = f"a <img0><begin_of_img><end_of_img><|im_end|>{ours.reader.image_token} fox"
        ids = ours.conditioner.prompt_ids(typed, (), ())
        plain = ours.conditioner.prompt_ids("a fox", (), ())
        rare = [ours.reader.tokenizer.id("<|im_end|>"), ours.reader.image_id, *range(ours.reader.vocabulary, 700)]
        assert [ids.count(i) for i in rare] == [plain.count(i) for i in rare]
        assert ours.reader.tokenizer.decode(ours.reader.tokenizer.encode([typed], begin=False)) == typed


def test_long_prompt_is_cut_with_notice() -> None:
    ours = model(LLAVA)
    limit = ours.network.config.text_limit
    for text in ("A photo of a red fox. " * 60, *(" a" * i + "狐狸🦊" * 200 for i in range(4))):
        kept, cut = ours.conditioner.truncate(text)
        assert cut and text.startswith(kept) and "\ufffd" not in kept
        assert limit - 4 <= len(ours.reader.tokenizer.encode([kept], begin=False)) <= limit
    events = list(ours.generate(GenerateRequest("A photo of a red fox. " * 60, steps=1)))
    assert isinstance(events[0], Notice) and f"{limit} tokens of the prompt" in events[0].text
    assert not any(isinstance(e, Notice) for e in ours.generate(GenerateRequest("a fox", steps=1)))


def test_unusable_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, a = model(LLAVA), picture("a")
    with pytest.raises(AppError, match="no picture to edit"):
        EditRequest("a hat", None, method="instruct")  # type: ignore[arg-type]
    with pytest.raises(AppError, match="no edit method variation"):
        ours.edit(EditRequest("a hat", a, method="variation"))
    with pytest.raises(AppError, match="image tokens"):
        ours.generate(GenerateRequest("a fox", image_tokens=(1, 2)))
    with pytest.raises(AppError, match="Crop it"):
        list(ours.edit(EditRequest("a hat", Image.new("RGB", (2000, 8)), method="instruct")))
    monkeypatch.setattr(ours.reader.config.text_config, "max_position_embeddings", 50)
    with pytest.raises(AppError, match="Use fewer pictures"):
        list(ours.edit(EditRequest("a hat", a, method="instruct")))


def test_more_pictures_than_the_model_takes_are_refused() -> None:
    session = ModelSession(load_catalog(), Hub())
    a = picture("a")
    drain(session.load(str(JANUS / "janus_pro_1b" / "checkpoint"), "cpu", "fp32"))
    with pytest.raises(AppError, match=r"one picture at a time, but 5 were given"):
        drain(session.run(EditRequest("x", a, method="variation", more_images=(a,) * 4)))
    drain(session.load(str(GOLDEN / "ckpt_llavaov_sd15"), "cpu", "fp32"))
    with pytest.raises(AppError, match=r"8 pictures at a time, but 9 were given"):
        drain(session.run(EditRequest("x", a, method="instruct", more_images=(a,) * 8)))
    finished = drain(session.run(EditRequest("x", a, method="instruct", more_images=(a,), steps=1)))
    assert isinstance(finished, Finished) and len(finished.pictures) == 1


def test_the_command_takes_several_pictures(tmp_path: Path) -> None:
    a, b = (str(GOLDEN / "images" / f"{name}.png") for name in "ab")
    call = ["edit", "--model", str(GOLDEN / "ckpt_llavaov_sd15"), "--device", "cpu", "--precision", "fp32"]
    call += ["--image", a, "--prompt", "Add a hat", "--steps", "2"]
    assert main([*call, "--out", str(tmp_path / "one.png")]) == 0
    assert main([*call, "--also", b, "--out", str(tmp_path / "two.png")]) == 0
    assert gap(*(Image.open(tmp_path / f"{name}.png") for name in ("one", "two"))) > 5
    assert read_metadata(tmp_path / "two.png").settings["method"] == "instruct"


def test_layers_of_the_language_model_in_main_memory_give_the_same_picture() -> None:
    pytest.importorskip("accelerate")
    parted = loaded(GOLDEN / f"ckpt_{LLAVA}").model
    layers = parted.network.mllm.language_model.layers  # type: ignore[attr-defined]
    cpu = torch.device("cpu")
    dispatch(parted.network, FAMILY.offload_prefix, {len(layers) - 1: cpu}, cpu)  # type: ignore[attr-defined]
    assert {p.device.type for p in layers[-1].parameters()} == {"meta"}
    request = GenerateRequest("a red bird", guidance=3, steps=2, seed=4)
    pictures = [last(one.generate(request)).pictures[0].image for one in (parted, model(LLAVA))]
    assert gap(*pictures) == 0
