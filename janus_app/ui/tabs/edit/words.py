"""The two texts of the edit tab's prompt box: an instruction for methods that follow one, else a description.

The box shows one of them. The other one waits in a hidden box, as JSON that the browser keeps with what was entered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from janus_app.ui.tabs.edit.ways import sounds_like_an_instruction

INSTRUCT = "instruct"

Kind = Literal["instruction", "description"]


def kind_of(method: str | None) -> Kind:
    """What an edit method reads."""
    return "instruction" if method == INSTRUCT else "description"


def written(kind: Kind, texts: Mapping[str, str] | None = None) -> str:
    """The value of the hidden box while the prompt box holds a text of this kind. `texts` are by kind."""
    return json.dumps({**(texts or {}), "kind": kind}, ensure_ascii=False)


def turned(before: str | None, method: str | None, text: str) -> tuple[str, str]:
    """The text to show for a method, and the hidden box beside it: the last text of its kind, "" where there is none.

    `before` is the value of the hidden box so far and `text` what the prompt box holds. An instruction that was written
    where a description was asked for stays when a method that follows instructions is chosen.
    """
    kept, kind = _read(before), kind_of(method)
    if method is None or kept.get("kind", kind) == kind:
        return text, before or written(kind)
    said = "instruction" if sounds_like_an_instruction(text) else kept["kind"]
    kept[said] = text
    return kept.get(kind, ""), written(kind, kept)


def given(before: str | None, text: str, kind: Kind, new: str) -> tuple[str, str]:
    """The same two after a text of that kind has come with a picture: it is shown where that kind is asked for."""
    kept = _read(before)
    if kept.get("kind", kind) == kind:
        return new, before or written(kind)
    return text, written(kept["kind"], {**kept, kind: new})


def _read(box: str | None) -> dict[str, Any]:
    """What the browser sends may be anything; what cannot be read is as good as empty."""
    try:
        found = json.loads(box or "{}")
    except ValueError:
        return {}
    return {key: text for key, text in found.items() if isinstance(text, str)} if isinstance(found, dict) else {}
