"""What is shown of pictures while they are drawn row by row: decoded where that is quick, else mostly sketched."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from janus_app.models.common.image_processor import BLANK, to_picture
from janus_app.models.common.latent_preview import LatentPreview
from janus_app.models.common.preview_pace import PreviewPace
from janus_app.models.janus.draw import decode_tokens
from janus_app.models.janus.modeling import JanusNetwork
from janus_app.types import Event, Progress, saying


class Sketch:
    """Pictures of image tokens that cost next to nothing: a colour for each cell, by a linear map of its code.

    The map is fitted to one decoded picture of random tokens.
    """

    def __init__(self, network: JanusNetwork, grid: int) -> None:
        self._network, self._grid = network, grid
        self._map = LatentPreview(network.config.vq.cell)

    @property
    def fitted(self) -> bool:
        return self._map.fitted

    def fitting(self) -> Generator[None, None, None]:
        """Fit the map; pauses as the decoder does."""
        codes, cells = self._network.config.vq.codebook_size, self._grid**2
        tokens = torch.randint(codes, (1, cells), generator=torch.Generator().manual_seed(0)).to(self._network.device)
        pixels = yield from decode_tokens(self._network, tokens)
        self._map.fit(self._network.gen_vision_model.lookup(tokens), pixels)

    def __call__(self, tokens: Tensor) -> list[Image.Image]:
        """Pictures of tokens [n, cells]."""
        return self._map(self._network.gen_vision_model.lookup(tokens))


class RowPreviews:
    """The previews of one batch of pictures; `known` are the image tokens [cells] that are not drawn, others are -1.

    The decoded pictures are shown whenever their pace allows. Where they are costly, what was drawn since is sketched.
    """

    def __init__(self, network: JanusNetwork, known: Tensor, grid: int, pace: PreviewPace, sketch: Sketch) -> None:
        self._network, self._known, self._grid, self._pace, self._sketch = network, known, grid, pace, sketch
        self._cell = network.config.vq.cell
        self._decoded: list[Image.Image] = []
        self._pending = known < 0  # when they were decoded

    @torch.inference_mode()
    def after(self, cell: int, tokens: Tensor, progress: Progress) -> Generator[Event, None, list[Image.Image]]:
        """The pictures of tokens [n, cells] after the last cell of a row, blank where they are not drawn yet.

        There are none where it is too soon. `progress` is said again while they are decoded.
        """
        left, begun = progress.seconds_left or 0.0, time.perf_counter()

        def ahead() -> Progress:
            return replace(progress, seconds_left=left and max(1.0, left + begun - time.perf_counter()))

        if not self._sketch.fitted and (self._pace.due(begun) or self._pace.costly):
            yield from saying(ahead, self._sketch.fitting())
            self._pace.like(begun, time.perf_counter(), len(tokens), set_up=self._network.device.type != "cpu")
        now, rows = time.perf_counter(), (cell + 1) // self._grid
        pending = (torch.arange(len(self._known)) > cell) & (self._known < 0)
        given = bool((self._known >= 0).any())  # a picture that is known in part is shown as it is
        if self._pace.due(now) or (given and not self._decoded):
            self._decoded = yield from saying(ahead, self._decoding(tokens, pending, rows))
            self._pending = pending
            self._pace.took(now, time.perf_counter())
            return self._covered(self._decoded, pending)
        if not self._pace.costly:
            return []
        sketched = self._sketch(tokens.clamp(min=0))
        if self._decoded:
            since = self._cover(self._pending)
            sketched = [Image.composite(*pair, since) for pair in zip(sketched, self._decoded, strict=True)]
        return self._covered(sketched, pending)

    def _decoding(self, tokens: Tensor, pending: Tensor, rows: int) -> Generator[None, None, list[Image.Image]]:
        """The decoder's attention and norms see the whole picture: the rows drawn so far stand in for those to come."""
        place = torch.arange(len(pending))
        filled = tokens[:, torch.where(pending, place % (rows * self._grid), place)].clamp(min=0)
        decoded = yield from decode_tokens(self._network, filled)
        return [to_picture(pixels) for pixels in decoded]

    def _covered(self, pictures: list[Image.Image], pending: Tensor) -> list[Image.Image]:
        """The pictures with the pending cells [cells] blank."""
        cover = self._cover(pending)
        blank = Image.new("RGB", cover.size, BLANK)
        return [Image.composite(blank, picture, cover) for picture in pictures]

    def _cover(self, cells: Tensor) -> Image.Image:
        """A mask of the pixels of some cells."""
        side = self._grid * self._cell
        mask = Image.fromarray(cells.view(self._grid, self._grid).to(torch.uint8).mul(255).numpy())
        return mask.resize((side, side), Image.Resampling.NEAREST)
