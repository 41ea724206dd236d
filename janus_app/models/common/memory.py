"""What a running model needs beside its weights, by arithmetic on its sizes: the key/value cache and the work.

"Work" is what lives for a moment at the highest point of a step: activations, the picture decoder's feature maps,
a layer's weights unpacked from 8 or 4 bits. How many tensors are alive at that point was counted in the code of the
layers and, for what libraries add inside their kernels, measured (docs/memory.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from janus_app.nn.llama import DecoderConfig
from janus_app.nn.siglip import VisionConfig
from janus_app.nn.vq_model import VQConfig


@dataclass(frozen=True)
class Job:
    """How much is asked of a model at once.

    count pictures are drawn together from a prompt of `prompt` tokens, `guided` with an unconditional row each,
    `instructed` with two readings of a picture in the prompt; a conversation holds `pictures` pictures, `words` tokens
    of text and an answer of up to `answer` tokens.
    """

    count: int = 1
    guided: bool = True
    instructed: bool = False
    prompt: int = 64
    pictures: int = 1
    words: int = 64
    answer: int = 512


@dataclass(frozen=True)
class BytesPerElement:
    """Bytes of a number in the decoder, its cache and the picture decoder, and what kernels there cost in addition.

    conv_scratch: feature maps a convolution copies beside its input and output. linear_scratch: bytes per weight of
    the largest quantised linear while it is unpacked; 0 where nothing is quantised.
    """

    decoder: int
    cache: int
    pictures: int
    conv_scratch: float = 0.0
    linear_scratch: float = 0.0


@dataclass(frozen=True)
class Peak:
    """Bytes beside the weights at the highest point of a job."""

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
    """A block at its highest: in the MLP, three hidden layers' worth (gate, up, product) and three of the stream."""
    activations = rows * steps * (3 * config.intermediate_size + 3 * config.hidden_size) * widths.decoder
    largest = config.hidden_size * max(config.intermediate_size, config.hidden_size)
    return int(activations + largest * widths.linear_scratch)


def vision_work(config: VisionConfig, pictures: int, width: int) -> int:
    """SigLIP at its highest: the hidden layer before and after its GELU, and two of the stream."""
    hidden = int(config.width * config.mlp_ratio)
    return pictures * config.patches * (2 * hidden + 2 * config.width) * width


def vq_work(config: VQConfig, side: int, widths: BytesPerElement) -> int:
    """The picture decoder at its highest: a residual block at full resolution holds its input, two activations and
    its output; the kernels may copy some of them. The encoder is no higher."""
    feature_map = config.ch * config.ch_mult[0] * side * side * widths.pictures
    return int(feature_map * (4 + widths.conv_scratch))
