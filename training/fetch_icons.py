"""Make training/icons.png from the Fluent Emoji Flat set (MIT, Microsoft): needs npm and resvg_py, once.

    python -m training.fetch_icons

The atlas is a row of icons, the objects in order. Only a change of the list of objects needs a new atlas.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

from PIL import Image

from training.objects import THINGS
from training.pictures import ATLAS

PACKAGE = "@iconify-json/fluent-emoji-flat@1.2.6"
HERE = Path(__file__).parent


def icon(body: str, size: int) -> Image.Image:
    import resvg_py

    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" width="{size}" height="{size}">{body}</svg>'
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        name = subprocess.run(["npm", "pack", PACKAGE], cwd=folder, check=True, capture_output=True, text=True)
        with tarfile.open(Path(folder) / name.stdout.strip().splitlines()[-1]) as tar:
            member = tar.extractfile("package/icons.json")
            assert member is not None
            icons = json.load(member)["icons"]
    names = [thing.icon for thing in THINGS if thing.icon]
    atlas = Image.new("RGBA", (ATLAS * len(names), ATLAS))
    for i, key in enumerate(names):
        atlas.paste(icon(icons[key]["body"], ATLAS), (ATLAS * i, 0))
    atlas.save(HERE / "icons.png", optimize=True)
    print(f"{HERE / 'icons.png'}: {len(names)} icons")


if __name__ == "__main__":
    main()
