"""A LoRA adapter (Hu et al. 2021) of a Janus' language model while it is trained, saved as PEFT saves one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from janus_app.models.janus.modeling import JanusNetwork
from janus_app.models.registry import get_family
from janus_app.runtime.adapters import CONFIG, WEIGHTS

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LAYERS = "language_model.model.layers."


class Lora(nn.Module):
    """The frozen network of a checkpoint folder in float32, and two halves A, B for each of its `linears`.

    `network` computes with the adapter. alpha is the rank, so that what is added is B A itself.
    """

    def __init__(self, checkpoint: Path, rank: int, linears: tuple[str, ...] = LINEARS) -> None:
        super().__init__()
        family = get_family("janus")
        network = family.build(family.read_config(checkpoint, None)).requires_grad_(False)
        assert isinstance(network, JanusNetwork)
        state = load_file(checkpoint / "model.safetensors")
        network.load_state_dict({n: t.float() for n, t in state.items() if not n.startswith(family.unused_prefixes)})
        self.network, self.rank = network, rank
        self.layers = [
            name.removesuffix(".weight")
            for name in state
            if name.startswith(_LAYERS) and name.removesuffix(".weight").endswith(linears)
        ]
        shapes = [state[f"{layer}.weight"].shape for layer in self.layers]
        self.a = nn.ParameterList([torch.randn(rank, inner) / inner**0.5 for _, inner in shapes])
        self.b = nn.ParameterList([torch.zeros(outer, rank) for outer, _ in shapes])
        for layer, a, b in zip(self.layers, self.a, self.b, strict=True):
            network.get_submodule(layer).register_forward_hook(
                lambda _, inputs, output, a=a, b=b: output + inputs[0] @ a.T @ b.T
            )

    def halves(self) -> dict[str, Tensor]:
        """The trained tensors by their names in an adapter's file."""
        return {
            f"base_model.model.{layer}.lora_{half}.weight": tensor
            for half, tensors in (("A", self.a), ("B", self.b))
            for layer, tensor in zip(self.layers, tensors, strict=True)
        }

    @torch.no_grad()
    def begin_with(self, folder: Path) -> None:
        """Continue from the adapter in a folder, which may have been made for earlier weights of the network."""
        saved = load_file(folder / WEIGHTS)
        for name, tensor in self.halves().items():
            tensor.copy_(saved[name])

    def save(self, folder: Path, base: str) -> None:
        """Write the adapter in float16. base: the name of the model that it was trained on."""
        folder.mkdir(parents=True, exist_ok=True)
        halves = {name: tensor.detach().half().contiguous() for name, tensor in self.halves().items()}
        save_file(halves, folder / WEIGHTS, metadata={"format": "pt"})
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": self.rank,
            "lora_alpha": self.rank,
            "target_modules": sorted({layer.rpartition(".")[2] for layer in self.layers}),
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
