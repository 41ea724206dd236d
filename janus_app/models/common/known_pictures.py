"""Whether a picture is of the kind that a small model knows, where `pictures.npz` in its folder shows that kind.

The pictures of a small world consist of few parts on few scenes. The file holds both in small, as uint8: `scenes`
[scenes, side, side, 3] and `parts` [parts, cell, cell, 4], RGBA with premultiplied colours; the first part is empty.
A picture is known if each of its cells looks nearly like a part on the scene that fits best, and not all parts are
empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

FILE = "pictures.npz"
# Of the mean error of the cells. Pictures of the world had at most 0.073, however noisy, scaled or compressed;
# photographs had 0.13 or more, noise and plain colours 0.11.
LIMIT = 0.09
MAX_BYTES = 4_000_000  # unpacked; a file that unpacks to more is not read
Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, eq=False)
class KnownPictures:
    """scenes [scenes, side, side, 3] and parts [parts, cell, cell, 4] in 0..1."""

    scenes: Array
    parts: Array

    def knows(self, picture: Image) -> bool:
        """Whether a picture of any size is of this kind; its ratio does not matter, as models do not keep it."""
        side = self.scenes.shape[1]
        small = picture.convert("RGB").resize((8 * side, 8 * side)).reduce(8)
        cells = self._cells(np.array(small, np.float32) / np.float32(255))
        error, parts = min((self._fit(cells, scene) for scene in self.scenes), key=lambda fit: fit[0])
        return error < LIMIT and bool(parts.any())

    def _fit(self, cells: Array, scene: Array) -> tuple[float, np.ndarray[Any, np.dtype[np.intp]]]:
        """How far cells [cells, cell, cell, 3] are from the parts on a scene that fit best, and which these are."""
        found = []
        for cell, behind in zip(cells, self._cells(scene), strict=True):
            shown = behind * (1 - self.parts[..., 3:]) + self.parts[..., :3]
            errors = (shown - cell).reshape(len(shown), -1)
            errors = np.einsum("pv,pv->p", errors, errors) / errors.shape[1]
            found.append((errors.min(), errors.argmin()))
        error, parts = zip(*found, strict=True)
        return float(np.sqrt(error).mean()), np.array(parts)

    def _cells(self, picture: Array) -> Array:
        """A picture [side, side, 3] as [cells, cell, cell, 3]."""
        cell = self.parts.shape[1]
        count = len(picture) // cell
        return picture.reshape(count, cell, count, cell, 3).swapaxes(1, 2).reshape(-1, cell, cell, 3)


def known_pictures_of(folder: Path | None) -> KnownPictures | None:
    """The pictures that the model in a folder knows; None where there is no such file, or none that can be read."""
    file = folder / FILE if folder else None
    return _read(file, file.stat().st_mtime_ns) if file and file.is_file() else None


@lru_cache(maxsize=8)
def _read(file: Path, changed: int) -> KnownPictures | None:
    try:
        with ZipFile(file) as packed:
            if sum(one.file_size for one in packed.infolist()) > MAX_BYTES:
                return None
        with np.load(file, allow_pickle=False) as found:
            known = KnownPictures(*(found[name].astype(np.float32) / 255 for name in ("scenes", "parts")))
        side, cell = known.scenes.shape[1], known.parts.shape[1]
        shapes = (len(known.scenes), side, side, 3), (len(known.parts), cell, cell, 4)
        fits = (known.scenes.shape, known.parts.shape) == shapes and cell > 0 and side % cell == 0
    except (OSError, EOFError, BadZipFile, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None
    return known if fits and known.scenes.size else None
