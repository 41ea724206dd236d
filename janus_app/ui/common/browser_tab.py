"""What a browser tab keeps when it is opened anew: its runs on the server, and in the browser what was not run yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from janus_app.ui.context import QUICK, PageContext, attach

# Functions of assets/page/tab.js, which keeps both in the tab's own storage.
KEY = "() => window.janus.tabKey()"
KEEP = "(key) => window.janus.keepTabKey(key)"
KEEP_VALUES = "(...now) => window.janus.keepValues('{name}', now)"
KEPT_VALUES = "(...now) => window.janus.keptValues('{name}', {same}, {ids}, now)"


def join(page: PageContext, demo: gr.Blocks) -> Any:
    """Returns the event after which `page.runs` knows what this browser tab started before."""
    # The key that the browser kept goes to the server and the next one comes back.
    key = gr.Textbox(visible="hidden", elem_id="tab-key", label="tab-key")

    def join_again(given: str | None) -> str:
        return page.runs.join(given or "")

    joined = attach(demo.load, join_again, key, key, js=KEY, **QUICK)
    joined.then(None, key, None, js=KEEP)
    return joined


def kept(name: str, parts: Sequence[Any], model: Component | None = None) -> Callable[[Any], Any]:
    """Keep what the user enters in `parts`, as `name`. Returns a function that puts it back after an event.

    With the component that holds the `model`, it is put back while the same model is chosen. The page may ask for it
    after several events of its opening; once the user does more than look around, it counts as put back, and what the
    user has entered meanwhile stays. The function returns the event after that.
    """
    same = [model] if model is not None else []
    gr.on([part.change for part in parts], None, [*same, *parts], None, js=KEEP_VALUES.format(name=name))
    script = KEPT_VALUES.format(name=name, same=len(same), ids=json.dumps([part.elem_id for part in parts]))
    return lambda event: event.then(None, [*same, *parts], [*parts], js=script)
