"""What is stored for a person: conversations, votes and presets in the data folder, pictures in the outputs folder.

There is no database and no index: a copy of the folders is a backup, and no index can disagree with the files. What
was read is cached in memory by the time and size of its file, which makes reading it again fast.
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
    """All that is stored for one person. A page that others can open has none."""

    conversations: Conversations
    gallery: Gallery
    votes: Votes
    presets: Presets


def library(outputs: Path, data: Path) -> Library:
    """The library in the folder of drawn pictures and the user's data folder. Neither has to exist yet."""
    return Library(Conversations(data / "conversations"), Gallery(outputs), Votes(data), Presets(data))
