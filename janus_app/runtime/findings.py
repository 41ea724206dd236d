"""What a check of the doctor or of the self-test found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from janus_app.errors import Message

Level = Literal["OK", "WARN", "FAIL", "SKIP"]


@dataclass(frozen=True)
class Finding:
    """The result of one check. FAIL = the app cannot work without it; WARN = one of its features will not work;
    SKIP = not tried, or not there and not needed."""

    level: Level
    what: str | Message
    detail: Message
    remedy: Message | None = None

    def texts(self, language: str = "en") -> dict[str, str]:
        """The fields as text, with an empty remedy if there is none."""
        what = self.what.text(language) if isinstance(self.what, Message) else self.what
        remedy = self.remedy.text(language) if self.remedy is not None else ""
        detail = without_home(self.detail.text(language))
        return {"level": self.level, "what": what, "detail": detail, "remedy": remedy}


def as_text(findings: Sequence[Finding], language: str = "en") -> str:
    """The findings as lines for a terminal or a bug report."""
    lines = []
    for texts in (finding.texts(language) for finding in findings):
        lines.append(f"{texts['level']:4}  {texts['what']}: {texts['detail']}")
        if texts["remedy"]:
            lines.append(f"      {texts['remedy']}")
    return "\n".join(lines)


def without_home(text: str) -> str:
    """The text with the home folder shown as ~."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text
