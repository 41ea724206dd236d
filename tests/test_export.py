"""Exports that draw a picture again, and larger copies."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from janus_app.cli import main
from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.outputs.metadata import ImageMetadata, read_metadata
from janus_app.outputs.store import OutputStore
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.types import Finished, GenerateRequest, drain
from janus_app.workflows.export import MASK, PICTURE, export
from janus_app.workflows.upscale import upscale
from tests.page_server import Served, serve

ROOT = Path(__file__).parent.parent
NASTY = "two 'green' frogs; $(touch /tmp/x) \"--seed\" `id` 中文"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of the embedded model under a prompt that shells, JSON and Python must each quote."""
    session = ModelSession(load_catalog(), Hub())
    drain(session.load("janus-embedded", device="cpu"))
    request = GenerateRequest(NASTY, seed=11, guidance=2, temperature=0.7)
    finished = drain(session.run(request))
    assert isinstance(finished, Finished)
    return OutputStore(tmp_path_factory.mktemp("drawn")).save(finished)[0].file


def test_exported_command_line_draws_the_same_picture(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(drawn)]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[:3] == ["python", "-m", "janus_app"]
    assert main([*words[3:], "--out", str(tmp_path / "again.png"), "--device", "cpu"]) == 0
    assert Image.open(tmp_path / "again.png").tobytes() == Image.open(drawn).tobytes()


def test_exported_script_draws_the_same_picture(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(export(read_metadata(drawn), "python"), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(tmp_path / "run.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    (again,) = (tmp_path / "outputs").glob("*.png")
    assert read_metadata(again).image_tokens == read_metadata(drawn).image_tokens


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("page")) as served:
        yield served


def test_exported_curl_calls_draw_on_the_page(drawn: Path, page: Served) -> None:
    record = replace(read_metadata(drawn), model="tiny-a")
    text = export(record, "curl", page.url + "/")
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=100)
    assert "event: complete" in done.stdout, done.stdout + done.stderr
    (file,) = page.outputs.glob("*_11.png")
    made = read_metadata(file)
    assert (made.prompt, made.settings) == (NASTY, {"guidance": 2, "temperature": 0.7})


def edited(record: ImageMetadata, **settings: object) -> ImageMetadata:
    return replace(record, verb="edit", settings=settings, image_tokens=())  # type: ignore[arg-type]


def test_exported_edit_has_a_placeholder_for_its_picture(drawn: Path) -> None:
    record = edited(read_metadata(drawn), method="region", guidance=3.0, guidance_start=0.25, guidance_end=1.0)
    words = shlex.split(export(record, "cli"))
    assert {f"--image={PICTURE}", f"--mask={MASK}", "--method=region", "--guidance=3.0"} <= set(words)
    assert words[-3:] == ["--guidance-interval", "0.25", "1"]
    compile(export(record, "python"), "run.py", "exec")
    assert "mask" not in export(edited(record, method="variation", strength=0.4), "python")
    with pytest.raises(AppError, match="does not edit"):
        export(record, "curl", "http://127.0.0.1:7860")


def test_upscale_saves_a_copy_that_names_its_source(drawn: Path, tmp_path: Path) -> None:
    before = drawn.read_bytes()
    file = upscale(drawn, 2, OutputStore(tmp_path)).file
    copy, record = Image.open(file), read_metadata(file)
    assert drawn.read_bytes() == before
    native = Image.open(drawn)
    assert copy.size == record.size == (native.width * 2, native.height * 2)
    back = copy.resize(native.size, Image.Resampling.BOX)
    differences = [abs(a - b) for a, b in zip(back.tobytes(), native.tobytes(), strict=True)]
    assert sum(differences) / len(differences) < 4, "the copy shows something else"
    assert record.settings["upscaled"] == 2 and record.settings["upscaled_from"] == drawn.name
    assert "Upscaled from: " in copy.info["parameters"]
    assert "upscaled" not in json.dumps(shlex.split(export(record, "cli")))
    with pytest.raises(AppError, match="enlarged copy already"):
        upscale(file, 2, OutputStore(tmp_path))
