"""The draw settings last used with each model, remembered in the browser. The server stores nothing of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from janus_app.registry.types import Variant
from janus_app.ui.common.controls import RequestControls
from janus_app.ui.context import QUICK, PageContext, Updates, Values
from janus_app.workflows.presets import complete

KEY = "janus-studio"  # in the browser's storage; assets/page/ deletes it
# Gradio encrypts the value with a secret that by default is new at each start, which would lose the settings. A fixed
# one protects nothing, and nothing needs protection: the values are slider positions in the visitor's own browser.
SECRET = "janus-studio-settings"
MAX_MODELS = 40


def browser_state() -> gr.BrowserState:
    """Where the settings are kept. It must be outside the tabs: Gradio does not read one inside an unopened tab."""
    return gr.BrowserState({}, storage_key=KEY, secret=SECRET)


def wire(
    page: PageContext,
    state: gr.BrowserState,
    variant: gr.Dropdown,
    controls: RequestControls,
    runs: list[Callable[..., Any]],
) -> None:
    """Remember the settings at each of `runs`."""
    by_setting = controls.by_setting

    def remember(values: Values) -> Updates:
        now = page.variant(values[variant])
        settings = _draw_settings(values[state])
        settings.pop(now.id, None)  # added again below, so that the model used last is the last entry
        settings[now.id] = complete(now, {name: values[control] for name, control in by_setting.items()})
        return {state: {"draw": dict(list(settings.items())[-MAX_MODELS:])}}

    for run in runs:
        run(remember, {state, variant, *by_setting.values()}, state, **QUICK)


def remembered(stored: Any, variant: Variant) -> dict[str, Any]:
    """The settings last used with a variant, by name; empty where there are none. `stored` is what the browser sent."""
    known = _draw_settings(stored).get(variant.id)
    return complete(variant, known) if isinstance(known, dict) else {}


def _draw_settings(stored: Any) -> dict[str, Any]:
    """Settings by variant id, as the browser sent them; empty where it sent something else."""
    settings = stored.get("draw") if isinstance(stored, dict) else None
    return dict(settings) if isinstance(settings, dict) else {}
