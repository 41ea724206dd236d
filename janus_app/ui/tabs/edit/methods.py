"""Which controls of the edit tab are visible: by what should change, and by the model that can do it."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from janus_app.errors import Message
from janus_app.models.registry import get_family
from janus_app.types import EDIT_SETTINGS
from janus_app.ui.common.controls import INTERVAL, ranges_only
from janus_app.ui.common.html import message
from janus_app.ui.context import PageContext, Updates, example_updates, slider_update
from janus_app.ui.tabs.edit.panels import EditPanels
from janus_app.ui.tabs.edit.suggestions import is_suggestion, suggestions
from janus_app.ui.tabs.edit.undo import Tree
from janus_app.ui.tabs.edit.ways import WAYS, Offer, available, method_for, methods_of, missing_way, offers, way_of
from janus_app.ui.tabs.edit.words import INSTRUCT, turned

NO_PICTURES = Tree()


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
        settings.written, *settings.examples, *offer_outputs(panels),
    }  # fmt: skip


def method_updates(
    page: PageContext,
    panels: EditPanels,
    selected: str | None,
    method: str | None,
    language: str,
    text: str = "",
    written: str = "",
    tree: Tree = NO_PICTURES,
) -> Updates:
    """What to do for an edit method, the controls it reads, and a model to switch to where it needs another one.

    `text` is what the user wrote so far, `written` the hidden text beside it (words.py). A box that would be empty or
    hold a suggestion gets the first one for the method and the picture in the editor.
    """
    now, able = page.variant(selected), page.session.state.capabilities
    say, named = page.texts.say, page.texts.named
    used, known, instruct = settings_of(method), now.settings.keys(), method == INSTRUCT
    max_pictures = able.edit_pictures if able and method in able.edit_methods and instruct else 1
    settings, controls = panels.settings, panels.settings.controls
    flow = controls.flow
    asked = "edit_instruction" if instruct else "edit_after" if "source_prompt" in used else "edit_prompt"

    before, (text, written) = text, turned(written, method, text)
    examples, text = suggested(page, selected, method, tree, language, text)
    given: dict[str, Any] = {"value": text} if text != before else {}

    def visible(name: str, setting: str = "") -> dict[str, Any]:
        """A setting of the variant is visible before a model is loaded, and then where the method reads it."""
        return gr.update(visible=(setting or name) in known and (method is None or name in used))

    return {
        panels.method.note: note_html(page, method, language),
        controls.prompt: gr.update(label=say(asked, language), placeholder=say(f"{asked}_hint", language), **given),
        settings.written: written,
        **example_updates(settings.examples, examples),
        panels.source.more: gr.update(
            visible=max_pictures > 1, label=say("more_pictures", language, most=max_pictures - 1)
        ),
        panels.method.source_box: gr.update(visible="source_prompt" in used),
        settings.strength: gr.update(
            visible="strength" in used and "strength" in known, info=named("strength", method or "variation", language)
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
        **offer_updates(page, panels, selected, method, text, language),
    }


def suggested(
    page: PageContext, selected: str | None, method: str | None, tree: Tree, language: str, text: str
) -> tuple[tuple[str, ...], str]:
    """The suggestions for a method and the picture in the editor, and what the prompt box holds then."""
    found = suggestions(page, selected, method, tree, language)
    if text in found or not (text.strip() == "" or is_suggestion(page, text)):
        return found, text
    return found, found[0] if found else ""


def note_html(page: PageContext, method: str | None, language: str) -> str:
    """What to do for an edit method in one line, and on demand how the loaded model does it."""
    if not method:
        return message(page.texts.say("edit_no_way", language), "note unpainted")
    line, able = page.texts.say(f"way_{way_of(method)}_do", language), page.session.state.capabilities
    description: Message | None = able.edit_methods.get(method) if able else None
    more = ""
    if description:
        summary = escape(page.texts.say("way_more", language))
        more = f"<details><summary>{summary}</summary><p>{escape(description.text(language))}</p></details>"
    painted = "painted" if "mask" in settings_of(method) else "unpainted"  # assets/style/ hides the brush
    return f'<div class="way {painted}"><p>{escape(line)}</p>{more}</div>'


def offer_outputs(panels: EditPanels) -> set[Any]:
    """The components of `offer_updates`."""
    return {panels.method.offer, panels.method.switch, panels.settings.buttons.run}


def offer_updates(
    page: PageContext, panels: EditPanels, selected: str | None, method: str | None, text: str, language: str
) -> Updates:
    """A model that can do what the user wants where the loaded one cannot, and the button that switches to it.

    Where the chosen way needs it, that button takes the place of the one that runs.
    """
    methods = available(page, selected)
    possible = method in methods
    line, button = _offer(page, page.variant(selected).title, methods, method, text, language)
    hidden = gr.update(visible="hidden")
    switch = gr.update(value=button, visible=True, variant="secondary" if possible else "primary") if button else hidden
    run = gr.update(visible=possible or not button, interactive=possible)
    return {panels.method.offer: line, panels.method.switch: switch, panels.settings.buttons.run: run}


def _offer(
    page: PageContext, title: str, methods: tuple[str, ...], method: str | None, text: str, language: str
) -> tuple[str, str]:
    """What is offered (HTML) and the label of its button, both empty where the chosen method does what is wanted."""
    say, way = page.texts.say, missing_way(method, methods, text)
    if not way:
        return "", ""
    if method_for(way, methods):
        line = say("offer_way", language, way=say(f"way_{way}", language))
        return message(line), say("offer_use_way", language)
    found = offers(page, way)
    if not found:
        return ("", "") if method in methods else (message(say("offer_none", language, title=title), "warning"), "")
    first, *others = found
    key = "offer_instruction" if method in methods else "offer_model"
    line = say(key, language, title=title, other=first.variant.title)
    if others:
        line += " " + say("offer_others", language, titles=", ".join(_named(page, one, language) for one in others[:3]))
    key = "offer_switch" if first.ready else "offer_get"
    return message(line), say(key, language, title=first.variant.title, size=first.size)


def _named(page: PageContext, offer: Offer, language: str) -> str:
    if offer.ready:
        return offer.variant.title
    return page.texts.say("offer_sized", language, title=offer.variant.title, size=offer.size)


def choices(page: PageContext, methods: tuple[str, ...], language: str) -> list[tuple[str, str]]:
    """(answer to "What should change?", edit method) of each way: the model's method where it has one."""
    return [
        (page.texts.say(f"way_{way}", language), method_for(way, methods) or candidates[0])
        for way, candidates in WAYS.items()
    ]


def variant_updates(
    page: PageContext,
    panels: EditPanels,
    selected: str | None,
    language: str,
    current: str | None = None,
    text: str = "",
    fitted: str = "",
    written: str = "",
    tree: Tree = NO_PICTURES,
) -> Updates:
    """The ways, controls and suggestions of the variant shown.

    `current` is the method chosen so far: its way is kept where the user chose it and the variant has it, else its
    usual method is taken. `fitted` is the id of the variant whose controls the page shows so far: where it is this one,
    they keep their values. `written` is the hidden text (words.py).
    """
    settings = panels.settings
    now, methods = page.variant(selected), available(page, selected)
    usual = current is not None and fitted != now.id and current == usual_method(page, fitted)
    method = None if usual else method_for(way_of(current), methods)
    method = method or next(iter(methods), None)
    ranges = settings.controls.variant_updates(page, now, language)
    del ranges[settings.controls.count]  # one result unless the user wants more, whatever the variant
    ranges[settings.strength] = slider_update(now.settings.get("strength"))
    ranges[settings.image_guidance] = slider_update(now.settings.get("image_guidance"))
    ranges = ranges_only(ranges) if fitted == now.id else ranges
    shown = method_updates(page, panels, selected, method, language, text, written, tree)
    return {
        panels.method.method: gr.update(choices=choices(page, methods, language), value=method),
        settings.fitted: now.id,
        **ranges,
        **{component: merged(ranges.get(component), update) for component, update in shown.items()},
    }


def usual_method(page: PageContext, variant_id: str) -> str | None:
    """The method that the page chooses for a variant of the catalog, None where it is in none or edits nothing."""
    variant = next((row for row in page.catalog.values() if row.id == variant_id), None)
    return next(iter(methods_of(variant)), None) if variant else None


def merged(earlier: Any, later: Any) -> Any:
    """Both updates of a component in one; `later` wins."""
    return {**earlier, **later} if isinstance(earlier, dict) else later


def variant_outputs(panels: EditPanels) -> set[Component]:
    """The components of `variant_updates`."""
    settings = panels.settings
    return {panels.method.method, settings.fitted, settings.controls.guidance, *method_outputs(panels)}
