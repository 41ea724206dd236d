"""The eyes of a base: a tower, a projector, and the tiles of a picture, by transformers' own classes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from janus_app.errors import AppError
from janus_app.models.common.lazy_import import importing
from janus_app.models.common.library_errors import library_errors_as_app_errors
from janus_app.models.common.mllm import processor_fields
from janus_app.models.family import LanguageHalf
from janus_app.models.mixed_diffusion.config import READER

# How the classes of a model_type begin in transformers.
_CLASSES = {"llava_next": "LlavaNext", "llava_onevision": "LlavaOnevision"}
_LONGEST_RATIO = 150  # the processor's tiles of a longer strip would have no row left


def build_reader(raw: Mapping[str, Any]) -> nn.Module:
    """transformers' model without its language model, from the base's config.json."""
    name = _CLASSES[str(raw["model_type"])]
    with importing:
        import transformers

        config_class, model_class = getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}Model")
    with library_errors_as_app_errors(name):
        config: Any = config_class.from_dict(copy.deepcopy(dict(raw)))
        config.text_config.num_hidden_layers, config.text_config.vocab_size = 0, 8
        model: Any = model_class(config)
        model.language_model = nn.Identity()
    return model.eval()


def reader_buffers(raw: Mapping[str, Any]) -> dict[str, Tensor]:
    """The buffers that no checkpoint holds, by their names in the network; they follow from the config alone."""
    small = copy.deepcopy(dict(raw))
    small["vision_config"] |= {"num_hidden_layers": 2, "intermediate_size": 8}
    with torch.device("cpu"):
        return dict(build_reader(small).named_buffers(prefix=READER))


class PictureReader:
    """Pictures to the features that stand for them in a prompt. Raises AppError for an unusable processor config."""

    def __init__(self, module: nn.Module, half: LanguageHalf) -> None:
        self._module: Any = module
        kind, fields = str(half.config["model_type"]), processor_fields(half.folder)
        with importing:
            file = import_module(f"transformers.models.{kind}.image_processing_pil_{kind}")
        with library_errors_as_app_errors(str(half.folder / "preprocessor_config.json")):
            self._processor = getattr(file, f"{_CLASSES[kind]}ImageProcessorPil")(**fields)

    @torch.inference_mode()
    def encode(self, picture: Image.Image) -> Tensor:
        """The features [n, hidden] of a picture: the whole of it, then its tiles."""
        picture = picture.convert("RGB")
        if max(picture.size) > _LONGEST_RATIO * min(picture.size):
            raise AppError("picture_too_narrow", width=picture.width, height=picture.height)
        batch = self._processor([picture], return_tensors="pt")
        like: Tensor = self._module.image_newline
        found = self._module.get_image_features(batch["pixel_values"].to(like.device, like.dtype), batch["image_sizes"])
        features: Tensor = found.pooler_output[0]
        return features
