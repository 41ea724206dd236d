"""Recorded cases of the released implementation (tests/golden/janus) and how close to them is close enough."""

from __future__ import annotations

import json
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from janus_app.models.common import prompts
from janus_app.models.common.tokenizer import IMAGE, Piece
from tests.conftest import GOLDEN, loaded

FEATURES, LOGITS, PIXELS = 2e-5, 1e-4, 1e-4  # float32 on the CPU; the data's README says why
UNDERSTANDING = ("rgb", "rgba", "gray", "multi_image", "multi_turn", "text_only")


class Case:
    """One tiny checkpoint through the real loader, and what the reference made of it."""

    def __init__(self, name: str) -> None:
        self.folder = GOLDEN / name
        self.meta: dict[str, Any] = json.loads((self.folder / "meta.json").read_text("utf-8"))
        # A real Janus-1.3B is known by its name or its row.
        roles = "words" if name == "janus_1_3b" else ""
        self.model: Any = loaded(self.folder / "checkpoint", roles=roles).model

    def expected(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / "expected" / f"{name}.safetensors")

    def messages(self, conversation: list[dict[str, Any]]) -> list[list[Piece]]:
        """A recorded conversation as our pieces; the open assistant turn at its end is ours to add."""
        messages = []
        for turn in conversation[:-1]:
            pieces: list[Piece] = []
            for i, text in enumerate(turn["content"].strip().split(IMAGE)):
                pieces += [*self.model.picture, text] if i else [text]
            messages.append(pieces)
        return messages

    def question(self, name: str) -> tuple[list[int], list[Image.Image]]:
        conversation = self.meta["und"][name]["conversation"]
        files = [file for turn in conversation for file in turn.get("images", [])]
        ids = self.model.tokenizer.encode(prompts.conversation(self.messages(conversation), self.model.style))
        return ids, [Image.open(GOLDEN / "images" / file) for file in files]

    def pixels(self, pictures: list[Image.Image]) -> Tensor | None:
        return torch.stack([self.model.processor(p) for p in pictures]) if pictures else None


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual.float(), expected.float(), atol=tolerance, rtol=0)


def nearly_equal_pictures(mine: Image.Image, exact: Tensor) -> None:
    """8-bit pictures are cut, not rounded: a pixel in a thousand may be off by one."""
    values = torch.tensor(list(mine.tobytes()), dtype=torch.int16).view(exact.shape)
    off = (values - exact.to(torch.int16)).abs()
    assert off.max() <= 1 and (off > 0).float().mean() < 1e-3
