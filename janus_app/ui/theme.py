"""Colours and fonts. Only fonts every system has: the page must not ask another server for anything."""

from __future__ import annotations

import gradio as gr

FONTS = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "PingFang SC",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "sans-serif",
)
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

# The scales of assets/style/base.css, so that Gradio's own parts have no sizes and distances of their own.
TEXT = gr.themes.Size("0.8125rem", "0.8125rem", "0.8125rem", "0.875rem", "1rem", "1.25rem", "1.25rem", name="text")
SPACING = gr.themes.Size("4px", "4px", "4px", "8px", "8px", "12px", "16px", name="spacing")


def theme() -> gr.themes.Base:
    """A calm grey page with one accent; contrasts of text are at least 4.5 to 1 in both schemes."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        spacing_size=SPACING,
        text_size=TEXT,
        font=list(FONTS),
        font_mono=list(MONO),
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="#161513",
        block_background_fill="white",
        block_background_fill_dark="#201e1c",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="#37332f",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_weight="500",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        background_fill_secondary_dark="#1b1917",
        border_color_primary="*neutral_200",
        border_color_primary_dark="#37332f",
        input_border_width="1px",
        input_border_width_dark="1px",
        button_small_padding="*spacing_sm *spacing_xl",
        button_border_width="1px",
        button_border_width_dark="1px",
        button_primary_border_color="*primary_700",
        button_primary_border_color_dark="*primary_700",
        button_cancel_border_color="#b42318",
        button_cancel_border_color_dark="#b42318",
        input_background_fill="white",
        input_background_fill_dark="#1b1917",
        input_border_color="*neutral_300",
        input_border_color_dark="#45403b",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="#2a2725",
        button_secondary_background_fill_hover_dark="#37332f",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="#45403b",
        button_cancel_background_fill="#b42318",
        button_cancel_background_fill_hover="#912018",
        button_cancel_background_fill_dark="#b42318",
        button_cancel_background_fill_hover_dark="#d92d20",
        button_cancel_text_color="white",
        button_cancel_text_color_dark="white",
        slider_color="*primary_700",
        slider_color_dark="*primary_400",
        checkbox_background_color_selected="*primary_700",
        checkbox_background_color_selected_dark="*primary_600",
        checkbox_border_color_selected="*primary_700",
        checkbox_border_color_selected_dark="*primary_600",
    )
