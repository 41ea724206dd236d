"""A picture's metadata in words, as tabs show it under the picture."""

from __future__ import annotations

from janus_app.outputs.descriptions import description
from janus_app.outputs.metadata import INTERVAL_ENDS, ImageMetadata
from janus_app.ui.common.html import facts
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import PageContext


def detail_html(page: PageContext, image: SavedImage, language: str) -> str:
    """The metadata of a picture as a table."""
    say, record = page.texts.say, image.metadata
    return facts(
        [
            (say("prompt", language), record.prompt),
            (say("negative", language), record.negative),
            (say("alt_text", language), description(image.file)),
            (say("seed", language), str(record.seed)),
            (say("model", language), f"{record.title} · {record.precision}"),
            (say("source_prompt", language), record.source_prompt),
            (say("plan", language), record.plan),
            (say("judgement", language), record.judgement),
            (say("settings", language), settings_line(page, record, language)),
            (say("file", language), image.file.name),
        ]
    )


def settings_line(page: PageContext, record: ImageMetadata, language: str) -> str:
    """The settings in words, as far as the page has words for them: the metadata may come from any program."""
    named, settings = page.texts.named, record.settings
    low, high = (settings.get(name) for name in INTERVAL_ENDS)
    parts = []
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        parts.append(page.texts.say("setting_interval", language, low=f"{low:g}", high=f"{high:g}"))
    for name, value in settings.items():
        if name in INTERVAL_ENDS:
            continue
        if isinstance(value, str):
            parts.append(named(name, value, language))
        else:
            number = "" if value is True else f" {value:g}"
            parts.append(f"{named('setting', name, language)}{number}")
    return ", ".join(parts)
