"""Recorded cases of the MetaQuery reference and tiny checkpoints in its layout, loaded once for all tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from janus_app.types import Event, Finished
from tests.conftest import loaded

GOLDEN = Path(__file__).parent / "golden" / "metaquery"
CHECKPOINTS = ("llavaov_sana", "llavaov_sd15", "qwen25vl_sana")
LLAVA, QWEN = CHECKPOINTS[0], CHECKPOINTS[2]
CASES = sorted(file.stem for file in GOLDEN.glob("*.json"))


@cache
def model(checkpoint: str) -> Any:
    """A checkpoint through the real loader in float32."""
    return loaded(GOLDEN / f"ckpt_{checkpoint}").model


def picture(name: str) -> Image.Image:
    return Image.open(GOLDEN / "images" / f"{name}.png")


class Case:
    """One call of the reference, its prompts one by one; `rows` are the guidance rows of each."""

    def __init__(self, name: str) -> None:
        self.checkpoint = name.split(".")[0]
        self.meta: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
        self.expected = load_file(GOLDEN / f"{name}.safetensors")
        captions = self.meta["caption"]
        self.captions: list[str] = captions if isinstance(captions, list) else [captions]
        self.pictures = [
            [picture(one) for one in names] for names in self.meta["images"] or [[] for _ in self.captions]
        ]
        self.rows = 3 if self.meta["images"] and self.meta["igs"] > 1 else 2

    def noise(self, model: Any) -> Tensor:
        config = model.network.config
        count = len(self.captions) * self.meta["n"]
        shape = (count, config.latent_channels, config.latent_side, config.latent_side)
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.meta["seed"]))

    def of_prompt(self, name: str, prompt: int) -> Tensor:
        """Expected rows of one prompt: [guidance rows, n, ...]."""
        rows = self.expected[name].unflatten(0, (self.rows, len(self.captions), self.meta["n"]))
        return rows[:, prompt]

    def of_results(self, name: str, prompt: int) -> Tensor:
        """Expected results of one prompt: [n, ...]."""
        n = self.meta["n"]
        return self.expected[name][prompt * n : (prompt + 1) * n]


def relative(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual.float() - expected.float()).abs().max() / expected.float().abs().max())


def last(events: Iterator[Event]) -> Finished:
    event = list(events)[-1]
    assert isinstance(event, Finished)
    return event
