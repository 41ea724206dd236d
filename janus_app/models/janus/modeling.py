"""The Janus network. Module names are those of the checkpoint, so tensors are loaded under their own names.

Decoupled visual encoding (Janus, section 3.1): SigLIP features through `aligner` to read pictures, VQ tokens through
`gen_embed` and `gen_aligner` to draw them, one decoder between.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.models.janus.config import JanusConfig
from janus_app.nn.fast.linear import Linear
from janus_app.nn.fast.packing import pack_linears
from janus_app.nn.llama import KVCache, LlamaForCausalLM
from janus_app.nn.siglip import SigLIP
from janus_app.nn.vq_model import VQModel

SMALL_TABLE = 1 << 20  # elements; a smaller table of the decoder inputs of all image tokens is kept in memory


class _VisionModel(nn.Module):
    def __init__(self, config: JanusConfig) -> None:
        super().__init__()
        self.vision_tower = SigLIP(config.vision)


class _Projector(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Linear(inner, outer), nn.GELU(), Linear(outer, outer)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class _ImageHead(nn.Module):
    def __init__(self, hidden: int, width: int, codes: int) -> None:
        super().__init__()
        self.output_mlp_projector = Linear(hidden, width)
        self.vision_head = Linear(width, codes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.output_mlp_projector(x)
        # Transposed, PyTorch computes it itself; else oneDNN would start all threads for a few numbers on a CPU.
        return self.vision_head(F.gelu(hidden.mT).mT)


class JanusNetwork(nn.Module):
    def __init__(self, config: JanusConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.language.hidden_size
        self.vision_model = _VisionModel(config)
        self.aligner = _Projector(config.vision.width, hidden)
        self.gen_vision_model = VQModel(config.vq)
        self.gen_embed = nn.Embedding(config.vq.codebook_size, config.vq.code_dim)
        self.gen_aligner = _Projector(config.vq.code_dim, hidden)
        self.gen_head = _ImageHead(hidden, config.head_width, config.vq.codebook_size)
        self.language_model = LlamaForCausalLM(config.language)
        self._table: Tensor | None = None

    @property
    def device(self) -> torch.device:
        return self.gen_embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.gen_embed.weight.dtype

    def arrange(self) -> None:
        """Join, fuse and pack linears, once the weights are loaded; see `LlamaModel.fuse` and `pack_linears`.

        The head of the words, the largest matrix of all, is left as it is: for a moment it would be there twice.
        """
        self.vision_model.vision_tower.join_qkv()
        self.language_model.model.fuse()
        pack_linears(self.language_model.model, self.gen_head, self.gen_aligner)

    def picture_embeds(self, pixels: Tensor) -> Tensor:
        """Pictures [n, 3, S, S] to decoder inputs [n, patches, hidden]."""
        return self.aligner(self.vision_model.vision_tower(pixels))

    def text_embeds(self, ids: Tensor) -> Tensor:
        return self.language_model.model.embed_tokens(ids)

    def token_embeds(self, tokens: Tensor) -> Tensor:
        """Image token ids, any shape, to decoder inputs [..., hidden]."""
        return self.gen_aligner(self.gen_embed(tokens))

    def token_table(self) -> Tensor:
        """Decoder inputs of all image tokens, [codes, hidden]; it pays where kernel launches dominate a step."""
        return self.token_embeds(torch.arange(self.config.vq.codebook_size, device=self.device))

    def small_token_table(self) -> Tensor | None:
        """`token_table`, computed once, where it is small; None elsewhere."""
        if self._table is None and self.gen_embed.num_embeddings * self.config.language.hidden_size <= SMALL_TABLE:
            self._table = self.token_table()
        return self._table

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        return KVCache(self.config.language, rows, capacity, device=self.device, dtype=self.dtype)

    def forward(self, embeds: Tensor, positions: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Decoder inputs [rows, T, hidden] to final hidden states of the same shape."""
        return self.language_model.model(embeds, positions, cache)
