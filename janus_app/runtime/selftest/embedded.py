"""The models that ship with the app: what they answer and draw on this device, against what is recorded of a CPU.

assets/selftest.json holds for each of them an `Observation` made in float32 (`docs/make_selftest.py` makes it anew when
weights change). Tokens hold over processors although the last bits of their logits do not: the race that samples a
token is practically never won by so little. Half and quantized precisions may take another token, so there the
probabilities of the recorded tokens are compared.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from PIL import Image

from janus_app.errors import Message
from janus_app.nn.fast import cuda_graphs
from janus_app.paths import ASSETS
from janus_app.registry.catalog import load_catalog
from janus_app.registry.types import Variant
from janus_app.runtime.fit import plan_load
from janus_app.runtime.loader import load
from janus_app.runtime.quantization import bitsandbytes_missing, plain_dtype
from janus_app.runtime.selftest.result import DTYPE_NAMES, Bench, Item, Result, isolated, last_of
from janus_app.types import (
    QUANTIZED_PRECISIONS,
    ChatRequest,
    GenerateRequest,
    InspectRequest,
    Model,
    TokenView,
    Turn,
)

RECORDED = ASSETS / "selftest.json"
PROMPT, QUESTION = "two green frogs", "What is in the picture?"
PICTURE = ASSETS / "examples" / "beach.png"
FIELDS = 8  # pictures are compared by the mean colours of so many fields a side
# Mean difference to the recorded probabilities (0..1) and colours (0..255): about three times what a CPU shows. In fp32
# the colours were equal with the instructions of AVX2 and AVX512, and most of a picture is its scene, right or wrong.
_LIMITS = {"fp32": (1e-3, 0.1), "bf16": (0.1, 4.0), "fp16": (0.1, 4.0), "int8": (0.1, 4.0), "nf4": (0.4, 10.0)}


@dataclass(frozen=True)
class Observation:
    """What a model does with the fixed requests of this file.

    answer: token ids. tokens: image tokens of each picture, and the probabilities of those of the first one (both empty
    for models that draw in steps). colours: mean colours of the first picture's fields, row by row, 0..255.
    """

    answer: tuple[int, ...]
    tokens: tuple[tuple[int, ...], ...]
    probabilities: tuple[float, ...]
    colours: tuple[int, ...]


def observe(model: Model, inspected: Sequence[int] = ()) -> Generator[Item, None, Observation]:
    """Ask, draw and inspect. `inspected` are the image tokens whose probabilities are computed, by default its own."""
    picture = Image.open(PICTURE).convert("RGB")
    answer = yield from last_of(
        model.chat(ChatRequest((Turn("user", QUESTION, (picture,)),), temperature=0, max_new_tokens=16))
    )
    drawn = yield from last_of(model.generate(drawing()))
    first, probabilities = drawn.pictures[0], tuple[float, ...]()
    if isinstance(model, TokenView):
        request = InspectRequest(PROMPT, tuple(inspected) or first.image_tokens)
        seen = yield from last_of(model.inspect(request))
        assert seen.inspection is not None
        probabilities = tuple(round(cell.probability, 4) for cell in seen.inspection.cells)
    small = first.image.resize((FIELDS, FIELDS), Image.Resampling.BOX)
    return Observation(
        answer.token_ids,
        tuple(picture.image_tokens for picture in drawn.pictures if picture.image_tokens),
        probabilities,
        tuple(small.tobytes()),
    )


def drawing() -> GenerateRequest:
    return GenerateRequest(PROMPT, count=2, seed=7, steps=6)


def shipped() -> list[Variant]:
    """The variants whose weights ship with the app, the default one first."""
    catalog = load_catalog()
    found = [v for v in catalog.values() if v.folder and v.folder.is_relative_to(ASSETS) and v.folder.is_dir()]
    return sorted(found, key=lambda variant: variant.id != catalog.default().id)


def recorded(variant_id: str) -> Observation | None:
    """What is recorded of a variant in float32 on a CPU, None where nothing is."""
    entry = json.loads(RECORDED.read_text("utf-8")).get(variant_id)
    if entry is None:
        return None
    tokens = tuple(map(tuple, entry["tokens"]))
    return Observation(tuple(entry["answer"]), tokens, tuple(entry["probabilities"]), tuple(entry["colours"]))


def record() -> Generator[Item, None, str]:
    """The text of assets/selftest.json, observed on this machine's CPU."""
    found = {}
    for variant in shipped():
        model = yield from loaded(variant, "fp32", torch.device("cpu"))
        found[variant.id] = asdict((yield from observe(model)))
    return json.dumps(found) + "\n"


def loaded(variant: Variant, precision: str, device: torch.device) -> Generator[Item, None, Model]:
    """Load a variant. Raises AppError where it does not fit."""
    plan = plan_load(variant, variant.folder, str(device)).choose(precision)
    return (yield from load(plan)).model


def models(bench: Bench) -> Iterator[Item]:
    """Each embedded model in float32: the recorded answer, tokens and colours."""
    for variant in shipped()[: 1 if bench.small else None]:
        yield from compared(bench, variant, "fp32")


def precisions(bench: Bench) -> Iterator[Item]:
    """The default embedded model in the other precisions that the device computes in."""
    half = torch.bfloat16 if bench.device.type == "cpu" else plain_dtype("int8", bench.device)
    for precision in (DTYPE_NAMES[half], *(() if bitsandbytes_missing() else QUANTIZED_PRECISIONS)):
        yield from compared(bench, shipped()[0], precision)


def compared(bench: Bench, variant: Variant, precision: str) -> Iterator[Item]:
    what = f"{variant.title}, {precision}"
    yield from isolated(_compared(bench, variant, precision, what), what)


def _compared(bench: Bench, variant: Variant, precision: str, what: str) -> Iterator[Item]:
    known = recorded(variant.id)
    assert known is not None, variant.id
    model = yield from loaded(variant, precision, bench.device)
    found = yield from observe(model, known.tokens[0] if known.tokens else ())
    yield judge(found, known, what, precision)


def judge(found: Observation, known: Observation, what: str, precision: str) -> Result:
    """The verdict on an observation in a precision: right, differing by near ties, or wrong."""
    probability, colour = _LIMITS[precision]
    pairs = zip(itertools.chain(*found.tokens), itertools.chain(*known.tokens), strict=True)
    tokens = [one != other for one, other in pairs]
    off = mean_difference(found.probabilities, known.probabilities)
    apart = mean_difference(found.colours, known.colours)
    same_answer = found.answer == known.answer
    numbers = {
        "answer_as_recorded": same_answer,
        "tokens": len(tokens),
        "tokens_differing": sum(tokens),
        "probability_difference": off,
        "colour_difference": apart,
    }
    values = {"same": len(tokens) - sum(tokens), "tokens": len(tokens), "off": off, "apart": apart}
    detail = Message("selftest_tokens" if tokens else "selftest_colours", **values)
    # Pictures of other tokens have other colours, so colours judge only models that draw without tokens.
    wrong = off > probability or (not tokens and apart > colour)
    differs = precision == "fp32" and (not same_answer or any(tokens))
    remedy = Message("selftest_wrong_results") if wrong else Message("selftest_near_ties") if differs else None
    return Result("FAIL" if wrong else "WARN" if differs else "OK", what, detail, remedy, numbers=numbers)


def mean_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """The mean absolute difference, infinite where a number is NaN; 0 for no numbers."""
    total = sum(abs(a - b) for a, b in zip(one, other, strict=True))
    return float("inf") if total != total else round(total / max(1, len(one)), 4)


def graphs(bench: Bench) -> Iterator[Item]:
    """The same pictures and answers through CUDA graphs and step by step."""
    if not bench.on_cuda:
        yield Result("SKIP", "", Message("selftest_cuda_only"))
        return
    for variant in shipped()[: 1 if bench.small else None]:
        yield from isolated(_graphs(bench, variant), variant.title)


def _graphs(bench: Bench, variant: Variant) -> Iterator[Item]:
    model = yield from loaded(variant, "fp32", bench.device)
    with_graphs = yield from observe(model)
    if cuda_graphs.given_up(bench.device):
        yield Result("WARN", variant.title, Message("selftest_graphs_failed"), Message("selftest_report"))
        return
    with cuda_graphs.eager(bench.device):
        eager = yield from observe(model)
    same = with_graphs == eager
    detail = Message("selftest_graphs_same") if same else Message("selftest_graphs_differ")
    yield Result("OK" if same else "FAIL", variant.title, detail, None if same else Message("selftest_report"))
