"""What every family answers: the requests, the events that answer them, and what a model can do.

    chat(ChatRequest)         -> Generator of Notice | Progress | TextDelta | Preview | Finished
    generate(GenerateRequest) -> Generator of Notice | Progress | TextDelta | Preview | Finished
    edit(EditRequest)         -> Generator of Notice | Progress | Preview | Finished

Models that draw image tokens also answer `TokenView`, models that read pictures `Ranker`. A job of a session adds
`Queued` while it waits and `Started` when its model begins.

Generators are the only concurrency: closing one stops the work within one step. Everything here is plain values and
PIL images, so the page, the command line and the tests use it without importing torch.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, get_args, runtime_checkable

from PIL.Image import Image

from janus_app.errors import AppError, Message

Verb = Literal["chat", "generate", "edit"]
VERBS: tuple[Verb, ...] = get_args(Verb)
Precision = Literal["fp32", "bf16", "fp16", "int8", "nf4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
QUANTIZED_PRECISIONS: tuple[Precision, ...] = ("int8", "nf4")
SOLVERS = ("euler", "heun", "ab2")  # of the flow families; ab2 = two-step Adams-Bashforth

EditMethod = Literal["region", "variation", "instruct", "image to image", "masked", "flowedit"]
# The settings each method reads beside the prompts, the picture, count, guidance and seed; the page shows only these.
EDIT_SETTINGS: Mapping[str, frozenset[str]] = {
    "region": frozenset({"mask", "temperature"}),
    "variation": frozenset({"strength", "temperature"}),
    "instruct": frozenset({"image_guidance", "temperature", "steps"}),  # those of them that the variant has
    "image to image": frozenset({"strength", "steps", "solver", "guidance_interval"}),
    "masked": frozenset({"mask", "steps", "solver", "guidance_interval"}),
    "flowedit": frozenset({"source_prompt", "strength", "image_guidance", "steps", "guidance_interval"}),
}
Transparency = Literal["white", "drop"]  # what becomes of a given picture's transparent parts
TRANSPARENCY: tuple[Transparency, ...] = get_args(Transparency)
TRANSPARENCY_VARIABLE = "JANUS_APP_TRANSPARENCY"
DESCRIBE = "Describe the picture."  # the question asked when the source prompt is left to the model

MAX_PROMPT_CHARACTERS = 8_000
MAX_COUNT = 16
MAX_STEPS = 250  # as many as any paper draws with
MAX_SEED = 2**53 - 1  # the largest whole number that JavaScript represents exactly
MAX_NEW_TOKENS = 4_096
MAX_ALTERNATIVES = 64  # alternatives listed for one image token

T = TypeVar("T")


def _number(name: str, value: float, low: float, high: float) -> None:
    """Refuse a value outside [low, high], NaN and infinities included. `name` is the code of the input's name."""
    if not isinstance(value, (int, float)) or not low <= value <= high:
        raise AppError("number_out_of_range", name=Message(name), low=low, high=high, given=value)


def _integer(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise AppError("integer_out_of_range", name=Message(name), low=low, high=high, given=value)


def _seed(seed: int, high: int) -> None:
    if isinstance(seed, int) and seed > high:
        raise AppError("seed_too_large", name=Message("input_seed"), high=high, given=seed)
    _integer("input_seed", seed, 0, high)


def _text(name: str, text: str) -> None:
    if not text.strip():
        raise AppError("text_empty", name=Message(name))
    if any("\ud800" <= character <= "\udfff" for character in text):  # bytes that were no UTF-8, half an emoji
        raise AppError("text_undecodable", name=Message(name))
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise AppError("text_too_long", name=Message(name), count=len(text), limit=MAX_PROMPT_CHARACTERS)


@dataclass(frozen=True)
class Setting:
    """A number the user may set: its first value, its range (both ends allowed) and the slider's step."""

    default: float
    low: float
    high: float
    step: float


@dataclass(frozen=True)
class SizeRange:
    """The sizes that a model draws: sides from `low` to `high` pixels, in multiples of `step`."""

    low: int
    high: int
    step: int

    def require(self, size: tuple[int, int]) -> None:
        """Raises AppError for (width, height) that cannot be drawn."""
        if any(not self.low <= side <= self.high or side % self.step for side in size):
            width, height = size
            raise AppError(
                "picture_size_not_drawn", width=width, height=height, low=self.low, high=self.high, step=self.step
            )


@dataclass(frozen=True)
class Thinking:
    """How a model was taught to think in words before or after it draws, worded as in its training.

    ask: what asks for a plan, with the prompt in place of {prompt}; "" where it writes none. system: the system prompt
    of that request. draw: the prompt of the picture, with {prompt} and {plan}; "" where the picture follows the plan in
    the same answer. judge: what makes it judge the picture that it drew, beginning with Yes or No; again: what
    follows the judgement before the picture is drawn again. temperature of the text; tokens: the most it writes.
    """

    ask: str = ""
    system: str = ""
    draw: str = ""
    judge: str = ""
    again: str = ""
    temperature: float = 1.0
    tokens: int = 512


@dataclass(frozen=True)
class Turn:
    """One message of a conversation. Pictures come before the text, as the models were trained."""

    role: Literal["user", "assistant"]
    text: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True)
class ChatRequest:
    """Continue a conversation whose last turn is the user's.

    temperature 0 is greedy and ignores top_p and seed.
    """

    turns: tuple[Turn, ...]
    temperature: float = 0.1
    top_p: float = 0.95
    seed: int = 0
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        if not self.turns or self.turns[-1].role != "user":
            raise AppError("question_missing")
        last = self.turns[-1]
        _text("input_question", last.text if last.text.strip() or not last.images else "describe")
        for turn in self.turns:
            if len(turn.text) > MAX_PROMPT_CHARACTERS:
                _text("input_message", turn.text)
        _number("input_temperature", self.temperature, 0, 2)
        _number("input_top_p", self.top_p, 0.01, 1)
        _seed(self.seed, MAX_SEED)
        _integer("input_max_new_tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)


@dataclass(frozen=True)
class GenerateRequest:
    """Draw `count` pictures of `prompt`; picture i uses seed + i, so it can be drawn again alone.

    guidance 1 switches classifier-free guidance off; temperature 0 is greedy. `negative` replaces the empty prompt in
    the unconditional row. `image_tokens` decodes known tokens without sampling (token models only); with `keep` only
    the first `keep` of them are kept and the rest is sampled: the seed and prompt that drew a picture draw it again
    from any `keep`, another seed continues differently from there. `turbo` samples the same tokens in fewer, wider
    passes (token models; docs/engine.md).

    `think` lets a model that was taught to plan write a plan first: one for all pictures, sampled from the seed; or
    judge each picture and draw it again where it finds it wrong. `plan` is a given plan, and none is written.

    `size` is (width, height) in pixels for models that draw in several sizes; None is the model's own.

    Only models that draw in steps read `steps`, `solver` (one of SOLVERS) and `guidance_interval`: guidance is applied
    while the time of the flow, 0 at noise and 1 at the picture, is in the interval (Kynkaanniemi et al. 2024).
    """

    prompt: str
    negative: str = ""
    count: int = 1
    guidance: float = 5.0
    temperature: float = 1.0
    seed: int = 0
    steps: int = 30
    solver: str = "euler"
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    image_tokens: tuple[int, ...] = ()
    keep: int | None = None
    turbo: bool = False
    size: tuple[int, int] | None = None
    think: bool = False
    plan: str = ""

    def __post_init__(self) -> None:
        _text("input_prompt", self.prompt)
        if self.negative:
            _text("input_negative", self.negative)
        if self.plan:
            _text("input_plan", self.plan)
        _integer("input_count", self.count, 1, MAX_COUNT)
        _drawing_ranges(self)
        if self.keep is not None:
            _has_tokens(self.image_tokens)
            _integer("input_keep", self.keep, 0, len(self.image_tokens))


@dataclass(frozen=True)
class EditRequest:
    """Change `image` as `prompt` says.

    `method` is one of the loaded model's `capabilities.edit_methods`. For "region" the `mask` (white = redraw, any
    mode, the picture's size) chooses the token cells to redraw and `prompt` describes the finished picture; for
    "variation" `strength` (0..1] is the share of the picture to redraw. Flow families: "image to image" starts from
    the picture noised by `strength`, "masked" redraws the mask's white part and keeps every other pixel, "flowedit"
    follows the difference between `source_prompt` (what the picture shows; empty = the model describes it) and
    `prompt` (what it should show), guided by `image_guidance` and `guidance`. For "instruct" `prompt` says what to
    change; `more_images` follow `image`, in order, up to the model's `edit_pictures`. EDIT_SETTINGS lists what each
    method reads; it ignores the other settings. `turbo` as for drawing.
    """

    prompt: str
    image: Image
    mask: Image | None = None
    method: str = "region"
    negative: str = ""
    count: int = 1
    guidance: float = 5.0
    image_guidance: float = 1.5
    temperature: float = 1.0
    strength: float = 0.6
    seed: int = 0
    steps: int = 30
    solver: str = "euler"
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    source_prompt: str = ""
    more_images: tuple[Image, ...] = ()
    turbo: bool = False
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.image is None:
            raise AppError("edit_image_missing")
        _text("input_edit_prompt", self.prompt)
        if self.negative:
            _text("input_negative", self.negative)
        if self.source_prompt:
            _text("input_source_prompt", self.source_prompt)
        _integer("input_count", self.count, 1, MAX_COUNT)
        _drawing_ranges(self)
        _number("input_image_guidance", self.image_guidance, 1, 20)
        _number("input_strength", self.strength, 0.01, 1)
        if "mask" in EDIT_SETTINGS.get(self.method, ()) and self.mask is None:
            raise AppError("mask_missing")
        if self.mask is not None and self.mask.size != self.image.size:
            (mask_width, mask_height), (width, height) = self.mask.size, self.image.size
            raise AppError(
                "mask_size_differs", mask_width=mask_width, mask_height=mask_height, width=width, height=height
            )


def _drawing_ranges(request: GenerateRequest | EditRequest) -> None:
    _number("input_guidance", request.guidance, 1, 20)
    _number("input_temperature", request.temperature, 0, 2)
    _seed(request.seed, MAX_SEED + 1 - request.count)  # the last picture's seed must be one too
    _integer("input_steps", request.steps, 1, MAX_STEPS)
    if request.solver not in SOLVERS:
        raise AppError("solver_unknown", given=request.solver, known=", ".join(SOLVERS))
    low, high = request.guidance_interval
    _number("input_guidance_start", low, 0, 1)
    _number("input_guidance_end", high, low, 1)


def _has_tokens(tokens: tuple[int, ...]) -> None:
    if not tokens:
        raise AppError("image_tokens_missing")


@dataclass(frozen=True)
class InspectRequest:
    """Compute the probabilities of every image token of a picture that was drawn with this prompt and these settings.

    `alternatives` is how many of the most probable tokens are listed for each token. Temperature 0 is treated as 1,
    because greedy drawing has no probabilities.
    """

    prompt: str
    image_tokens: tuple[int, ...]
    negative: str = ""
    guidance: float = 5.0
    temperature: float = 1.0
    alternatives: int = 8
    plan: str = ""

    def __post_init__(self) -> None:
        _text("input_prompt", self.prompt)
        if self.plan:
            _text("input_plan", self.plan)
        if self.negative:
            _text("input_negative", self.negative)
        _has_tokens(self.image_tokens)
        _number("input_guidance", self.guidance, 1, 20)
        _number("input_temperature", self.temperature, 0, 2)
        _integer("input_alternatives", self.alternatives, 1, MAX_ALTERNATIVES)


@dataclass(frozen=True)
class SwapRequest:
    """Decode the picture with each of `tokens` in turn at `cell` (0 = top left, row by row), without sampling."""

    image_tokens: tuple[int, ...]
    cell: int
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        _has_tokens(self.image_tokens)
        _integer("input_cell", self.cell, 0, len(self.image_tokens) - 1)
        _integer("input_alternatives", len(self.tokens), 1, MAX_ALTERNATIVES)


@dataclass(frozen=True)
class RankRequest:
    """Score how well each picture shows `prompt`, by asking the model."""

    prompt: str
    images: tuple[Image, ...]

    def __post_init__(self) -> None:
        _text("input_prompt", self.prompt)
        if not self.images:
            raise AppError("rank_images_missing")


Request = ChatRequest | GenerateRequest | EditRequest | InspectRequest | SwapRequest | RankRequest


@dataclass(frozen=True)
class Provenance:
    """Which model does a job, and how: what a picture's metadata says besides the picture.

    `variant_id` to `revision` name the variant ("" = not known); `settings` are the names of the settings it has, among
    them "solver" where one can be chosen. `device` is a type without an index ("cuda"). `versions` maps library to
    version. `adapters` are those merged into the weights, "name=strength" each.
    """

    variant_id: str
    title: str
    family: str
    repo: str
    revision: str
    settings: frozenset[str]
    precision: str
    device: str
    request: Request
    versions: Mapping[str, str] = field(hash=False)
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Notice:
    """Something the user should know although the work continues (a shortened conversation, a fallback)."""

    message: Message

    @property
    def text(self) -> str:
        """The sentence in English."""
        return self.message.text()


@dataclass(frozen=True)
class Queued:
    """The job waits; `place` 1 is next."""

    place: int


@dataclass(frozen=True)
class Started:
    """The job's turn has come and its model is loaded."""

    provenance: Provenance


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of a stage ("download", "verify", "read", "draw", ...); total 0 = unknown.

    `rate` is in units per second where only the sender knows it (a resumed download does not start at 0); 0 = unknown.
    `seconds_left` until the job's end, where more than this stage's units take time: 0 = the sender cannot say yet,
    None = it follows from the rate.
    """

    stage: str
    done: int
    total: int
    unit: str = ""
    detail: str | Message = ""
    rate: float = 0.0
    seconds_left: float | None = None


@dataclass(frozen=True)
class TextDelta:
    """More text of the answer, or of a drawing's plan, in whole characters, and the token ids it was decoded from."""

    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Preview:
    """Unfinished pictures after `done` of `total` steps, one for each requested picture, in order."""

    images: tuple[Image, ...]
    done: int
    total: int


@dataclass(frozen=True)
class Vectors:
    """The vectors that a language model wrote for a picture: rows of `width` float32 numbers, little-endian."""

    width: int
    data: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def rows(self) -> list[list[float]]:
        numbers = [number for (number,) in struct.iter_unpack("<f", self.data)]
        return [numbers[start : start + self.width] for start in range(0, len(numbers), self.width)]


@dataclass(frozen=True)
class Picture:
    """A finished picture in RGB at native size, the seed that draws it alone, and its image tokens (token models).

    `source_prompt` is the description that FlowEdit started from, `plan` what it was drawn from beside the prompt, each
    by the user or the model. `judgement` is what the model said of its first attempt; `redrawn` says that this is its
    second.
    `vectors` are those it was painted from (models that write pictures as vectors), `painted_with` the settings of a
    picture in an answer.
    """

    image: Image
    seed: int
    image_tokens: tuple[int, ...] = ()
    source_prompt: str = ""
    plan: str = ""
    judgement: str = ""
    redrawn: bool = False
    vectors: Vectors | None = None
    painted_with: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class TokenFacts:
    """An image token and the distribution it was sampled from.

    `probability` of the token and `entropy` (bits, 0 = no choice) belong to the guided distribution at the temperature.
    `gap` is KL(conditional || unconditional) in bits at temperature 1: how much the prompt changed this token, before
    guidance. `alternatives` are (token, probability), most probable first.
    """

    token: int
    probability: float
    entropy: float
    gap: float
    alternatives: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Inspection:
    """A picture with the facts of its tokens, row by row, `columns` in a row."""

    image: Image
    columns: int
    cells: tuple[TokenFacts, ...]


@dataclass(frozen=True)
class Usage:
    """Tokens read, tokens written, and the context length that the model was trained with."""

    prompt_tokens: int
    new_tokens: int
    context: int


@dataclass(frozen=True)
class Finished:
    """The end of a job that was not cancelled.

    `compute_seconds` is the time the model worked, without waiting. `scores` answer a RankRequest, one for each
    picture in order. `provenance` is set by the session that ran the job.
    """

    text: str = ""
    pictures: tuple[Picture, ...] = ()
    token_ids: tuple[int, ...] = ()
    usage: Usage | None = None
    compute_seconds: float = 0.0
    inspection: Inspection | None = None
    scores: tuple[float, ...] = ()
    provenance: Provenance | None = None


Event = Notice | Queued | Started | Progress | TextDelta | Preview | Finished
Events = Generator[Event, None, None]  # a job: closing it stops the work within one step


def drain(events: Generator[Event, None, object], on_event: Callable[[Event], None] | None = None) -> Event | None:
    """Run a job to its end and return its last event; `on_event` sees each of them. An exception closes the job."""
    last: Event | None = None
    with closing(events):
        for last in events:
            if on_event:
                on_event(last)
    return last


def finish(events: Events, on_event: Callable[[Event], None] | None = None) -> Finished:
    """Run the job of a request to its end; `on_event` sees each event."""
    last = drain(events, on_event)
    assert isinstance(last, Finished)
    return last


def saying(event: Callable[[], Event], steps: Generator[object, None, T]) -> Generator[Event, None, T]:
    """Run a generator to its end and return its return value; yield `event()` first and wherever it pauses."""
    with closing(steps):
        while True:
            yield event()
            try:
                next(steps)
            except StopIteration as end:
                result: T = end.value
                return result


def result_of(steps: Generator[Any, None, T], on_step: Callable[[Any], None] | None = None) -> T:
    """Run a generator to its end and return its return value; `on_step` sees what it yields."""
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
            if on_step:
                on_step(step)


@dataclass(frozen=True)
class Capabilities:
    """What a loaded model can do. `size` is the native (width, height) of drawn pictures in pixels.

    `edit_methods` maps a method's name to its description. `cell` is the side in pixels of one
    image token (0 where pictures are not tokens). `edit_pictures` is how many pictures an edit may start from. `sizes`
    is None where `size` is the only one, `thinking` where the model was not taught to think in words.
    """

    verbs: frozenset[Verb]
    size: tuple[int, int]
    context: int
    cell: int = 0
    edit_methods: Mapping[str, Message] = field(default_factory=dict)
    edit_pictures: int = 1
    sizes: SizeRange | None = None
    thinking: Thinking | None = None


class Model(Protocol):
    """A loaded system. Not thread-safe: a session runs one job at a time on it."""

    capabilities: Capabilities

    def chat(self, request: ChatRequest) -> Events: ...

    def generate(self, request: GenerateRequest) -> Events: ...

    def edit(self, request: EditRequest) -> Events: ...


@runtime_checkable
class TokenView(Protocol):
    """What a model that draws picture tokens can show of them. Both end with Finished."""

    def inspect(self, request: InspectRequest) -> Events: ...

    def swap(self, request: SwapRequest) -> Events: ...


@runtime_checkable
class Ranker(Protocol):
    """A model that can say of a picture whether it shows what was asked for. Ends with Finished."""

    def rank(self, request: RankRequest) -> Events: ...
