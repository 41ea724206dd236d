"""The line about the model in the bar at the top: what is loaded, what it does; and what is told of it below."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import gradio as gr

from janus_app.errors import Message
from janus_app.formatting import size_text
from janus_app.runtime.session import SessionState
from janus_app.ui.common.jobs import KNOWN_STAGES
from janus_app.ui.context import PageContext


@dataclass(frozen=True)
class ModelLine:
    """The parts of the line.

    `seen` holds the id of the loaded variant as this browser tab last saw it. It is a hidden textbox, because changes
    of a State outside the queue fire no event. `work` shows a load; `working` holds whether one is shown that runs.
    `ended` says how the last one ended, `warnings` what is wrong with the model; `render_told` puts these two into the
    page, below the bar.
    """

    state: gr.HTML
    work: gr.HTML
    change: gr.Button
    cancel: gr.Button
    ended: gr.HTML
    warnings: gr.HTML
    seen: gr.Textbox
    working: gr.State

    def render_told(self) -> None:
        with gr.Column(elem_id="model-told"):
            self.ended.render()
            self.warnings.render()


def build(page: PageContext) -> ModelLine:
    label = page.texts.label
    with gr.Row(elem_id="model-line"):
        state = gr.HTML(elem_id="model-state", padding=False)
        work = gr.HTML(elem_id="model-work", padding=False)
        cancel = gr.Button(label("cancel"), size="sm", elem_id="model-cancel", min_width=0, visible=False)
        change = gr.Button(label("model_change"), size="sm", elem_id="model-change", min_width=0)
        seen = gr.Textbox("", visible="hidden", elem_id="model-seen", label="model-seen")
    ended, warnings = (gr.HTML(elem_id=f"model-{part}", padding=False, render=False) for part in ("ended", "warnings"))
    return ModelLine(state, work, change, cancel, ended, warnings, seen, gr.State(False))


def state_html(page: PageContext, language: str) -> str:
    """What is loaded, what it does, and how much memory the program takes."""
    state, say = page.session.state, page.texts.say
    parts = []
    if state.phase == "empty":
        unloaded = say("state_resting", language, title=state.idle_unloaded) if state.idle_unloaded else ""
        parts.append(escape(unloaded or say("state_empty", language)))
    else:
        doing = _doing(page, state, language) or say(f"state_{state.phase}", language)
        parts += [f"<strong>{escape(state.title)}</strong>"] if state.title else []
        parts.append(f'<span class="doing">{escape(doing)}</span>')
        parts += [escape(", ".join(map(str, state.adapters)))] if state.adapters else []
        if state.memory is not None:
            where = say("memory_of", language, precision=state.precision, device=state.device)
            size = size_text(state.memory)
            parts.append(f'<span class="memory" title="{escape(where, quote=True)}">{escape(size)}</span>')
    if state.replicas:
        ready, most = state.replicas
        parts.append(escape(say("state_replicas", language, ready=ready, total=most)))
    if state.queue:
        parts.append(escape(say("waiting", language, count=state.queue)))
    return f'<div class="state-line {escape(state.phase)}"><span class="dot"></span>{"<i>·</i>".join(parts)}</div>'


def warnings(page: PageContext, language: str) -> list[str]:
    """What is wrong with the loaded model or with its job."""
    state, checked = page.session.state, page.session.state.weight_check
    wrong = checked.message(state.title) if checked is not None and checked.problems else None
    return [told.text(language) for told in (wrong, state.silence) if told]


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


def checked_line(page: PageContext, language: str) -> str:
    """That the weights of the loaded model were checked on this machine and look right; empty without a check."""
    checked = page.session.state.weight_check
    if checked is None or checked.problems:
        return ""
    return page.texts.say("state_checked" if checked.complete else "state_checked_partly", language)
