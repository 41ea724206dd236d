"""Presets and styles of the draw tab: settings under a name, and words around the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from janus_app.errors import AppError
from janus_app.outputs.user_presets import Preset
from janus_app.registry.types import Variant
from janus_app.ui.common.controls import RequestControls
from janus_app.ui.common.html import message
from janus_app.ui.context import NOTIFYING, QUICK, PageContext, Updates, Values, attach
from janus_app.workflows.presets import built_in, complete, styled, styles, writes_prompts

NAMES = {"fast": "preset_fast", "balanced": "preset_balanced", "careful": "preset_careful"}
OWN = "own:"  # the prefix of the user's presets in the dropdown, which keeps them apart from the built-in ones


@dataclass(frozen=True)
class PresetsPanel:
    preset: gr.Dropdown
    style: gr.Dropdown
    note: gr.HTML

    @property
    def all(self) -> set[Component]:
        return {self.preset, self.style, self.note}

    def variant_updates(self, page: PageContext, variant: Variant, language: str) -> Updates:
        """The presets and styles for a variant."""
        say = page.texts.say
        names = [(say("style_none", language), ""), *((title, name) for name, title in styles(language).items())]
        return {
            self.preset: gr.update(choices=choices(page, variant, language), value=""),
            self.style: gr.update(choices=names),
        }

    def hint(self, page: PageContext, variant: Variant, language: str) -> str:
        """That styles do little for a small model, in HTML."""
        if writes_prompts(variant):
            return ""
        return message(page.texts.say("style_small", language, title=variant.title))


def build_presets_panel(page: PageContext) -> PresetsPanel:
    """The dropdowns above the sliders."""
    label = page.texts.label
    with gr.Row(elem_classes="axis"):
        preset = gr.Dropdown(["", *NAMES], value="", label=label("preset"), elem_id="draw-preset", min_width=130)
        style = gr.Dropdown(["", *styles("en")], value="", label=label("style"), elem_id="draw-style", min_width=130)
    return PresetsPanel(preset, style, gr.HTML(elem_id="draw-style-note", padding=False))


@dataclass(frozen=True)
class SavePanel:
    """Below the sliders: save the settings as a preset, or delete one."""

    name: gr.Textbox
    save: gr.Button
    delete: gr.Button
    note: gr.HTML


def build_save_panel(page: PageContext) -> SavePanel:
    label = page.texts.label
    with gr.Accordion(label("preset_keep"), open=False, elem_id="draw-keep"):
        name = gr.Textbox(label=label("preset_name"), max_lines=1, elem_id="draw-preset-name")
        with gr.Row(elem_classes="actions"):
            save = gr.Button(label("preset_save"), size="sm", elem_id="draw-preset-save", min_width=60)
            delete = gr.Button(label("preset_delete"), size="sm", elem_id="draw-preset-delete", min_width=60)
        return SavePanel(name, save, delete, gr.HTML(elem_id="draw-preset-note", padding=False))


def wire(page: PageContext, presets: PresetsPanel, variant: gr.Dropdown, controls: RequestControls) -> None:
    """Choosing a preset sets the controls; choosing a style changes the prompt."""

    def choose_preset(values: Values, request: gr.Request) -> Updates:
        try:
            found = settings_of(page, values[presets.preset] or "", page.variant(values[variant]))
        except AppError as error:
            gr.Warning(error.text(page.language(request)))
            return gr.skip()
        return preset_updates(controls, found) if found else gr.skip()

    def choose_style(values: Values, request: gr.Request) -> Updates:
        style = values[presets.style] or ""
        return {controls.prompt: styled(values[controls.prompt] or "", style, page.language(request))}

    knobs = set(controls.by_setting.values())
    attach(presets.preset.input, choose_preset, {presets.preset, variant}, knobs, **NOTIFYING)
    attach(presets.style.input, choose_style, {controls.prompt, presets.style}, controls.prompt, **QUICK)


def wire_saving(
    page: PageContext, panel: SavePanel, presets: PresetsPanel, variant: gr.Dropdown, controls: RequestControls
) -> None:
    """Attach the buttons that save and delete the user's presets."""
    assert page.library is not None
    saved, by_setting = page.library.presets, controls.by_setting

    def save(values: Values, request: gr.Request) -> Updates:
        language, now = page.language(request), page.variant(values[variant])
        settings = complete(now, {name: values[control] for name, control in by_setting.items()})
        title = " ".join((values[panel.name] or "").split())
        try:
            saved.save(Preset(title, now.family, settings))
        except AppError as error:
            return {panel.note: message(error.text(language), "error")}
        line = page.texts.say("preset_saved", language, name=title, file=str(saved.file))
        return {
            presets.preset: gr.update(choices=choices(page, now, language), value=OWN + title),
            panel.note: message(line, "done"),
            panel.name: "",
        }

    def delete(values: Values, request: gr.Request) -> Updates:
        language, now = page.language(request), page.variant(values[variant])
        chosen = values[presets.preset] or ""
        if not chosen.startswith(OWN):
            return {panel.note: message(page.texts.say("preset_choose", language), "warning")}
        title = chosen.removeprefix(OWN)
        try:
            saved.delete(title, now.family)
        except AppError as error:
            return {panel.note: message(error.text(language), "error")}
        return {
            presets.preset: gr.update(choices=choices(page, now, language), value=""),
            panel.note: message(page.texts.say("preset_deleted", language, name=title), "done"),
        }

    outputs = {presets.preset, panel.note, panel.name}
    attach(panel.save.click, save, {panel.name, variant, *by_setting.values()}, outputs, **QUICK)
    attach(panel.delete.click, delete, {presets.preset, variant}, outputs, **QUICK)


def preset_updates(controls: RequestControls, settings: dict[str, Any]) -> Updates:
    """Set the controls to `settings`; those that are not mentioned stay as they are."""
    by_setting = controls.by_setting
    return {by_setting[name]: gr.update(value=value) for name, value in settings.items()}


def settings_of(page: PageContext, which: str, variant: Variant) -> dict[str, Any] | None:
    """The settings of a preset for a variant, None where there is no such preset. Raises AppError."""
    if not which.startswith(OWN):
        found = built_in(variant).get(which)
        return {name: value for name, value in found.items() if name != "count"} if found else None
    saved = page.library.presets.of(variant.family) if page.library else []
    own = next((preset for preset in saved if OWN + preset.name == which), None)
    return complete(variant, own.settings) if own else None


def choices(page: PageContext, variant: Variant, language: str) -> list[tuple[str, str]]:
    """The entries of the dropdown: none, the built-in presets, the user's own."""
    say = page.texts.say
    found = [(say("preset_none", language), "")]
    found += [(say(NAMES[name], language), name) for name in built_in(variant)]
    try:
        own = page.library.presets.of(variant.family) if page.library else []
    except AppError:  # reported where a preset is saved or chosen
        own = []
    return [*found, *((preset.name, OWN + preset.name) for preset in own)]
