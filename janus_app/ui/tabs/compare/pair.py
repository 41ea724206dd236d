"""The compare tab's pair: one prompt and seed drawn by two models or with two settings, judged blind if wanted."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr

from janus_app.errors import AppError, Message
from janus_app.files import os_errors_as_app_errors
from janus_app.outputs.votes import Choice, Tally
from janus_app.types import SOLVERS, Event, GenerateRequest
from janus_app.ui.common.actions import PictureSource, action_row
from janus_app.ui.common.detail import settings_line
from janus_app.ui.common.drawing import preview_quality
from janus_app.ui.common.html import facts, message, messages, preview_grid
from janus_app.ui.common.jobs import watch
from janus_app.ui.common.pictures import ADDRESSED, PICKED, address, figure
from janus_app.ui.common.running import Stopped, until
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import (
    JOB,
    QUICK,
    PageContext,
    Updates,
    Values,
    first_seed,
    number,
    slider_update,
    whole_number,
)
from janus_app.ui.tabs.compare.shared import SharedParts
from janus_app.ui.tabs.models.model_list import cached
from janus_app.workflows.compare import DrawnSide, Side, checked_sides, draw_sides, vote_key

SLIDERS = ("guidance", "temperature", "steps")


@dataclass(frozen=True)
class Comparison:
    """Two finished pictures.

    `left` is the number of the side that is shown on the left; `names` are the two sides as votes are counted.
    `tally` counts the votes of this browser tab if the page does not save votes.
    """

    images: tuple[SavedImage, SavedImage]
    names: tuple[str, str]
    left: int
    blind: bool
    files: tuple[str, str]  # as served, left and right
    tally: Tally | None = None

    def at(self, right: bool) -> SavedImage:
        """The picture on the left or on the right."""
        return self.images[1 - self.left if right else self.left]


@dataclass(frozen=True)
class SideControls:
    """The controls of one side."""

    model: gr.Dropdown
    guidance: gr.Slider
    temperature: gr.Slider
    steps: gr.Slider
    solver: gr.Dropdown

    @property
    def settings(self) -> list[Any]:
        return [self.guidance, self.temperature, self.steps, self.solver]


@dataclass(frozen=True)
class PairControls:
    sides: tuple[SideControls, SideControls]
    blind: gr.Checkbox
    run: gr.Button
    stop: gr.Button

    @property
    def models(self) -> list[Any]:
        return [side.model for side in self.sides]

    @property
    def settings(self) -> list[Any]:
        return [setting for side in self.sides for setting in side.settings]


@dataclass(frozen=True)
class PairResults:
    """The two pictures, the vote, and what is shown after it. `chosen` is 0 for the left picture, 1 for the right."""

    pictures: gr.HTML
    votes: gr.Row
    left: gr.Button
    equal: gr.Button
    right: gr.Button
    revealed: gr.HTML
    over: gr.Accordion
    slider: gr.ImageSlider  # within `over`
    actions: gr.Column  # hidden until the sides are revealed
    chosen_line: gr.HTML
    comparison: gr.State
    chosen: gr.State

    @property
    def outputs(self) -> list[Any]:
        """The keys of `PairHandlers.show`."""
        pictures = [self.pictures, self.votes, self.revealed, self.slider]
        return [*pictures, self.actions, self.chosen_line, self.comparison, self.chosen]

    @property
    def source(self) -> PictureSource:
        """The chosen picture."""
        inputs: set[Any] = {self.comparison, self.chosen}
        return PictureSource(inputs, lambda values: chosen_image(values[self.comparison], values[self.chosen]))


def controls(page: PageContext) -> PairControls:
    label = page.texts.label
    # Above the settings, which do not all fit a window: the button is in view.
    with gr.Row(elem_classes="run-row"):
        run = gr.Button(label("compare_run"), variant="primary", elem_id="compare-run", min_width=120)
        stop = gr.Button(label("stop"), variant="stop", elem_id="compare-stop", min_width=120, visible=False)
    with gr.Row(elem_classes="sides"):
        sides = _side_controls(page, "a"), _side_controls(page, "b")
    blind = gr.Checkbox(True, label=label("blind"), info=label("blind_info"), elem_id="compare-blind")
    return PairControls(sides, blind, run, stop)


def _side_controls(page: PageContext, side: str) -> SideControls:
    label = page.texts.label

    def slider(name: str, low: float, high: float, value: float, step: float, visible: bool = True) -> gr.Slider:
        return gr.Slider(low, high, value, step=step, label=label(name), elem_id=f"side-{side}-{name}", visible=visible)

    with gr.Column(min_width=140, elem_classes="card side"):
        return SideControls(
            gr.Dropdown([("", "")], value=None, label=label(f"side_{side}"), elem_id=f"side-{side}-model"),
            slider("guidance", 1, 10, 5, 0.5),
            slider("temperature", 0, 2, 1, 0.05),
            slider("steps", 1, 100, 30, 1, visible=False),
            gr.Dropdown(list(SOLVERS), label=label("solver"), elem_id=f"side-{side}-solver", visible=False),
        )


def results(page: PageContext) -> PairResults:
    label = page.texts.label
    pictures = gr.HTML(elem_id="compare-pictures", html_template=ADDRESSED, js_on_load=PICKED)
    revealed = gr.HTML(elem_id="compare-told", padding=False)
    with gr.Row(elem_classes="actions votes", visible=False, elem_id="compare-votes") as votes:
        left = gr.Button(label("vote_left"), elem_id="vote-left", min_width=90)
        equal = gr.Button(label("vote_equal"), elem_id="vote-equal", min_width=90)
        right = gr.Button(label("vote_right"), elem_id="vote-right", min_width=90)
    with gr.Accordion(label("compare_slider"), open=False, elem_id="compare-over") as over:
        slider = gr.ImageSlider(
            label=label("compare_slider"), show_label=False, type="filepath", interactive=False, slider_position=50,
            buttons=[], height=420, elem_id="compare-slider",
        )  # fmt: skip
    with gr.Column(visible=False, elem_id="compare-chosen", elem_classes="beside") as actions:
        chosen_line = gr.HTML(elem_id="compare-whose", padding=False)
        action_row(page, "compare")
    return PairResults(
        pictures, votes, left, equal, right, revealed, over, slider, actions, chosen_line, gr.State(None), gr.State(0)
    )


@dataclass(frozen=True, eq=False)
class PairHandlers:
    page: PageContext
    shared: SharedParts
    controls: PairControls
    results: PairResults

    def run(self, data: Values, request: gr.Request) -> Iterator[Updates]:
        language = self.page.language(request)
        yield from self.shared.run(self.page, language, lambda stopped: self._views(data, language, stopped))

    def _views(self, data: Values, language: str, stopped: Stopped) -> Iterator[Updates]:
        """Draw both sides and show how far they are, then the two pictures."""
        page, shared = self.page, self.shared
        seed, blind = first_seed(data[shared.new_seed], data[shared.seed]), bool(data[self.controls.blind])
        try:
            one, other = (self._side(data, side, seed) for side in self.controls.sides)
            sides = checked_sides(page.session, (one, other))
        except AppError as error:
            yield shared.refused(error.text(language))
            return
        yield shared.started(page, language, seed)
        images: dict[int, SavedImage] = {}
        frame = None
        for frame in watch(lambda: until(stopped, self._draw(sides, images)), page.texts, language):
            updates: Updates = {
                shared.status: frame.status,
                shared.notes: messages(frame.notices) + (message(frame.error, "error") if frame.error else ""),
            }
            if frame.previews and not blind:  # a preview would show which side is being drawn
                alt = page.texts.say("alt_preview", language, number=1)
                updates[shared.preview] = preview_grid(frame.previews, [""], [alt], preview_quality(page))
            yield updates
        if frame is None or frame.error or len(images) < 2:
            yield self._stopped(language) if stopped() else shared.ended()
            return
        before: Comparison | None = data[self.results.comparison]
        names = (vote_key(sides[0]), vote_key(sides[1]))
        try:
            with os_errors_as_app_errors(Message("copy_not_made"), page.images.serving):
                now = arranged(page, (images[0], images[1]), names, blind, before.tally if before else None)
        except AppError as error:  # the pictures themselves are saved
            yield shared.refused(error.text(language))
            return
        line = page.texts.say("compare_done", language)
        yield {
            **shared.ended(message(line, "done")),
            shared.pair_results: gr.update(visible=True),
            **self.show(now, language),
        }

    def _side(self, data: Values, side: SideControls, seed: Any) -> Side:
        """The model and the request of one side. Raises AppError."""
        variant = self.page.resolve(data[side.model])
        request = GenerateRequest(
            prompt=data[self.shared.prompt] or "",
            guidance=number(data[side.guidance], "input_guidance"),
            temperature=number(data[side.temperature], "input_temperature"),
            seed=whole_number(seed, "input_seed"),
            steps=whole_number(data[side.steps], "input_steps"),
            solver=data[side.solver] or SOLVERS[0],
            think=variant.thinking is not None,
        )
        return Side(variant, request)

    def _draw(self, sides: tuple[Side, Side], images: dict[int, SavedImage]) -> Iterator[Event]:
        """Draw both sides; adds each finished picture to `images` by the number of its side."""
        for step in self.page.limited(draw_sides(self.page.session, sides, self.page.images.store)):
            if isinstance(step, DrawnSide):
                images[step.side] = self.page.images.show(step.picture)
            else:
                yield step

    def _stopped(self, language: str) -> Updates:
        line = self.page.texts.say("compare_stopped", language, title=self.page.session.state.title or "–")
        return self.shared.ended(message(line))

    def vote(self, data: Values, request: gr.Request, left_better: bool | None) -> Updates:
        """Count the vote (None: equally good) and reveal the sides."""
        page, language = self.page, self.page.language(request)
        now: Comparison | None = data[self.results.comparison]
        if now is None or not now.blind:
            return gr.skip()
        better = None if left_better is None else now.left if left_better else 1 - now.left
        choice: Choice = "equal" if better is None else ("one", "other")[better]
        same = now.tally is not None and (now.tally.one, now.tally.other) == now.names
        tally = (now.tally if same and now.tally else Tally(*now.names)).with_vote(choice)
        notes = ""
        if page.library:
            try:
                tally = page.library.votes.vote(*now.names, choice)
            except AppError as error:
                notes = message(error.text(language), "error")
        updates = {
            **self.show(replace(now, blind=False, tally=tally), language),
            self.shared.status: message(page.texts.say("compare_done", language), "done"),
            self.shared.notes: notes,
        }
        if job := page.runs.showing("compare"):
            job.show(updates)
        return updates

    def vote_left(self, data: Values, request: gr.Request) -> Updates:
        return self.vote(data, request, True)

    def vote_equal(self, data: Values, request: gr.Request) -> Updates:
        return self.vote(data, request, None)

    def vote_right(self, data: Values, request: gr.Request) -> Updates:
        return self.vote(data, request, False)

    def show(self, now: Comparison, language: str) -> Updates:
        """The two pictures; which side is which only if that is not hidden any more."""
        say, results = self.page.texts.say, self.results
        if now.blind:
            captions = [say("seat_left", language), say("seat_right", language)]
        else:
            captions = [now.at(right).metadata.title for right in (False, True)]
        question = f"<p>{escape(say('compare_judge', language))}</p>"
        return {
            results.pictures: pair_html(now, captions, say("enlarge", language)),
            results.votes: gr.update(visible=now.blind),
            results.revealed: question if now.blind else revealed_html(self.page, now, language),
            results.slider: gr.update(value=now.files),
            results.comparison: now,
            results.actions: gr.update(visible=not now.blind),
            results.chosen_line: self._chosen_line(0, language),
            results.chosen: 0,
        }

    def unfold(self, data: Values) -> Updates:
        """The two pictures on the slider, which Gradio builds when it is unfolded: after a refresh, without them."""
        now: Comparison | None = data[self.results.comparison]
        return {self.results.slider: gr.update(value=now.files)} if now else gr.skip()

    def choose(self, request: gr.Request, event: gr.EventData) -> Updates:
        chosen = min(int(event.picture), 1)
        return {
            self.results.chosen: chosen,
            self.results.chosen_line: self._chosen_line(chosen, self.page.language(request)),
        }

    def _chosen_line(self, chosen: int, language: str) -> str:
        """Which of the two pictures the row of buttons is about."""
        line = self.page.texts.say("compare_right" if chosen else "compare_left", language)
        return f"<p>{escape(line)}</p>"

    def choose_model(self, side: SideControls, name: str | None, language: str) -> Updates:
        """The settings of the chosen model; those it does not have are hidden."""
        try:
            variant = self.page.resolve(name)
        except AppError:
            return gr.skip()
        names = [(self.page.texts.named("solver", solver, language), solver) for solver in variant.solvers]
        updates = {getattr(side, slider): slider_update(variant.settings.get(slider)) for slider in SLIDERS}
        updates[side.solver] = (
            gr.update(choices=names, value=variant.solvers[0], visible=True) if names else gr.update(visible=False)
        )
        return updates

    def fit_ranges(self, data: Values, request: gr.Request) -> Updates:
        """The ranges of the settings of the chosen models; the values stay as they are."""
        language = self.page.language(request)
        updates: Updates = {}
        for side in self.controls.sides:
            for setting, update in self.choose_model(side, data[side.model], language).items():
                updates[setting] = {name: new for name, new in update.items() if name != "value"}
        return updates

    def refresh(self, data: Values, selected: str | None, language: str) -> Updates:
        """The models that need no download.

        A choice that is still there stays; else side A takes the model at hand and side B another one.
        """
        able = [v for v in self.page.catalog.values() if "generate" in v.verbs and cached(self.page, v)]
        now = self.page.variant(selected)
        if now.id not in self.page.catalog and "generate" in now.verbs:
            able.insert(0, now)
        choices = [(v.title, v.id if v.id in self.page.catalog else str(v.folder)) for v in able]
        names = [name for _, name in choices]
        here = next((name for name in (now.id, str(now.folder)) if name in names), None)
        defaults = (here, next((name for name in names if name != here), here))
        updates: Updates = {}
        for side, default in zip(self.controls.sides, defaults, strict=True):
            if data[side.model] in names:  # or what the user chose meanwhile
                updates[side.model] = gr.update(choices=choices)
            else:
                updates[side.model] = gr.update(choices=choices, value=default)
                updates |= self.choose_model(side, default, language)
        return updates


def wire(page: PageContext, shared: SharedParts, controls: PairControls, results: PairResults) -> PairHandlers:
    """Connect the events of the pair."""
    handlers = PairHandlers(page, shared, controls, results)
    inputs = {*shared.inputs, controls.blind, results.comparison, *controls.models}
    inputs |= set(controls.settings)
    controls.run.click(handlers.run, inputs, [*shared.outputs, *results.outputs], **JOB)
    controls.stop.click(lambda: shared.stop(page), None, None, **QUICK)
    for button, vote in (
        (results.left, handlers.vote_left),
        (results.equal, handlers.vote_equal),
        (results.right, handlers.vote_right),
    ):
        button.click(vote, {results.comparison}, [*results.outputs, shared.status, shared.notes], **QUICK)
    results.over.expand(handlers.unfold, {results.comparison}, [results.slider], **QUICK)
    results.pictures.select(handlers.choose, None, [results.chosen, results.chosen_line], **QUICK)
    for side in controls.sides:

        def choose_model(data: Values, request: gr.Request, side: SideControls = side) -> Updates:
            return handlers.choose_model(side, data[side.model], page.language(request))

        side.model.input(choose_model, {side.model}, side.settings, **QUICK)
    return handlers


def arranged(
    page: PageContext,
    images: tuple[SavedImage, SavedImage],
    names: tuple[str, str],
    blind: bool,
    tally: Tally | None = None,
) -> Comparison:
    """The comparison as it is shown. If it is blind, the order is random and the file names say nothing."""
    left = secrets.randbelow(2) if blind else 0
    pair = (images[left], images[1 - left])
    if not blind:
        return Comparison(images, names, left, False, (pair[0].shown, pair[1].shown), tally)
    folder = page.images.new_folder()
    folder.mkdir(parents=True)
    files = [
        str(shutil.copyfile(image.file, folder / f"{place}.png"))
        for image, place in zip(pair, ("left", "right"), strict=True)
    ]
    return Comparison(images, names, left, True, (files[0], files[1]), tally)


def pair_html(now: Comparison, captions: list[str], label: str) -> str:
    """The two pictures as large as they fit. A click chooses one for the verbs and shows it in the lightbox."""
    size = now.at(False).metadata.size
    figures = "".join(
        figure(address(file), line, size, escape(line), label=label, number=place)
        for place, (file, line) in enumerate(zip(now.files, captions, strict=True))
    )
    return f'<div class="pair">{figures}</div>'


def chosen_image(now: Comparison | None, chosen: int) -> SavedImage:
    """The picture on the left (0) or on the right (1). Raises AppError while there is none or it is judged blind."""
    if now is None or now.blind:
        raise AppError("comparison_not_judged")
    return now.at(bool(chosen))


def revealed_html(page: PageContext, now: Comparison, language: str) -> str:
    """Which side is which, and the votes so far."""
    say = page.texts.say
    pairs = []
    for place, side in (("seat_left", now.left), ("seat_right", 1 - now.left)):
        record = now.images[side].metadata
        letter = say("side_b" if side else "side_a", language)
        line = f"{letter}: {record.title} · {record.precision} · {settings_line(page, record, language)}"
        pairs.append((say(place, language), line))
    if now.tally and now.tally.count:
        tally = now.tally
        score = say("score_line", language, a=tally.one_better, b=tally.other_better, equal=tally.equal)
        pairs.append((say("score", language), score))
    pairs.append((say("file", language), ", ".join(image.file.name for image in now.images)))
    return facts(pairs)
