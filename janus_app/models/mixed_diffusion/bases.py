"""The base of a checkpoint: the model whose language half it is built around, and which stays as it is.

It is a folder of transformers, or a checkpoint of another family of this program, which says itself what of it is the
language model (`Family.language_half`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.common.components import named_folder
from janus_app.models.common.config import Fields
from janus_app.models.family import LanguageHalf, WeightSource
from janus_app.models.mixed_diffusion.config import LANGUAGE, READER
from janus_app.models.registry import FAMILIES, detect_family, get_family

TEXT = "llama"
VLMS = ("llava_next", "llava_onevision")  # those whose tower `reader.py` runs
_DEFAULT_TEXT = {"llava_onevision": "qwen2"}  # of transformers, where a text_config names no type
UNUSED = "unused."  # before the names of tensors of a base that belong to other parts of it
_TOWER = ("vision_tower.", "multi_modal_projector.", "image_newline")


def base_folder(folder: Path, base: Any) -> Path:
    """The folder of the base: a path, also relative to the checkpoint, or a repository in `components`.

    Raises AppError, which says where to put it, if it is missing.
    """
    if not isinstance(base, str) or not base.strip():
        raise AppError("config_repository_unusable", field="base", value=repr(base)[:100])
    if (found := named_folder(folder, base)) is not None:
        return found
    raise AppError("language_half_missing", base=base, folder=folder.resolve() / "components" / Path(base).name)


def base_of(folder: Path, base: Any) -> LanguageHalf:
    """The language half that `base` of the checkpoint in a folder names; its tensors are called as in the network.

    Raises AppError where it is missing, or of a kind that cannot be one.
    """
    place = base_folder(folder, base)
    raw = read_json(place / "config.json")
    if raw.get("model_type") in (TEXT, *VLMS):
        half = LanguageHalf(raw, place, [WeightSource(place)])
    else:
        half = _half_of_family(place, raw, str(base))
    return replace(half, sources=[replace(source, remap_key=_named(source)) for source in half.sources])


def _half_of_family(place: Path, raw: Mapping[str, Any], base: str) -> LanguageHalf:
    try:
        offer = detect_family(raw).language_half
    except AppError:
        offer = None
    half = None if offer is None else offer(place)
    if half is None or half.config.get("model_type") not in (TEXT, *VLMS):
        given = str((half.config if half else raw).get("model_type"))[:60]
        raise AppError("language_half_unknown", base=base, given=given, known=", ".join(_known()))
    return half


def _known() -> Iterator[str]:
    yield from (TEXT, *VLMS)
    for family in map(get_family, FAMILIES):
        if family.language_half is not None:
            yield family.title


def sections(half: LanguageHalf) -> dict[str, Any]:
    """The sections of a config that describe a language half: `language`, and `reader` where it reads pictures."""
    raw, text = half.config, half.config
    found = dict[str, Any]()
    if raw.get("model_type") in VLMS:
        found[READER] = raw
        usual = _DEFAULT_TEXT.get(raw["model_type"], TEXT)
        text = {"model_type": usual, **Fields("text_config", raw.get("text_config")).values}
    tied = True in (raw.get("tie_word_embeddings"), text.get("tie_word_embeddings"))
    return {**found, LANGUAGE: {**text, "tie_word_embeddings": tied, "extra_rows": half.extra_rows}}


def _named(source: WeightSource) -> Any:
    return lambda name: network_name(source.remap_key(name))


def network_name(name: str) -> str:
    """The name in the network of a tensor of a base, as old or new transformers call it."""
    name = name.removeprefix("model.") if name.startswith("model.language_model.") else name
    if name.startswith(("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")):
        return f"language_model.{name}"
    if name.startswith("language_model."):
        rest = name.removeprefix("language_model.")
        return name if rest.startswith(("model.", "lm_head.")) else f"language_model.model.{rest}"
    plain = name.removeprefix("model.")
    if plain.startswith(_TOWER):
        return f"{READER}.{plain.replace('vision_tower.vision_model.', 'vision_tower.')}"
    return f"{UNUSED}{name}"
