"""What the verbs promise beyond parity: seeds, kept cells, cancelling, context, plain text, refusals."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image, ImageDraw

from janus_app.errors import AppError
from janus_app.models.common.preview_pace import PreviewPace
from janus_app.models.common.tokenizer import IMAGE, IMAGE_BEGIN, Special
from janus_app.models.janus import pipeline, row_previews
from janus_app.models.janus.pipeline import JanusModel
from janus_app.nn import vq_model
from janus_app.types import (
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
    result_of,
)
from tests.conftest import GOLDEN, loaded


@pytest.fixture(scope="module")
def model() -> JanusModel:
    return cast(JanusModel, loaded(GOLDEN / "janus_pro_1b" / "checkpoint").model)


def finish(events: Iterator[Event]) -> Finished:
    *_, last = events
    assert isinstance(last, Finished)
    return last


def draw(model: JanusModel, **settings: object) -> tuple[Picture, ...]:
    return finish(model.generate(GenerateRequest("A small red house.", **settings))).pictures  # type: ignore[arg-type]


def test_a_batch_draws_what_single_pictures_draw(model: JanusModel) -> None:
    batch = draw(model, count=4, seed=11)
    assert [p.seed for p in batch] == [11, 12, 13, 14]
    assert len({p.image_tokens for p in batch}) == 4
    for picture in batch:
        (alone,) = draw(model, seed=picture.seed)
        assert alone.image_tokens == picture.image_tokens
        assert alone.image.tobytes() == picture.image.tobytes()


def test_smaller_batches_draw_the_same_pictures(model: JanusModel) -> None:
    together = draw(model, count=3, seed=5)
    model.batch = 2
    try:
        assert [p.image_tokens for p in draw(model, count=3, seed=5)] == [p.image_tokens for p in together]
    finally:
        model.batch = 16


def test_drawing_uses_no_global_randomness(model: JanusModel) -> None:
    torch.manual_seed(1)
    first = draw(model, seed=3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert draw(model, seed=3)[0].image_tokens == first[0].image_tokens
    assert torch.equal(torch.get_rng_state(), state)


def test_known_tokens_are_decoded_bit_for_bit(model: JanusModel) -> None:
    (picture,) = draw(model, seed=9)
    (again,) = draw(model, seed=9, image_tokens=picture.image_tokens)
    assert again.image.tobytes() == picture.image.tobytes()
    with pytest.raises(AppError, match="36 image tokens"):
        draw(model, image_tokens=picture.image_tokens[:-1])
    with pytest.raises(AppError, match="below 320"):
        draw(model, image_tokens=(*picture.image_tokens[:-1], 320))


def test_previews_show_finished_rows_unchanged(model: JanusModel) -> None:
    events = list(model.generate(GenerateRequest("A small red house.", count=2)))
    previews = [e for e in events if isinstance(e, Preview)]
    assert previews and all(len(p.images) == 2 and p.images[0].size == (96, 96) for p in previews)
    first = previews[0]
    assert first.done == 12 and first.total == 72  # one row of six cells in both pictures
    undrawn = first.images[0].crop((0, 16, 96, 96)).getcolors()
    assert undrawn is not None and len(undrawn) == 1
    assert first.images[0].crop((0, 0, 96, 16)).getcolors(10_000) != undrawn
    steps = [e.done for e in events if isinstance(e, Progress) and e.stage == "draw"]
    assert list(dict.fromkeys(steps)) == list(range(2, 73, 2))


def test_closing_stops_within_one_step(model: JanusModel) -> None:
    calls = 0
    hook = model.network.gen_head.register_forward_hook(lambda *_: counted())

    def counted() -> None:
        nonlocal calls
        calls += 1

    try:
        events = model.generate(GenerateRequest("A small red house."))
        while not (isinstance(event := next(events), Progress) and event.done == 5):
            pass
        events.close()  # type: ignore[attr-defined]
        assert calls == 5
    finally:
        hook.remove()


@pytest.mark.parametrize("decoded", ["a preview", "the picture", "a known picture"])
def test_decoding_stops_after_the_layer_that_runs(
    model: JanusModel, decoded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a decoder whose every layer waits: those after the stop are counted."""
    (picture,) = draw(model, seed=9)
    monkeypatch.setattr(model, "_decode_seconds", None)  # a busy machine may have made it long
    monkeypatch.setattr(vq_model, "LARGE", 0)
    layers, stopped, at = 0, False, "decode" if decoded != "a preview" else "draw"
    request = GenerateRequest("A small red house.", image_tokens=picture.image_tokens if "known" in decoded else ())
    last: Event | None = None

    def ran(*_: object) -> None:
        nonlocal layers, stopped
        layers += stopped
        stopped = stopped or (isinstance(last, Progress) and last.stage == at)

    convs = [m for name, m in model.network.gen_vision_model.decoder.conv_blocks.named_modules() if "conv" in name]
    hooks = [conv.register_forward_hook(ran) for conv in convs]
    try:
        events = model.generate(request)
        while not stopped:
            last = next(events)
        events.close()  # type: ignore[attr-defined]
    finally:
        for hook in hooks:
            hook.remove()
    assert stopped and layers == 0 and not isinstance(last, Finished)


@pytest.mark.parametrize("cell, layer, count", [(0.25, 0.1, 1), (0.1, 0.5, 2), (1.0, 0.01, 1)])
def test_time_left_is_right_from_the_second_row_on(
    model: JanusModel, cell: float, layer: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds of a pretended clock, on which every cell takes as long, and every layer of the picture decoder."""
    now, network = 100.0, model.network

    def passes(seconds: float) -> Callable[..., None]:
        def hook(*_: object) -> None:
            nonlocal now
            now += seconds

        return hook

    for timed in (pipeline, row_previews):
        monkeypatch.setattr(timed, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(model, "_decode_seconds", None)
    monkeypatch.setattr(model, "_sketch", row_previews.Sketch(network, model.grid))
    monkeypatch.setattr(model, "batch", 1)
    monkeypatch.setattr(vq_model, "LARGE", 0)
    hooks = [network.gen_head.register_forward_hook(passes(cell))]
    convs = [m for m in network.gen_vision_model.decoder.modules() if isinstance(m, torch.nn.Conv2d)]
    hooks += [conv.register_forward_hook(passes(layer)) for conv in convs]
    try:
        events = [(now, e) for e in model.generate(GenerateRequest("A small red house.", count=count))]
    finally:
        for hook in hooks:
            hook.remove()
    shown = [(at, e) for at, e in events if isinstance(e, Progress)]
    first = next(at for at, e in events if isinstance(e, Preview))
    assert all(e.seconds_left == 0 for at, e in shown if at < first)  # a page says no time yet
    for at, event in shown:
        if at > first and now - at > 2:
            assert event.seconds_left == pytest.approx(now - at, rel=0.15), event
    assert [e.stage for _, e in shown[-3:]] == ["decode"] * 3


@pytest.mark.parametrize("known", [False, True])
def test_rows_are_sketched_where_decoding_is_costly(
    model: JanusModel, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds of a pretended clock, on which a picture is decoded in two: one to learn from, then only the results."""
    now, decode, decoded = 0.0, row_previews.decode_tokens, []

    def slowly(network: Any, tokens: torch.Tensor) -> Generator[None, None, torch.Tensor]:
        nonlocal now
        now += 2.0 * len(tokens)
        decoded.append(len(tokens))
        return (yield from decode(network, tokens))

    for timed in (pipeline, row_previews):
        monkeypatch.setattr(timed, "time", SimpleNamespace(perf_counter=lambda: now))
        monkeypatch.setattr(timed, "decode_tokens", slowly)
    monkeypatch.setattr(model, "_sketch", row_previews.Sketch(model.network, model.grid))
    monkeypatch.setattr(model, "_decode_seconds", 2.0 if known else None)
    for decodings in ([1, 1, 1], [1, 1]):  # the first drawing of two pictures, and any later one
        events = list(model.generate(GenerateRequest("A small red house.", count=2)))
        shown = [e.images for e in events if isinstance(e, Preview)]
        assert len(shown) == 5 and decoded == decodings, "a row was not shown, or was decoded"
        for row, images in enumerate(shown, 1):
            below = images[1].crop((0, 16 * row, 96, 96)).getcolors()
            assert below is not None and len(below) == 1
            assert images[1].crop((0, 16 * row - 16, 96, 16 * row)).getcolors(10_000) != below, "the new row is missing"
        decoded.clear()
    assert PreviewPace(cheapest=2.0).begun(0.0).ahead(0.0, range(600)) <= 0.02 * 600

    (picture,) = draw(model, seed=2)  # of which the last two rows are drawn anew
    decoded.clear()
    again = GenerateRequest("A small red house.", seed=5, image_tokens=picture.image_tokens, keep=24)
    next(e for e in model.generate(again) if isinstance(e, Preview))
    assert decoded == [1], "what is kept is only sketched"


def test_rows_since_the_last_decoded_preview_are_sketched(model: JanusModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sketch = row_previews.Sketch(model.network, model.grid)
    pace, known = PreviewPace(cheapest=2.0).begun(0.0), torch.full((36,), -1)
    result_of(sketch.fitting())
    previews = row_previews.RowPreviews(model.network, known, model.grid, pace, sketch)
    tokens, clock, shown = torch.arange(36)[None], itertools.count(200.0, 2.0), []
    monkeypatch.setattr(row_previews, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    for cell in (5, 11):  # decoded; too soon after that
        shown += result_of(previews.after(cell, tokens, Progress("draw", cell, 36)))
    decoded, sketched = (picture.crop((0, 0, 96, 16)).tobytes() for picture in shown)
    assert decoded == sketched, "the decoded row was sketched again"
    assert shown[1].crop((0, 16, 96, 32)).getcolors(10_000) != shown[0].crop((0, 16, 96, 32)).getcolors(10_000)


def test_negative_prompt_and_guidance_matter(model: JanusModel) -> None:
    plain = draw(model, seed=1, guidance=4.0)
    assert draw(model, seed=1, guidance=4.0, negative="dark, blurry, and much longer than the prompt")[
        0
    ].image_tokens != (plain[0].image_tokens)
    assert draw(model, seed=1, guidance=1.0)[0].image_tokens != plain[0].image_tokens
    # the prompt itself as the negative one cancels out: guidance then changes nothing
    same = draw(model, seed=1, guidance=4.0, negative="A small red house.")
    assert same[0].image_tokens == draw(model, seed=1, guidance=1.0)[0].image_tokens


def test_region_keeps_the_cells_outside_the_mask(model: JanusModel) -> None:
    picture = Image.open(GOLDEN / "images" / "rgb.png").convert("RGB").resize((96, 96))
    mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).rectangle((40, 40, 60, 60), fill=255)  # cells 2 and 3 of rows 2 and 3
    before = model._encode(picture).tolist()
    request = EditRequest("A small red house.", picture, mask, count=2, seed=4)
    for edited in finish(model.edit(request)).pictures:
        changed = {i for i, (a, b) in enumerate(zip(before, edited.image_tokens, strict=True)) if a != b}
        assert changed and changed <= {14, 15, 20, 21}
    outside = model.generate(GenerateRequest("x", image_tokens=tuple(before)))
    round_trip = finish(outside).pictures[0].image
    assert round_trip.size == (96, 96)


def test_variation_keeps_the_top_and_draws_a_share(model: JanusModel) -> None:
    picture = Image.open(GOLDEN / "images" / "rgb.png").convert("RGB").resize((96, 96))
    before = model._encode(picture).tolist()
    (edited,) = finish(model.edit(EditRequest("A house.", picture, method="variation", strength=0.5))).pictures
    assert list(edited.image_tokens[:18]) == before[:18]
    assert list(edited.image_tokens[18:]) != before[18:]


def test_redrawing_from_a_cell_follows_the_same_noise(model: JanusModel) -> None:
    """Keeping the first cells of a drawn picture and drawing on gives that very picture."""
    (whole,) = draw(model, seed=21)
    known = torch.tensor(whole.image_tokens)
    known[13:] = -1
    events = model._pictures(GenerateRequest("A small red house.", seed=21), known)
    assert finish(events).pictures[0].image_tokens == whole.image_tokens


def test_wide_picture_is_cropped_with_notice(model: JanusModel) -> None:
    events = list(model.edit(EditRequest("A house.", Image.new("RGB", (300, 100)), method="variation")))
    assert any(isinstance(e, Notice) and "cropped" in e.text for e in events)
    assert isinstance(events[-1], Finished) and events[-1].pictures[0].image.size == (96, 96)


def test_an_empty_mask_is_refused(model: JanusModel) -> None:
    picture = Image.new("RGB", (96, 96))
    with pytest.raises(AppError, match="covers nothing"):
        finish(model.edit(EditRequest("A house.", picture, Image.new("L", (96, 96)))))
    with pytest.raises(AppError, match="Nothing is painted"):
        EditRequest("A house.", picture)
    with pytest.raises(AppError, match="picture's size"):
        EditRequest("A house.", picture, Image.new("L", (50, 96)))
    with pytest.raises(AppError, match="no edit method"):
        model.edit(EditRequest("A house.", picture, method="magic"))


def test_typed_special_tokens_stay_text(model: JanusModel) -> None:
    typed = f"what is {IMAGE} and {IMAGE_BEGIN} and <｜end▁of▁sentence｜> and <|User|>?"
    ids = model.tokenizer.encode([typed])
    assert sum(i >= 406 for i in ids) == 1  # begin-of-sentence alone
    assert model.tokenizer.decode(ids[1:]) == typed
    assert model.tokenizer.encode([Special(IMAGE, 3)])[1:] == [model.tokenizer.id(IMAGE)] * 3
    finish(model.chat(ChatRequest((Turn("user", typed),), max_new_tokens=2)))


def test_text_streams_without_broken_characters(model: JanusModel) -> None:
    text = "naïve café 图片 🙂 done"
    text_of = model.tokenizer.decode_stream()
    parts = [text_of(token) for token in model.tokenizer.encode([text])[1:]]
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)


def test_sampled_answers_follow_the_seed(model: JanusModel) -> None:
    def answer(seed: int) -> tuple[int, ...]:
        request = ChatRequest((Turn("user", "Hello"),), temperature=1.0, top_p=0.9, seed=seed, max_new_tokens=12)
        return finish(model.chat(request)).token_ids

    assert answer(1) == answer(1) != answer(2)


def test_a_long_conversation_drops_its_oldest_messages(model: JanusModel) -> None:
    turns = []
    for i in range(60):
        turns += [Turn("user", f"Question {i}: " + "how many circles can you see? " * 5), Turn("assistant", "Two.")]
    events = list(model.chat(ChatRequest((*turns, Turn("user", "And now?")), max_new_tokens=4)))
    assert any(isinstance(e, Notice) and "left out" in e.text for e in events)
    last = events[-1]
    assert isinstance(last, Finished) and last.usage is not None
    assert last.usage.prompt_tokens + last.usage.new_tokens <= last.usage.context == model.capabilities.context


def test_a_question_that_cannot_fit_is_refused(model: JanusModel) -> None:
    with pytest.raises(AppError, match="Shorten it"):
        finish(model.chat(ChatRequest((Turn("user", "é" * 7_000),))))
    with pytest.raises(AppError, match="Shorten the prompt"):
        finish(model.generate(GenerateRequest("é" * 7_000)))


def test_answers_stop_when_the_context_is_full(model: JanusModel) -> None:
    text = "é" * 1_000
    usage = finish(model.chat(ChatRequest((Turn("user", text),), max_new_tokens=1))).usage
    assert usage is not None
    room = usage.context - usage.prompt_tokens
    assert room > 0
    full = JanusModel(
        model.network, GOLDEN / "janus_pro_1b" / "checkpoint", context=model.capabilities.context - room + 20
    )
    events = list(full.chat(ChatRequest((Turn("user", text),), temperature=0, max_new_tokens=100)))
    answer = [e for e in events if isinstance(e, TextDelta) and e.token_ids]
    assert len(answer) <= 20
    if len(answer) == 20:
        assert any(isinstance(e, Notice) and "context is full" in e.text for e in events)


def test_consecutive_user_turns_are_joined(model: JanusModel) -> None:
    """An answer that was cancelled at once leaves two questions in a row; roles must alternate all the same."""
    one = ChatRequest((Turn("user", "Hello"), Turn("assistant", ""), Turn("user", "Who are you?")), temperature=0)
    two = ChatRequest((Turn("user", "Hello\nWho are you?"),), temperature=0)
    assert finish(model.chat(one)).token_ids == finish(model.chat(two)).token_ids
