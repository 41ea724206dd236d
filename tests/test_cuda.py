"""The app on pretended CUDA cards: results equal to the CPU's, nothing on a wrong card, no wait that is not needed."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from janus_app.hub import Hub
from janus_app.models.common.preview_pace import PreviewPace
from janus_app.models.janus.draw import CELLS_PER_SYNC
from janus_app.nn import llama
from janus_app.nn.fast import linear, packing
from janus_app.nn.fast.decode_step import DecodeStep
from janus_app.paths import ASSETS
from janus_app.registry.catalog import load_catalog
from janus_app.runtime import fit, loader, quantization
from janus_app.runtime.devices import Placement, device_memory, under_device
from janus_app.runtime.session import ModelSession
from janus_app.types import (
    ChatRequest,
    EditRequest,
    Finished,
    GenerateRequest,
    InspectRequest,
    Progress,
    RankRequest,
    Request,
    TextDelta,
    Turn,
    drain,
    result_of,
)
from tests.pretended_card import PretendedCards, on_default_stream, pretended_cards
from training.objects import INDEX
from training.pictures import render
from training.world import Item, Scene

FAMILIES = pytest.mark.parametrize("family", ["janus", "janusflow", "metaquery"])
PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "bf16"])
METHODS = {"janus": "region", "janusflow": "flowedit", "metaquery": "instruct"}
# Of a drawing, an edit and an answer; FlowEdit asks what the picture shows, and has two prompts. MetaQuery's language
# model is that of transformers, whose steps are not recorded.
RECORDINGS = {"janus": 3, "janusflow": 5, "metaquery": 2}
PICTURE = render(Scene.of(3, [Item(INDEX["cat"], 1, 4)]))
WARMTH = {"fp32": 0.7, "bf16": 0.0}  # a sampled word may depend on how bfloat16 is rounded
CPU, CARD, SECOND = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)


def requests(family: str, warmth: float = 0.7) -> list[Request]:
    mask = Image.new("L", PICTURE.size)
    mask.paste(255, (16, 16, 64, 64))
    method = METHODS[family]
    return [
        GenerateRequest("a red house", count=2, guidance=1.5, seed=3, steps=2),
        EditRequest("a blue cat", PICTURE, mask if method == "region" else None, method, guidance=1.5, steps=2),
        ChatRequest((Turn("user", "describe it", (PICTURE,)),), temperature=warmth, max_new_tokens=6, seed=1),
    ]


def session(family: str, device: str, precision: str = "fp32") -> ModelSession:
    made = ModelSession(load_catalog(), Hub())
    drain(made.load(str(ASSETS / f"{family}_embedded"), device, precision))
    return made


@dataclass
class Seen:
    """What came of a drawing, an edit and an answer, and on cards how."""

    pixels: list[Tensor] = field(default_factory=list)
    tokens: list[tuple[int, ...]] = field(default_factory=list)
    waits: list[list[int]] = field(default_factory=list)  # of each request, between two steps or tokens
    graphs: list[int] = field(default_factory=list)  # that are left after each request
    default_stream: bool = True
    cards: PretendedCards | None = None

    def add(self, last: Finished) -> None:
        self.pixels += [torch.from_numpy(np.array(picture.image)).float() for picture in last.pictures]
        self.tokens += [*(picture.image_tokens for picture in last.pictures), last.token_ids]

    def assert_like(self, other: Seen, tolerance: float = 0.01) -> None:
        """The same tokens, and pixels that differ by at most `tolerance` in the mean."""
        assert self.tokens == other.tokens
        for one, two in zip(self.pixels, other.pixels, strict=True):
            assert float((one - two).abs().mean()) <= tolerance


def drawing(seen: Seen) -> Seen:
    """Of what came, the drawing, which has two pictures and no text."""
    return Seen(seen.pixels[:2], [*seen.tokens[:2], ()])


def work(session: ModelSession, asked: list[Request], cards: PretendedCards | None = None) -> Seen:
    seen = Seen(cards=cards)
    for request in asked:
        waits, before = list[int](), 0
        for event in session.run(request):
            if cards and (isinstance(event, TextDelta) or (isinstance(event, Progress) and event.stage == "draw")):
                waits.append(len(cards.waits) - before)
                before = len(cards.waits)
            if isinstance(event, Finished):
                seen.add(event)
        seen.waits.append(waits[1:])  # before the first one the prompt is read
        seen.graphs.append(len(cards.graphs) if cards else 0)
    seen.default_stream = on_default_stream()
    return seen


@lru_cache
def on_the_cpu(family: str, precision: str) -> Seen:
    with pytest.MonkeyPatch.context() as patch:
        for module in (linear, packing, llama, quantization):  # a processor's own ways in bfloat16 round differently
            patch.setattr(module, "has_bfloat16_instructions", lambda: None)
        return work(session(family, "cpu", precision), requests(family, WARMTH[precision]))


@lru_cache
def on_a_card(family: str, precision: str) -> Seen:
    """In fp32 on the only card, in bf16 on the second of two and with kernels. No float64: Apple's have none."""
    second = precision == "bf16"
    with pytest.MonkeyPatch.context() as patch, pretended_cards(1 + second, kernels_too=second, float64=False) as cards:
        patch.setattr(PreviewPace, "due", lambda *_: False)  # their number depends on the time
        loaded = session(family, "cuda:1" if second else "cuda", precision)
        gc.disable()  # what is freed is freed without it
        try:
            return work(loaded, requests(family, WARMTH[precision]), cards)
        finally:
            gc.enable()


@FAMILIES
@PRECISIONS
def test_every_family_draws_edits_and_chats_as_on_the_cpu(family: str, precision: str) -> None:
    """In bf16 the decoder of pictures computes in float32 on a CPU of unknown instructions."""
    on_a_card(family, precision).assert_like(on_the_cpu(family, precision), 0.01 if precision == "fp32" else 1.0)


@FAMILIES
def test_a_model_on_the_second_card_leaves_the_first_alone(family: str) -> None:
    cards = on_a_card(family, "bf16").cards
    assert cards is not None and cards.allocators[0].peak == 0 and cards.allocators[1].peak > 1e6


@FAMILIES
@PRECISIONS
def test_steps_are_recorded_and_recordings_are_freed_without_the_garbage_collector(family: str, precision: str) -> None:
    """All but those of MetaQuery's last captions, which the model keeps for its next batch."""
    seen = on_a_card(family, precision)
    assert seen.cards is not None and len(seen.cards.recorded) == RECORDINGS[family] and seen.default_stream
    assert seen.graphs == [int(family == "metaquery")] * 3


@FAMILIES
@PRECISIONS
def test_an_answer_waits_for_the_card_once_a_token(family: str, precision: str) -> None:
    recording, *waits = on_a_card(family, precision).waits[2]
    assert waits == [1] * len(waits) and len(waits) >= 2 and recording <= 2


@PRECISIONS
def test_a_drawing_waits_for_the_card_once_a_row(precision: str) -> None:
    waits = on_a_card("janus", precision).waits[0]
    assert len(waits) == 35 and sum(waits) == -(-36 // CELLS_PER_SYNC)


def test_turbo_waits_for_the_card_once_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PreviewPace, "due", lambda *_: False)
    with pretended_cards() as cards:
        seen = work(session("janus", "cuda"), [replace(requests("janus")[0], turbo=True)], cards)
    recording, *waits = seen.waits[0]
    assert set(waits) == {1} and recording <= 2 and len(cards.recorded) == 1
    seen.assert_like(drawing(on_the_cpu("janus", "fp32")))


def test_ranking_and_the_token_view_use_no_float64_on_the_card() -> None:
    with pretended_cards(float64=False):
        loaded = session("janus", "cuda")
        tokens = loaded.result(requests("janus")[0]).pictures[0].image_tokens
        drain(loaded.run(InspectRequest("a red house", tokens, guidance=1.5)))
        drain(loaded.run(RankRequest("a red house", (PICTURE,))))


@pytest.mark.parametrize("name", ["cuda:all", "cuda+cpu"])
def test_a_spread_model_computes_the_same(name: str) -> None:
    pytest.importorskip("accelerate")
    variant, found = load_catalog().default(), Seen()
    with pretended_cards(2) as cards:
        plan = fit.plan_load(variant, device="cuda:0").choose("fp32")
        plan = replace(plan, folder=variant.folder)
        others = (SECOND,) if name == "cuda:all" else ()
        placement = Placement(name, CARD, others, host=not others)
        plan = replace(plan, placement=placement, split={1: others[0] if others else CPU})
        model: Any = result_of(loader.load(plan)).model
        assert bool(cards.allocators[1].allocated) == bool(others)
        drawing, _, question = requests("janus")
        if others:  # main memory is slow: for each token the weights are moved
            *_, last = under_device(CARD, model.generate(drawing))
            found.add(last)
        *_, last = under_device(CARD, model.chat(question))
        found.add(last)
    assert not cards.recorded  # weights move within a step
    expected = on_the_cpu("janus", "fp32").tokens
    assert found.tokens == [*expected[:2], (), expected[-1]][0 if others else 3 :]


# ---- recordings


def test_a_failed_recording_leaves_this_and_the_next_drawing_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = DecodeStep.__call__

    def waiting(step: DecodeStep, x: Tensor, span: int) -> Tensor:
        assert bool((x == x).all())
        return compute(step, x, span)

    with pretended_cards(2, kernels_too=True) as cards:  # without a recording, steps launch their kernels themselves
        loaded = session("janus", "cuda:1")
        monkeypatch.setattr(DecodeStep, "__call__", waiting)
        for _ in range(2):
            seen = work(loaded, requests("janus")[:1], cards)
            assert seen.default_stream and not cards.recorded
            seen.assert_like(drawing(on_the_cpu("janus", "fp32")))
        assert len(cards.faults) == 1 and "capturing" in cards.faults.pop()  # it was tried once


def test_another_thread_may_ask_for_the_free_memory_while_a_step_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page's panel does."""
    compute, free = DecodeStep.__call__, []

    def asking(step: DecodeStep, x: Tensor, span: int) -> Tensor:
        asked = threading.Thread(target=lambda: free.append(device_memory(CARD).free))
        asked.start()
        asked.join()
        return compute(step, x, span)

    monkeypatch.setattr(DecodeStep, "__call__", asking)
    with pretended_cards() as cards:
        session("janus", "cuda").result(requests("janus")[0])
    assert len(cards.recorded) == 1 and len(free) == 2  # in the warm-up and in the recording


# ---- memory


def write_empty_weights(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """A weight file in bfloat16 that takes no room on the disk, because nothing was ever written to it."""
    header, end = dict[str, Any](), 0
    for name, tensor in tensors.items():
        start, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def test_a_card_of_24_gb_with_the_7b_model_has_room_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fused weights leave their parts in PyTorch's cache, which is not what other programs have taken."""
    seven = load_catalog()["janus-pro-7b"]
    family = replace(fit.get_family("janus"), pipeline=lambda network, *_, **__: (network.arrange(), network)[1])
    monkeypatch.setattr(loader, "get_family", lambda _: family)
    with pretended_cards(memory=24e9, hollow=True) as cards:
        config = json.loads(fit._model(seven, None, None).config or "")
        write_empty_weights(tmp_path, family.meta_network(config).state_dict())
        plan = replace(fit.plan_load(seven, device="cuda").choose("bf16"), folder=tmp_path, config=config)
        loaded = result_of(loader.load(plan))
        card = cards.allocators[0]
        assert card.allocated == pytest.approx(plan.need.weights, rel=0.02)
        assert card.reserved - card.allocated < 0.5e9
        assert fit.plan_load(seven, device="cuda", freed=plan.held).choose("auto").precision == "bf16"
        free = device_memory(CARD).free
        used = torch.empty(4 * 10**9, dtype=torch.uint8, device="cuda")
        assert device_memory(CARD).free == pytest.approx(free - 4e9, abs=1e8)
        del used  # it stays reserved
        assert device_memory(CARD).free == pytest.approx(free, abs=1e8) and loaded
