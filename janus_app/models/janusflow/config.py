"""What a JanusFlow checkpoint's config.json says (Ma et al. 2024, section 3), and bounds on what it may say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from janus_app.errors import AppError
from janus_app.models.common.config import Fields
from janus_app.models.common.config_sections import (
    language_config,
    refuse_other_kinds,
    section_params,
    vision_config,
)
from janus_app.nn.llama import DecoderConfig
from janus_app.nn.siglip import VisionConfig


@dataclass(frozen=True)
class FlowEncoderConfig:
    """The generation encoder: latents [n, in_channels, h, w] to features [n, width, h / stride, w / stride]."""

    in_channels: int
    width: int
    kernel: int
    stride: int
    padding: int
    blocks: int
    hidden_size: int
    eps: float
    bias: bool


@dataclass(frozen=True)
class FlowDecoderConfig:
    """The generation decoder: language model features `in_channels` wide and the encoder's, `skip` wide, to velocities.

    Each of the `upsamples` doubles height and width.
    """

    in_channels: int
    skip: int
    out_channels: int
    upsamples: int
    blocks: int
    hidden_size: int
    eps: float
    bias: bool


@dataclass(frozen=True)
class JanusFlowConfig:
    language: DecoderConfig
    vision: VisionConfig
    encoder: FlowEncoderConfig
    decoder: FlowDecoderConfig


def parse_config(raw: Mapping[str, Any]) -> JanusFlowConfig:
    """config.json of JanusFlow. Raises AppError for another architecture, an absurd number, or parts that do not fit.

    Stray keys of the published file (`elementwize_affine`, `num_extra_tensors`) have no effect and are ignored.
    """
    if (raw.get("model_type") or "multi_modality") != "multi_modality" or "vision_gen_enc_config" not in raw:
        raise AppError("checkpoint_not_janusflow")
    for section, kind in (("vision_gen_enc_config", "Encoder"), ("vision_gen_dec_config", "Decoder")):
        refuse_other_kinds(raw, section, f"ShallowUViT{kind}", {"elementwise_affine": (True,)})
    language = language_config(raw)
    config = JanusFlowConfig(language, vision_config(raw, "vision_und_enc_config"), _encoder(raw), _decoder(raw))
    encoder, decoder = config.encoder, config.decoder
    for first, one, second, other in (
        ("enc.hidden_size", encoder.hidden_size, "language_config.hidden_size", language.hidden_size),
        ("enc.hidden_size", encoder.hidden_size, "dec.hidden_size", decoder.hidden_size),
        ("enc.block_out_channels", encoder.width, "dec.block_out_channels", decoder.skip),
        ("enc.input_channels", encoder.in_channels, "dec.out_channels", decoder.out_channels),
        ("enc.stride", encoder.stride, "2 ** dec.upsamples", 2**decoder.upsamples),
    ):
        if one != other:
            raise AppError("config_parts_differ", first=first, one=one, second=second, other=other)
    return config


def _encoder(raw: Mapping[str, Any]) -> FlowEncoderConfig:
    fields = Fields("vision_gen_enc_config.params", section_params(raw, "vision_gen_enc_config"))
    _middle_only(fields)
    kernel, stride = fields.whole("kernel_size"), fields.whole("stride")
    return FlowEncoderConfig(
        in_channels=fields.whole("input_channels"),
        width=_width(fields),
        kernel=kernel,
        stride=stride,
        padding=fields.whole("padding", max(0, kernel - stride), low=0),
        blocks=fields.whole("layers_in_middle"),
        hidden_size=fields.whole("hidden_size"),
        eps=fields.number("norm_eps", 1e-6),
        bias=bool(fields.values.get("use_bias", True)),
    )


def _decoder(raw: Mapping[str, Any]) -> FlowDecoderConfig:
    fields = Fields("vision_gen_dec_config.params", section_params(raw, "vision_gen_dec_config"))
    _middle_only(fields)
    return FlowDecoderConfig(
        in_channels=fields.whole("in_channels"),
        skip=_width(fields),
        out_channels=fields.whole("out_channels"),
        upsamples=fields.whole("upsamples"),
        blocks=fields.whole("layers_in_middle"),
        hidden_size=fields.whole("hidden_size"),
        eps=fields.number("norm_eps", 1e-6),
        bias=bool(fields.values.get("use_bias", True)),
    )


def _width(fields: Fields) -> int:
    """The one entry of block_out_channels: the published encoder and decoder have a single level each."""
    widths = fields.values.get("block_out_channels")
    if not isinstance(widths, list) or len(widths) != 1:
        raise AppError(
            "config_list_not_one_number", field=f"{fields.section}.block_out_channels", value=repr(widths)[:60]
        )
    return Fields(fields.section, {"block_out_channels": widths[0]}).whole("block_out_channels")


def _middle_only(fields: Fields) -> None:
    if fields.values.get("use_mid_block", True) is not True:
        raise AppError("config_mid_block_off", field=f"{fields.section}.use_mid_block")
