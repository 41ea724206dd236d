"""The drawer of the model: the list to choose from, device and precision, its licence and files, and this machine.

Choosing a model loads it. Every browser tab shows the model that is loaded, whichever tab loaded it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.formatting import share_text
from janus_app.hub.probe import reach
from janus_app.registry.types import Variant
from janus_app.types import PRECISIONS, Event
from janus_app.ui.common.html import message, messages
from janus_app.ui.common.jobs import Frame, watch
from janus_app.ui.common.running import Load, until
from janus_app.ui.context import JOB, QUICK, PageContext, Updates, Values, attach
from janus_app.ui.tabs.models import adapters_panel, connect_panel, files_panel, machine_panel
from janus_app.ui.tabs.models.adapters_panel import AdaptersPanel
from janus_app.ui.tabs.models.files_panel import FilesHandlers
from janus_app.ui.tabs.models.machine_panel import Choice, MachineHandlers, resolve
from janus_app.ui.tabs.models.model_line import ModelLine, checked_line, state_html, warnings
from janus_app.ui.tabs.models.model_list import CHOSEN, ON_CLICK, Fit, cached, fits, list_html, own_html, starters
from janus_app.ui.tabs.models.welcome import welcome_html

if TYPE_CHECKING:
    from janus_app.runtime.adapters import Adapter

TICK_SECONDS = 1.0
WIDTH = 420
FOLDER = "(folder)"  # translates the texts of a checkpoint folder that is in no list
HEAD = (
    '<div class="drawer-head"><h2>{title}</h2>'
    '<button type="button" class="icon" data-janus="drawer" aria-label="{close}">✕</button></div>'
    '<p class="about">{about}</p>'
)


@dataclass(frozen=True)
class ModelDrawer:
    """The parts of the drawer. `choice.variant` is hidden: it holds the name of the model that is loaded."""

    frame: gr.Sidebar
    choice: Choice
    welcome: gr.HTML
    head: gr.HTML
    listed: gr.HTML
    own: gr.HTML
    folder: gr.Textbox
    use: gr.Button
    unload: gr.Button
    adapters: AdaptersPanel
    about: gr.HTML

    @property
    def variant(self) -> gr.Dropdown:
        return self.choice.variant


def build(page: PageContext, demo: gr.Blocks, line: ModelLine, welcome: gr.HTML, joined: Any) -> ModelDrawer:
    """Build the drawer and connect it with the line about the model and the welcome, which offers one too.

    `joined` is the event after which the page knows what this browser tab started before it was opened anew.
    """
    label = page.texts.label
    with gr.Sidebar(open=False, position="right", width=WIDTH, elem_id="model-drawer") as frame:
        head = gr.HTML(elem_id="model-head", padding=False)
        listed = gr.HTML(elem_id="model-list", padding=False, js_on_load=ON_CLICK)
        with gr.Accordion(label("models_own"), open=False, elem_id="model-own", visible=not page.shared):
            own = gr.HTML(elem_id="model-own-list", padding=False)
            folder = gr.Textbox(label=label("own_folder"), info=label("own_folder_info"), elem_id="model-folder")
            use = gr.Button(label("own_use"), size="sm", elem_id="model-use")
        with gr.Accordion(label("model_place"), open=False, elem_id="model-place"):
            choice = _choice(page)
            fit = gr.HTML(elem_id="model-fit", padding=False)
            unload = gr.Button(label("unload"), size="sm", elem_id="model-unload")
        adapters = adapters_panel.build(page)
        about = gr.HTML(elem_id="model-about", padding=False)
        files = files_panel.build(page)
        machine = machine_panel.build(page, fit)
        connect_panel.build(page)
    drawer = ModelDrawer(frame, choice, welcome, head, listed, own, folder, use, unload, adapters, about)
    machine_panel.wire(MachineHandlers(page, machine, choice), demo, joined)
    wire(ModelHandlers(page, line, drawer, FilesHandlers(page, files, files.chosen)), demo, joined)
    return drawer


def _choice(page: PageContext) -> Choice:
    label = page.texts.label
    variant = gr.Dropdown(
        choices=[(v.title, v.id) for v in page.catalog.values()],
        value=page.variant(None).id,
        label=label("model"),
        elem_id="model-variant",
        allow_custom_value=not page.shared,
        visible="hidden",
    )
    device = gr.Dropdown(
        ["auto"],  # the machine panel adds the others
        value="auto",
        label=label("device"),
        allow_custom_value=not page.shared,
        elem_id="model-device",
    )
    precision = gr.Dropdown(["auto", *PRECISIONS], value="auto", label=label("precision"), elem_id="model-precision")
    return Choice(variant, device, precision)


@dataclass(frozen=True, eq=False)
class ModelHandlers:
    page: PageContext
    line: ModelLine
    drawer: ModelDrawer
    files: FilesHandlers
    judged: dict[str, Fit] = field(default_factory=dict)  # what the fit advisor said last, for every visitor

    @property
    def outputs(self) -> set[Any]:
        """What a load or unload may change."""
        line, drawer = self.line, self.drawer
        shown = {line.work, line.cancel, line.working, line.ended, line.state, line.warnings, line.seen}
        return {*shown, *drawer.choice.all, drawer.listed, drawer.own, drawer.adapters.note, drawer.adapters.chosen}

    def opened(self, request: gr.Request) -> Updates:
        language = self.page.language(request)
        say = self.page.texts.say
        head = HEAD.format(
            title=escape(say("model", language)),
            close=escape(say("close", language), quote=True),
            about=escape(say("about_models", language)),
        )
        welcome = welcome_html(self.page, language, self.judged)
        load, nothing = self.page.runs.loading(self.page.shared), self.page.session.state.phase == "empty"
        failed = message(load.view.error, "error") if load and load.ended and nothing else ""
        return {
            self.drawer.head: head,
            self.drawer.welcome: welcome,
            self.line.ended: failed,
            **self._state(language),
            **self.now(language),
        }

    def suggest(self, request: gr.Request) -> Updates:
        """The welcome with the first model that fits. It asks the fit advisor about no other: the page is just open."""
        for name, fit in fits(self.page, starters(self.page)):
            self.judged[name] = fit
            if fit.best:
                break
        return {self.drawer.welcome: welcome_html(self.page, self.page.language(request), self.judged)}

    def judge(self, request: gr.Request) -> Updates:
        """The list with the fit advisor's word on each model, as memory is free now."""
        self.judged.update(fits(self.page, self.page.catalog.values()))
        listed = list_html(self.page, self.page.language(request), self.judged)
        return {self.drawer.listed: listed, **adapters_panel.offered(self.page, self.drawer.adapters)}

    def tick(self, values: Values, request: gr.Request) -> Updates:
        """The state, where it changed, and what another browser tab loads or loaded, or this one before a refresh.

        What is shown comes from the browser itself, which may have missed an answer.
        """
        self.page.shown.set()
        language, load = self.page.language(request), self.page.runs.loading(self.page.shared)
        updates = self._state(language)
        if load and not load.ended:
            return {**updates, **self._working(load.view, language)}
        if load and values[self.line.working]:
            return {**updates, **self._ended(load, language)}
        if all(html == values[part] for part, html in updates.items()):
            return gr.skip()
        loaded = self.page.loaded_variant()
        if (loaded.id if loaded else "") != values[self.line.seen]:
            updates |= self.now(language)
        return updates

    def _state(self, language: str) -> Updates:
        wrong = messages(warnings(self.page, language), "warning")
        return {self.line.state: state_html(self.page, language), self.line.warnings: wrong}

    def now(self, language: str) -> Updates:
        """The list and the hidden name of the model as they are: the loaded one, where one is loaded."""
        drawer, loaded = self.drawer, self.page.loaded_variant()
        updates: Updates = {
            drawer.listed: list_html(self.page, language, self.judged),
            drawer.own: own_html(self.page, language),
            self.line.seen: loaded.id if loaded else "",
        }
        if loaded is not None:
            updates[drawer.variant] = gr.update(value=self._name(loaded), choices=self._names())
            updates |= self._placed(loaded)
        return updates

    def _placed(self, loaded: Variant) -> Updates:
        """The device and the precision that the load of the model asked for, in whichever browser tab it was."""
        choice, load = self.drawer.choice, self.page.runs.loading(self.page.shared)
        asked = ("auto", "auto")  # by a program, or for a picture of the history
        if load:
            if not load.ended or load.stopped or load.view.error:
                return {}  # the model before stays
            name, device, precision, *_ = (*load.wanted, "", "")
            if precision in ("auto", self.page.session.state.precision):
                with suppress(AppError):
                    asked = (device, precision) if resolve(self.page, name).id == loaded.id else asked
        return dict(zip((choice.device, choice.precision), asked, strict=True))

    def _names(self) -> list[tuple[str, str]]:
        """(title, name) of every model, also of a loaded folder that is in no list."""
        names, loaded = [(v.title, v.id) for v in self.page.catalog.values()], self.page.loaded_variant()
        if loaded is not None and loaded.id not in self.page.catalog:
            names.append((loaded.title, self._name(loaded)))
        return names

    def _name(self, loaded: Variant) -> str:
        return loaded.id if self.page.shared else self.page.catalog.name_of(loaded)

    def describe(self, values: Values, request: gr.Request) -> Updates:
        """What is known about the loaded model, and its files."""
        language = self.page.language(request)
        try:
            variant = resolve(self.page, values[self.drawer.variant])
        except AppError as error:
            return {self.drawer.about: message(error.text(language), "error")}
        about = about_html(self.page, variant, language) + message(checked_line(self.page, language), "done")
        if self.files.busy:  # with the files of the model that is chosen there
            return {self.drawer.about: about, self.files.chosen: gr.update(choices=self._names())}
        return {
            self.drawer.about: about,
            self.files.chosen: gr.update(value=self._name(variant), choices=self._names()),
            **self.files.describe(variant, language),
        }

    def choose(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """Load the model that was clicked in the list, in the precision that fits."""
        choice = self.drawer.choice
        yield from self._load(values[choice.variant], values[choice.device], "auto", request)

    def use(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """Load the folder whose path was typed."""
        yield from self._load(values[self.drawer.folder], values[self.drawer.choice.device], "auto", request)

    def again(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """Load the model again on another device or in another precision, with the adapters that it has."""
        name, device, precision = (values[part] for part in vars(self.drawer.choice).values())
        yield from self._load(name, device, precision, request, self.page.session.state.adapters)

    def adapt(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """Load the model again with the chosen adapters."""
        name, device, precision = (values[part] for part in vars(self.drawer.choice).values())
        panel = self.drawer.adapters
        try:
            adapters = adapters_panel.found(self.page, values[panel.chosen])
        except AppError as error:
            yield {panel.note: message(error.text(self.page.language(request)), "error")}
            return
        yield {panel.note: ""}
        precision = self.page.session.state.precision or precision
        problem = yield from self._load(name, device, precision, request, adapters)
        if problem:
            yield {panel.note: message(problem, "error")}

    def _load(
        self, name: str | None, device: str, precision: str, request: gr.Request, adapters: Sequence[Adapter] = ()
    ) -> Generator[Updates, None, str]:
        wanted = (name, device, precision, *adapters)
        return (yield from self._run(lambda: loading(self.page, name, device, precision, adapters), wanted, request))

    def unload(self, request: gr.Request) -> Iterator[Updates]:
        page = self.page
        yield from self._run(lambda: page.limited(page.session.unload()), (None,), request)

    def _run(
        self, start: Callable[[], Iterator[Event]], wanted: tuple[Any, ...], request: gr.Request
    ) -> Generator[Updates, None, str]:
        """The progress of a load or unload, then the line and the drawer as they are now. Returns the error, if any."""
        page, language = self.page, self.page.language(request)
        try:
            load = load_on(page, start, wanted, language)
        except AppError as error:
            yield {self.line.ended: message(error.text(language), "error")}
            return error.text(language)
        for frame in load.follow():
            if page.runs.loading(page.shared) is not load:  # another model is wanted by now
                yield gr.skip()  # at its end, Gradio sends a generator's last values once more
                return ""
            yield self._working(frame, language)
        yield self._ended(load, language)
        return load.view.error

    def _working(self, frame: Frame, language: str) -> Updates:
        downloading = frame.progress is not None and frame.progress.stage == "download"
        # What is downloaded is kept, so there the button pauses. It is in every frame: a busy browser may miss one.
        button = gr.update(visible=True, value=self.page.texts.say("pause" if downloading else "cancel", language))
        return {
            self.line.work: frame.status,
            self.line.ended: messages(frame.notices),
            self.line.cancel: button,
            self.line.working: True,
        }

    def _ended(self, load: Load, language: str) -> Updates:
        """No load is running any more, and how the last one ended."""
        line, page, frame = self.line, self.page, load.view
        said = warnings(page, language)  # which stay as long as the model
        end = messages([told for told in frame.notices if told not in said]) + message(frame.error, "error")
        if load.stopped:
            end = message(interrupted_line(page, load.wanted[0], language))
        updates: Updates = {
            line.work: "",
            line.ended: end,
            line.cancel: gr.update(visible=False, value=page.texts.say("cancel", language)),
            line.working: False,
            **self._state(language),
            **self.now(language),
        }
        if not frame.error and not load.stopped:  # what was asked for stays
            updates |= adapters_panel.offered(page, self.drawer.adapters)
        return updates

    def cancel(self) -> None:
        """Stop the load; its own end says so."""
        if load := self.page.runs.loading(self.page.shared):
            load.stop()

    def files_changed(self, request: gr.Request) -> Updates:
        return self.now(self.page.language(request))


def wire(handlers: ModelHandlers, demo: gr.Blocks, joined: Any) -> None:
    """Connect the events of the line and the drawer."""
    line, drawer, files = handlers.line, handlers.drawer, handlers.files.panel.described
    choice, outputs = drawer.choice, handlers.outputs
    named = {drawer.listed, drawer.own, *choice.all, line.seen}
    opening = {drawer.head, drawer.welcome, line.state, line.warnings, line.ended, *named}
    opened = attach(demo.load, handlers.opened, None, opening, **QUICK)
    for event in (opened.then, drawer.variant.change):
        attach(event, handlers.describe, {drawer.variant}, {drawer.about, handlers.files.chosen, *files}, **QUICK)
    attach(opened.then, handlers.suggest, None, {drawer.welcome}, **QUICK)
    attach(drawer.frame.expand, handlers.judge, None, {drawer.listed, drawer.adapters.chosen}, **QUICK)
    shown = {line.state, line.warnings, line.seen, line.working}
    attach(gr.Timer(TICK_SECONDS).tick, handlers.tick, shown, outputs, **QUICK)
    placed = {choice.variant, choice.device}
    changing = {**JOB, "trigger_mode": "multiple"}  # another choice takes the place of the running one
    jobs = [
        *(
            attach(part.click, handlers.choose, placed, outputs, js=CHOSEN, **changing)
            for part in (drawer.listed, drawer.welcome)
        ),
        attach(drawer.unload.click, handlers.unload, None, outputs, **changing),
        *(
            attach(part.input, handlers.again, choice.all, outputs, **changing)
            for part in (choice.device, choice.precision)
        ),
    ]
    if not handlers.page.shared:
        attach_folder = {drawer.folder, choice.device}
        moments = (drawer.use.click, drawer.folder.submit)
        jobs += [attach(moment, handlers.use, attach_folder, outputs, **changing) for moment in moments]
        adapted = {*choice.all, drawer.adapters.chosen}
        jobs.append(attach(drawer.adapters.use.click, handlers.adapt, adapted, outputs, **changing))
    attach(line.cancel.click, handlers.cancel, None, None, **QUICK)
    for job in jobs:
        attach(job.then, handlers.describe, {drawer.variant}, {drawer.about, handlers.files.chosen, *files}, **QUICK)
    for end in files_panel.wire(handlers.files, joined):
        attach(end.then, handlers.files_changed, None, named, **QUICK)


def load_on(
    page: PageContext,
    start: Callable[[], Iterator[Event]],
    wanted: tuple[Any, ...],
    language: str,
    of_visitor: bool = True,
) -> Load:
    """A load or unload, which goes on where the browser tab is closed or refreshed.

    It is the one that runs already, if that does what is `wanted`. One that is not `of_visitor` was asked for by who
    started the program: visitors of a shared page see its state, but can neither cancel it nor read why it failed.
    Raises AppError if too many jobs run.
    """
    apart = page.shared and of_visitor
    load, new = page.runs.load(Frame(message(page.texts.say("starting", language))), wanted, apart)

    def failed(error: Exception) -> Frame:
        return Frame(error=page.texts.say("error_bug", language, kind=type(error).__name__))

    if new:
        load.start(lambda stopped: watch(lambda: until(stopped, start()), page.texts, language), failed)
    return load


def loading(
    page: PageContext, name: str | None, device: str, precision: str, adapters: Sequence[Adapter] = ()
) -> Iterator[Event]:
    """Load a model; download it first if needed, which leaves the session free for other jobs."""
    return page.limited(_loading(page, name, device, precision, adapters))


def _loading(
    page: PageContext, name: str | None, device: str, precision: str, adapters: Sequence[Adapter]
) -> Iterator[Event]:
    session, variant = page.session, resolve(page, name)
    if not cached(page, variant):
        if page.shared:
            raise AppError("shared_page_download")
        session.plan_load(variant, device).choose(precision)  # raises before the download if it cannot fit
        if not session.hub.offline:  # the fetch says what that means
            yield from reach(session.hub.endpoint)
        yield from session.hub.fetch(variant)
    yield from session.load(page.catalog.name_of(variant), device=device, precision=precision, adapters=adapters)


def interrupted_line(page: PageContext, name: str | None, language: str) -> str:
    """That a load was stopped, and how much of a download is on disk."""
    line = page.texts.say("load_stopped", language)
    try:
        status = page.session.hub.status(resolve(page, name))
    except AppError:
        return line
    if status.complete or not status.on_disk:
        return line
    done, total = share_text(status.on_disk, status.total)
    return page.texts.say("load_kept", language, done=done, total=total)


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
