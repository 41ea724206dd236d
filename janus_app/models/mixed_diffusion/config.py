"""What config.json of a checkpoint says, in the layout of docs/mixed_diffusion.md.

The sections of other files are put into it by layouts.read_config: "language" and "reader" of a base, "vae".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from janus_app.errors import AppError
from janus_app.models.common.config import Fields
from janus_app.models.common.config_sections import language_config, refuse_other_values
from janus_app.nn.llama import DecoderConfig
from janus_app.types import MAX_STEPS

MODEL_TYPE = "mixed_diffusion"
LANGUAGE, READER, IMAGE = "language", "reader", "image"
SIDE = 256  # pixels of a picture in the papers
CELL = -3  # where a part of a picture stands among the ids of a prompt; the markers that are no words are -1 and -2
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler")
# The cosine schedule of Nichol and Dhariwal (2021, eq. 17) with their epsilon prediction.
SCHEDULE: Mapping[str, Any] = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
}


@dataclass(frozen=True)
class ImageConfig:
    """How pictures are drawn and, without a tower, read.

    side: pixels of a picture. patch: latent pixels a side of a position in the sequence. channels: of a latent.
    untied: whether pictures have blocks of their own. widths: channels of the levels of the U-Net between latents and
    positions, each of `blocks` blocks with `groups` groups in their norms; empty for one linear. time_width: numbers of
    the sinusoids of a time. own_markers: whether begin-of-picture and end-of-picture are vectors of the picture half
    and no words. picture_start, picture_end: their words otherwise. edits: whether such a model was trained to follow
    an instruction about a picture.
    """

    side: int
    patch: int
    channels: int
    untied: bool
    widths: tuple[int, ...]
    blocks: int
    groups: int
    time_width: int
    own_markers: bool
    picture_start: str
    picture_end: str
    edits: bool

    def grid(self, factor: int) -> int:
        """Positions a side of a picture, for an autoencoder that shrinks a picture's side by `factor`."""
        return self.side // (factor * self.patch)


@dataclass(frozen=True)
class MixedConfig:
    """image: None where only the language half is there. template: whether a conversation is written in the format of
    the base. schedule: fields of a scheduler of diffusers. steps, guidance: for a picture in an
    answer."""

    language: DecoderConfig
    image: ImageConfig | None
    template: bool
    context: int
    schedule: Mapping[str, Any]
    steps: int
    guidance: float


def parse_config(raw: Mapping[str, Any]) -> MixedConfig:
    """Raises AppError for another model_type, absurd numbers, and settings that are not computed here."""
    if raw.get("model_type") != MODEL_TYPE:
        raise AppError("config_model_type_wrong", given=str(raw.get("model_type"))[:60], wanted=MODEL_TYPE)
    words = Fields(LANGUAGE, raw.get(LANGUAGE))
    language = language_config({"language_config": {**words.values}}, ("llama", "qwen2"))
    fields, drawing = Fields("config", raw), Fields("diffusion", raw.get("diffusion", {}))
    refuse_other_values(fields, {"prompt": ("plain", "template")})
    schedule = {**SCHEDULE, **drawing.values}
    steps, guidance = drawing_defaults(raw)
    return MixedConfig(
        language=replace(language, extra_rows=words.whole("extra_rows", 0, low=0)),
        image=_image(raw[IMAGE]) if raw.get(IMAGE) is not None else None,
        template=raw.get("prompt", "plain") == "template",
        context=fields.whole("context", 4096, high=1 << 24),
        schedule={name: value for name, value in schedule.items() if name not in ("steps", "guidance")},
        steps=steps,
        guidance=guidance,
    )


def drawing_defaults(raw: Mapping[str, Any]) -> tuple[int, float]:
    """Steps and guidance of a picture, unless the config names others: the guidance of Transfusion, fewer steps."""
    drawing = Fields("diffusion", raw.get("diffusion", {}))
    return drawing.whole("steps", 100, high=MAX_STEPS), drawing.number("guidance", 5.0)


def _image(raw: Any) -> ImageConfig:
    fields = Fields(IMAGE, raw)
    refuse_other_values(fields, {"codec": ("linear", "unet"), "markers": ("vocabulary", "own")})
    patch = fields.whole("patch", 2, high=64)
    widths = fields.values.get("widths", [704, 1408]) if fields.values.get("codec", "linear") == "unet" else []
    if not isinstance(widths, list) or len(widths) > 8:
        raise AppError("config_list_unusable", field="image.widths", value=repr(widths)[:60])
    levels = Fields(IMAGE, {f"widths.{i}": width for i, width in enumerate(widths)})
    sizes, groups = tuple(levels.whole(name, high=1 << 16) for name in levels.values), fields.whole("groups", 32)
    if sizes and (made := 2 ** (len(sizes) - 1)) != patch:
        raise AppError("config_parts_differ", first="image.patch", one=patch, second="image.widths", other=made)
    if wrong := next((size for size in sizes if size % groups), None):
        raise AppError("config_parts_differ", first="image.groups", one=groups, second="image.widths", other=wrong)
    return ImageConfig(
        side=fields.whole("side", SIDE, low=8, high=4096),
        patch=patch,
        channels=fields.whole("channels", 8, high=4096),
        untied=fields.values.get("untied") is True,
        widths=sizes,
        blocks=fields.whole("blocks", 2, high=16),
        groups=groups,
        time_width=fields.whole("time_width", 256, low=2, high=1 << 16),
        own_markers=fields.values.get("markers", "vocabulary") == "own",
        picture_start=str(fields.values.get("picture_start", "<image_start>")),
        picture_end=str(fields.values.get("picture_end", "<image_end>")),
        edits=fields.values.get("edits") is True,
    )
