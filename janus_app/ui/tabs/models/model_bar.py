"""The bar at the top: which model, on which device, in which precision; load it, unload it, see how it is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from janus_app.errors import AppError, Message
from janus_app.formatting import share_text
from janus_app.registry.types import Variant
from janus_app.runtime.session import SessionState
from janus_app.types import PRECISIONS, Event
from janus_app.ui.common.actions import halt
from janus_app.ui.common.html import message
from janus_app.ui.common.jobs import KNOWN_STAGES, size_text, watch
from janus_app.ui.context import JOB, QUICK, PageContext, public
from janus_app.ui.tabs.models.files_panel import FilesPanel
from janus_app.ui.tabs.models.machine_panel import MachinePanel

TICK_SECONDS = 1.0
# In the browser, because a person may choose while the opening page is still asking what is loaded.
UNTOUCHED = "(chosen, loaded) => chosen === %s ? loaded : chosen"


@dataclass(frozen=True)
class ModelBar:
    """The widgets others listen to. `seen` holds the resident variant's id as this browser tab last saw it.

    It is an unseen text box and not a State, because changes of a State made outside the queue reach nobody.
    """

    variant: gr.Dropdown
    seen: gr.Textbox


def build(page: PageContext, demo: gr.Blocks) -> ModelBar:
    label = page.texts.label
    with gr.Column(elem_id="model-bar", elem_classes="card"):
        with gr.Row(elem_classes="model-row", equal_height=False):
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
                ["auto"],  # the machine panel adds what there is
                value="auto",
                label=label("device"),
                allow_custom_value=not page.shared,
                elem_id="model-device",
                scale=1,
                min_width=140,
            )
            precision = gr.Dropdown(
                ["auto", *PRECISIONS],
                value="auto",
                label=label("precision"),
                elem_id="model-precision",
                scale=1,
                min_width=150,
            )
            with gr.Row(elem_classes="model-buttons", scale=2):
                load = gr.Button(label("load"), variant="primary", elem_id="model-load", min_width=90)
                pause = gr.Button(label("pause"), elem_id="model-pause", min_width=90, visible=False)
                cancel = gr.Button(label("cancel"), variant="stop", elem_id="model-cancel", min_width=90, visible=False)
                unload = gr.Button(label("unload"), elem_id="model-unload", min_width=90)
        state = gr.HTML(elem_id="model-state", padding=False)
        work = gr.HTML(elem_id="model-work", padding=False)
        about = gr.HTML(elem_id="model-about", padding=False)
        MachinePanel(page, demo, variant, device, precision)
        files = FilesPanel(page, variant)
    seen = gr.Textbox("", visible="hidden", elem_id="model-seen", label="model-seen")
    shown = gr.State("")  # the state line this tab shows, so an unchanged one is not sent again
    timer = gr.Timer(TICK_SECONDS)

    def tick(old: str, request: gr.Request) -> tuple[Any, ...]:
        html = state_html(page, page.language(request))
        if html == old:
            return gr.skip(), gr.skip(), gr.skip()
        return html, html, page.session.state.variant_id or ""

    def opened(request: gr.Request) -> tuple[Any, ...]:
        language = page.language(request)
        html = state_html(page, language)
        return gr.update(choices=variant_choices(page, language)), html, html, page.variant(None).id

    def choose(name: str | None, request: gr.Request) -> tuple[Any, ...]:
        language = page.language(request)
        try:
            found = resolve(page, name)
        except AppError as error:
            said = message(page.texts.sentence(str(error), language), "error")
            return said, gr.skip(), *(gr.skip() for _ in files.outputs)
        return (
            about_html(page, found, language),
            load_label(page, found, language),
            *files.show(found, language),
        )

    def run_load(model: str | None, device: str, precision: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        yield from _report(page, request, lambda: _load(page, model, device, precision), model)

    def run_unload(name: str | None, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        yield from _report(page, request, page.session.unload, name)

    def stopped(name: str | None, request: gr.Request) -> tuple[Any, ...]:
        return _ended(page, page.language(request), name, message(kept_line(page, name, request, "load_stopped")))

    def paused(name: str | None, request: gr.Request) -> tuple[Any, ...]:
        return _ended(page, page.language(request), name, message(kept_line(page, name, request, "load_paused")))

    def here(name: str | None, request: gr.Request) -> tuple[Any, ...]:
        try:
            return files.show(resolve(page, name), page.language(request))
        except AppError:
            return tuple(gr.skip() for _ in files.outputs)

    def filed(name: str | None, request: gr.Request) -> tuple[Any, ...]:
        language = page.language(request)
        choices = gr.update(choices=variant_choices(page, language))
        try:
            return load_label(page, resolve(page, name), language), choices
        except AppError:  # a folder typed by hand that has gone since
            return gr.skip(), choices

    outputs = [work, load, pause, cancel, unload, variant]
    described = [about, load, *files.outputs]
    opening = demo.load(opened, None, [variant, state, shown, seen], **QUICK)
    opening = opening.then(None, [variant, seen], variant, js=UNTOUCHED % json.dumps(page.variant(None).id))
    opening.then(choose, variant, described, **QUICK)
    timer.tick(tick, shown, [state, shown, seen], **QUICK)
    variant.change(choose, variant, described, **QUICK)
    loading = load.click(run_load, [variant, device, precision], outputs, **public("load"))
    unloading = unload.click(run_unload, variant, outputs, **JOB)
    loading.then(here, variant, files.outputs, **QUICK)
    for end in files.ends:
        end.then(filed, variant, [load, variant], **QUICK)
    for button, say_so in ((pause, paused), (cancel, stopped)):
        end = halt(button.click, [loading, unloading]).then(say_so, variant, outputs, **QUICK)
        end.then(here, variant, files.outputs, **QUICK)
    return ModelBar(variant, seen)


def resolve(page: PageContext, name: str | None) -> Variant:
    """The variant behind a name in the dropdown. On a shared page only rows of the catalog. Raises AppError."""
    if page.shared and (name or "") not in page.catalog:
        raise AppError("On a shared page only the models of the list can be chosen.")
    return page.catalog.resolve(name or "")


def _load(page: PageContext, name: str | None, device: str, precision: str) -> Iterator[Event]:
    variant = resolve(page, name)
    if page.shared and not cached(page, variant):
        raise AppError("On a shared page only models that are already on this machine can be loaded.")
    if not cached(page, variant):
        page.session.plan_load(variant, device).choose(precision)  # raises what cannot fit before gigabytes come for it
        yield from page.session.hub.fetch(variant)  # outside the line: others go on working meanwhile
    yield from page.session.load(name or variant.id, device=device, precision=precision)


def _report(page: PageContext, request: gr.Request, make: Any, name: str | None) -> Iterator[tuple[Any, ...]]:
    """Stream a load or unload into the bar: [work, load, pause, cancel, unload, variant]."""
    language = page.language(request)
    yield message(page.texts.say("starting", language)), *_buttons(running=True), gr.skip()
    frame = None
    for frame in watch(make, page.texts, language):
        notes = "".join(message(text) for text in frame.notices)
        fetching = frame.progress is not None and frame.progress.stage == "download"
        pause = gr.update(visible=fetching)  # in every frame: a busy browser may miss one
        yield frame.status + notes, gr.skip(), pause, gr.skip(), gr.skip(), gr.skip()
    end = "".join(message(text) for text in frame.notices) if frame else ""
    if frame and frame.error:
        end += message(frame.error, "error")
    yield _ended(page, language, name, end)


def _ended(page: PageContext, language: str, name: str | None, end: str) -> tuple[Any, ...]:
    """The bar at rest again, with the last word on what was done."""
    load, *others = _buttons(running=False)
    with contextlib.suppress(AppError):  # a folder typed by hand that has gone since
        load |= load_label(page, resolve(page, name), language)
    return end, load, *others, gr.update(choices=variant_choices(page, language))


def _buttons(running: bool) -> tuple[dict[str, Any], ...]:
    """load, pause, cancel, unload; pause comes with the first byte of a download."""
    return (
        gr.update(visible=not running),
        gr.update(visible=False),
        gr.update(visible=running),
        gr.update(visible=not running),  # no room for it beside the other two
    )


def load_label(page: PageContext, variant: Variant, language: str) -> dict[str, Any]:
    """What pressing Load means for this variant: load it, download it first, or go on with a download."""
    status = page.session.hub.status(variant)
    key = "load" if status.complete or variant.is_local else "resume" if status.on_disk else "load_download"
    updated: dict[str, Any] = gr.update(value=page.texts.say(key, language))
    return updated


def kept_line(page: PageContext, name: str | None, request: gr.Request, key: str) -> str:
    """That loading was stopped or paused, and how much of a download is kept."""
    language = page.language(request)
    said = page.texts.say(key, language)
    try:
        status = page.session.hub.status(resolve(page, name))
    except AppError:
        return said
    if status.complete or not status.on_disk:
        return said
    done, total = share_text(status.on_disk, status.total)
    return f"{said} {page.texts.say('load_kept', language, done=done, total=total)}"


def cached(page: PageContext, variant: Variant) -> bool:
    """True where loading needs no download."""
    return variant.is_local or page.session.hub.status(variant).complete


def variant_choices(page: PageContext, language: str) -> list[tuple[str, str]]:
    """Title, size and whether a download is needed, for each row."""
    choices = []
    for variant in page.catalog.values():
        if cached(page, variant):
            where = page.texts.say("on_disk", language)
        else:
            where = page.texts.say("to_download", language, size=size_text(variant.download_bytes))
        choices.append((f"{variant.title} · {where}", variant.id))
    return choices


def state_html(page: PageContext, language: str) -> str:
    """One line: what is loaded, what it is doing, what it takes."""
    state, say = page.session.state, page.texts.say
    parts = []
    if state.phase == "empty":
        resting = say("state_resting", language, title=state.idle_unloaded) if state.idle_unloaded else ""
        parts.append(escape(resting or say("state_empty", language)))
    else:
        parts.append(f"<strong>{escape(state.title)}</strong>")
        parts.append(escape(say(f"state_{state.phase}", language)))
        if state.precision and state.device:
            parts.append(escape(say("precision_on", language, precision=state.precision, device=state.device)))
    if doing := _doing(page, state, language):
        parts.append(escape(doing))
    if state.memory_used is not None and state.memory_total:
        used, total = size_text(state.memory_used), size_text(state.memory_total)
        parts.append(escape(say("memory", language, used=used, total=total)))
    if state.queue:
        parts.append(escape(say("waiting", language, count=state.queue)))
    line = f'<div class="state-line {escape(state.phase)}"><span class="dot"></span>{"<i>·</i>".join(parts)}</div>'
    return line + (message(state.silence.text(language), "warning") if state.silence else "")


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
    """What is honestly known about the chosen variant, and its licences."""
    say, sentence = page.texts.say, page.texts.sentence
    status = f"<p>{escape(sentence(variant.status, language))}</p>" if variant.status else ""
    licence = say("licence", language, code=variant.code_licence, weights=variant.weights_licence)
    extra = " ".join(sentence(text, language) for text in (variant.licence_note, variant.notes) if text)
    detail = f"<p>{escape(extra)}</p>" if extra else ""
    return f'<div class="about">{status}<details><summary>{escape(licence)}</summary>{detail}</details></div>'
