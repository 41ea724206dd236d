"""A line under a prompt, while it is typed: which of its words the model does not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from janus_app.models.common.vocabulary import vocabulary_of
from janus_app.ui.common.html import message
from janus_app.ui.context import QUICK, PageContext, Updates, Values, attach


def unknown_html(page: PageContext, text: str, language: str) -> str:
    """The line, "" where the loaded model knows every word or ships no vocabulary."""
    variant = page.variant(None)
    vocabulary = vocabulary_of(variant.folder)
    notice = vocabulary.notice(vocabulary.finished(text), variant.title) if vocabulary else None
    return message(notice.text(language), "note") if notice else ""


def wire(
    page: PageContext, prompt: gr.Textbox, line: gr.HTML, model_changed: gr.Textbox, runs: list[Callable[..., Any]]
) -> None:
    """Keep the line up to date. From `runs` on, the job's own notice says the same."""

    def look(values: Values, request: gr.Request) -> Updates:
        return {line: unknown_html(page, values[prompt] or "", page.language(request))}

    for moment in (prompt.change, model_changed.change):
        attach(moment, look, {prompt}, line, trigger_mode="always_last", **QUICK)
    for run in runs:
        attach(run, lambda: "", None, line, **QUICK)
