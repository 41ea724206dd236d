"""The bar at the top of the page: choose a model, a device and a precision, load and unload, see the state."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from janus_app.errors import AppError, Message
from janus_app.formatting import share_text, size_text
from janus_app.registry.types import Variant
from janus_app.runtime.session import SessionState
from janus_app.types import PRECISIONS, Event
from janus_app.ui.common.actions import halt
from janus_app.ui.common.html import message, messages
from janus_app.ui.common.jobs import KNOWN_STAGES, watch
from janus_app.ui.context import JOB, QUICK, PageContext, Updates, Values, attach
from janus_app.ui.tabs.models import connect_panel, files_panel, machine_panel
from janus_app.ui.tabs.models.files_panel import FilesHandlers
from janus_app.ui.tabs.models.machine_panel import Choice, MachineHandlers, resolve

TICK_SECONDS = 1.0
FOLDER = "(folder)"  # translates the texts of a checkpoint folder that is in no list
# Runs in the browser, because the user may choose a model while the page still asks which one is loaded.
CHOOSE_LOADED = "(chosen, loaded) => chosen === %s ? loaded : chosen"


@dataclass(frozen=True)
class ModelBar:
    """The parts of the bar.

    `seen` holds the id of the loaded variant as this browser tab last saw it. It is a hidden textbox, because changes
    of a State outside the queue fire no event. `shown` holds the state line, so that an unchanged one is not sent
    again.
    """

    choice: Choice
    load: gr.Button
    pause: gr.Button
    cancel: gr.Button
    unload: gr.Button
    state: gr.HTML
    work: gr.HTML
    about: gr.HTML
    seen: gr.Textbox
    shown: gr.State

    @property
    def variant(self) -> gr.Dropdown:
        return self.choice.variant

    @property
    def outputs(self) -> list[Any]:
        """What a load or unload may change."""
        return [self.work, self.load, self.pause, self.cancel, self.unload, self.variant]


def build(page: PageContext, demo: gr.Blocks) -> ModelBar:
    """Build the bar and the panels below it, and connect them."""
    with gr.Column(elem_id="model-bar", elem_classes="card"):
        with gr.Row(elem_classes="model-row", equal_height=False):
            choice = _choice(page)
            buttons = _buttons(page)
        state = gr.HTML(elem_id="model-state", padding=False)
        work = gr.HTML(elem_id="model-work", padding=False)
        about = gr.HTML(elem_id="model-about", padding=False)
        machine = machine_panel.build(page)
        files = files_panel.build(page)
        connect_panel.build(page)
    seen = gr.Textbox("", visible="hidden", elem_id="model-seen", label="model-seen")
    bar = ModelBar(choice, *buttons, state, work, about, seen, gr.State(""))
    machine_panel.wire(MachineHandlers(page, machine, choice), demo)
    wire(ModelHandlers(page, bar, FilesHandlers(page, files, bar.variant)), demo)
    return bar


def _choice(page: PageContext) -> Choice:
    label = page.texts.label
    variant = gr.Dropdown(
        choices=[(v.title, v.id) for v in page.catalog.values()],
        value=page.variant(None).id,
        label=label("model"),
        elem_id="model-variant",
        allow_custom_value=not page.shared,
        scale=5,
        min_width=240,
    )
    device = gr.Dropdown(
        ["auto"],  # the machine panel adds the others
        value="auto",
        label=label("device"),
        allow_custom_value=not page.shared,
        elem_id="model-device",
        scale=1,
        min_width=140,
    )
    precision = gr.Dropdown(
        ["auto", *PRECISIONS], value="auto", label=label("precision"), elem_id="model-precision", scale=1, min_width=150
    )
    return Choice(variant, device, precision)


def _buttons(page: PageContext) -> tuple[gr.Button, gr.Button, gr.Button, gr.Button]:
    """load, pause, cancel, unload"""

    def button(name: str, variant: Any = "secondary", visible: bool = True) -> gr.Button:
        label = page.texts.label(name)
        return gr.Button(label, variant=variant, elem_id=f"model-{name}", min_width=90, visible=visible)

    with gr.Row(elem_classes="model-buttons", scale=2):
        return (
            button("load", "primary"),
            button("pause", visible=False),
            button("cancel", "stop", visible=False),
            button("unload"),
        )


@dataclass(frozen=True, eq=False)
class ModelHandlers:
    page: PageContext
    bar: ModelBar
    files: FilesHandlers

    def tick(self, values: Values, request: gr.Request) -> Updates:
        html = state_html(self.page, self.page.language(request))
        if html == values[self.bar.shown]:
            return gr.skip()
        return {
            self.bar.state: html,
            self.bar.shown: html,
            self.bar.seen: self.page.session.state.variant_id or "",
        }

    def opened(self, request: gr.Request) -> Updates:
        language = self.page.language(request)
        html = state_html(self.page, language)
        return {
            self.bar.variant: gr.update(choices=variant_choices(self.page, language)),
            self.bar.state: html,
            self.bar.shown: html,
            self.bar.seen: self.page.variant(None).id,
        }

    def choose(self, values: Values, request: gr.Request) -> Updates:
        language = self.page.language(request)
        try:
            variant = resolve(self.page, values[self.bar.variant])
        except AppError as error:
            return {self.bar.about: message(error.text(language), "error")}
        return {
            self.bar.about: about_html(self.page, variant, language),
            self.bar.load: load_label(self.page, variant, language),
            **self.files.describe(variant, language),
        }

    def load(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        name, device, precision = (values[c] for c in vars(self.bar.choice).values())
        yield from self._run(lambda: loading(self.page, name, device, precision), name, request)

    def unload(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        page = self.page
        yield from self._run(lambda: page.limited(page.session.unload()), values[self.bar.variant], request)

    def _run(self, start: Callable[[], Iterator[Event]], name: str | None, request: gr.Request) -> Iterator[Updates]:
        """The progress of a load or unload, then the bar as it is now."""
        language, bar = self.page.language(request), self.bar
        yield {bar.work: message(self.page.texts.say("starting", language)), **self._busy(running=True)}
        frame = None
        for frame in watch(start, self.page.texts, language):
            downloading = frame.progress is not None and frame.progress.stage == "download"
            # The pause button is in every frame, because a busy browser may miss one.
            yield {bar.work: frame.status + messages(frame.notices), bar.pause: gr.update(visible=downloading)}
        end = messages(frame.notices) + message(frame.error, "error") if frame else ""
        yield self._ended(name, language, end)

    def _busy(self, running: bool) -> Updates:
        bar = self.bar
        updates: Updates = {button: gr.update(visible=not running) for button in (bar.load, bar.unload)}
        return {**updates, bar.pause: gr.update(visible=False), bar.cancel: gr.update(visible=running)}

    def _ended(self, name: str | None, language: str, end: str) -> Updates:
        """No load is running any more; `end` (HTML) says how it ended."""
        updates = self._busy(running=False)
        with contextlib.suppress(AppError):  # a folder that is gone by now
            updates[self.bar.load] |= load_label(self.page, resolve(self.page, name), language)
        choices = gr.update(choices=variant_choices(self.page, language))
        return {**updates, self.bar.work: end, self.bar.variant: choices}

    def paused(self, values: Values, request: gr.Request) -> Updates:
        return self._interrupted("load_paused", values[self.bar.variant], request)

    def cancelled(self, values: Values, request: gr.Request) -> Updates:
        return self._interrupted("load_stopped", values[self.bar.variant], request)

    def _interrupted(self, key: str, name: str | None, request: gr.Request) -> Updates:
        language = self.page.language(request)
        return self._ended(name, language, message(interrupted_line(self.page, name, language, key)))

    def describe_files(self, values: Values, request: gr.Request) -> Updates:
        with contextlib.suppress(AppError):
            variant = resolve(self.page, values[self.bar.variant])
            return self.files.describe(variant, self.page.language(request)) or gr.skip()
        return gr.skip()

    def files_changed(self, values: Values, request: gr.Request) -> Updates:
        language = self.page.language(request)
        updates: Updates = {self.bar.variant: gr.update(choices=variant_choices(self.page, language))}
        with contextlib.suppress(AppError):  # a folder that is gone by now
            updates[self.bar.load] = load_label(self.page, resolve(self.page, values[self.bar.variant]), language)
        return updates


def wire(handlers: ModelHandlers, demo: gr.Blocks) -> None:
    """Connect the events of the bar."""
    bar, variant, files = handlers.bar, handlers.bar.variant, handlers.files.panel.described
    described = {bar.about, bar.load, *files}
    opened = attach(demo.load, handlers.opened, None, {variant, bar.state, bar.shown, bar.seen}, **QUICK)
    default = json.dumps(handlers.page.variant(None).id)
    chosen = opened.then(None, [variant, bar.seen], variant, js=CHOOSE_LOADED % default)
    for event in (chosen.then, variant.change):
        attach(event, handlers.choose, {variant}, described, **QUICK)
    attach(gr.Timer(TICK_SECONDS).tick, handlers.tick, {bar.shown}, {bar.state, bar.shown, bar.seen}, **QUICK)
    load = attach(bar.load.click, handlers.load, set(vars(bar.choice).values()), bar.outputs, **JOB)
    unloading = attach(bar.unload.click, handlers.unload, {variant}, bar.outputs, **JOB)
    attach(load.then, handlers.describe_files, {variant}, files, **QUICK)
    for end in files_panel.wire(handlers.files):
        attach(end.then, handlers.files_changed, {variant}, {bar.load, variant}, **QUICK)
    for button, handler in ((bar.pause, handlers.paused), (bar.cancel, handlers.cancelled)):
        end = attach(halt(button.click, [load, unloading]).then, handler, {variant}, bar.outputs, **QUICK)
        attach(end.then, handlers.describe_files, {variant}, files, **QUICK)


def loading(page: PageContext, name: str | None, device: str, precision: str) -> Iterator[Event]:
    """Load a model; download it first if needed, which leaves the session free for other jobs."""
    return page.limited(_loading(page, name, device, precision))


def _loading(page: PageContext, name: str | None, device: str, precision: str) -> Iterator[Event]:
    session, variant = page.session, resolve(page, name)
    if not cached(page, variant):
        if page.shared:
            raise AppError("shared_page_download")
        session.plan_load(variant, device).choose(precision)  # raises before the download if it cannot fit
        yield from session.hub.fetch(variant)
    yield from session.load(page.catalog.name_of(variant), device=device, precision=precision)


def load_label(page: PageContext, variant: Variant, language: str) -> dict[str, Any]:
    """The load button for this variant: load, download and load, or resume a download."""
    status = page.session.hub.status(variant)
    begun = status.unfinished if variant.is_local else status.on_disk
    # A folder without weights has nothing to download: the attempt to load it says what to put there.
    ready = status.complete or (variant.is_local and "config.json" in status.missing)
    key = "load" if ready else "resume" if begun else "load_download"
    updated: dict[str, Any] = gr.update(value=page.texts.say(key, language))
    return updated


def interrupted_line(page: PageContext, name: str | None, language: str, key: str) -> str:
    """That loading was cancelled or paused, and how much of a download is on disk."""
    line = page.texts.say(key, language)
    try:
        status = page.session.hub.status(resolve(page, name))
    except AppError:
        return line
    if status.complete or not status.on_disk:
        return line
    done, total = share_text(status.on_disk, status.total)
    return f"{line} {page.texts.say('load_kept', language, done=done, total=total)}"


def cached(page: PageContext, variant: Variant) -> bool:
    """Whether loading needs no download."""
    return page.session.hub.status(_as_loaded(page, variant)).complete


def _as_loaded(page: PageContext, variant: Variant) -> Variant:
    """The row with the components that its folder's config.json names; the row itself where that is unreadable."""
    with contextlib.suppress(AppError):
        return page.resolve(page.catalog.name_of(variant))
    return variant


def variant_choices(page: PageContext, language: str) -> list[tuple[str, str]]:
    """(title and whether a download is needed, id) of each variant."""
    choices = []
    for row in page.catalog.values():
        variant = _as_loaded(page, row)
        status = page.session.hub.status(variant)
        if status.complete:
            where = page.texts.say("on_disk", language)
        elif variant.is_local and "config.json" in status.missing:  # its weights cannot be downloaded
            where = page.texts.say("not_on_disk", language)
        else:
            where = page.texts.say("to_download", language, size=size_text(variant.download_bytes))
        choices.append((f"{variant.title} · {where}", variant.id))
    return choices


def state_html(page: PageContext, language: str) -> str:
    """One line: what is loaded, what it does, and how much memory it takes."""
    state, say = page.session.state, page.texts.say
    parts = []
    if state.phase == "empty":
        unloaded = say("state_resting", language, title=state.idle_unloaded) if state.idle_unloaded else ""
        parts.append(escape(unloaded or say("state_empty", language)))
    else:
        parts.append(f"<strong>{escape(state.title)}</strong>")
        parts.append(escape(say(f"state_{state.phase}", language)))
        if state.precision and state.device:
            parts.append(escape(say("precision_on", language, precision=state.precision, device=state.device)))
    if state.replicas:
        ready, most = state.replicas
        parts.append(escape(say("state_replicas", language, ready=ready, total=most)))
    if doing := _doing(page, state, language):
        parts.append(escape(doing))
    if state.memory_used is not None and state.memory_total:
        used, total = size_text(state.memory_used), size_text(state.memory_total)
        parts.append(escape(say("memory", language, used=used, total=total)))
    checked = state.weight_check
    if checked is not None and not checked.problems:
        parts.append(escape(say("state_checked" if checked.complete else "state_checked_partly", language)))
    if state.queue:
        parts.append(escape(say("waiting", language, count=state.queue)))
    line = f'<div class="state-line {escape(state.phase)}"><span class="dot"></span>{"<i>·</i>".join(parts)}</div>'
    wrong = checked.message(state.title).text(language) if checked is not None and checked.problems else ""
    silence = state.silence.text(language) if state.silence else ""
    return line + message(wrong, "warning") + message(silence, "warning")


def _doing(page: PageContext, state: SessionState, language: str) -> str:
    """What the running job does: its verb, or the stage of a load with its share done."""
    say, progress = page.texts.say, state.progress
    if state.verb:
        return say(f"doing_{state.verb}", language)
    if progress is None:
        return ""
    stage = say(f"stage_{progress.stage}", language) if progress.stage in KNOWN_STAGES else progress.stage
    share = f" {progress.done * 100 // progress.total} %" if progress.total else ""
    detail = progress.detail.text(language) if isinstance(progress.detail, Message) else progress.detail
    return f"{stage}{share} {detail}".strip()


def about_html(page: PageContext, variant: Variant, language: str) -> str:
    """What is known about the chosen variant, and its licences."""
    say = page.texts.say

    def text(field: str) -> str:
        model = variant.id if variant.id in page.catalog else FOLDER
        return page.texts.variant_text(model, field, getattr(variant, field), language)

    status = f"<p>{escape(text('status'))}</p>" if variant.status else ""
    licence = say("licence", language, code=text("code_licence"), weights=text("weights_licence"))
    extra = " ".join(filter(None, (text("licence_note"), text("notes"))))
    detail = f"<p>{escape(extra)}</p>" if extra else ""
    return f'<div class="about">{status}<details><summary>{escape(licence)}</summary>{detail}</details></div>'
