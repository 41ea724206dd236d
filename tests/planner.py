"""The embedded Janus with an adapter that taught it, within seconds, to plan two pictures in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_app.hub import Hub
from janus_app.models.common.tokenizer import EOS
from janus_app.models.janus import think
from janus_app.registry.catalog import load_catalog
from janus_app.registry.types import Variant
from janus_app.runtime.adapters import Adapter
from janus_app.runtime.save_copy import CopyOptions, save_copy
from janus_app.types import Thinking, result_of
from tests.test_adapters import EMBEDDED, train_adapter, with_adapters

PLANS = {"a red star": "three yellow stars", "a red cat": "two blue cats"}
THINKING = Thinking(ask="Plan {prompt}.", draw="{plan}", temperature=0.0, tokens=16)


def taught_planner(place: Path) -> Variant:
    """A row of its own, for a copy of the embedded model with the adapter merged into it."""
    model = with_adapters(EMBEDDED)
    encode, end = model.tokenizer.encode, model.tokenizer.id(EOS)
    asked = [encode(think.question(THINKING, prompt, model.style)) for prompt in PLANS]
    answers = [[*encode([f" {plan}"], begin=False), end] for plan in PLANS.values()]

    def loss(network: Any, hidden_of: Callable[[Tensor], Tensor]) -> Tensor:
        total = torch.zeros(())
        for question, answer in zip(asked, answers, strict=True):
            hidden = hidden_of(network.text_embeds(torch.tensor([question + answer[:-1]])))
            logits = network.language_model.lm_head(hidden[0, len(question) - 1 :])
            total = total + F.cross_entropy(logits, torch.tensor(answer))
        return total

    adapter = Adapter("planner", train_adapter(place / "planner", loss, ("q_", "v_", "up_", "down_")))
    embedded = load_catalog()["janus-embedded"]
    copy = result_of(save_copy(Hub(), embedded, place / "copy", CopyOptions(adapters=(adapter,)), reserve=0))
    return replace(embedded, id="planner", title="Planner", folder=copy, thinking=THINKING, examples={})
