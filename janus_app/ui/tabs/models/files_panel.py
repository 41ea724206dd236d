"""The files of the chosen model on this machine: what is there, and verify, check, convert, delete and import."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from janus_app.errors import AppError, Message
from janus_app.files import typed_path
from janus_app.formatting import share_text, size_text
from janus_app.registry.types import Variant
from janus_app.types import Event, Notice, Progress
from janus_app.ui.common import shown_jobs
from janus_app.ui.common.html import message, messages
from janus_app.ui.common.jobs import watch
from janus_app.ui.common.running import Stopped, until
from janus_app.ui.context import JOB, QUICK, PageContext, Updates, Values, attach


@dataclass(frozen=True)
class FilesPanel:
    """The parts of the panel in the drawer. `chosen` is the model whose files it shows; `sure` asks before a delete."""

    chosen: gr.Dropdown
    facts: gr.HTML
    verify: gr.Button
    check: gr.Button
    convert: gr.Button
    delete: gr.Button
    stop: gr.Button
    sure: gr.Row
    question: gr.HTML
    delete_yes: gr.Button
    delete_no: gr.Button
    folder: gr.Textbox
    take: gr.Button
    own: gr.Button
    work: gr.HTML

    @property
    def described(self) -> set[Any]:
        """The keys of `FilesHandlers.describe`."""
        return {self.facts, self.verify, self.check, self.convert, self.delete, self.sure}

    @property
    def buttons(self) -> list[gr.Button]:
        """Those that begin a job; one runs at a time."""
        return [self.verify, self.check, self.convert, self.delete, self.take, self.own]

    @property
    def outputs(self) -> list[Any]:
        """What a job changes."""
        return [self.chosen, self.facts, self.sure, self.work, self.stop, *self.buttons]


def build(page: PageContext) -> FilesPanel:
    label = page.texts.label

    def button(key: str, name: str, **options: Any) -> gr.Button:
        return gr.Button(label(key), size="sm", elem_id=f"files-{name}", **options)

    with gr.Accordion(label("files"), open=False, elem_id="model-files", visible=not page.shared):
        names = [(variant.title, variant.id) for variant in page.catalog.values()]
        chosen = gr.Dropdown(names, label=label("model"), elem_id="files-model")
        facts = gr.HTML(elem_id="files-facts", padding=False)
        with gr.Row(elem_classes="files-buttons"):
            verify, check = button("verify_again", "verify"), button("check_weights", "check")
            convert = button("convert", "convert", visible=False)
            delete, stop = button("delete", "delete", variant="stop"), button("stop", "stop", visible=False)
        with gr.Row(elem_classes="files-buttons", visible=False, elem_id="files-sure") as sure:
            question = gr.HTML(elem_id="files-question", padding=False)
            yes, no = button("delete_yes", "really", variant="stop"), button("delete_no", "keep")
        with gr.Row(elem_classes="files-import"):
            folder = gr.Textbox(
                label=label("import_folder"), info=label("import_info"), elem_id="files-folder", scale=4
            )
            take = button("import_chosen", "take", min_width=120)
            own = button("import_own", "own", min_width=120)
        work = gr.HTML(elem_id="files-work", padding=False)
    return FilesPanel(
        chosen, facts, verify, check, convert, delete, stop, sure, question, yes, no, folder, take, own, work
    )


@dataclass(frozen=True, eq=False)
class FilesHandlers:
    """`chosen` is the dropdown with the chosen model."""

    page: PageContext
    panel: FilesPanel
    chosen: gr.Dropdown

    def describe(self, variant: Variant, language: str) -> Updates:
        """The files of a variant, and what can be done with them. Nothing on a shared page."""
        if self.page.shared:
            return {}
        status = self.page.session.hub.status(variant)
        return {
            self.panel.facts: facts_html(self.page, variant, language),
            self.panel.verify: gr.update(interactive=status.complete and not variant.is_local),
            self.panel.check: gr.update(interactive=status.complete),
            self.panel.convert: gr.update(visible=status.convertible, interactive=True),
            self.panel.delete: gr.update(interactive=not variant.is_local and status.on_disk > 0),
            self.panel.sure: gr.update(visible=False),
        }

    def choose(self, values: Values, request: gr.Request) -> Updates:
        """The files of another model, which is not loaded for it."""
        try:
            return self.describe(self.page.resolve(values[self.chosen]), self.page.language(request))
        except AppError as error:
            return {self.panel.facts: message(error.text(self.page.language(request)), "error")}

    def verify(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        def job(variant: Variant) -> Iterator[Event]:
            yield from self.page.session.hub.verify(variant)
            yield Notice(Message("model_verified", title=variant.title))

        yield from self._run(job, values, request)

    def check(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """Check the weights once more. A model that is not loaded is loaded first, which checks those never checked."""

        def job(variant: Variant) -> Iterator[Event]:
            session, checked = self.page.session, False
            if session.variant != variant:
                with closing(session.load(self.page.catalog.name_of(variant))) as events:
                    for event in events:
                        checked = checked or (isinstance(event, Progress) and event.stage == "check")
                        yield event
            if not checked:
                yield from session.check_weights()

        yield from self._run(job, values, request)

    def convert(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        def job(variant: Variant) -> Iterator[Event]:
            from janus_app.runtime.convert import convert_variant

            folder = yield from convert_variant(self.page.session.hub, variant)
            yield Notice(Message("model_converted", title=variant.title, folder=folder))

        yield from self._run(job, values, request)

    def delete(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        def job(variant: Variant) -> Iterator[Event]:
            freed = self.page.session.hub.delete(variant)
            yield Notice(Message("model_deleted", title=variant.title, size=size_text(freed)))

        yield from self._run(job, values, request)

    def take(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """Import the folder as the chosen model."""

        def job(variant: Variant) -> Iterator[Event]:
            done = yield from self.page.session.hub.import_folder(variant, self._folder(values))
            yield Notice(done.message(variant))

        yield from self._run(job, values, request)

    def register(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """Add the folder to the list as a model of its own."""

        def job(_: Variant) -> Iterator[Event]:
            from janus_app.runtime.own_models import add_own_model

            variant = yield from add_own_model(self.page.session.hub, self._folder(values))
            self.page.catalog.include(variant)
            yield Notice(Message("model_registered", title=variant.title, name=variant.id, folder=variant.folder))

        yield from self._run(job, values, request)

    def _folder(self, values: Values) -> Path:
        folder = values[self.panel.folder].strip()
        if not folder:
            raise AppError("import_folder_empty")
        return typed_path(folder).expanduser()

    def _run(self, job: Callable[[Variant], Iterator[Event]], values: Values, request: gr.Request) -> Iterator[Updates]:
        """Run a job on the chosen model's files: its progress, then the files as they are now."""
        language, name = self.page.language(request), values[self.chosen] or ""

        def views(stopped: Stopped) -> Iterator[Updates]:
            yield self._working(name, message(self.page.texts.say("starting", language)))
            frame = None
            for frame in watch(lambda: until(stopped, job(self.page.catalog.resolve(name))), self.page.texts, language):
                yield self._working(name, frame.status)
            end = messages(frame.notices) + message(frame.error, "error") if frame else ""
            if stopped() and not end:
                end = message(self.page.texts.say("files_stopped", language))
            yield self._ended(name, language, end)

        def refused(reason: str) -> Updates:
            return self._ended(name, language, message(reason, "error"))

        yield from shown_jobs.show_on(self.page, "files", views, refused, language)

    def rejoin(self) -> Iterator[Updates]:
        """The job that this browser tab started before it was opened anew; of one that is over, how it ended."""
        job = self.page.runs.showing("files")
        if job is not None and job.ended:  # the files may have changed since
            yield {self.panel.work: job.view[self.panel.work]}
        else:
            yield from shown_jobs.rejoin(self.page, "files")

    def stop(self) -> None:
        """Stop the job; its own last view says so."""
        self.page.runs.stop("files")

    @property
    def busy(self) -> bool:
        """Whether a job runs here, on the model that is chosen then."""
        job = self.page.runs.showing("files")
        return job is not None and not job.ended

    def _working(self, name: str, status: str) -> Updates:
        panel = self.panel
        waiting: Updates = {button: gr.update(interactive=False) for button in panel.buttons}
        chosen = gr.update(value=name, interactive=False)
        waiting |= {panel.sure: gr.update(visible=False), panel.stop: gr.update(visible=True)}
        return {**waiting, panel.chosen: chosen, panel.work: status}

    def _ended(self, name: str, language: str, end: str) -> Updates:
        panel = self.panel
        updates: Updates = {button: gr.update(interactive=True) for button in panel.buttons}
        updates |= {panel.work: end, panel.stop: gr.update(visible=False)}
        updates[panel.chosen] = gr.update(value=name, interactive=True)
        try:
            return {**updates, **self.describe(self.page.catalog.resolve(name), language)}
        except AppError:  # a folder that is gone by now
            return updates

    def ask_delete(self, values: Values, request: gr.Request) -> Updates:
        variant = self.page.catalog.resolve(values[self.chosen] or "")
        status = self.page.session.hub.status(variant)
        size = size_text(status.on_disk + status.converted)
        question = self.page.texts.say("delete_sure", self.page.language(request), title=variant.title, size=size)
        html = f'<p class="question">{escape(question)}</p>'
        return {self.panel.sure: gr.update(visible=True), self.panel.question: html}

    def keep(self) -> Updates:
        return {self.panel.sure: gr.update(visible=False)}


def wire(handlers: FilesHandlers, joined: Any) -> list[Any]:
    """Connect the events of the panel; returns those that fire when a job is over.

    A shared page gets none, so that nobody from outside can call a handler.
    """
    panel, chosen = handlers.panel, handlers.chosen
    if handlers.page.shared:
        return []
    outputs = panel.outputs
    attach(chosen.input, handlers.choose, {chosen}, panel.described, **QUICK)
    attach(panel.delete.click, handlers.ask_delete, {chosen}, {panel.sure, panel.question}, **QUICK)
    attach(panel.delete_no.click, handlers.keep, None, {panel.sure}, **QUICK)
    attach(panel.stop.click, handlers.stop, None, None, **QUICK)
    return [
        attach(panel.verify.click, handlers.verify, {chosen}, outputs, **JOB),
        attach(panel.check.click, handlers.check, {chosen}, outputs, **JOB),
        attach(panel.convert.click, handlers.convert, {chosen}, outputs, **JOB),
        attach(panel.delete_yes.click, handlers.delete, {chosen}, outputs, **JOB),
        attach(panel.take.click, handlers.take, {chosen, panel.folder}, outputs, **JOB),
        attach(panel.own.click, handlers.register, {chosen, panel.folder}, outputs, **JOB),
        attach(joined.then, handlers.rejoin, None, outputs, **JOB),
    ]


def facts_html(page: PageContext, variant: Variant, language: str) -> str:
    """How much of the variant is on this machine, whether it was verified, and where the rest comes from."""
    say, hub = page.texts.say, page.session.hub
    status = hub.status(variant)
    lines = [f"<strong>{escape(variant.title)}</strong> {escape(_on_disk(page, variant, language))}"]
    if status.converted and not status.convertible:
        lines.append(escape(say("files_converted", language, size=size_text(status.converted))))
    if status.convertible:
        lines.append(escape(say("files_pickle", language)))
    if not variant.is_local:
        existing = hub.cache_dir
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        folder, free = str(hub.cache_dir).replace(str(Path.home()), "~"), size_text(shutil.disk_usage(existing).free)
        lines.append(escape(say("files_place", language, folder=folder, free=free)))
        lines.append(escape(say("files_offline" if hub.offline else "files_source", language, endpoint=hub.endpoint)))
    return '<div class="files">' + "".join(f"<p>{line}</p>" for line in lines) + "</div>"


def _on_disk(page: PageContext, variant: Variant, language: str) -> str:
    status, say = page.session.hub.status(variant), page.texts.say
    if variant.is_local:
        return say("files_local", language, size=size_text(status.on_disk))
    if status.complete:
        verified = say("files_verified" if status.verified else "files_unverified", language)
        return f"{say('files_complete', language, size=size_text(status.on_disk))} {verified}"
    if status.on_disk:
        done, total = share_text(status.on_disk, status.total)
        return say("files_partly", language, done=done, total=total)
    return say("files_none", language, size=size_text(variant.download_bytes))
