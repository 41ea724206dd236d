"""What a person made, kept as plain files: conversations in the data folder, drawn pictures in the outputs folder.

No database and no index: the files are the truth, so a copied folder is a backup and nothing can fall out of step.
What was read is remembered in memory by a file's time and size, which makes the second look quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from janus_app.outputs.conversations import Conversations
from janus_app.outputs.gallery import Gallery
from janus_app.outputs.user_presets import Presets
from janus_app.outputs.votes import Votes


@dataclass(frozen=True)
class Library:
    """Everything one person keeps. A page that others can open has none."""

    conversations: Conversations
    gallery: Gallery
    votes: Votes
    presets: Presets


def library(outputs: Path, data: Path) -> Library:
    """The library over the folder of drawn pictures and the user's data folder. Neither has to exist yet."""
    return Library(Conversations(data / "conversations"), Gallery(outputs), Votes(data), Presets(data))
