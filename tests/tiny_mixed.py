"""Tiny random checkpoints in the layout of docs/mixed_diffusion.md, the bases that two of them name, and fixtures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, LlavaNextConfig, LlavaNextForConditionalGeneration

from janus_app.errors import AppError
from janus_app.models.mixed_diffusion import layouts
from janus_app.models.mixed_diffusion.modeling import MixedNetwork, build
from janus_app.models.mixed_diffusion.pipeline import MixedModel
from janus_app.types import ChatRequest, EditRequest, Finished, GenerateRequest, Turn, finish
from tests.conftest import loaded
from tests.test_metamorph_parity import picture
from tests.tiny_metamorph import GOLDEN, VAE

SIDE, CELLS, HIDDEN = 16, 16, 32  # pixels of a picture; its positions, 4 x 4 patches of 2 x 2 latent pixels
LANGUAGE: dict[str, Any] = {
    "model_type": "llama",
    "bos_token_id": 256,
    "eos_token_id": [257, 260],
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "vocab_size": 263,
}
LINEAR: dict[str, Any] = {"side": SIDE, "patch": 2, "channels": 4, "time_width": 16, "edits": True}
UNET = {**LINEAR, "codec": "unet", "widths": [8, 16], "blocks": 1, "groups": 4, "untied": True, "markers": "own"}
TRANSFUSION: dict[str, Any] = {
    "model_type": "mixed_diffusion",
    "language": LANGUAGE,
    "context": 200,
    "image": LINEAR,
    "diffusion": {"steps": 3},
}
LMFUSION = {"model_type": "mixed_diffusion", "base": "llama", "context": 200, "image": UNET}
LLAVAFUSION = {**LMFUSION, "base": "llava", "prompt": "template", "image": {**UNET, "edits": False}}
IDS = [256, *range(40, 52)]
CHECKPOINTS = {"transfusion": TRANSFUSION, "lmfusion": LMFUSION, "llavafusion": LLAVAFUSION}
TOWER = {"model_type": "clip_vision_model", "hidden_size": 16, "image_size": 28, "patch_size": 14}
TOWER |= {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "projection_dim": 8}
TEMPLATE = (
    "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image_start>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n"
)


def write_tokenizer(folder: Path, *names: str) -> None:
    for name in ("tokenizer.json", *names):
        shutil.copy(GOLDEN / "checkpoint" / name, folder / name)


def write_llama(folder: Path) -> Path:
    """A real Llama of transformers, as its own library saves it."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**LANGUAGE))
    randomize(model)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_llava(folder: Path) -> Path:
    """A real LLaVA-NeXT of transformers; <image_start> stands for a picture in its template."""
    torch.manual_seed(2)
    config = LlavaNextConfig(
        text_config=LANGUAGE,
        vision_config=TOWER,
        image_token_index=261,
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
    )
    model = LlavaNextForConditionalGeneration(config)
    randomize(model)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    processor = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}, "do_pad": True}
    processor |= {"image_grid_pinpoints": config.image_grid_pinpoints}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), "utf-8")
    return folder


def write_checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    """A checkpoint with an autoencoder; of a config that names a base, the picture half alone."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    AutoencoderKL.from_config(VAE).save_pretrained(folder / "vae")
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    if "base" not in config:
        write_tokenizer(folder)
    network = new_network(folder)
    skipped = ("vae.", *(("language_model.", "reader.") if "base" in config else ()))
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(skipped)}
    save_file(state, folder / "model.safetensors")
    return folder


def new_network(folder: Path) -> MixedNetwork:
    """A random network of the checkpoint in a folder whose config.json is written already."""
    (folder / "model.safetensors").touch()  # a folder without weights is its base alone
    network = build(layouts.read_config(folder))
    randomize(network)
    return network


def randomize(network: nn.Module) -> None:
    """Weights large enough that every part of the network changes the result."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            norm = "norm" in name and name.endswith("weight")
            tensor.normal_(1.0, 0.2) if norm else tensor.normal_(std=0.2 if tensor.dim() < 4 else 0.1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("mixed"))


def write_all(root: Path) -> Path:
    """A checkpoint of each system in `root`, and the bases of two of them in components."""
    write_llama(root / "components" / "llama")
    write_llava(root / "components" / "llava")
    for name, config in CHECKPOINTS.items():
        write_checkpoint(root / name, config)
    return root


def load(folder: Path) -> MixedModel:
    return cast(MixedModel, loaded(folder).model)


@pytest.fixture(scope="module")
def transfusion(root: Path) -> MixedModel:
    return load(root / "transfusion")


@pytest.fixture(scope="module")
def lmfusion(root: Path) -> MixedModel:
    return load(root / "lmfusion")


@pytest.fixture(scope="module")
def llavafusion(root: Path) -> MixedModel:
    return load(root / "llavafusion")


@pytest.fixture
def photo() -> Image.Image:
    return picture("image").resize((SIDE, SIDE))


def code_of(work: Callable[[], Any]) -> str:
    with pytest.raises(AppError) as refused:
        work()
    return refused.value.code


def greedy(model: MixedModel, text: str, *images: Image.Image, count: int = 8) -> Finished:
    return finish(model.chat(ChatRequest((Turn("user", text, images),), temperature=0, max_new_tokens=count)))


def drawn_latents(model: MixedModel, request: GenerateRequest | EditRequest, given: Sequence[Tensor] = ()) -> Tensor:
    """The latents that a request ends with."""
    kept = list[Tensor]()
    decode = model.autoencoder.decode
    model.autoencoder.decode = lambda latents: (kept.append(latents), decode(latents))[1]  # type: ignore[method-assign]
    try:
        finish(model.generate(request) if isinstance(request, GenerateRequest) else model.edit(request))
    finally:
        del model.autoencoder.decode
    return torch.cat(kept)
