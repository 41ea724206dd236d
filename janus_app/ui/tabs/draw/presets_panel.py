"""Presets and styles of the draw tab: settings under a name, and words around the prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.user_presets import Preset
from janus_app.registry.types import Variant
from janus_app.ui.common.html import message
from janus_app.ui.context import QUICK, PageContext
from janus_app.workflows.presets import built_in, complete, styled, styles, writes_prompts

NAMES = {"fast": "preset_fast", "balanced": "preset_balanced", "careful": "preset_careful"}
OWN = "own:"  # before the name of a preset of the person's, so that none is taken for one of ours
ORDER = ("count", "guidance", "temperature", "steps", "solver", "guidance_start", "guidance_end")


@dataclass(frozen=True)
class PresetsPanel:
    preset: gr.Dropdown
    style: gr.Dropdown
    note: gr.HTML


def controls(page: PageContext) -> PresetsPanel:
    """What stands above the sliders."""
    label = page.texts.label
    with gr.Row(elem_classes="axis"):
        preset = gr.Dropdown(["", *NAMES], value="", label=label("preset"), elem_id="draw-preset", min_width=130)
        style = gr.Dropdown(["", *styles("en")], value="", label=label("style"), elem_id="draw-style", min_width=130)
    return PresetsPanel(preset, style, gr.HTML(elem_id="draw-style-note", padding=False))


def keeping(page: PageContext, chosen: PresetsPanel, variant: gr.Dropdown, knobs: list[Any]) -> None:
    """Below the sliders: keep them under a name, or forget a preset. `knobs` in ORDER."""
    if page.library is None:
        return
    presets, label = page.library.presets, page.texts.label
    with gr.Accordion(label("preset_keep"), open=False, elem_id="draw-keep"):
        name = gr.Textbox(label=label("preset_name"), max_lines=1, elem_id="draw-preset-name")
        with gr.Row(elem_classes="actions"):
            save = gr.Button(label("preset_save"), size="sm", elem_id="draw-preset-save", min_width=60)
            forget = gr.Button(label("preset_delete"), size="sm", elem_id="draw-preset-delete", min_width=60)
        said = gr.HTML(elem_id="draw-preset-note", padding=False)

    def on_save(words: str, selected: str | None, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        language, now = page.language(request), page.variant(selected)
        settings = complete(now, dict(zip(ORDER, values, strict=True)))
        title = " ".join((words or "").split())
        try:
            presets.save(Preset(title, now.family, settings))
        except AppError as error:
            return gr.skip(), message(page.texts.text(error, language), "error"), gr.skip()
        line = page.texts.say("preset_saved", language, name=title, file=str(presets.file))
        return gr.update(choices=choices(page, now, language), value=OWN + title), message(line, "done"), ""

    def on_delete(which: str | None, selected: str | None, request: gr.Request) -> tuple[Any, ...]:
        language, now = page.language(request), page.variant(selected)
        say = page.texts.say
        if not (which or "").startswith(OWN):
            return gr.skip(), message(say("preset_choose", language), "warning")
        title = str(which).removeprefix(OWN)
        try:
            presets.delete(title, now.family)
        except AppError as error:
            return gr.skip(), message(page.texts.text(error, language), "error")
        line = message(say("preset_deleted", language, name=title), "done")
        return gr.update(choices=choices(page, now, language), value=""), line

    save.click(on_save, [name, variant, *knobs], [chosen.preset, said, name], **QUICK)
    forget.click(on_delete, [chosen.preset, variant], [chosen.preset, said], **QUICK)


def wire(
    page: PageContext, chosen: PresetsPanel, variant: gr.Dropdown, prompt: gr.Textbox, knobs: list[Any]
) -> Callable[[Variant, str], list[Any]]:
    """Give the dropdowns their meaning; returns what fills [preset, style, note] for a variant."""

    def on_preset(which: str | None, selected: str | None, request: gr.Request) -> list[Any]:
        now = page.variant(selected)
        try:
            found = settings_of(page, which or "", now)
        except AppError as error:
            gr.Warning(page.texts.text(error, page.language(request)))
            found = None
        return updates(found)

    def on_style(words: str, which: str | None, request: gr.Request) -> str:
        return styled(words or "", which or "", page.language(request))

    def refresh(now: Variant, language: str) -> list[Any]:
        say = page.texts.say
        names = [(say("style_none", language), ""), *((title, name) for name, title in styles(language).items())]
        note = "" if writes_prompts(now) else message(say("style_small", language, title=now.title))
        return [gr.update(choices=choices(page, now, language), value=""), gr.update(choices=names), note]

    chosen.preset.input(on_preset, [chosen.preset, variant], knobs, **QUICK)
    chosen.style.input(on_style, [prompt, chosen.style], prompt, **QUICK)
    return refresh


def updates(found: dict[str, Any] | None) -> list[Any]:
    """What sets the knobs, in ORDER; those the preset does not speak of stay."""
    return [gr.update(value=found[name]) if found and name in found else gr.skip() for name in ORDER]


def settings_of(page: PageContext, which: str, variant: Variant) -> dict[str, Any] | None:
    """The settings of a preset for a variant, None where there is no such preset. Raises AppError."""
    if not which.startswith(OWN):
        found = built_in(variant).get(which)
        return {name: value for name, value in found.items() if name != "count"} if found else None
    kept = page.library.presets.of(variant.family) if page.library else []
    own = next((preset for preset in kept if OWN + preset.name == which), None)
    return complete(variant, own.settings) if own else None


def choices(page: PageContext, variant: Variant, language: str) -> list[tuple[str, str]]:
    """None, the built-in presets, the person's own."""
    say = page.texts.say
    found = [(say("preset_none", language), "")]
    found += [(say(NAMES[name], language), name) for name in built_in(variant)]
    try:
        own = page.library.presets.of(variant.family) if page.library else []
    except AppError:  # said where one is saved or chosen
        own = []
    return [*found, *((preset.name, OWN + preset.name) for preset in own)]
