"""A LoRA adapter that teaches the embedded Janus to plan: sums in a prompt become the caption that it then draws.

    python -m training.planning --out runs/plan --minutes 12

"two green frogs and one more" becomes "three green frogs", which the base, trained on captions alone, cannot work out
while it draws; other captions become themselves. Only the matrices of the adapter are trained, on the words of the
plans and, so that drawing stays as it is, on the tiles of pictures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from janus_app.models.registry import get_family
from janus_app.paths import ASSETS
from training.batches import ASSISTANT, USER, Words, as_typed, drawings, padded
from training.captions import caption, words
from training.objects import NUMBERS
from training.scenes import kind, plan
from training.trainer import Run, device_of, options_parser

BASE = ASSETS / "janus_embedded"
ASK = "Plan: {prompt}"
RANK = 16
MOST = 4  # objects of one kind that the base draws
RNG = np.random.Generator


def sum_and_plan(rng: RNG) -> tuple[str, str]:
    """A prompt that says a number as a sum, and the caption of the picture that it means."""
    thing, colour = kind(rng)
    total = int(rng.integers(2, MOST + 1))
    first = int(rng.integers(1, total))
    prompt = f"{words(first, thing, colour, False)} and {NUMBERS[total - first]} more"
    return prompt, words(total, thing, colour, False)


def exchange(rng: RNG) -> tuple[str, str]:
    """A prompt and its plan: half of them sums, half captions that stay as they are."""
    if rng.random() < 0.5:
        return sum_and_plan(rng)
    text = as_typed(caption(plan(rng), rng), rng)
    return text, text


class Adapted(nn.Module):
    """The embedded network with the trainable matrices of an adapter beside every linear of its language model."""

    def __init__(self) -> None:
        super().__init__()
        family = get_family("janus")
        self.network = family.build(family.read_config(BASE, None)).requires_grad_(False)
        state = load_file(BASE / "model.safetensors")
        self.network.load_state_dict(
            {name: t.float() for name, t in state.items() if not name.startswith(family.unused_prefixes)}
        )
        self.layers = [
            name
            for name, module in self.network.named_modules()
            if isinstance(module, nn.Linear) and name.startswith("language_model.model.layers.")
        ]
        shapes = {name: self.network.get_submodule(name).weight.shape for name in self.layers}
        self.a = nn.ParameterList([torch.randn(RANK, shapes[n][1]) / shapes[n][1] ** 0.5 for n in self.layers])
        self.b = nn.ParameterList([torch.zeros(shapes[n][0], RANK) for n in self.layers])

    def forward(self, embeds: Tensor) -> Tensor:
        """Final hidden states [n, T, hidden] of embedded rows."""
        changed = {
            f"{name}.weight": self.network.get_submodule(name).weight + b @ a
            for name, a, b in zip(self.layers, self.a, self.b, strict=True)
        }
        return torch.func.functional_call(self.network, changed, (embeds,))

    def plan_loss(self, rng: RNG, vocabulary: Words, count: int) -> tuple[Tensor, float]:
        """Cross-entropy of the words of `count` plans, and the share of plans with every word right."""
        rows, answers = [], []
        for _ in range(count):
            prompt, answer = exchange(rng)
            asked = vocabulary.encode(f"{USER}: {ASK.format(prompt=prompt)}\n\n{ASSISTANT}:")
            ids = [*vocabulary.encode(f" {answer}"), vocabulary.eos]
            rows.append([vocabulary.bos, *asked, *ids])
            answers.append([0] * len(asked) + [1] * len(ids))
        ids, learn = padded(rows, vocabulary.pad), padded(answers, 0).bool()
        hidden = self(self.network.text_embeds(ids[:, :-1]))
        logits = self.network.language_model.lm_head(hidden)
        right = (logits.argmax(-1) == ids[:, 1:]) | ~learn
        return F.cross_entropy(logits[learn], ids[:, 1:][learn]), float(right.all(1).float().mean())

    def picture_loss(self, rng: RNG, vocabulary: Words, count: int) -> Tensor:
        """Cross-entropy of the tiles of `count` pictures behind their captions."""
        batch = drawings(rng, vocabulary, count, dropout=0.0)
        tiles = self.network.token_embeds(batch.tiles)
        text = self.network.text_embeds(batch.ids)
        rows = torch.zeros(count, batch.ids.shape[1] + tiles.shape[1] - 1, text.shape[2])
        for row, words_of, end, picture in zip(rows, text, batch.ends.tolist(), tiles, strict=True):
            row[: end + 1] = words_of[: end + 1]
            row[end + 1 : end + len(picture)] = picture[:-1]
        hidden = self(rows)
        cells = batch.ends[:, None] + torch.arange(tiles.shape[1])
        at = hidden.gather(1, cells[..., None].expand(-1, -1, hidden.shape[2]))
        return F.cross_entropy(self.network.gen_head(at).flatten(0, 1), batch.tiles.flatten())

    def export(self, folder: Path) -> None:
        """The adapter as PEFT saves it, in bfloat16."""
        folder.mkdir(parents=True, exist_ok=True)
        halves = {
            f"base_model.model.{name}.lora_{half}.weight": tensor.detach().bfloat16().contiguous()
            for half, tensors in (("A", self.a), ("B", self.b))
            for name, tensor in zip(self.layers, tensors, strict=True)
        }
        save_file(halves, folder / "adapter_model.safetensors")
        names = sorted({name.rpartition(".")[2] for name in self.layers})
        facts = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": names}
        facts |= {"base_model_name_or_path": "janus-embedded", "bias": "none"}
        (folder / "adapter_config.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    return options_parser(__doc__, minutes=12, lr=3e-3, decay=0.5).parse_args(arguments)


def main() -> None:
    args = options()
    device_of(args)
    model, rng = Adapted(), np.random.default_rng(args.seed)
    vocabulary = Words(Tokenizer.from_file(str(BASE / "tokenizer.json")))
    trained = {"params": [*model.a, *model.b], "initial_lr": args.lr}
    run = Run(args, [torch.optim.AdamW([trained], lr=args.lr, weight_decay=0.0)])
    file = args.out / "state.pt"
    if args.resume:
        saved = torch.load(file, weights_only=True)
        model.load_state_dict(saved["model"], strict=False)
        run.resume(saved)

    def state() -> Mapping[str, object]:
        model.export(args.out / "adapter")
        return {"model": {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}}

    for _ in run.steps(file, state):
        text, right = model.plan_loss(rng, vocabulary, 24)
        picture = model.picture_loss(rng, vocabulary, 6)
        (text + picture).backward()
        run.log({"plan": float(text), "right": right, "picture": float(picture)})


if __name__ == "__main__":
    main()
