"""Which controls of the edit tab are visible: by the edit method, and by the variant that offers the methods."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from janus_app.models.registry import get_family
from janus_app.types import EDIT_SETTINGS
from janus_app.ui.common.controls import INTERVAL
from janus_app.ui.common.html import message
from janus_app.ui.context import PageContext, Updates, example_updates, slider_update
from janus_app.ui.tabs.edit.panels import EditPanels

INSTRUCT = "instruct"


def settings_of(method: str | None) -> frozenset[str]:
    """The settings that an edit method reads."""
    return EDIT_SETTINGS.get(method or "", frozenset())


def method_outputs(panels: EditPanels) -> set[Any]:
    """The components of `method_updates`."""
    settings, controls = panels.settings, panels.settings.controls
    flow = controls.flow
    return {
        panels.method.note, panels.method.source_box, panels.source.more, controls.prompt, controls.temperature,
        settings.strength, settings.image_guidance, flow.steps, flow.solver, flow.start, flow.end,
    }  # fmt: skip


def method_updates(
    page: PageContext, panels: EditPanels, selected: str | None, method: str | None, language: str
) -> Updates:
    """The note about an edit method, and the controls it reads."""
    now, able = page.variant(selected), page.session.state.capabilities
    say, named = page.texts.say, page.texts.named
    used, known, instruct = settings_of(method), now.settings.keys(), method == INSTRUCT
    description = able.edit_methods.get(method or "") if able else None
    line = description.text(language) if description else ""
    max_pictures = able.edit_pictures if able and instruct else 1
    settings, controls = panels.settings, panels.settings.controls
    flow = controls.flow

    def visible(name: str, setting: str = "") -> dict[str, Any]:
        """A setting of the variant is visible before a model is loaded, and then where the method reads it."""
        return gr.update(visible=(setting or name) in known and (method is None or name in used))

    if line and "mask" in used:
        note = message(f"{say('paint_first', language)} {line}")
    else:
        note = message(line, "note unpainted")  # assets/style/ hides the brush
    return {
        panels.method.note: note,
        controls.prompt: gr.update(
            label=say("edit_instruction" if instruct else "edit_prompt", language),
            placeholder=say("edit_instruction_hint" if instruct else "edit_prompt_hint", language),
        ),
        panels.source.more: gr.update(
            visible=max_pictures > 1, label=say("more_pictures", language, most=max_pictures - 1)
        ),
        panels.method.source_box: gr.update(visible="source_prompt" in used),
        settings.strength: gr.update(
            visible="strength" in used, info=named("strength", method or "variation", language)
        ),
        settings.image_guidance: gr.update(
            visible="image_guidance" in used and "image_guidance" in known,
            info=named("image_guidance", get_family(now.family).drawing, language),
        ),
        controls.temperature: visible("temperature"),
        flow.steps: visible("steps"),
        flow.solver: gr.update(visible=bool(now.solvers) and (method is None or "solver" in used)),
        flow.start: visible("guidance_interval", INTERVAL[0]),
        flow.end: visible("guidance_interval", INTERVAL[1]),
    }


def variant_updates(page: PageContext, panels: EditPanels, selected: str | None, language: str) -> Updates:
    """The methods, controls and examples of the variant shown; the controls are those of its first method."""
    settings = panels.settings
    now, state = page.variant(selected), page.session.state
    methods = state.capabilities.edit_methods if state.capabilities else {}
    names = [(page.texts.named("method", name, language), name) for name in methods]
    first = next(iter(methods), None)
    ranges = settings.controls.variant_updates(page, now, language)
    del ranges[settings.controls.count]  # one result unless the user wants more, whatever the variant
    ranges[settings.strength] = slider_update(now.settings.get("strength"))
    ranges[settings.image_guidance] = slider_update(now.settings.get("image_guidance"))
    shown = method_updates(page, panels, selected, first, language)
    return {
        settings.buttons.run: gr.update(interactive="edit" in now.verbs),
        panels.method.method: gr.update(choices=names, value=first, visible=len(names) > 1),
        **example_updates(settings.examples, now.prompts("edit", language)),
        **ranges,
        **{component: merged(ranges.get(component), update) for component, update in shown.items()},
    }


def merged(earlier: Any, later: Any) -> Any:
    """Both updates of a component in one; `later` wins."""
    return {**earlier, **later} if isinstance(earlier, dict) else later


def variant_outputs(panels: EditPanels) -> set[Component]:
    """The components of `variant_updates`."""
    settings = panels.settings
    return {
        settings.buttons.run,
        panels.method.method,
        *settings.examples,
        settings.controls.guidance,
        *method_outputs(panels),
    }


def about_html(page: PageContext, selected: str | None, language: str) -> str:
    """What editing is, which variants can edit, and a warning where the variant shown cannot."""
    say, now = page.texts.say, page.variant(selected)
    titles = ", ".join(variant.title for variant in page.catalog.values() if "edit" in variant.verbs)
    cannot = "" if "edit" in now.verbs else message(say("edit_cannot", language, title=now.title), "warning")
    return (
        f'<div class="about-edit"><p>{escape(say("edit_about", language))}</p>'
        f"<details><summary>{escape(say('edit_who_title', language))}</summary>"
        f"<p>{escape(say('edit_who', language, titles=titles))}</p></details>{cannot}</div>"
    )
