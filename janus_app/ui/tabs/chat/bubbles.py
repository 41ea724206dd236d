"""What the messages of the chat contain besides text: pictures with their buttons, and the state of the running job.

A gr.Chatbot shows components inside its messages; these are gr.HTML. assets/page/chat.js handles what is clicked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.image_io import open_picture
from janus_app.ui.common.html import message
from janus_app.ui.common.pictures import ADDRESSED, address, figure
from janus_app.ui.context import PageContext

# Built once: inside a handler Gradio makes no complete component.
_PROPS = gr.HTML("", padding=False, html_template=ADDRESSED, js_on_load=None, render=False).get_config()
VERBS = (("to-edit", "edit"), ("ask", "ask"), ("vary", "vary"), ("save", "save"))  # ids in the row of actions, names


def html_part(html: str) -> dict[str, Any]:
    """HTML as a part of a message's content."""
    props = {**_PROPS, "value": html}
    return {"type": "component", "component": "html", "value": html, "constructor_args": {}, "props": props}


@lru_cache(maxsize=1024)
def size_of(path: str) -> tuple[int, int]:
    """Width and height, so that the page need not move when the picture arrives; a square where it cannot be read."""
    try:
        return open_picture(path).size
    except AppError:
        return (1, 1)


def icon(path: str) -> str:
    return f'<svg class="line-icon" viewBox="0 0 24 24" aria-hidden="true"><path d="{path}"/></svg>'


def pictures_part(page: PageContext, pictures: Sequence[tuple[str, str, str]], language: str) -> dict[str, Any]:
    """Pictures of one message, as (key, path, alternative text), each with its buttons."""
    say = page.texts.say
    figures, look = "", say("enlarge", language)
    for key, path, alt in pictures:
        if not Path(path).is_file():
            figures += message(say("picture_lost", language), "note")
            continue
        safe_key = escape(key, quote=True)
        buttons = "".join(
            f'<button type="button" class="glyph icon-{verb}" data-chat-act="{name}" data-key="{safe_key}">'
            f"{escape(say(f'act_{verb}', language))}</button>"
            for name, verb in VERBS
        )
        more = escape(say("act_more", language), quote=True)
        buttons += (
            f'<button type="button" class="glyph dots" aria-haspopup="true" data-chat-act="menu" data-key="{safe_key}" '
            f'aria-label="{more}"></button>'
        )
        figures += figure(address(path), alt, size_of(path), buttons, kind="chat-picture", label=look, key=key)
    return html_part(f'<div class="chat-pictures n{min(len(pictures), 2)}">{figures}</div>')


def working(page: PageContext, inside: str, language: str) -> str:
    """The state of the running job, and a button that stops it. `inside` is HTML; "" says that the model reads."""
    inside = inside or message(page.texts.say("reading", language))
    stop = escape(page.texts.say("stop", language))
    return f'<div id="chat-status" class="working">{inside}<button type="button" data-chat-stop>{stop}</button></div>'


def stopped(page: PageContext, language: str) -> str:
    return f'<div id="chat-status">{message(page.texts.say("stopped", language))}</div>'


def sight_html(page: PageContext, pictures: Sequence[str], language: str) -> str:
    """The pictures that the model sees with the next question."""
    shown = [path for path in pictures if Path(path).is_file()]
    if not shown:
        return ""
    small = "".join(f'<img src="{escape(address(path), quote=True)}" alt="">' for path in shown)
    line = page.texts.say("sight_one" if len(shown) == 1 else "sight_several", language, count=len(shown))
    return f'<div class="sight">{small}<span>{escape(line)}</span></div>'
