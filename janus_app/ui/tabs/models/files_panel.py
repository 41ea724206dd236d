"""What of the chosen model lies on this machine, and what can be done about it: verify, convert, delete, import."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.formatting import share_text, size_text
from janus_app.registry.types import Variant
from janus_app.types import Event, Notice
from janus_app.ui.common.actions import halt
from janus_app.ui.common.html import message
from janus_app.ui.common.jobs import watch
from janus_app.ui.context import JOB, QUICK, PageContext

Act = Callable[[Variant], Iterator[Event]]


class FilesPanel:
    """Built under the model bar; `show` fills `outputs` for a variant and a language."""

    def __init__(self, page: PageContext, chosen: gr.Dropdown) -> None:
        """`chosen` is the dropdown with the variant. Each event of `ends` fires when an act is over."""
        self._page = page
        label = page.texts.label
        with gr.Accordion(label("files"), open=False, elem_id="model-files", visible=not page.shared):
            self._facts = gr.HTML(elem_id="files-facts", padding=False)
            with gr.Row(elem_classes="files-buttons"):
                self._verify = gr.Button(label("verify_again"), size="sm", elem_id="files-verify")
                self._convert = gr.Button(label("convert"), size="sm", elem_id="files-convert", visible=False)
                self._delete = gr.Button(label("delete"), size="sm", variant="stop", elem_id="files-delete")
                self._stop = gr.Button(label("stop"), size="sm", elem_id="files-stop", visible=False)
            with gr.Row(elem_classes="files-buttons", visible=False, elem_id="files-sure") as self._sure:
                self._question = gr.HTML(elem_id="files-question", padding=False)
                self._really = gr.Button(label("delete_really"), size="sm", variant="stop", elem_id="files-really")
                self._keep = gr.Button(label("delete_not"), size="sm", elem_id="files-keep")
            with gr.Row(elem_classes="files-import"):
                self._folder = gr.Textbox(
                    label=label("import_folder"), info=label("import_info"), elem_id="files-folder", scale=4
                )
                self._take = gr.Button(label("import_chosen"), size="sm", elem_id="files-take", min_width=120)
                self._own = gr.Button(label("import_own"), size="sm", elem_id="files-own", min_width=120)
            self._work = gr.HTML(elem_id="files-work", padding=False)
        self.outputs = [self._facts, self._verify, self._convert, self._delete, self._sure]
        # Whoever is not at this machine has no handler to call.
        self.ends: list[Any] = [] if page.shared else self._listen(chosen)

    def show(self, variant: Variant, language: str) -> tuple[Any, ...]:
        """Updates of `outputs`."""
        if self._page.shared:
            return tuple(gr.skip() for _ in self.outputs)
        status = self._page.session.hub.status(variant)
        return (
            facts_html(self._page, variant, language),
            gr.update(interactive=status.complete and not variant.is_local),
            gr.update(visible=status.convertible),
            gr.update(interactive=not variant.is_local and status.on_disk > 0),
            gr.update(visible=False),
        )

    def _listen(self, chosen: gr.Dropdown) -> list[Any]:
        page = self._page
        doing = [*self.outputs, self._work, self._stop]

        def job(act: Act) -> Callable[..., Iterator[tuple[Any, ...]]]:
            def run(name: str | None, request: gr.Request) -> Iterator[tuple[Any, ...]]:
                yield from self._run(name, request, act)

            return run

        def take(name: str | None, folder: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
            yield from self._run(name, request, lambda variant: _import(page, variant, folder))

        def own(name: str | None, folder: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
            yield from self._run(name, request, lambda _: _register(page, folder))

        def ask(name: str | None, request: gr.Request) -> tuple[Any, ...]:
            language = page.language(request)
            variant = page.catalog.resolve(name or "")
            status = page.session.hub.status(variant)
            size = size_text(status.on_disk + status.converted)
            words = page.texts.say("delete_sure", language, title=variant.title, size=size)
            return gr.update(visible=True), f'<p class="question">{escape(words)}</p>'

        def stopped(name: str | None, request: gr.Request) -> tuple[Any, ...]:
            language = page.language(request)
            return self._after(name, language, message(page.texts.say("files_stopped", language)))

        jobs: list[Any] = [
            self._verify.click(job(lambda variant: _verify(page, variant)), chosen, doing, **JOB),
            self._convert.click(job(lambda variant: _convert(page, variant)), chosen, doing, **JOB),
            self._really.click(job(lambda variant: _delete(page, variant)), chosen, doing, **JOB),
            self._take.click(take, [chosen, self._folder], doing, **JOB),
            self._own.click(own, [chosen, self._folder], doing, **JOB),
        ]
        self._delete.click(ask, chosen, [self._sure, self._question], **QUICK)
        self._keep.click(lambda: gr.update(visible=False), None, self._sure, **QUICK)
        stop = halt(self._stop.click, jobs).then(stopped, chosen, doing, **QUICK)
        return [*jobs, stop]

    def _run(self, name: str | None, request: gr.Request, act: Act) -> Iterator[tuple[Any, ...]]:
        """Stream an act into `doing`: its progress, then how things are now."""
        language = self._page.language(request)
        still = tuple(gr.skip() for _ in self.outputs)
        frame = None
        for frame in watch(lambda: act(self._page.catalog.resolve(name or "")), self._page.texts, language):
            yield *still, frame.status, gr.update(visible=True)
        end = "".join(message(text) for text in frame.notices) if frame else ""
        if frame and frame.error:
            end += message(frame.error, "error")
        yield self._after(name, language, end)

    def _after(self, name: str | None, language: str, end: str) -> tuple[Any, ...]:
        try:
            shown = self.show(self._page.catalog.resolve(name or ""), language)
        except AppError:
            shown = tuple(gr.skip() for _ in self.outputs)
        return *shown, end, gr.update(visible=False)


def _verify(page: PageContext, variant: Variant) -> Iterator[Event]:
    yield from page.session.hub.verify(variant)
    yield Notice(f"{variant.title}: every file is as it should be.")


def _convert(page: PageContext, variant: Variant) -> Iterator[Event]:
    from janus_app.runtime.convert import convert_variant

    yield from convert_variant(page.session.hub, variant)
    yield Notice(f"{variant.title} is read from safetensors from now on.")


def _delete(page: PageContext, variant: Variant) -> Iterator[Event]:
    freed = page.session.hub.delete(variant)
    yield Notice(f"{variant.title} is deleted; {size_text(freed)} are free again.")


def _import(page: PageContext, variant: Variant, folder: str) -> Iterator[Event]:
    done = yield from page.session.hub.import_folder(variant, _path(folder))
    yield Notice(done.message(variant))


def _register(page: PageContext, folder: str) -> Iterator[Event]:
    from janus_app.registry.user_models import register

    variant = register(_path(folder))
    page.catalog.include(variant)
    yield Notice(f"{variant.title} is in the list now; its files stay in {variant.folder}.")


def _path(folder: str) -> Path:
    if not folder.strip():
        raise AppError("There is no folder to import. Type its path first.")
    return Path(folder.strip()).expanduser()


def facts_html(page: PageContext, variant: Variant, language: str) -> str:
    """How much of the variant is here, how sure that is, and where the rest would come from."""
    say, hub = page.texts.say, page.session.hub
    status = hub.status(variant)
    lines = [f"<strong>{escape(variant.title)}</strong> {escape(_here(page, variant, language))}"]
    if status.converted and not status.convertible:
        lines.append(escape(say("files_converted", language, size=size_text(status.converted))))
    if status.convertible:
        lines.append(escape(say("files_pickle", language)))
    if not variant.is_local:
        place = hub.cache_dir
        while not place.exists() and place != place.parent:
            place = place.parent
        shown = str(hub.cache_dir).replace(str(Path.home()), "~")
        lines.append(escape(say("files_place", language, folder=shown, free=size_text(shutil.disk_usage(place).free))))
        lines.append(escape(say("files_offline" if hub.offline else "files_source", language, endpoint=hub.endpoint)))
    return '<div class="files">' + "".join(f"<p>{line}</p>" for line in lines) + "</div>"


def _here(page: PageContext, variant: Variant, language: str) -> str:
    status, say = page.session.hub.status(variant), page.texts.say
    done, total = share_text(status.on_disk, status.total)
    if variant.is_local:
        return say("files_local", language, size=size_text(status.on_disk))
    if status.complete:
        sure = say("files_verified" if status.verified else "files_unverified", language)
        return f"{say('files_complete', language, size=size_text(status.on_disk))} {sure}"
    if status.on_disk:
        return say("files_partly", language, done=done, total=total)
    return say("files_none", language, size=size_text(variant.download_bytes))
