"""The compare tab's two sides: the same words and seed by two models or settings, told apart blind where wanted."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.votes import Choice, Tally
from janus_app.registry.types import Variant
from janus_app.types import SOLVERS, Event, GenerateRequest
from janus_app.ui.common.actions import Actions, action_row, halt
from janus_app.ui.common.controls import run_or_stop
from janus_app.ui.common.detail import settings_line
from janus_app.ui.common.drawing import PREVIEW_QUALITY, SHARED_QUALITY
from janus_app.ui.common.html import facts, message, messages, preview_grid
from janus_app.ui.common.jobs import watch
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import JOB, QUICK, PageContext, first_seed, number, slider_update, whole_number
from janus_app.ui.tabs.models.model_bar import cached
from janus_app.workflows.compare import Shot, Side, checked, draw_sides, name_of

if TYPE_CHECKING:
    from janus_app.ui.tabs.compare.tab import Bench

KNOBS = ("guidance", "temperature", "steps")


@dataclass(frozen=True)
class Match:
    """A finished comparison. `left` is the number of the side shown on the left; `names` are what votes call them."""

    prints: tuple[SavedImage, SavedImage]
    names: tuple[str, str]
    left: int
    blind: bool
    shown: tuple[str, str]  # the files the page shows, left and right
    tally: Tally | None = None  # of this browser tab where votes are not kept


@dataclass(frozen=True)
class Card:
    """The controls of one side."""

    model: gr.Dropdown
    guidance: gr.Slider
    temperature: gr.Slider
    steps: gr.Slider
    solver: gr.Dropdown

    @property
    def knobs(self) -> list[Any]:
        return [self.guidance, self.temperature, self.steps, self.solver]

    @property
    def all(self) -> list[Any]:
        return [self.model, *self.knobs]


@dataclass(frozen=True)
class Controls:
    cards: tuple[Card, Card]
    blind: gr.Checkbox
    run: gr.Button
    stop: gr.Button

    @property
    def shown(self) -> list[Any]:
        """In the order `wire`'s refresh answers."""
        return [card.model for card in self.cards]


@dataclass(frozen=True)
class Seats:
    """The two pictures, the votes on them, and what is told afterwards."""

    gallery: gr.Gallery
    votes: gr.Row
    left: gr.Button
    equal: gr.Button
    right: gr.Button
    told: gr.HTML
    slider: gr.ImageSlider
    doing: gr.Column  # with whose picture and the row; unseen until it is known which is which
    whose: gr.HTML
    row: Actions
    match: gr.State
    chosen: gr.State  # 0 = the picture on the left


def controls(page: PageContext) -> Controls:
    label = page.texts.label
    cards = []
    with gr.Row(elem_classes="sides"):
        for side in ("a", "b"):
            with gr.Column(min_width=140, elem_classes="card side"):
                model = gr.Dropdown([("", "")], label=label(f"side_{side}"), elem_id=f"side-{side}-model")
                guidance = gr.Slider(1, 10, 5, step=0.5, label=label("guidance"), elem_id=f"side-{side}-guidance")
                temperature = gr.Slider(
                    0, 2, 1, step=0.05, label=label("temperature"), elem_id=f"side-{side}-temperature"
                )
                steps = gr.Slider(1, 100, 30, step=1, label=label("steps"), elem_id=f"side-{side}-steps", visible=False)
                solver = gr.Dropdown(list(SOLVERS), label=label("solver"), elem_id=f"side-{side}-solver", visible=False)
                cards.append(Card(model, guidance, temperature, steps, solver))
    blind = gr.Checkbox(True, label=label("blind"), info=label("blind_info"), elem_id="compare-blind")
    with gr.Row(elem_classes="run-row"):
        run = gr.Button(label("compare_run"), variant="primary", elem_id="compare-run", min_width=120)
        stop = gr.Button(label("stop"), variant="stop", elem_id="compare-stop", min_width=120, visible=False)
    return Controls((cards[0], cards[1]), blind, run, stop)


def results(page: PageContext) -> Seats:
    label = page.texts.label
    gallery = gr.Gallery(
        label=label("pictures"), show_label=False, columns=2, height="auto", object_fit="contain", format="png",
        buttons=["fullscreen"], interactive=False, elem_id="compare-gallery",
    )  # fmt: skip
    with gr.Row(elem_classes="actions votes", visible=False, elem_id="compare-votes") as votes:
        left = gr.Button(label("vote_left"), elem_id="vote-left", min_width=90)
        equal = gr.Button(label("vote_equal"), elem_id="vote-equal", min_width=90)
        right = gr.Button(label("vote_right"), elem_id="vote-right", min_width=90)
    told = gr.HTML(elem_id="compare-told", padding=False)
    with gr.Accordion(label("compare_slider"), open=False, elem_id="compare-over"):
        slider = gr.ImageSlider(
            label=label("compare_slider"), show_label=False, type="filepath", interactive=False, slider_position=50,
            buttons=["fullscreen"], height=360, elem_id="compare-slider",
        )  # fmt: skip
    with gr.Column(visible=False, elem_id="compare-chosen", elem_classes="beside") as doing:
        whose = gr.HTML(elem_id="compare-whose", padding=False)
        row = action_row(page, "compare")
    return Seats(gallery, votes, left, equal, right, told, slider, doing, whose, row, gr.State(None), gr.State(0))


def wire(
    page: PageContext, bench: Bench, two: Controls, seats: Seats, variant: gr.Dropdown
) -> Callable[..., list[Any]]:
    """Give the buttons their work; returns what fills `Controls.shown` for the models at hand."""
    match = seats.match
    result = [seats.gallery, seats.votes, seats.told, seats.slider, match, seats.doing, seats.whose, seats.chosen]
    outputs = [*bench.outputs, bench.sides, bench.sheet, *result, two.run, two.stop]
    stay = gr.skip()

    def on_run(
        prompt: str, new_seed: bool, seed: Any, blind: bool, before: Match | None, request: gr.Request, *values: Any
    ) -> Iterator[tuple[Any, ...]]:
        language, say = page.language(request), page.texts.say
        first = first_seed(new_seed, seed)
        half = len(values) // 2
        try:
            asked = tuple(side_of(page, prompt, first, card) for card in (values[:half], values[half:]))
            sides = checked(page.session, (asked[0], asked[1]))
        except AppError as error:
            yield "", "", message(page.texts.sentence(str(error), language), "error"), *(stay,) * 13
            return
        yield (
            "", message(say("starting", language)), "", first, gr.update(visible=False), gr.update(visible=False),
            *(stay,) * 8, *run_or_stop(running=True),
        )  # fmt: skip
        prints: dict[int, SavedImage] = {}
        quality = SHARED_QUALITY if page.shared else PREVIEW_QUALITY
        frame = None
        for frame in watch(lambda: drawn(page, sides, prints), page.texts, language):
            # While it is hidden who is who, only the share of the work is seen: a picture being drawn would tell.
            previewed = not blind and frame.previews
            sheet = (
                preview_grid(frame.previews, [""], [say("alt_preview", language, number=1)], quality)
                if previewed
                else stay
            )
            notes = messages(frame.notices) + (message(frame.error, "error") if frame.error else "")
            yield sheet, frame.status, notes, *(stay,) * 13
        if frame is None or frame.error or len(prints) < 2:
            yield "", "", *(stay,) * 12, *run_or_stop(running=False)
            return
        tally = before.tally if before else None
        now = seated(page, (prints[0], prints[1]), (name_of(sides[0]), name_of(sides[1])), blind, tally)
        key = "compare_judge" if blind else "compare_done"
        line = message(say(key, language), "done")
        yield "", line, stay, stay, gr.update(visible=True), stay, *shown(page, now, language), *run_or_stop(False)

    def on_vote(left_better: bool | None, now: Match | None, request: gr.Request) -> tuple[Any, ...]:
        language = page.language(request)
        if now is None or not now.blind:
            return (stay,) * 10
        better = None if left_better is None else now.left if left_better else 1 - now.left
        choice: Choice = "equal" if better is None else ("one", "other")[better]
        notes = ""
        tally = now.tally if now.tally and (now.tally.one, now.tally.other) == now.names else Tally(*now.names)
        tally = tally.with_vote(choice)
        if page.library:
            try:
                tally = page.library.votes.vote(*now.names, choice)
            except AppError as error:
                notes = message(page.texts.sentence(str(error), language), "error")
        now = replace(now, blind=False, tally=tally)
        return *shown(page, now, language), message(page.texts.say("compare_done", language), "done"), notes

    def stopped(request: gr.Request) -> tuple[Any, ...]:
        language, state = page.language(request), page.session.state
        line = page.texts.say("compare_stopped", language, title=state.title or "–")
        return "", message(line), *(stay,) * 12, *run_or_stop(running=False)

    def choose(name: str | None, request: gr.Request) -> list[Any]:
        return knob_updates(page, name, page.language(request))

    def refresh(selected: str | None, language: str, *chosen: str | None) -> list[Any]:
        """Models that need no download. A choice stays; the first side begins with the one at hand, B with another."""
        able = [v for v in page.catalog.values() if "generate" in v.verbs and cached(page, v)]
        now = page.variant(selected)
        if now.id not in page.catalog and "generate" in now.verbs:
            able.insert(0, now)
        choices = [(v.title, v.id if v.id in page.catalog else str(v.folder)) for v in able]
        names = [name for _, name in choices]
        here = now.id if now.id in names else str(now.folder) if str(now.folder) in names else None
        others: list[str | None] = [name for name in names if name != here]
        firsts = (here, (others or [here])[0])
        return [
            gr.update(choices=choices, value=old if old in names else first)
            for old, first in zip(chosen, firsts, strict=True)
        ]

    def choose_seat(request: gr.Request, event: gr.SelectData) -> tuple[Any, ...]:
        seat = min(int(event.index), 1)
        return seat, whose_html(page, seat, page.language(request))

    seats.gallery.select(choose_seat, None, [seats.chosen, seats.whose], **QUICK)
    inputs = [bench.prompt, bench.fresh, bench.seed, two.blind, match]
    inputs += [*two.cards[0].all, *two.cards[1].all]
    job = two.run.click(on_run, inputs, outputs, **JOB)
    halt(two.stop.click, [job]).then(stopped, None, outputs, **QUICK)
    for button, better in ((seats.left, True), (seats.equal, None), (seats.right, False)):
        vote = gr.State(better)
        button.click(on_vote, [vote, match], [*result, bench.status, bench.notes], **QUICK)
    for card in two.cards:
        card.model.change(choose, card.model, card.knobs, **QUICK)
    return refresh


def side_of(page: PageContext, words: str, seed: Any, values: tuple[Any, ...]) -> Side:
    """A side from its card's values. Raises AppError."""
    name, g, t, steps, solver = values
    variant = page.catalog.resolve(name or "")
    request = GenerateRequest(
        prompt=words or "",
        guidance=number(g, "Guidance"),
        temperature=number(t, "Temperature"),
        seed=whole_number(seed, "Seed"),
        steps=whole_number(steps, "The number of steps"),
        solver=solver or SOLVERS[0],
    )
    return Side(variant, request)


def drawn(page: PageContext, sides: tuple[Side, Side], prints: dict[int, SavedImage]) -> Iterator[Event]:
    """Both sides as a job of the page; what is finished is put into `prints`."""
    kept: dict[str, SavedImage] = {}

    def keep(picture: Any, request: GenerateRequest, variant: Variant, state: Any) -> Any:
        made = page.images.keep(picture, request, variant, state)
        kept[str(made.file)] = made
        return made.file, made.record

    for step in draw_sides(page.session, sides, keep):
        if isinstance(step, Shot):
            prints[step.side] = kept[str(step.file)]
        else:
            yield step


def seated(
    page: PageContext,
    prints: tuple[SavedImage, SavedImage],
    names: tuple[str, str],
    blind: bool,
    tally: Tally | None = None,
) -> Match:
    """The two pictures in their seats: by chance, in files whose names tell nothing, where it is hidden who is who."""
    left = secrets.randbelow(2) if blind else 0
    pair = (prints[left], prints[1 - left])
    if not blind:
        return Match(prints, names, left, False, (pair[0].shown, pair[1].shown), tally)
    folder = page.images.place()
    folder.mkdir(parents=True)
    files = [
        str(shutil.copyfile(p.file, folder / f"{seat}.png")) for p, seat in zip(pair, ("left", "right"), strict=True)
    ]
    return Match(prints, names, left, True, (files[0], files[1]), tally)


def shown(page: PageContext, now: Match, language: str) -> tuple[Any, ...]:
    """gallery, votes, told, slider, match, doing, whose, chosen."""
    say = page.texts.say
    pair = (now.prints[now.left], now.prints[1 - now.left])
    if now.blind:
        captions = [say("seat_left", language), say("seat_right", language)]
    else:
        captions = [p.record.title for p in pair]
    return (
        gr.update(value=list(zip(now.shown, captions, strict=True)), selected_index=None),
        gr.update(visible=now.blind),
        "" if now.blind else told_html(page, now, language),
        gr.update(value=now.shown),
        now,
        gr.update(visible=not now.blind),
        whose_html(page, 0, language),
        0,
    )


def whose_html(page: PageContext, seat: int, language: str) -> str:
    """Which of the two the row of buttons is about."""
    return f"<p>{escape(page.texts.say('compare_right' if seat else 'compare_left', language))}</p>"


def seat_print(now: Match | None, seat: int) -> SavedImage:
    """The picture on the left (0) or on the right (1). Raises AppError before there is one."""
    if now is None or now.blind:
        raise AppError("Compare two pictures and say which is better first.")
    return now.prints[1 - now.left if seat else now.left]


def told_html(page: PageContext, now: Match, language: str) -> str:
    """Who is who, and how often which was thought better."""
    say = page.texts.say
    pairs = []
    for seat, side in (("seat_left", now.left), ("seat_right", 1 - now.left)):
        record = now.prints[side].record
        letter = say("side_b" if side else "side_a", language)
        line = f"{letter}: {record.title} · {record.precision} · {settings_line(page, record, language)}"
        pairs.append((say(seat, language), line))
    if now.tally and now.tally.count:
        tally = now.tally
        score = say("score_line", language, a=tally.one_better, b=tally.other_better, equal=tally.equal)
        pairs.append((say("score", language), score))
    pairs.append((say("file", language), ", ".join(p.file.name for p in now.prints)))
    return facts(pairs)


def knob_updates(page: PageContext, name: str | None, language: str) -> list[Any]:
    """guidance, temperature, steps, solver of the chosen model; what it does not have is hidden."""
    try:
        chosen = page.catalog.resolve(name or "")
    except AppError:
        return [gr.skip()] * 4
    names = [(page.texts.named("solver", solver, language), solver) for solver in chosen.solvers]
    solver = gr.update(choices=names, value=chosen.solvers[0], visible=True) if names else gr.update(visible=False)
    return [*(slider_update(chosen.settings.get(knob)) for knob in KNOBS), solver]
