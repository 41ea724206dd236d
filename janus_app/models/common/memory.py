"""Memory that a running model needs beside its weights, computed from its sizes: the key/value cache and the work.

"Work" is the memory in use for a moment at the peak of a step: activations, feature maps of the picture decoder, a
layer's weights unpacked from 8 or 4 bits. How many tensors exist at that point was counted in the code of the layers
and, for what libraries allocate inside their kernels, measured (docs/memory.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from janus_app.nn.llama import DecoderConfig
from janus_app.nn.siglip import VisionConfig
from janus_app.nn.vq_model import VQConfig


@dataclass(frozen=True)
class Job:
    """The size of a request.

    count: pictures drawn together. steps: of a model that draws in steps. prompt: its tokens. guided: whether there is
    an unconditional row for each picture. instructed: whether there are rows with and without the image tokens of a
    picture to change. thought: tokens of text that the model writes before or about its picture. judged: whether it may
    draw again behind its first attempt. pictures, words, answer: pictures, tokens of text and tokens of the answer in a
    conversation.
    """

    count: int = 1
    steps: int = 30
    guided: bool = True
    instructed: bool = False
    thought: int = 0
    judged: bool = False
    prompt: int = 64
    pictures: int = 1
    words: int = 64
    answer: int = 512


@dataclass(frozen=True)
class BytesPerElement:
    """Bytes of one element in the decoder, its cache and the picture decoder, and the scratch memory of kernels.

    conv_scratch: feature maps that a convolution copies beside its input and output. linear_scratch: bytes per weight
    of the largest quantised linear while it is unpacked; 0 where nothing is quantised.
    """

    decoder: int
    cache: int
    pictures: int
    conv_scratch: float = 0.0
    linear_scratch: float = 0.0


@dataclass(frozen=True)
class Peak:
    """Bytes beside the weights at the peak of a job."""

    cache: int
    work: int

    @property
    def total(self) -> int:
        return self.cache + self.work


def cache_bytes(config: DecoderConfig, rows: int, positions: int, width: int) -> int:
    """Keys and values of all layers: KVCache's two buffers."""
    per_position = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return per_position * rows * positions * width


def decoder_work(config: DecoderConfig, rows: int, steps: int, widths: BytesPerElement) -> int:
    """The peak of a block, in the MLP: gate, up and their product, and three tensors of the residual stream."""
    activations = rows * steps * (3 * config.intermediate_size + 3 * config.hidden_size) * widths.decoder
    largest = config.hidden_size * max(config.intermediate_size, config.hidden_size)
    return int(activations + largest * widths.linear_scratch)


def vision_work(config: VisionConfig, pictures: int, width: int) -> int:
    """The peak of SigLIP: the hidden layer before and after its GELU, and two tensors of the residual stream."""
    hidden = int(config.width * config.mlp_ratio)
    return pictures * config.patches * (2 * hidden + 2 * config.width) * width


def answering_peak(
    language: DecoderConfig, vision: VisionConfig, picture_tokens: int, job: Job, widths: BytesPerElement
) -> Peak:
    """The peak of a conversation whose pictures take `picture_tokens` tokens each."""
    read = job.words + job.pictures * picture_tokens
    cache = cache_bytes(language, 1, read + job.answer, widths.cache)
    work = max(decoder_work(language, 1, read, widths), vision_work(vision, job.pictures, widths.decoder))
    return Peak(cache, work)


def vq_work(config: VQConfig, side: int, widths: BytesPerElement) -> int:
    """The peak of the picture decoder: a residual block at full resolution has its input, two activations and its
    output; the kernels may copy some of them. The encoder needs no more."""
    feature_map = config.ch * config.ch_mult[0] * side * side * widths.pictures
    return int(feature_map * (4 + widths.conv_scratch))


def autoencoder_work(channels: list[int], side: int, widths: BytesPerElement) -> int:
    """The peak of decoding: the last upsampling convolution and the block behind it, at full resolution."""
    feature_map = channels[min(1, len(channels) - 1)] * side * side * widths.pictures
    return int(feature_map * (3 + widths.conv_scratch))
