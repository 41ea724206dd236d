"""The package's public face, and the old import paths that scripts exported by earlier versions use."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image

import janus_app
from janus_app.outputs.metadata import read_metadata

ROOT = Path(__file__).parent.parent

# Scripts as earlier versions exported them, word for word.
OLD_DRAWING = '''\
"""Draws a picture of Janus Studio again. Run it in the app's folder."""

from pathlib import Path

from janus_app.catalog import load_catalog
from janus_app.hub import Hub
from janus_app.models.base import GenerateRequest
from janus_app.records import output_path, record_of, save_png
from janus_app.studio import Studio, drain

studio = Studio(load_catalog(), Hub())
drain(studio.load('janus-embedded', precision='fp32'))
request = GenerateRequest(
    prompt='a red circle',
    seed=3,
    guidance=2.0,
    temperature=0.7,
)
finished = drain(studio.run(request))
for picture in finished.pictures:
    record = record_of(picture, request, studio.variant, studio.state)
    print(save_png(output_path(Path("outputs"), record), picture.image, record))
'''

OLD_EDIT = '''\
"""Draws a picture of Janus Studio again. Run it in the app's folder."""

from pathlib import Path

from janus_app.catalog import load_catalog
from janus_app.hub import Hub
from janus_app.models.base import EditRequest
from janus_app.pictures import open_mask, open_picture
from janus_app.records import output_path, record_of, save_png
from janus_app.studio import Studio, drain

studio = Studio(load_catalog(), Hub())
drain(studio.load('janus-embedded', precision='fp32'))
request = EditRequest(
    image=open_picture('PICTURE.png'),
    mask=open_mask('MASK.png', open_picture('PICTURE.png').size),
    prompt='a blue circle',
    seed=4,
    method='region',
    guidance=2.0,
    temperature=0.7,
)
finished = drain(studio.run(request))
for picture in finished.pictures:
    record = record_of(picture, request, studio.variant, studio.state)
    print(save_png(output_path(Path("outputs"), record), picture.image, record))
'''


def run_script(folder: Path, script: str) -> Path:
    """Run a script in `folder`; returns the picture whose path it prints."""
    (folder / "run.py").write_text(script, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "run.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.strip()


def test_example_in_the_docstring_draws_and_saves(tmp_path: Path) -> None:
    assert janus_app.__doc__ is not None
    example = janus_app.__doc__.split("\n\n")[1:3]
    record = read_metadata(run_script(tmp_path, textwrap.dedent("\n\n".join(example))))
    assert (record.model, record.prompt, record.seed) == ("janus-embedded", "a red circle", 3)
    assert record.versions["python"]


@pytest.mark.parametrize("name", janus_app.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(janus_app, name)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        janus_app.nonsense  # noqa: B018


def test_old_drawing_script_draws_what_the_new_one_does(tmp_path: Path) -> None:
    record = read_metadata(run_script(tmp_path, OLD_DRAWING))
    assert (record.verb, record.seed, record.precision) == ("generate", 3, "fp32")
    session = janus_app.session("janus-embedded", "cpu", "fp32")
    request = janus_app.GenerateRequest("a red circle", seed=3, guidance=2.0, temperature=0.7)
    (saved,) = janus_app.OutputStore(tmp_path / "new").save(session.result(request))
    assert saved.metadata.image_tokens == record.image_tokens
    assert saved.metadata.settings == record.settings and saved.metadata.device == record.device


def test_old_edit_script_still_runs(tmp_path: Path) -> None:
    side = janus_app.load_catalog()["janus-embedded"].size[0]
    Image.new("RGB", (side, side), "white").save(tmp_path / "PICTURE.png")
    mask = Image.new("L", (side, side), 0)
    mask.paste(255, (0, 0, side // 2, side))
    mask.save(tmp_path / "MASK.png")
    record = read_metadata(run_script(tmp_path, OLD_EDIT))
    assert (record.verb, record.settings["method"], record.size) == ("edit", "region", (side, side))
