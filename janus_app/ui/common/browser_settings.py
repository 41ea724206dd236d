"""What this browser remembers: the draw settings last used with each model. Nothing of it is kept on the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from janus_app.ui.context import QUICK, PageContext
from janus_app.ui.tabs.draw.presets_panel import ORDER, updates
from janus_app.workflows.presets import complete

KEY = "janus-studio"  # in the browser's storage; assets/page.js forgets it
# Gradio encrypts the value with a secret that is new at each start, which would forget everything: this one stays.
# It hides nothing: what is kept are slider positions, in the visitor's own browser.
SECRET = "janus-studio-settings"
MOST = 40  # models


def stored() -> gr.BrowserState:
    """Where it is kept. It stands outside the tabs: in one that is not open yet, Gradio would never read it."""
    return gr.BrowserState({}, storage_key=KEY, secret=SECRET)


def wire(
    page: PageContext, stored: gr.BrowserState, variant: gr.Dropdown, knobs: list[Any], runs: list[Callable[..., Any]]
) -> Callable[[Any], None]:
    """Remember the knobs (in ORDER) at each of `runs`; what is returned recalls them after an event."""

    def remember(old: Any, selected: str | None, *values: Any) -> dict[str, Any]:
        now = page.variant(selected)
        kept = dict(old.get("draw", {})) if isinstance(old, dict) and isinstance(old.get("draw"), dict) else {}
        kept.pop(now.id, None)
        kept[now.id] = complete(now, dict(zip(ORDER, values, strict=True)))
        return {"draw": dict(list(kept.items())[-MOST:])}

    def recall(old: Any, selected: str | None) -> list[Any]:
        now = page.variant(selected)
        kept = old.get("draw") if isinstance(old, dict) else None
        known = kept.get(now.id) if isinstance(kept, dict) else None
        return updates(complete(now, known) if isinstance(known, dict) else None)

    for run in runs:
        run(remember, [stored, variant, *knobs], stored, **QUICK)
    return lambda event: event.then(recall, [stored, variant], knobs, **QUICK)
