"""Writing a picture's vectors: the published loop, which has no key/value cache, beside ours.

    python -m benchmarks.metamorph_speed [--layers 8 --hidden 512 --prompt 64]

The reference (facebookresearch/metamorph, greedy_decode) runs the whole sequence through the language model for every
word and every vector. Weights are random; both loops must write the same vectors.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch import Tensor

from janus_app.models.regression.answer import forced_picture
from janus_app.models.regression.config import parse_config
from janus_app.models.regression.modeling import RegressionNetwork


def network_of(layers: int, hidden: int) -> RegressionNetwork:
    """A network of random weights without a visualiser."""
    raw = {
        "model_type": "metamorph_llama",
        "hidden_size": hidden,
        "image_token_reduction": "interpolation",
        "intermediate_size": 7 * hidden // 2,
        "max_position_embeddings": 4096,
        "mm_hidden_size": 48,
        "mm_projector_type": "mlp2x_gelu",
        "normalize_vision": True,
        "num_attention_heads": hidden // 64,
        "num_hidden_layers": layers,
        "num_key_value_heads": max(1, hidden // 256),
        "vision_head_type": "mlp",
        "vocab_size": 512,
    }
    tower = {"hidden_size": 48, "image_size": 112, "intermediate_size": 96, "num_attention_heads": 4}
    torch.manual_seed(0)
    network = RegressionNetwork(parse_config(raw, tower | {"num_hidden_layers": 1}), None).eval()
    for name, weight in network.named_parameters():
        if weight.ndim == 1:
            weight.data.fill_(1.0 if "norm" in name else 0.1)
        else:
            weight.data.normal_(std=0.5 * weight.shape[-1] ** -0.5)
    network.requires_grad_(False)
    network.arrange()
    return network


@torch.inference_mode()
def published(network: RegressionNetwork, prompt: Tensor) -> Tensor:
    """The vectors of a picture, with the whole sequence computed for each."""
    embeds, vectors = prompt[None], list[Tensor]()
    for _ in range(network.config.written.count):
        vectors.append(network.write(network(embeds)[:, -1]))
        embeds = torch.cat([embeds, network.written_embeds(vectors[-1])[None]], dim=1)
    return torch.cat(vectors)


def ours(network: RegressionNetwork, prompt: Tensor) -> Tensor:
    *_, last = forced_picture(network, prompt)
    assert last.vectors is not None
    return last.vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--prompt", type=int, default=64, help="tokens")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    network = network_of(args.layers, args.hidden)
    prompt = torch.randn(args.prompt, args.hidden)
    times: dict[str, list[float]] = {"published loop": [], "ours": []}
    found: dict[str, Tensor] = {}
    for _ in range(args.rounds):
        for name, loop in (("published loop", published), ("ours", ours)):
            start = time.perf_counter()
            found[name] = loop(network, prompt)
            times[name].append(time.perf_counter() - start)
    largest = float((found["published loop"] - found["ours"]).abs().max())
    middle = {name: median(seconds) for name, seconds in times.items()}
    for name, seconds in middle.items():
        print(f"{name}: {seconds:.3f} s for {network.config.written.count} vectors, median of {args.rounds}")
    print(f"ratio {middle['published loop'] / middle['ours']:.1f}, largest difference {largest:.1e}")


if __name__ == "__main__":
    main()
