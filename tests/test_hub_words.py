"""Every sentence about files, downloads, MetaQuery and Janus is known in every language of the page."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from janus_app.hub import Imported
from janus_app.ui.i18n import Texts
from tests.test_hub import variant

PACKAGE = Path(__file__).parent.parent / "janus_app"
ROOMS = (
    *sorted((PACKAGE / "hub").glob("*.py")),
    PACKAGE / "convert.py",
    PACKAGE / "own_models.py",
    PACKAGE / "ui" / "files_panel.py",
    *sorted((PACKAGE / "models" / "metaquery").glob("*.py")),
    *sorted((PACKAGE / "models" / "janus").glob("*.py")),
)
SPOKEN = ("AppError", "Trouble", "Notice", "note")
INSIDE = (  # said as a part of another sentence
    "read-only",
    "is 5 bytes long, expected 7",
    "has sha256 abc..., expected def...",
    "model.bin, config.json (1 of 3 files done)",
    "asking the Hub for the hashes",
)


def spoken(file: Path) -> Iterator[str]:
    """What a file says, with a word of its own in each place."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in SPOKEN and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
            yield filled(node.args[0])


def filled(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.JoinedStr)
    parts = [
        str(part.value) if isinstance(part, ast.Constant) else f"PLACE{number}"
        for number, part in enumerate(node.values)
    ]
    return "".join(parts)


SENTENCES = sorted({text for file in ROOMS for text in spoken(file)} | set(INSIDE))


@pytest.mark.parametrize("english", SENTENCES)
def test_it_is_said_in_chinese_with_all_its_places(english: str) -> None:
    own = Texts().sentence(english, "zh-CN")
    assert re.search(r"[\u4e00-\u9fff]", own), "not translated"
    assert set(re.findall(r"PLACE\d+", own)) == set(re.findall(r"PLACE\d+", english))


def test_there_are_sentences() -> None:
    assert len(SENTENCES) > 50


@pytest.mark.parametrize("unknown", [(), ("a.json",)])
@pytest.mark.parametrize("linked", [True, False])
def test_what_an_import_did_is_said_in_chinese(unknown: tuple[str, ...], linked: bool) -> None:
    english = Imported(Path("x"), 3, unknown, linked).line(variant())
    own = Texts().sentence(english, "zh-CN")
    assert "已导入" in own and not re.search(r"[a-z]{4,} [a-z]{2,}", own)


def test_a_reason_inside_a_sentence_is_translated_too() -> None:
    said = Texts().sentence("http://x asks to slow down (HTTP 429); trying again in 2 s", "zh-CN")
    assert said == "http://x 要求放慢速度（HTTP 429）；2 s 后重试"
