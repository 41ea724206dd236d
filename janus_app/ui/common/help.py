"""The help with its sheet of keyboard shortcuts, and the footer. assets/page/ handles them."""

from __future__ import annotations

from html import escape

from janus_app.ui.context import PageContext

# Shortcut and what it does; single-character shortcuts can be switched off in the sheet (WCAG 2.1.4).
KEYS = (
    ("Ctrl + Enter", "key_run"),
    ("Esc", "key_stop"),
    ("?", "key_sheet"),
    ("1 … 5", "key_tab"),
    ("/", "key_prompt"),
    ("R", "key_surprise"),
    ("D", "key_theme"),
    ("B E", "key_tools"),
    ("[ ]", "key_brush_size"),
    ("Ctrl + Z", "key_stroke"),
)


def foot_html(page: PageContext, language: str) -> str:
    """A line about where the user's input goes."""
    return f"<p>{escape(page.texts.say('keys_shared' if page.shared else 'keys', language))}</p>"


def help_html(page: PageContext, language: str) -> str:
    """Buttons for the theme and the help, and the sheet of shortcuts that the help opens."""

    def say(key: str) -> str:
        return escape(page.texts.say(key, language))

    rows = "".join(f"<div><dt><kbd>{escape(key)}</kbd></dt><dd>{say(text)}</dd></div>" for key, text in KEYS)
    return (
        f'<div class="icons"><button type="button" class="icon" data-janus="theme" aria-label="{say("theme_switch")}" '
        f'title="{say("theme_switch")}">◐</button><button type="button" class="icon" data-janus="keys" '
        f'aria-label="{say("help")}" title="{say("help")}">?</button></div>'
        f'<dialog id="keys-sheet" aria-labelledby="keys-title"><h2 id="keys-title">{say("keys_title")}</h2>'
        f'<dl class="facts">{rows}</dl>'
        f'<label><input type="checkbox" id="keys-single" checked> {say("keys_single")}</label>'
        f'<p class="remembered">{say("remembered")}</p>'
        f'<p class="foot-buttons"><button type="button" data-janus="forget">{say("forget")}</button>'
        f'<button type="button" data-janus="welcome">{say("welcome_again")}</button>'
        f'<button type="button" data-janus="close" autofocus>{say("close")}</button></p></dialog>'
    )
