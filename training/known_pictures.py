"""The kind of pictures of the picture world, as `pictures.npz` beside each embedded model.

    python -m training.known_pictures assets/*_embedded

The app says of other pictures that a model does not know them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from training.pictures import TILE, scene_table, sticker_table

CELL = 4  # pixels of a tile


def known_pictures() -> dict[str, np.ndarray]:
    """What janus_app/models/common/known_pictures.py reads."""
    stickers = sticker_table().astype(np.float32)
    stickers[..., :3] *= stickers[..., 3:] / 255
    return {"scenes": _small(scene_table()), "parts": _small(stickers)}


def _small(pictures: np.ndarray) -> np.ndarray:
    """Means over squares of pixels, [n, side, side, channels] as uint8."""
    n, side, _, channels = pictures.shape
    step = TILE // CELL
    squares = pictures.reshape(n, side // step, step, side // step, step, channels)
    return np.round(squares.mean((2, 4), dtype=np.float32)).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    for folder in parser.parse_args().folders:
        np.savez_compressed(folder / "pictures.npz", allow_pickle=False, **known_pictures())


if __name__ == "__main__":
    main()
