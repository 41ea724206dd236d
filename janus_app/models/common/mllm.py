"""The frozen language model that reads prompts and pictures: transformers' own LLaVA-OneVision and Qwen2.5-VL.

Each picture is encoded once and its features are written over the placeholders of every prompt that shows it, so
results follow from ids and features alone. Positions are always passed in: the library would guess them from nested
lists of pictures or from an earlier forward pass.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.common.lazy_import import importing
from janus_app.models.common.library_errors import library_errors_as_app_errors
from janus_app.models.common.tokenizer import Tokenizer
from janus_app.nn.llama import DecoderConfig

_LONGEST_RATIO = 150  # Qwen2.5-VL's processor refuses pictures more than 200 times as long as they are high


@dataclass(frozen=True)
class ImageFeatures:
    """One picture as the language model reads it: features [n, hidden] and, for Qwen, (frames, rows, columns)."""

    features: Tensor
    grid: Tensor | None = None


class PromptPositions(NamedTuple):
    """Positions of a prompt (None: 0, 1, 2, ...), and the offset of the next token's position from its index."""

    positions: Tensor | None
    offset: int = 0


class Mllm(ABC):
    """A language model that reads pictures: `network` is transformers' model, `config` the one it was built from.

    vocabulary: rows of the embedding that are words; the learned rows of MetaQuery come behind them. Raises AppError
    where the files of `folder`, the language model's repository, do not fit it.
    """

    image_token_field: str

    def __init__(self, network: nn.Module, config: Any, extra_rows: int, folder: Path) -> None:
        self.network: Any = network
        self.config = config
        self.vocabulary = int(config.text_config.vocab_size) - extra_rows
        with library_errors_as_app_errors(str(folder / "preprocessor_config.json")):
            self.processor = self._processor(folder)
        self.tokenizer = Tokenizer(folder / "tokenizer.json", ())
        self.image_id = int(getattr(config, self.image_token_field))
        tokens = {self.tokenizer.id(name): name for name in self.tokenizer.special_names}
        if self.image_id not in tokens or self.tokenizer.size > self.vocabulary:
            raise AppError("tokenizer_of_another_model", folder=folder)
        self.image_token = tokens[self.image_id]

    @property
    def context(self) -> int:
        return int(self.config.text_config.max_position_embeddings)

    def embed(self, ids: Sequence[int], features: Sequence[ImageFeatures]) -> Tensor:
        """Inputs [1, T, hidden]: rows of the embedding with the pictures' features over their placeholders."""
        table: nn.Embedding = self.network.get_input_embeddings()
        row = torch.tensor([ids], device=table.weight.device)
        embeds = table(row)
        if features:
            embeds[row == self.image_id] = torch.cat([picture.features for picture in features]).to(embeds.dtype)
        return embeds

    def embed_token(self, token: Tensor) -> Tensor:
        """Inputs [1, 1, hidden] of a token [1] that is on the device."""
        table: nn.Embedding = self.network.get_input_embeddings()
        return table(token[None])

    def read(self, embeds: Tensor, positions: Tensor | None, cache: Any = None) -> Tensor:
        """Inputs [1, T, hidden] to states behind the final norm; `cache` (a transformers Cache) grows by T."""
        output = self.network.language_model(
            inputs_embeds=embeds, position_ids=positions, past_key_values=cache, use_cache=cache is not None
        )
        return output.last_hidden_state

    @torch.inference_mode()
    def encode_image(self, picture: Image.Image, *, framed: bool) -> ImageFeatures:
        """The features of a picture; `framed` brings it to the size and crop that drawing was trained with."""
        picture = picture.convert("RGB")
        longest, shortest = max(picture.size), min(picture.size)
        if longest > _LONGEST_RATIO * shortest:
            raise AppError("picture_too_narrow", width=picture.width, height=picture.height)
        return self._encode_image(self._frame(picture) if framed else picture)

    def to_device(self, pixels: Tensor) -> Tensor:
        weight = self.network.get_input_embeddings().weight
        return pixels.to(weight.device, weight.dtype)

    # ---- differs from model to model

    @classmethod
    @abstractmethod
    def parse(cls, raw: dict[str, Any]) -> Any:
        """transformers' config from the fields of config.json."""

    @classmethod
    @abstractmethod
    def build(cls, config: Any) -> nn.Module:
        """The network on the current default device, without a head for words."""

    @classmethod
    @abstractmethod
    def remap_key(cls, name: str) -> str:
        """A tensor's name in transformers 5 from the name transformers 4.49 gave it."""

    def next_position(self, position: int, placed: PromptPositions) -> Tensor | None:
        """The position of one token at index `position` behind a prompt; None where it is the index itself."""
        if not placed.offset:
            return None
        return torch.full((3, 1, 1), position + placed.offset, device=self.network.get_input_embeddings().weight.device)

    @abstractmethod
    def _processor(self, folder: Path) -> Any:
        """The image processor in its PIL form: the torchvision one moves pixels by up to 7e-3."""

    @abstractmethod
    def _encode_image(self, picture: Image.Image) -> ImageFeatures: ...

    def _frame(self, picture: Image.Image) -> Image.Image:
        return picture

    def positions(self, ids: Sequence[int], features: Sequence[ImageFeatures]) -> PromptPositions:
        """Positions of a prompt that shows these pictures."""
        return PromptPositions(None)


class LlavaOneVision(Mllm):
    """LLaVA-OneVision (Li et al. 2024): a SigLIP tower encodes the whole picture and tiles of it."""

    image_token_field = "image_token_index"
    _FRAME = 384

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> Any:
        with importing:
            from transformers import LlavaOnevisionConfig

        return LlavaOnevisionConfig.from_dict(raw)

    @classmethod
    def build(cls, config: Any) -> nn.Module:
        with importing:
            from transformers import LlavaOnevisionModel

        return LlavaOnevisionModel(config)

    def _processor(self, folder: Path) -> Any:
        with importing:
            from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
                LlavaOnevisionImageProcessorPil,
            )

        return LlavaOnevisionImageProcessorPil(**processor_fields(folder))

    def _frame(self, picture: Image.Image) -> Image.Image:
        """The shorter side to 384 pixels, then the middle square; roundings are torchvision's, as in training."""
        side, (width, height) = self._FRAME, picture.size
        if width <= height:
            width, height = side, int(side * height / width)
        else:
            width, height = int(side * width / height), side
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - side) / 2), round((height - side) / 2)
        return picture.crop((left, top, left + side, top + side))

    def _encode_image(self, picture: Image.Image) -> ImageFeatures:
        batch = self.processor([picture], return_tensors="pt")  # a flat list: a nested one switches the tiles off
        found = self.network.get_image_features(self.to_device(batch["pixel_values"]), batch["image_sizes"])
        return ImageFeatures(found.pooler_output[0])

    @classmethod
    def remap_key(cls, name: str) -> str:
        return name.replace("language_model.model.", "language_model.", 1)


class Qwen25VL(Mllm):
    """Qwen2.5-VL (Bai et al. 2025): pictures at their own size, positions in three dimensions (M-RoPE)."""

    image_token_field = "image_token_id"
    pixel_limits: tuple[int, int] | None = None  # fewest and most pixels of a picture; None = the processor's own

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> Any:
        with importing:
            from transformers import Qwen2_5_VLConfig

        return Qwen2_5_VLConfig.from_dict(raw)

    @classmethod
    def build(cls, config: Any) -> nn.Module:
        with importing:
            from transformers import Qwen2_5_VLModel

        return Qwen2_5_VLModel(config)

    def _processor(self, folder: Path) -> Any:
        with importing:
            from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        fields = processor_fields(folder)
        if self.pixel_limits is not None:
            fields = {**fields, "size": self._size(*self.pixel_limits), "min_pixels": None, "max_pixels": None}
        return Qwen2VLImageProcessorPil(**fields)

    @staticmethod
    def _size(low: int, high: int) -> dict[str, int]:
        return {"shortest_edge": low, "longest_edge": high}

    def _encode_image(self, picture: Image.Image, **options: Any) -> ImageFeatures:
        batch = self.processor([picture], return_tensors="pt", **options)
        grid = batch["image_grid_thw"]
        device = self.network.get_input_embeddings().weight.device
        found = self.network.get_image_features(self.to_device(batch["pixel_values"]), grid.to(device))
        return ImageFeatures(found.pooler_output[0], grid[0])

    def positions(self, ids: Sequence[int], features: Sequence[ImageFeatures]) -> PromptPositions:
        """M-RoPE positions [3, 1, T]; text behind a picture continues from the picture's longer side."""
        if not features:
            return PromptPositions(None)
        row = torch.tensor([ids])
        grids = torch.stack([picture.grid for picture in features if picture.grid is not None])
        positions, offset = self.network.get_rope_index(
            row, mm_token_type_ids=(row == self.image_id).int(), image_grid_thw=grids
        )
        return PromptPositions(positions.to(self.network.get_input_embeddings().weight.device), int(offset))

    @classmethod
    def remap_key(cls, name: str) -> str:
        return f"language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name


def decoder_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """The sizes of the language model in the config.json of one that reads pictures."""
    text = raw.get("text_config") or raw
    heads = text.get("num_attention_heads", 28)
    return DecoderConfig(
        vocab_size=text.get("vocab_size", 152_000),
        hidden_size=text.get("hidden_size", 3584),
        intermediate_size=text.get("intermediate_size", 18_944),
        num_hidden_layers=text.get("num_hidden_layers", 28),
        num_attention_heads=heads,
        num_key_value_heads=text.get("num_key_value_heads", heads),
        max_position_embeddings=text.get("max_position_embeddings", 32_768),
        rms_norm_eps=1e-6,
        rope_theta=1e6,
    )


def language_tables(kind: type[Mllm], config: Any, prefix: str) -> dict[str, Tensor]:
    """The buffers that no checkpoint holds (rotary frequencies, positions), by their names behind `prefix`.

    They follow from the config alone, so a network of one narrow layer has the same.
    """
    with torch.device("cpu"):
        return dict(kind.build(_small_config(config)).named_buffers(prefix=prefix))


def fill_buffers(network: nn.Module, tables: Mapping[str, Tensor], device: torch.device) -> None:
    """Put `tables` in place of the buffers of `network` that are still on the meta device."""
    for name in [name for name, buffer in network.named_buffers() if buffer.is_meta]:
        path, _, leaf = name.rpartition(".")
        network.get_submodule(path).register_buffer(leaf, tables[name].to(device), persistent=False)


def _small_config(config: Any) -> Any:
    small = copy.deepcopy(config)
    small.text_config.vocab_size = 8
    small.text_config.num_hidden_layers = 1
    setattr(small.vision_config, "depth" if hasattr(small.vision_config, "depth") else "num_hidden_layers", 1)
    small.text_config.intermediate_size = small.vision_config.intermediate_size = 8
    return small


def processor_fields(folder: Path) -> dict[str, Any]:
    """preprocessor_config.json of a language model's repository, as arguments of transformers' image processors."""
    fields = read_json(folder / "preprocessor_config.json")
    return {name: value for name, value in fields.items() if name not in ("image_processor_type", "processor_class")}
