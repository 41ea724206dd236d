"""What a family says of the language model's embedding and head. Imports no torch, as nothing of `family.py` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from janus_app.errors import Message


def tied_head(raw: Mapping[str, Any]) -> dict[str, str]:
    """The head for words, and the embedding that takes its place where the config ties them (`Family.tied`)."""
    language = raw.get("language_config")
    own = language.get("tie_word_embeddings") if isinstance(language, Mapping) else None
    tied = raw.get("tie_word_embeddings") is True if own is None else own is True
    return {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"} if tied else {}


def explain_vocabulary(network: object, name: str, found: bool) -> Message | None:
    """What to do about an embedding or a head of another length (`Family.explain_mismatch`)."""
    words = name in ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight")
    return Message("vocabulary_differs") if found and words else None
