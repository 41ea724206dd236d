"""The lightbox: one dialog of the page, which assets/page/pictures.js fills with the picture that was clicked."""

from __future__ import annotations

from html import escape

import gradio as gr

from janus_app.ui.context import QUICK, PageContext


def build(page: PageContext, demo: gr.Blocks) -> None:
    """Build the dialog; it gets its words, in the visitor's language, when the page is opened."""
    place = gr.HTML(elem_id="lightbox-place", padding=False)

    def opened(request: gr.Request) -> str:
        return lightbox_html(page, page.language(request))

    demo.load(opened, None, place, **QUICK)


def lightbox_html(page: PageContext, language: str) -> str:
    def button(act: str, key: str, icon: str, words: bool = False) -> str:
        name = escape(page.texts.say(key, language), quote=True)
        label = name if words else ""
        return (
            f'<button type="button" data-box="{act}" class="glyph {icon}" aria-label="{name}" title="{name}">'
            f"{label}</button>"
        )

    verbs = "".join(
        button(act, key, icon, words=True)
        for act, key, icon in (
            ("to-edit", "act_edit", "icon-edit"),
            ("ask", "act_ask", "icon-ask"),
            ("vary", "act_vary", "icon-vary"),
            ("save", "act_save", "icon-save"),
        )
    )
    previous = button("previous", "previous", "icon-back step")
    following = button("next", "next_picture", "icon-on step")
    return (
        f'<dialog id="lightbox"><div class="bar"><p></p>{button("native", "native_pixels", "icon-pixels")}'
        f'{button("close", "close", "icon-close")}</div>{previous}<div class="view"><img src="data:," alt=""></div>'
        f'{following}<div class="bar verbs-of">{verbs}</div></dialog>'
    )
