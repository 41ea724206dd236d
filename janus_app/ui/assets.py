"""The page's own styles and scripts: one file each for an idea, in assets/style and assets/page."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from janus_app.paths import ASSETS

FAVICON = ASSETS / "mark.svg"
OPENING = ASSETS / "page" / "opening.js"
MANIFEST = ASSETS / "page" / "app.webmanifest"  # what the page is called and looks like as an installed app


def mark() -> str:
    """The mark of the app as SVG to stand in a line of text."""
    return FAVICON.read_text(encoding="utf-8")


def styles() -> list[Path]:
    """The style sheets in the order they apply, the base first. What a small screen changes stands beside its idea."""
    return sorted((ASSETS / "style").glob("*.css"), key=lambda file: (file.stem != "base", file.stem))


def script() -> str:
    """All scripts as one function, so that they share names with each other but not with Gradio's."""
    files = sorted({*(ASSETS / "page").glob("*.js")} - {OPENING}, key=lambda file: (file.stem != "basics", file.stem))
    return "(() => {\n" + "\n".join(file.read_text(encoding="utf-8") for file in files) + "})();\n"


def opening_script() -> str:
    """The script that runs before all of Gradio's."""
    return OPENING.read_text(encoding="utf-8")


def gradio_files() -> Path:
    """The folder of the scripts and styles of Gradio's page."""
    return Path(gr.__file__).parent / "templates" / "frontend" / "assets"
