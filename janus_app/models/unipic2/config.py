"""The files of a UniPic2-Metaquery checkpoint: four folders in the layout of diffusers, and a language model.

The language model is a stock Qwen2.5-VL-7B-Instruct, which no checkpoint contains or names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.common.components import component_beside, component_places
from janus_app.models.common.config import Fields
from janus_app.models.family import Parts

CONDITIONER = "StableDiffusion3Conditioner"
LANGUAGE_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
PATCH = 16  # pixels a side of a token of the transformer: 8 of the autoencoder times patches of 2
_LANGUAGE_TYPE = "qwen2_5_vl"


@dataclass(frozen=True)
class ConditionerConfig:
    """conditioner/config.json.

    queries: learned embeddings behind the prompt. language_width: of the language model. width, inner_width, layers,
    heads: of the connector. pooled_width, caption_width: of what the transformer reads in place of a text.
    """

    queries: int
    language_width: int
    width: int
    inner_width: int
    layers: int
    heads: int
    pooled_width: int
    caption_width: int


def parse_conditioner(raw: Mapping[str, Any]) -> ConditionerConfig:
    """Raises AppError for another class or an absurd number."""
    if raw.get("_class_name") != CONDITIONER:
        raise AppError("config_model_type_wrong", given=str(raw.get("_class_name"))[:60], wanted=CONDITIONER)
    fields = Fields("conditioner", raw)
    connector = Fields("conditioner.connector_config", raw.get("connector_config"))
    config = ConditionerConfig(
        queries=fields.whole("num_queries", 256),
        language_width=fields.whole("llm_hidden_size", 3584),
        width=connector.whole("hidden_size", 1536),
        inner_width=connector.whole("intermediate_size", 8960),
        layers=connector.whole("num_hidden_layers", 24),
        heads=connector.whole("num_attention_heads", 24),
        pooled_width=fields.whole("pooled_projection_dim", 2048),
        caption_width=fields.whole("joint_attention_dim", 4096),
    )
    if config.width % config.heads:
        raise AppError("config_heads_do_not_divide", heads=config.heads, width=config.width)
    return config


def checkpoint_root(folder: Path) -> Path:
    """Where the four folders are: in `folder`, or in its one subfolder that has them, as the Flash repositories do."""
    if (folder / "conditioner").is_dir():
        return folder
    inner = sorted(path.parent for path in folder.glob("*/conditioner") if path.is_dir())
    return inner[0] if len(inner) == 1 else folder


def read_config(folder: Path, parts: Parts | None = None) -> dict[str, Any]:
    """The configs of all parts under keys of their own. Raises AppError where one is missing or unreadable."""
    root, language = checkpoint_root(folder), language_folder(folder, parts)
    return {
        **read_json(root / "conditioner" / "config.json"),
        "transformer": read_json(root / "transformer" / "config.json"),
        "vae": read_json(root / "vae" / "config.json"),
        "language": read_json(language / "config.json"),
    }


def language_folder(folder: Path, parts: Parts | None = None) -> Path:
    """Qwen2.5-VL: in the checkpoint, in a folder `components` in or beside it, or where the downloader put it.

    It has its usual name, or is the only model of its kind there. Raises AppError, which says where to put it, if it is
    missing.
    """
    root = checkpoint_root(folder)
    named = [found for place in (root, folder) if (found := component_beside(place, LANGUAGE_MODEL)) is not None]
    if named:
        return named[0]
    for place in dict.fromkeys((root, folder, *component_places(root), *component_places(folder))):
        models = [path.parent for path in sorted(place.glob("*/config.json")) if _is_language_model(path)]
        if len(models) == 1:
            return models[0]
    if parts and "mllm" in parts and parts["mllm"].is_dir():
        return parts["mllm"]
    place = component_places(folder)[0] / LANGUAGE_MODEL
    raise AppError("component_missing", component=LANGUAGE_MODEL, folder=place)


def _is_language_model(config: Path) -> bool:
    try:
        return read_json(config).get("model_type") == _LANGUAGE_TYPE
    except AppError:
        return False
