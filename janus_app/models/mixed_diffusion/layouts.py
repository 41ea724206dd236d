"""Where the files of a checkpoint lie: its own folder, the base of its language half, and the autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.common.components import AUTOENCODER, autoencoder_source, component_beside, find_autoencoder
from janus_app.models.common.config import Fields
from janus_app.models.common.weight_files import find_weights
from janus_app.models.family import Parts, WeightSource
from janus_app.models.mixed_diffusion.config import IMAGE, LANGUAGE, READER, parse_config

VLM = "llava_next"
_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads")
_TOWER = ("vision_tower.", "multi_modal_projector.", "image_newline")


def base_folder(folder: Path, base: Any) -> Path:
    """The folder of the language half: a path, also relative to the checkpoint, or a repository in `components`.

    Raises AppError, which says where to put it, if it is missing.
    """
    if not isinstance(base, str) or not base.strip():
        raise AppError("config_repository_unusable", field="base", value=repr(base)[:100])
    for place in (Path(base).expanduser(), folder / base):
        if (place / "config.json").is_file():
            return place
    if (found := component_beside(folder, base)) is not None:
        return found
    raise AppError("language_half_missing", base=base, folder=folder.resolve() / "components" / Path(base).name)


def has_own_weights(folder: Path) -> bool:
    """Whether the folder itself has weights: without them, a checkpoint is its base alone, which answers in words."""
    try:
        find_weights(folder)
    except AppError as error:
        if error.code != "weights_missing":
            raise
        return False
    return True


def read_config(folder: Path, parts: Parts | None = None) -> dict[str, Any]:
    """config.json with the configs of the base and of the autoencoder in it.

    Raises AppError where one is missing or unreadable, and where the base has other sizes than the picture half.
    """
    raw = read_json(folder / "config.json")
    if raw.get("base") is not None:
        _add_base(raw, base_folder(folder, raw["base"]))
        if not has_own_weights(folder):
            raw.pop(IMAGE, None)
    if raw.get(IMAGE) is not None:
        autoencoder = find_autoencoder(folder, parts)
        if autoencoder is None:
            raise AppError("picture_autoencoder_missing", folder=folder.resolve() / AUTOENCODER)
        raw[AUTOENCODER] = read_json(autoencoder / "config.json")
    return raw


def _add_base(raw: dict[str, Any], base: Path) -> None:
    found = read_json(base / "config.json")
    if found.get("model_type") == VLM:
        raw[READER] = found
        found = {"model_type": "llama", **Fields("text_config", found.get("text_config")).values}
    elif found.get("model_type") != "llama":
        given = str(found.get("model_type"))[:60]
        raise AppError("language_half_unknown", base=str(raw["base"]), given=given, known=f"llama, {VLM}")
    wanted = raw.get(LANGUAGE)
    raw[LANGUAGE] = found
    if isinstance(wanted, Mapping):  # what the picture half was trained beside
        language = parse_config({**raw, IMAGE: None}).language
        for name in (*_SIZES, "vocab_size"):
            if name in wanted and wanted[name] != getattr(language, name):
                values = {"field": name, "given": getattr(language, name), "wanted": wanted[name]}
                raise AppError("language_half_differs", base=str(raw["base"]), **values)


def language_folder(folder: Path) -> Path:
    """Where the tokenizer and the files around it are: the base's folder, or the checkpoint's own."""
    raw = read_json(folder / "config.json")
    return folder if raw.get("base") is None else base_folder(folder, raw["base"])


def weight_sources(network: Any, folder: Path, parts: Parts | None) -> list[WeightSource]:
    """The checkpoint's own files, the base's, and the autoencoder's."""
    raw = read_json(folder / "config.json")
    sources = list[WeightSource]()
    if raw.get("base") is not None:
        sources.append(WeightSource(base_folder(folder, raw["base"]), remap_key=base_name))
    if raw.get("base") is None or network.config.image is not None:
        sources.append(WeightSource(folder, remap_key=own_name))
    if network.config.image is not None:
        autoencoder = find_autoencoder(folder, parts)
        assert autoencoder is not None  # read_config refuses its absence
        sources.append(autoencoder_source(autoencoder))
    return sources


def own_name(name: str) -> str:
    """The name in the network of a tensor of the checkpoint: its language half may be called as in a Llama."""
    return f"language_model.{name}" if name.startswith(("model.", "lm_head.")) else name


def base_name(name: str) -> str:
    """The name in the network of a tensor of a Llama, or of a LLaVA-NeXT as old or new transformers call it."""
    name = name.removeprefix("model.") if name.startswith("model.language_model.") else name
    if name.startswith("language_model."):
        rest = name.removeprefix("language_model.")
        return name if rest.startswith(("model.", "lm_head.")) else f"language_model.model.{rest}"
    plain = name.removeprefix("model.")
    if plain.startswith(_TOWER):
        return f"{READER}.{plain.replace('vision_tower.vision_model.', 'vision_tower.')}"
    return own_name(name)
