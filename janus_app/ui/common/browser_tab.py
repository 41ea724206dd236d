"""What a browser tab keeps when it is opened anew: its runs on the server, and unsent prompts in the browser."""

from __future__ import annotations

from typing import Any

import gradio as gr

from janus_app.ui.context import QUICK, PageContext, attach

# Functions of assets/page/tab.js, which keeps both in the tab's own storage.
KEY = "() => window.janus.tabKey()"
KEEP = "(key) => window.janus.keepTabKey(key)"
DRAFT = "(now) => window.janus.draft('{id}', now)"


def join(page: PageContext, demo: gr.Blocks) -> Any:
    """Returns the event after which `page.runs` knows what this browser tab started before."""
    # The key that the browser kept goes to the server and the next one comes back.
    key = gr.Textbox(visible="hidden", elem_id="tab-key", label="tab-key")
    joined = attach(demo.load, lambda given: page.runs.join(str(given or "")), key, key, js=KEY, **QUICK)
    joined.then(None, key, None, js=KEEP)
    return joined


def restore_draft(joined: Any, box: gr.Textbox) -> Any:
    """Put what was typed into `box` before the page was opened anew back into it. Returns the event after that."""
    return joined.then(None, box, box, js=DRAFT.format(id=box.elem_id))
