"""LoRA adapters in the drawer of the model: those found on disk, several at once, each with a strength."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from janus_app.ui.context import PageContext, Updates

if TYPE_CHECKING:
    from janus_app.runtime.adapters import Adapter


@dataclass(frozen=True)
class AdaptersPanel:
    """`chosen` are texts, "name" or "name=0.8"; `note` says why they could not be loaded."""

    frame: gr.Accordion
    chosen: gr.Dropdown
    use: gr.Button
    note: gr.HTML

    @property
    def all(self) -> set[Any]:
        return {self.frame, self.chosen, self.note}


def build(page: PageContext) -> AdaptersPanel:
    label = page.texts.label
    with gr.Accordion(label("adapters"), open=False, elem_id="model-adapters-frame", visible=not page.shared) as frame:
        chosen = gr.Dropdown(
            [],
            value=[],
            multiselect=True,
            allow_custom_value=True,
            label=label("adapters"),
            info=label("adapters_info"),
            elem_id="model-adapters",
        )
        use = gr.Button(label("adapters_use"), size="sm", elem_id="model-adapters-use")
        note = gr.HTML(elem_id="model-adapters-note", padding=False)
    return AdaptersPanel(frame, chosen, use, note)


def offered(page: PageContext, panel: AdaptersPanel) -> Updates:
    """The adapters on disk, and those that are merged into the loaded model."""
    from janus_app.runtime.adapters import known_adapters

    merged = [str(adapter).removesuffix("=1") for adapter in page.session.state.adapters]
    return {panel.chosen: gr.update(choices=list(dict.fromkeys([*known_adapters(), *merged])), value=merged)}


def found(page: PageContext, texts: list[str] | None) -> tuple[Adapter, ...]:
    """The adapters that the texts name; one that is merged now may lie in any folder. Raises AppError."""
    from janus_app.runtime.adapters import find_adapter

    merged = {str(adapter).removesuffix("=1"): adapter for adapter in page.session.state.adapters}
    return tuple(merged[text] if text in merged else find_adapter(text) for text in texts or ())
