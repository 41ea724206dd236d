"""Refused requests: one sentence on stderr, the right exit status, no traceback."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from janus_app.cli import main
from janus_app.outputs.store import save_png
from tests.commands import ENVIRONMENT, MODEL, PICTURE, ROOT, run_command
from tests.samples import METADATA

GENERATE = ("generate", "--model", MODEL)
EDIT = ("edit", "--model", MODEL, "--prompt", "a dog")
BAD = {
    "no command": ((), "required"),
    "unknown command": (("paint",), "invalid choice"),
    "unknown flag": ((*GENERATE, "--colour", "red"), "--colour"),
    "shortened flag": ((*GENERATE, "--prom", "red"), "--prom"),
    "nothing to draw": (GENERATE, "Give --prompt"),
    "unknown variant": (("generate", "--model", "janus-pro-1", "--prompt", "a cat"), "Did you mean janus-pro-1b"),
    "folder without checkpoint": (("chat", "--model", "tests", "--prompt", "a"), "config.json"),
    "count 0": ((*GENERATE, "--prompt", "a", "--count", "0"), "from 1 to 16"),
    "count 1000": ((*GENERATE, "--prompt", "a", "--count", "1000"), "from 1 to 16"),
    "count text": ((*GENERATE, "--prompt", "a", "--count", "many"), "many"),
    "seed text": ((*GENERATE, "--prompt", "a", "--seed", "lucky"), "lucky"),
    "seed negative": ((*GENERATE, "--prompt", "a", "--seed", "-2"), "Seed must be"),
    "seed of another program": ((*GENERATE, "--prompt", "a", "--seed", str(2**64 - 1)), "Seeds of other programs"),
    "seed of a question": (("chat", "--model", MODEL, "--prompt", "a", "--seed", "9" * 30), "Seeds of other programs"),
    "width": ((*GENERATE, "--prompt", "a", "--width", "512"), "draws pictures of 96 x 96 pixels only"),
    "size of an edit": ((*EDIT, "--image", PICTURE, "--size", "512x512"), "of 96 x 96 pixels only"),
    "size without a height": ((*GENERATE, "--prompt", "a", "--size", "512"), "must be WIDTHxHEIGHT"),
    "size in two options": (
        ("generate", "--model", "unipic2-metaquery-9b", "--prompt", "a", "--width", "512"),
        "--size",
    ),
    "size of a grid": (
        ("grid", "--model", MODEL, "--x", "seed=1,2", "--prompt", "a", "--height=9"),
        "of 96 x 96 pixels only",
    ),
    "file of another kind": ((*GENERATE, "--prompt", "a", "--out", "new/cat.gif"), "cannot write .gif files"),
    "enlarged file of another kind": (("upscale", PICTURE, "--out", "cat.tiff"), "cannot write .tiff files"),
    "grid in a file": (("grid", "--model", MODEL, "--x", "seed=1,2", "--prompt", "a", "--out", "a.webp"), "folder"),
    "undecodable prompt": ((*GENERATE, "--prompt", "caf\udce9"), "cannot be decoded"),
    "undecodable question": (("chat", "--model", MODEL, "--prompt", "caf\udce9"), "cannot be decoded"),
    "guidance 0": ((*GENERATE, "--prompt", "a", "--guidance", "0"), "Guidance"),
    "guidance nan": ((*GENERATE, "--prompt", "a", "--guidance", "nan"), "Guidance"),
    "temperature inf": ((*GENERATE, "--prompt", "a", "--temperature", "inf"), "Temperature"),
    "steps 0": ((*GENERATE, "--prompt", "a", "--steps", "0"), "steps"),
    "steps 10,000": ((*GENERATE, "--prompt", "a", "--steps", "10000"), "from 1 to 250"),
    "solver": ((*GENERATE, "--prompt", "a", "--solver", "rk4"), "rk4"),
    "interval backwards": ((*GENERATE, "--prompt", "a", "--guidance-interval", "0.9", "0.1"), "end of the guidance"),
    "interval of one": ((*GENERATE, "--prompt", "a", "--guidance-interval", "0.9"), "--guidance-interval"),
    "interval nan": ((*GENERATE, "--prompt", "a", "--guidance-interval", "nan", "1"), "start of the guidance"),
    "precision": ((*GENERATE, "--prompt", "a", "--precision", "int1"), "int1"),
    "empty prompt": ((*GENERATE, "--prompt", "  "), "empty"),
    "long prompt": ((*GENERATE, "--prompt", "x" * 100_000), "100,000 characters"),
    "empty question": (("chat", "--model", MODEL, "--prompt", ""), "empty"),
    "top-p 0": (("chat", "--model", MODEL, "--prompt", "a", "--top-p", "0"), "Top-p"),
    "no tokens": (("chat", "--model", MODEL, "--prompt", "a", "--max-new-tokens", "0"), "new tokens"),
    "missing picture": (("chat", "--model", MODEL, "--prompt", "a", "--image", "nowhere.png"), "nowhere.png"),
    "not a picture": (("chat", "--model", MODEL, "--prompt", "a", "--image", "pyproject.toml"), "not a picture"),
    "edit without picture": (EDIT, "--image"),
    "edit of a text file": ((*EDIT, "--image", "pyproject.toml"), "not a picture"),
    "missing mask": ((*EDIT, "--image", PICTURE, "--mask", "nowhere.png"), "nowhere.png"),
    "mask of other size": (
        (*EDIT, "--image", PICTURE, "--mask", str(ROOT / "tests/golden/janus/images/square_small.png")),
        "Give a mask of the picture's size",
    ),
    "method": ((*EDIT, "--image", PICTURE, "--method", "magic"), "magic"),
    "method without its mask": ((*EDIT, "--image", PICTURE, "--method", "masked"), "Nothing is painted"),
    "mask without use": (
        (*EDIT, "--image", PICTURE, "--mask", PICTURE, "--method", "flowedit"),
        "does not use a mask",
    ),
    "long source prompt": (
        (*EDIT, "--image", PICTURE, "--method", "flowedit", "--source-prompt", "x" * 9_000),
        "9,000 characters",
    ),
    "strength 0": ((*EDIT, "--image", PICTURE, "--strength", "0"), "Strength"),
    "from a missing file": (("generate", "--from", "nowhere.png"), "nowhere.png"),
    "from a foreign picture": (("generate", "--from", PICTURE), "no metadata of this app"),
    "from no picture": (("generate", "--from", "pyproject.toml"), "not a picture"),
    "no cuda": ((*GENERATE, "--prompt", "a", "--device", "cuda"), "CUDA"),
    "no such device": ((*GENERATE, "--prompt", "a", "--device", "abacus"), "abacus"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_gives_one_sentence_and_status_2(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    if kind == "no cuda":
        torch = pytest.importorskip("torch")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # the test machine may have a card
    arguments, expected = BAD[kind]
    try:
        status = main(arguments)
    except SystemExit as stop:  # argparse leaves this way
        status = stop.code
    out, err = capsys.readouterr()
    assert status == 2
    assert out == "" and expected in err and "Traceback" not in err
    assert not Path("new").exists()
    assert len(err) < 1_000


@pytest.mark.parametrize("kind", ["unknown variant", "count 1000", "seed text", "guidance nan", "long prompt"])
def test_bad_input_prints_one_line_in_a_new_process(kind: str) -> None:
    arguments, expected = BAD[kind]
    done = run_command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_damaged_weights_give_status_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for file in Path(MODEL).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:-5000])
    assert main(["chat", "--model", str(tmp_path), "--prompt", "hello"]) == 1
    assert "incomplete" in capsys.readouterr().err


def test_unwritable_folder_gives_status_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    flags = ["generate", "--model", MODEL, "--prompt", "a cat", "--out", str(tmp_path / "file" / "sub")]
    assert main(flags) == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_is_full_or_closed_ends_with_a_sentence_at_most() -> None:
    command = f"{shlex.quote(sys.executable)} -m janus_app export {shlex.quote(str(ROOT / 'docs/screenshot.png'))}"
    listing = f"{shlex.quote(sys.executable)} -m janus_app models"
    for shell, status, said in (
        (f"{listing} >/dev/full", 1, "no space left"),
        (f"{listing} >&-", 0, ""),
        (f"{listing} | true; exit ${{PIPESTATUS[0]}}", (0, 1), ""),
        (f"{command} 2>&-", 2, ""),
    ):
        done = subprocess.run(
            ["bash", "-c", shell], cwd=ROOT, env=ENVIRONMENT, capture_output=True, encoding="utf-8", timeout=120
        )
        assert done.returncode in (status if isinstance(status, tuple) else (status,)), (shell, done.stderr)
        assert said in done.stderr and len(done.stderr.splitlines()) <= 1, (shell, done.stderr)


def test_enlarged_copy_and_heat_map_that_cannot_be_written_give_status_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    record = replace(METADATA, model="janus-embedded", image_tokens=(0,) * 36, size=(96, 96))
    picture = str(save_png(tmp_path / "a.png", Image.new("RGB", (96, 96)), record))
    (tmp_path / "file").write_text("")
    assert main(["upscale", picture, "--out", str(tmp_path / "file" / "sub")]) == 1
    assert main(["inspect", picture, "--out", str(tmp_path / "missing" / "map.png")]) == 1
    assert capsys.readouterr().err.count("cannot be written") == 2


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def run_app(*arguments: str) -> Any:
    return run_command(*arguments, "--no-browser", program=("app.py",))


def test_app_refuses_a_port_in_use(taken: int) -> None:
    done = run_app("--port", str(taken))
    assert done.returncode == 2 and f"port {taken}" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--port", "70000"), "from 1 to 65535"),
        (("--port", "http"), "http"),
        (("--host", "no.such.host.invalid"), "no.such.host.invalid"),
        (("--auth", "secret"), "USER:PASSWORD"),
        (("--allow-host", "*"), "--allow-host"),
        (("--root-path", "/a b"), "--root-path"),
        (("--allow-origin", "*"), "--allow-origin"),
        (("--model", "janus-pro-8b"), "no model called"),
        (("--lang", "tlh"), "tlh"),
    ],
)
def test_app_refuses_bad_options(flags: tuple[str, ...], expected: str) -> None:
    done = run_app(*flags)
    assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize("variable", ["LC_ALL", "LC_MESSAGES", "LANG"])
def test_errors_are_in_the_language_of_the_system(
    variable: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    assert main(["generate", "--model", MODEL]) == 2
    assert "nothing to draw" in capsys.readouterr().err
    monkeypatch.setenv("LANG", "en_US.UTF-8")
    monkeypatch.setenv(variable, "zh_CN.UTF-8")
    assert main(["generate", "--model", MODEL]) == 2
    assert "没有要画的内容" in capsys.readouterr().err
