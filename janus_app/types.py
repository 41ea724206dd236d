"""The three verbs every family answers, and the requests and events they are spoken in.

    chat(ChatRequest)         -> Iterator[Notice | TextDelta | Finished]
    generate(GenerateRequest) -> Iterator[Notice | Progress | Preview | Finished]
    edit(EditRequest)         -> Iterator[Notice | Progress | Preview | Finished]

and, of models that draw tokens, the looks at a finished picture (`TokenView`), of models that read pictures the ranking
of several (`Ranker`).

An iterator is the whole concurrency story: closing it stops the work within one step. Everything here is plain
numbers and PIL pictures, so the page, the command line and the tests speak it without importing torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from PIL.Image import Image

from janus_app.errors import AppError

Verb = Literal["chat", "generate", "edit"]
SOLVERS = ("euler", "heun", "ab2")  # of the flow families; ab2 = two-step Adams-Bashforth
# What each way of editing reads beside the prompts, the picture, count, guidance and seed; the page shows these alone.
EDIT_SETTINGS: dict[str, frozenset[str]] = {
    "region": frozenset({"mask", "temperature"}),
    "variation": frozenset({"strength", "temperature"}),
    "instruct": frozenset({"image_guidance", "temperature", "steps"}),  # whichever of them the variant has
    "image to image": frozenset({"strength", "steps", "solver", "guidance_interval"}),
    "masked": frozenset({"mask", "steps", "solver", "guidance_interval"}),
    "flowedit": frozenset({"source_prompt", "strength", "image_guidance", "steps", "guidance_interval"}),
}
DESCRIBE = "Describe the picture."  # asked where the source prompt is left to the model

MAX_PROMPT_CHARACTERS = 8_000
MAX_COUNT = 16
MAX_SEED = 2**53 - 1  # the largest whole number a browser holds exactly
MAX_NEW_TOKENS = 4_096
MAX_ALTERNATIVES = 64  # tokens told for one place of a picture


def _within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside [low, high]; NaN and infinities are outside everything."""
    if not isinstance(value, (int, float)) or not math.isfinite(value) or not low <= value <= high:
        raise AppError(f"{name} must be a number from {low:g} to {high:g}, not {value!r}.")


def _whole(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise AppError(f"{name} must be a whole number from {low} to {high}, not {value!r}.")


def _prompt(name: str, text: str) -> None:
    if not text.strip():
        raise AppError(f"{name} is empty. Type a few words first.")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise AppError(f"{name} has {len(text):,} characters; at most {MAX_PROMPT_CHARACTERS:,} are read. Shorten it.")


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
            raise AppError("There is no question to answer. Type one first.")
        last = self.turns[-1]
        _prompt("The question", last.text if last.text.strip() or not last.images else "describe")
        for turn in self.turns:
            if len(turn.text) > MAX_PROMPT_CHARACTERS:
                _prompt("A message of the conversation", turn.text)
        _within("Temperature", self.temperature, 0, 2)
        _within("Top-p", self.top_p, 0.01, 1)
        _whole("Seed", self.seed, 0, MAX_SEED)
        _whole("The number of new tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)


@dataclass(frozen=True)
class GenerateRequest:
    """Draw `count` pictures of `prompt`; picture i uses seed + i, so it can be drawn again alone.

    guidance 1 switches classifier-free guidance off; temperature 0 is greedy. `negative` takes the place of the
    empty prompt in the unconditional row. `image_tokens` redraws known tokens without sampling (token models only);
    with `keep` only the first `keep` of them stay and the rest is drawn anew: the same seed and prompt that drew a
    picture draw it again from any `keep`, another seed goes on differently from there.
    `turbo` draws the same tokens in fewer, wider passes (token models; docs/engine.md).
    Flow families alone use `steps`, `solver` (one of SOLVERS) and `guidance_interval`: guidance is applied while the
    share of the way done, 0 at noise and 1 at the picture, lies in it (Kynkaanniemi et al. 2024); token models draw a
    fixed number of tokens and ignore them.
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

    def __post_init__(self) -> None:
        _prompt("The prompt", self.prompt)
        if self.negative:
            _prompt("The negative prompt", self.negative)
        _whole("The number of pictures", self.count, 1, MAX_COUNT)
        _drawing_ranges(self)
        if self.keep is not None:
            _has_tokens(self.image_tokens)
            _whole("The number of kept tokens", self.keep, 0, len(self.image_tokens))


@dataclass(frozen=True)
class EditRequest:
    """Change `image` as `prompt` says.

    `method` is one of the loaded model's `capabilities.edit_methods`. For "region" the `mask` (white = redraw, any
    mode and size equal to the picture's) chooses the token cells to draw anew and `prompt` describes the finished
    picture; for "variation" `strength` (0..1] is the share of the picture drawn anew. Flow families: "image to image"
    starts from the picture noised by `strength`, "masked" draws the mask's white part anew and keeps every other pixel,
    "flowedit" follows the difference between `source_prompt` (what the picture shows; empty = the model describes it)
    and `prompt` (what it shall show), guided by `image_guidance` and `guidance`. For "instruct" `prompt` says what to
    change; `more_images` join `image`, in order, where the model's `edit_pictures` allows. EDIT_SETTINGS says which
    method reads which of the numbers; the others are ignored. `turbo` as for drawing.
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

    def __post_init__(self) -> None:
        if self.image is None:
            raise AppError("There is no picture to edit. Add one first.")
        _prompt("The description of the edited picture", self.prompt)
        if self.negative:
            _prompt("The negative prompt", self.negative)
        if self.source_prompt:
            _prompt("The description of the picture as it is", self.source_prompt)
        _whole("The number of pictures", self.count, 1, MAX_COUNT)
        _drawing_ranges(self)
        _within("Image guidance", self.image_guidance, 1, 20)
        _within("Strength", self.strength, 0.01, 1)
        if "mask" in EDIT_SETTINGS.get(self.method, ()) and self.mask is None:
            raise AppError("Nothing is painted. Paint over the part of the picture to draw anew.")
        if self.mask is not None and self.mask.size != self.image.size:
            raise AppError(
                f"The mask is {self.mask.width} x {self.mask.height} pixels but the picture is "
                f"{self.image.width} x {self.image.height}. Give a mask of the picture's size."
            )


def _drawing_ranges(request: GenerateRequest | EditRequest) -> None:
    _within("Guidance", request.guidance, 1, 20)
    _within("Temperature", request.temperature, 0, 2)
    _whole("Seed", request.seed, 0, MAX_SEED + 1 - request.count)  # the last picture's seed must be one too
    _whole("The number of steps", request.steps, 1, 100)
    if request.solver not in SOLVERS:
        raise AppError(f"There is no solver called {request.solver!r}. Choose one of {', '.join(SOLVERS)}.")
    low, high = request.guidance_interval
    _within("The start of the guidance interval", low, 0, 1)
    _within("The end of the guidance interval", high, low, 1)


def _has_tokens(tokens: tuple[int, ...]) -> None:
    if not tokens:
        raise AppError(
            "The picture's record holds no image tokens: it was not drawn token by token. Choose a picture of a "
            "Janus model."
        )


@dataclass(frozen=True)
class InspectRequest:
    """How sure the model was of every image token of a picture, drawn with these words and numbers.

    `alternatives` is how many of the most probable tokens are told for each place. Temperature 0 is looked at as 1:
    greedy drawing leaves no odds to show.
    """

    prompt: str
    image_tokens: tuple[int, ...]
    negative: str = ""
    guidance: float = 5.0
    temperature: float = 1.0
    alternatives: int = 8

    def __post_init__(self) -> None:
        _prompt("The prompt", self.prompt)
        if self.negative:
            _prompt("The negative prompt", self.negative)
        _has_tokens(self.image_tokens)
        _within("Guidance", self.guidance, 1, 20)
        _within("Temperature", self.temperature, 0, 2)
        _whole("The number of alternatives", self.alternatives, 1, MAX_ALTERNATIVES)


@dataclass(frozen=True)
class SwapRequest:
    """The pictures that come of putting each of `tokens` in place `cell` (0 = top left, by rows), nothing sampled."""

    image_tokens: tuple[int, ...]
    cell: int
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        _has_tokens(self.image_tokens)
        _whole("The patch", self.cell, 0, len(self.image_tokens) - 1)
        _whole("The number of alternatives", len(self.tokens), 1, MAX_ALTERNATIVES)


@dataclass(frozen=True)
class RankRequest:
    """Ask the model of each picture whether it shows what `prompt` asks for."""

    prompt: str
    images: tuple[Image, ...]

    def __post_init__(self) -> None:
        _prompt("The prompt", self.prompt)
        if not self.images:
            raise AppError("There is no picture to rank. Draw some first.")


Request = ChatRequest | GenerateRequest | EditRequest | InspectRequest | SwapRequest | RankRequest


@dataclass(frozen=True)
class Notice:
    """Something the user should know though the work goes on (a cut conversation, a fallback)."""

    text: str


@dataclass(frozen=True)
class Queued:
    """The job waits; `place` 1 is next."""

    place: int


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of a stage ("download", "verify", "read", "draw", ...); total 0 = unknown.

    `rate` is in units a second where the maker alone can tell (a resumed download starts far from 0); 0 = not said.
    """

    stage: str
    done: int
    total: int
    unit: str = ""
    detail: str = ""
    rate: float = 0.0


@dataclass(frozen=True)
class TextDelta:
    """More text of the answer, never splitting a character, and the ids it came from."""

    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Preview:
    """Pictures as they stand after `done` of `total` steps, one per requested picture, in order."""

    images: tuple[Image, ...]
    done: int
    total: int


@dataclass(frozen=True)
class Picture:
    """A finished picture: native-size RGB, the seed that draws it alone, its image tokens (token models).

    `source_prompt` is the description FlowEdit started from, whoever wrote it.
    """

    image: Image
    seed: int
    image_tokens: tuple[int, ...] = ()
    source_prompt: str = ""


@dataclass(frozen=True)
class TokenFacts:
    """One image token as the model saw it before it was chosen.

    `probability` of the chosen token and `entropy` (bits, 0 = no choice at all) are those of the distribution it was
    drawn from: guided, at the temperature. `gap` (bits) is the Kullback-Leibler divergence of the unconditional from
    the conditional distribution at temperature 1, KL(conditional || unconditional): how much the words changed what was
    to come here, whatever the guidance made of it. `alternatives` are (token, probability), likeliest first.
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
    """How full the context is: tokens read, tokens written, and the most the model was trained to hold."""

    prompt_tokens: int
    new_tokens: int
    context: int


@dataclass(frozen=True)
class Finished:
    """The end of a job that was not cancelled. `seconds` is the work alone, without waiting."""

    text: str = ""
    pictures: tuple[Picture, ...] = ()
    token_ids: tuple[int, ...] = ()
    usage: Usage | None = None
    seconds: float = 0.0
    inspection: Inspection | None = None
    scores: tuple[float, ...] = ()  # of a RankRequest: each picture's, in their order; models/rank.py says what of


Event = Notice | Queued | Progress | TextDelta | Preview | Finished


@dataclass(frozen=True)
class Capabilities:
    """What a loaded model can do. `size` is the native (width, height) of drawn pictures in pixels.

    `edit_methods` maps a method's name to the line the page shows about it. `cell` is the side in pixels of one
    image token (0 where pictures are not tokens). `edit_pictures` is how many pictures an edit may start from.
    """

    verbs: frozenset[Verb]
    size: tuple[int, int]
    context: int
    cell: int = 0
    edit_methods: dict[str, str] = field(default_factory=dict)
    edit_pictures: int = 1


class Model(Protocol):
    """A loaded system. Not thread-safe: the studio runs one job at a time on it."""

    capabilities: Capabilities

    def chat(self, request: ChatRequest) -> Iterator[Event]: ...

    def generate(self, request: GenerateRequest) -> Iterator[Event]: ...

    def edit(self, request: EditRequest) -> Iterator[Event]: ...


@runtime_checkable
class TokenView(Protocol):
    """What a model that draws picture tokens can show of them. Both end with Finished."""

    def inspect(self, request: InspectRequest) -> Iterator[Event]: ...

    def swap(self, request: SwapRequest) -> Iterator[Event]: ...


@runtime_checkable
class Ranker(Protocol):
    """A model that can say of a picture whether it shows what was asked for. Ends with Finished."""

    def rank(self, request: RankRequest) -> Iterator[Event]: ...
