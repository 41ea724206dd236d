"""What the config files of a checkpoint say, in either layout: MetaMorph's own (Tong et al. 2024) or that of Pisces.

docs/metamorph.md and docs/pisces.md describe both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.models.common.config import Fields
from janus_app.models.common.config_sections import language_config, refuse_other_values
from janus_app.nn.llama import DecoderConfig
from janus_app.nn.siglip import VisionConfig

METAMORPH, PISCES = "metamorph_llama", "pisces"
TOWER = "google/siglip-so400m-patch14-384"  # by name in the published code; the config of a checkpoint does not say it
PAINTER = "painter"  # in a config: the configs of the visualiser and of its base, absent without a visualiser
TOWER_CONFIG = "tower"
PLACE = -1  # where a vector of a picture stands among the ids of a prompt
_TOWER = {"hidden_size": 1152, "image_size": 384, "intermediate_size": 4304, "num_attention_heads": 16}
_TOWER |= {"num_hidden_layers": 27, "patch_size": 14}
_GELUS = {"gelu_pytorch_tanh": "tanh", "gelu": "none"}
_SIDE, _WIDTH = 64, 1 << 16  # the largest grid of vectors, and their largest width


@dataclass(frozen=True)
class PromptFormat:
    """How a conversation is written in the format of Llama 3.

    begins: begin-of-text tokens. header_end: what follows a role. picture_start, picture_end: special tokens around a
    picture. drawing: the request for a picture, with a place for its caption; empty: that without one.
    """

    begins: int
    header_end: str
    picture_start: str
    picture_end: str
    drawing: str


@dataclass(frozen=True)
class VectorConfig:
    """Vectors of a picture: `count` of `width` numbers each, normalised to unit length or not."""

    count: int
    width: int
    normalized: bool

    @property
    def grid(self) -> int:
        return math.isqrt(self.count)


@dataclass(frozen=True)
class RegressionConfig:
    """The fields that change a result.

    read, written: the vectors of a picture in a prompt and of one in an answer. reduction: how the tower's grid becomes
    that of `read`. projector: layers from vectors to the language model's inputs. shared: whether one projector serves
    both kinds. head: the layers from hidden states to vectors, by the name in the config. empty_caption: whether
    guidance leads away from the vectors of an empty caption, not from zeros. padded: whether a picture is padded to a
    square before it is resized. edits: whether such models were trained to change pictures.
    """

    language: DecoderConfig
    vision: VisionConfig
    read: VectorConfig
    written: VectorConfig
    reduction: str
    projector: int
    shared: bool
    head: str
    prompt: PromptFormat
    context: int
    empty_caption: bool = False
    padded: bool = False
    edits: bool = True


METAMORPH_PROMPT = PromptFormat(2, "\n", "<image_start>", "<image_end>", "Generate an image of {}")
PISCES_PROMPT = PromptFormat(
    1, "\n\n", "[IMG]", "[/IMG]", "Please generate an image based on the following caption: {}"
)


def parse_config(raw: Mapping[str, Any], tower: Mapping[str, Any] | None = None) -> RegressionConfig:
    """A checkpoint's config.json, and the config of its vision tower where that is known.

    Raises AppError for another architecture, absurd numbers, and settings that are not computed here.
    """
    if raw.get("model_type") == PISCES:
        return _parse_pisces(raw)
    if raw.get("model_type") != METAMORPH:
        raise AppError("config_model_type_wrong", given=str(raw.get("model_type"))[:60], wanted=METAMORPH)
    fields = Fields("config", raw)
    refuse_other_values(
        fields,
        {
            "apply_softmax": (False,),
            "image_aspect_ratio": ("square", "pad"),
            "image_token_reduction": ("interpolation", "none"),
            "mm_patch_merge_type": ("flat",),
            "mm_use_im_start_end": (True,),
            "mm_vision_select_feature": ("patch",),
        },
    )
    language = language_config({"language_config": {**raw, "model_type": "llama"}})
    vision = _tower(tower or _TOWER, fields.whole("mm_vision_select_layer", -1, low=-99))
    width = fields.whole("mm_hidden_size", vision.width)
    if width != vision.width:
        raise AppError("vision_tower_width_differs", given=width, made=vision.width, component=TOWER)
    count = _square(fields.whole("num_image_tokens", 64, high=_SIDE**2))
    vectors = VectorConfig(count, width, raw.get("normalize_vision") is True)
    if raw.get("image_token_reduction", "none") == "none" and count != vision.patches:
        raise AppError("picture_tokens_differ", given=count, made=vision.patches)
    if raw.get("vision_head_type") == "linear" and width != language.hidden_size:
        raise AppError("vision_head_unusable", width=language.hidden_size, wanted=width)
    return RegressionConfig(
        language=language,
        vision=vision,
        read=vectors,
        written=vectors,
        reduction="bilinear",
        projector=_depth(raw.get("mm_projector_type", "linear"), "mm_projector_type"),
        shared=True,
        head=str(raw.get("vision_head_type", "None")),
        prompt=METAMORPH_PROMPT,
        context=fields.whole("tokenizer_model_max_length", language.max_position_embeddings, high=1 << 24),
        padded=raw.get("image_aspect_ratio") == "pad",
    )


def _parse_pisces(raw: Mapping[str, Any]) -> RegressionConfig:
    """config.json of the layout of docs/pisces.md: two encoders, each with its own projection and length."""
    language = language_config({"language_config": {**raw, "model_type": "llama"}})
    seen, drawn = (Fields(part, raw.get(part)) for part in ("understanding", "generation"))
    vision = _tower(seen.values.get("vision_config") or _TOWER, seen.whole("select_layer", -1, low=-99))
    read = VectorConfig(_square(seen.whole("num_image_tokens", vision.patches, high=_SIDE**2)), vision.width, False)
    written = VectorConfig(
        _square(drawn.whole("num_image_tokens", 64, high=_SIDE**2)),
        drawn.whole("width", 1024, high=_WIDTH),
        drawn.values.get("normalize") is True,
    )
    return RegressionConfig(
        language=language,
        vision=vision,
        read=read,
        written=written,
        reduction="mean",
        projector=_depth(drawn.values.get("projector_type", "mlp2x_gelu"), "generation.projector_type"),
        shared=False,
        head=str(drawn.values.get("head_type", "mlp")),
        prompt=PISCES_PROMPT,
        context=Fields("config", raw).whole("tokenizer_model_max_length", 8192, high=1 << 24),
        empty_caption=drawn.values.get("guidance", "empty caption") == "empty caption",
        edits=False,
    )


def _tower(raw: Mapping[str, Any], select: int) -> VisionConfig:
    """The SigLIP whose hidden state `select`, counted from the last one, is read; before the last norm."""
    fields = Fields("vision_config", raw)
    refuse_other_values(fields, {"hidden_act": tuple(_GELUS), "layer_norm_eps": (1e-6,), "num_channels": (3,)})
    width, layers = fields.whole("hidden_size", 1152), fields.whole("num_hidden_layers", 27)
    kept = select if select >= 0 else layers + 1 + select
    if not 0 <= kept <= layers:
        raise AppError("config_number_out_of_range", field="mm_vision_select_layer", value=select, low=-layers, high=-1)
    return VisionConfig(
        image_size=fields.whole("image_size", 384),
        width=width,
        layers=kept,
        heads=fields.whole("num_attention_heads", 16),
        patch_size=fields.whole("patch_size", 14),
        mlp_ratio=(fields.whole("intermediate_size", 4304) + 0.5) / width,  # rounded down where it is used
        separate_qkv=True,
        gelu=_GELUS[raw.get("hidden_act") or "gelu_pytorch_tanh"],
        normed=False,
    )


def _square(count: int) -> int:
    if math.isqrt(count) ** 2 != count:
        raise AppError("picture_vectors_not_square", given=count)
    return count


def _depth(kind: Any, field: str) -> int:
    """The number of linears of a projector: "linear", or "mlp2x_gelu" and the like."""
    if kind == "linear":
        return 1
    text = str(kind)
    number = text.removeprefix("mlp").removesuffix("x_gelu")
    if text != f"mlp{number}x_gelu" or not number.isdigit() or not 1 <= int(number) <= 8:
        raise AppError("config_value_not_computed", field=f"config.{field}", value=repr(kind)[:60])
    return int(number)


@dataclass(frozen=True)
class AdapterConfig:
    """model_config.json of a visualiser: the layers from a picture's vectors to the diffusion model's conditions.

    mode "mlp": linears with norms. "xattn", "xattnffn": learned tokens that attend to the vectors. "linear": one
    linear, which Pisces uses here. pooled: numbers of the condition that is made of the vectors' mean, 0 for none.
    """

    mode: str
    width: int
    hidden: int
    out: int
    tokens: int
    layers: int
    heads: int
    pooled: int = 0


ADAPTERS = ("mlp", "xattn", "xattnffn", "linear")


def parse_adapter(raw: Mapping[str, Any]) -> AdapterConfig:
    """Raises AppError for an unknown mode or an absurd number."""
    fields = Fields("model_config", raw)
    if (mode := raw.get("mode", "mlp")) not in ADAPTERS:
        raise AppError("visualizer_mode_unknown", given=str(mode)[:60], known=", ".join(ADAPTERS))
    config = AdapterConfig(
        mode=mode,
        width=fields.whole("input_dim", 1152, high=_WIDTH),
        hidden=fields.whole("hidden_dim", 4096, high=_WIDTH),
        out=fields.whole("output_dim", 768, high=_WIDTH),
        tokens=fields.whole("num_tokens", 77, high=_SIDE**2),
        layers=fields.whole("num_layers", 6, high=64),
        heads=fields.whole("num_heads", 8, high=256),
        pooled=fields.whole("pooled_dim", 0, low=0, high=_WIDTH),
    )
    if mode.startswith("xattn") and config.out % config.heads:
        raise AppError("config_heads_do_not_divide", heads=config.heads, width=config.out)
    return config


def holds_projector_only(folder: Path) -> bool:
    """Whether a folder has the projector that the first stage of training writes, and no other weights."""
    return (folder / "mm_projector.bin").is_file() and not any(
        file for pattern in ("*.safetensors", "pytorch_model*", "model*.bin") for file in folder.glob(pattern)
    )
