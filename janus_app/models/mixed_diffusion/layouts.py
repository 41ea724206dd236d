"""Where the files of a checkpoint lie: its own folder, the base of its language half, and the autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.common.components import AUTOENCODER, autoencoder_source, find_autoencoder, named_folder
from janus_app.models.common.config import Fields
from janus_app.models.common.weight_files import find_weights
from janus_app.models.family import LanguageHalf, Parts, WeightSource
from janus_app.models.mixed_diffusion.bases import base_of, sections
from janus_app.models.mixed_diffusion.config import IMAGE, LANGUAGE, READER, parse_config

SIZES = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads"),
    "vocab_size",
)


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
    raw.pop(READER, None)  # a base's alone
    if raw.get("base") is not None:
        _add_base(raw, base_of(folder, raw["base"]))
        if not has_own_weights(folder):
            raw.pop(IMAGE, None)
    if raw.get(IMAGE) is not None:
        autoencoder = autoencoder_of(folder, raw, parts)
        if autoencoder is None:
            wanted = folder / str(raw[IMAGE].get(AUTOENCODER, AUTOENCODER))
            raise AppError("picture_autoencoder_missing", folder=wanted.resolve())
        raw[AUTOENCODER] = read_json(autoencoder / "config.json")
    return raw


def autoencoder_of(folder: Path, raw: Mapping[str, Any], parts: Parts | None) -> Path | None:
    """The folder of the autoencoder: the one that `image.vae` names, or where it usually lies."""
    named = Fields(IMAGE, raw[IMAGE]).values.get(AUTOENCODER)
    if isinstance(named, str) and (found := named_folder(folder, named)) is not None:
        return found
    return find_autoencoder(folder, parts)


def _add_base(raw: dict[str, Any], half: LanguageHalf) -> None:
    wanted = raw.get(LANGUAGE)
    raw |= sections(half)
    if isinstance(wanted, Mapping):  # what the picture half was trained beside
        language = parse_config({**raw, IMAGE: None}).language
        for name in SIZES:
            if name in wanted and wanted[name] != getattr(language, name):
                values = {"field": name, "given": getattr(language, name), "wanted": wanted[name]}
                raise AppError("language_half_differs", base=str(raw["base"]), **values)


def language_half(folder: Path) -> LanguageHalf:
    """Whose words the checkpoint in a folder writes: its base's, or its own."""
    raw = read_json(folder / "config.json")
    if raw.get("base") is not None:
        return base_of(folder, raw["base"])
    return LanguageHalf(raw, folder, [WeightSource(folder, remap_key=own_name)])


def weight_sources(network: Any, folder: Path, parts: Parts | None) -> list[WeightSource]:
    """The checkpoint's own files, the base's, and the autoencoder's."""
    raw = read_json(folder / "config.json")
    sources = [*language_half(folder).sources]
    if raw.get("base") is not None and network.config.image is not None:
        sources.append(WeightSource(folder, remap_key=own_name))
    if network.config.image is not None:
        autoencoder = autoencoder_of(folder, raw, parts)
        assert autoencoder is not None  # read_config refuses its absence
        sources.append(autoencoder_source(autoencoder))
    return sources


def own_name(name: str) -> str:
    """The name in the network of a tensor of the checkpoint: its language half may be called as in a Llama."""
    return f"language_model.{name}" if name.startswith(("model.", "lm_head.")) else name
