"""What of the edit tab's controls is seen: by the way of editing, and by the variant whose ways they are."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from janus_app.models.registry import get_family
from janus_app.types import EDIT_SETTINGS
from janus_app.ui.common.controls import INTERVAL, flow_updates
from janus_app.ui.common.html import message
from janus_app.ui.context import PageContext, example_updates, slider_update

SETTINGS = ("guidance", "temperature", "strength", "image_guidance")


def uses(how: str | None) -> frozenset[str]:
    """The settings a way of editing reads."""
    return EDIT_SETTINGS.get(how or "", frozenset())


def way_updates(page: PageContext, selected: str | None, how: str | None, language: str) -> list[Any]:
    """The line about a way of editing, then the controls it reads, in the order of the tab's `places`."""
    now, state = page.variant(selected), page.session.state
    say, named = page.texts.say, page.texts.named
    used, settings, told = uses(how), now.settings.keys(), how == "instruct"
    able = state.capabilities
    lines = able.edit_methods if able else {}
    line = page.texts.sentence(lines.get(how or "", ""), language)
    most = able.edit_pictures if able and told else 1

    def seen(name: str, setting: str = "") -> dict[str, Any]:
        """A knob the variant has is shown before a model is loaded, and then where the way of editing reads it."""
        return gr.update(visible=(setting or name) in settings and (how is None or name in used))

    if line and "mask" in used:
        note = message(f"{say('paint_first', language)} {line}")
    else:
        note = message(line, "note unpainted")  # style.css hides the brush
    return [
        note,
        gr.update(
            label=say("edit_instruction" if told else "edit_prompt", language),
            placeholder=say("edit_instruction_hint" if told else "edit_prompt_hint", language),
        ),
        gr.update(visible=most > 1, label=say("more_pictures", language, most=most - 1)),
        gr.update(visible="source_prompt" in used),
        gr.update(visible="strength" in used, info=named("strength", how or "variation", language)),
        gr.update(
            visible="image_guidance" in used and "image_guidance" in settings,
            info=named("image_guidance", get_family(now.family).drawing, language),
        ),
        seen("temperature"),
        seen("steps"),
        gr.update(visible=bool(now.solvers) and (how is None or "solver" in used)),
        *(seen("guidance_interval", name) for name in INTERVAL),
    ]


def tab_updates(page: PageContext, selected: str | None, language: str) -> list[Any]:
    """What a change of the model changes: about, run, method, the way's `places`, the examples, guidance.

    Ranges and values are the variant's; what is seen is what its first way of editing reads.
    """
    now, state = page.variant(selected), page.session.state
    methods = state.capabilities.edit_methods if state.capabilities else {}
    able = "edit" in now.verbs
    names = [(page.texts.named("method", name, language), name) for name in methods]
    first = next(iter(methods), None)
    note, words, more, source, *places = way_updates(page, selected, first, language)
    guided, warm, strong, image_guided = (slider_update(now.settings.get(name)) for name in SETTINGS)
    values = [strong, image_guided, warm, *flow_updates(page, now, language)]
    return [
        about_html(page, now.title, able, language),
        gr.update(interactive=able),
        gr.update(choices=names, value=first, visible=len(names) > 1),
        note,
        words,
        more,
        source,
        *({**value, **place} for value, place in zip(values, places, strict=True)),
        *example_updates(now.prompts("edit", language)),
        guided,
    ]


def about_html(page: PageContext, title: str, able: bool, language: str) -> str:
    """Which variants can edit, and that painting a region is not following instructions."""
    say = page.texts.say
    able_titles = [v.title for v in page.catalog.values() if "edit" in v.verbs]
    lines = say("edit_about", language)
    title_line = say("edit_who_title", language)
    who = say("edit_who", language, titles=", ".join(able_titles))
    no = "" if able else message(say("edit_cannot", language, title=title), "warning")
    return (
        f'<div class="about-edit"><p>{escape(lines)}</p><details><summary>{escape(title_line)}'
        f"</summary><p>{escape(who)}</p></details>{no}</div>"
    )
