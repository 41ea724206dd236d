"""The commands: results on stdout, everything else on stderr, and the exit status."""

from __future__ import annotations

import inspect
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from janus_app.cli import console, generate, main
from janus_app.cli.models import check, read_facts
from janus_app.outputs.metadata import read_metadata
from janus_app.outputs.store import save_png
from janus_app.paths import MANIFEST
from janus_app.runtime.session import ModelSession
from janus_app.types import Event, Progress, Request
from tests.commands import ENVIRONMENT, MODEL, PICTURE, ROOT, draw_json, results, run_command
from tests.page_server import FLOW_ROW


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny checkpoint under an id of the user's own model list, as --from needs it."""
    yaml = pytest.importorskip("yaml")
    document = yaml.safe_load(MANIFEST.read_text("utf-8"))
    row = next(r for r in document["variants"] if r["id"] == "janus-embedded")
    row |= {"id": "tiny", "folder": MODEL, "title": "Tiny"}
    own = tmp_path / "models.yaml"
    own.write_text(yaml.safe_dump({"variants": [row]}))
    monkeypatch.setenv("JANUS_APP_MANIFEST", str(own))
    return "tiny"


@pytest.fixture
def flow_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny JanusFlow under an id of the user's own model list."""
    pytest.importorskip("diffusers")
    own = tmp_path / "flow.yaml"
    folder = ROOT / "tests" / "golden" / "janus" / "janusflow_1_3b" / "checkpoint"
    rows = FLOW_ROW.format(id="tiny-flow", title="Tiny Flow", folder=folder)
    own.write_text(f"variants:\n{rows}", encoding="utf-8")
    monkeypatch.setenv("JANUS_APP_MANIFEST", str(own))
    return "tiny-flow"


def test_chat_writes_only_the_answer() -> None:
    done = run_command(
        "chat", "--model", MODEL, "--image", PICTURE, "--prompt", "What is this?", "--max-new-tokens", "6"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and done.stderr == ""


def test_chat_json_equals_the_streamed_text(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["chat", "--model", MODEL, "--prompt", "hello", "--temperature", "0", "--max-new-tokens", "8"]
    assert main([*flags, "--json"]) == 0
    (result,) = results(capsys)
    assert main(flags) == 0
    assert (
        capsys.readouterr().out.strip() == "".join(c for c in result["text"] if c.isprintable() or c in "\n\t").strip()
    )
    assert len(result["token_ids"]) == result["new_tokens"] <= 8 and result["precision"] == "fp32"


def test_conversation_is_read_from_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = f"/image {PICTURE}\nWhat?\nAnd now?\n/reset\nWhat?\n/image nowhere.png\n/dance\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    flags = ["--model", MODEL, "--temperature", "0", "--max-new-tokens", "4", "--json"]
    assert main(["chat", *flags]) == 1  # the last two lines fail, the talk does not
    out, err = capsys.readouterr()
    first, second, third = (json.loads(line)["prompt_tokens"] for line in out.splitlines())
    assert second > first > third  # history grows; a reset forgets history and picture
    assert "nowhere.png" in err and "/dance" in err


def test_generate_saves_metadata_and_each_picture_can_be_drawn_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    both = draw_json(capsys, tmp_path, "--model", MODEL, "--prompt", "a cat", "--count", "2", "--seed", "7")
    (alone,) = draw_json(capsys, tmp_path, "--model", MODEL, "--prompt", "a cat", "--seed", "8")
    assert [r["seed"] for r in both] == [7, 8]
    assert both[1]["image_tokens"] == alone["image_tokens"] != both[0]["image_tokens"]
    record = read_metadata(both[1]["file"])
    assert record.seed == 8 and list(record.image_tokens) == alone["image_tokens"]
    assert record.settings["guidance"] == 5.0 and record.versions["torch"]
    assert {Path(r["file"]).parent for r in [*both, alone]} == {tmp_path}
    assert len(list(tmp_path.iterdir())) == 3


def test_from_draws_the_same_pixels_unless_options_change(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, listed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = draw_json(capsys, tmp_path, "--model", listed, "--prompt", "a cat", "--seed", "3", "--guidance", "2")
    (again,) = draw_json(capsys, tmp_path, "--from", first["file"])
    (named,) = draw_json(capsys, tmp_path, "--from", first["file"], "--model", listed)
    for result in (again, named):
        assert result["image_tokens"] == first["image_tokens"] and result["file"] != first["file"]
        assert Image.open(result["file"]).tobytes() == Image.open(first["file"]).tobytes()
    (sampled,) = draw_json(capsys, tmp_path, "--from", first["file"], "--seed", "3")
    (fast,) = draw_json(capsys, tmp_path, "--from", first["file"], "--seed", "3", "--turbo")
    # The same seed samples the same tokens, in turbo too.
    assert sampled["image_tokens"] == first["image_tokens"] == fast["image_tokens"]
    assert "turbo" not in sampled["settings"] and fast["settings"]["turbo"] is True
    (other,) = draw_json(capsys, tmp_path, "--from", first["file"], "--seed", "4")
    assert other["image_tokens"] != first["image_tokens"] and other["settings"]["guidance"] == 2.0
    monkeypatch.delenv("JANUS_APP_MANIFEST")
    assert main(["generate", "--from", first["file"]]) == 2
    assert "not in the model list" in capsys.readouterr().err


def test_from_takes_prompt_and_seed_of_another_program(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, listed: str
) -> None:
    chunk = PngInfo()
    chunk.add_text("parameters", "two green frogs\nNegative prompt: blur\nSteps: 20, Seed: 42")
    Image.new("RGB", (8, 8)).save(tmp_path / "two frogs.png", pnginfo=chunk)
    source = (tmp_path / "two frogs.png").as_uri()
    (drawn,) = draw_json(capsys, tmp_path, "--model", listed, "--from", source)
    assert (drawn["prompt"], drawn["seed"], drawn["model"]) == ("two green frogs", 42, listed)
    assert read_metadata(drawn["file"]).negative == "blur"
    assert main(["generate", "--from", source, "--keep", "3"]) == 2


def test_from_refuses_tokens_of_another_model(capsys: pytest.CaptureFixture[str], tmp_path: Path, listed: str) -> None:
    (first,) = draw_json(capsys, tmp_path, "--model", listed, "--prompt", "a cat")
    record = replace(read_metadata(first["file"]), image_tokens=(2**20 - 1,) * 36)
    forged = save_png(tmp_path / "forged.png", Image.open(first["file"]), record)
    assert main(["generate", "--from", str(forged)]) == 1
    assert "do not fit this model" in capsys.readouterr().err


def test_edit_keeps_the_tokens_outside_the_mask(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (first,) = draw_json(capsys, tmp_path, "--model", MODEL, "--prompt", "a cat")
    mask = np.zeros((96, 96), np.uint8)
    mask[:48] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(np.zeros_like(mask)).save(tmp_path / "black.png")
    same = ["edit", "--model", MODEL, "--image", first["file"], "--prompt", "a dog", "--json", "--out", str(tmp_path)]
    assert main([*same, "--mask", str(tmp_path / "mask.png"), "--seed", "1"]) == 0
    assert main([*same, "--mask", str(tmp_path / "mask.png"), "--seed", "2"]) == 0
    one, two = (r["image_tokens"] for r in results(capsys))
    assert one[18:] == two[18:] and one[:18] != two[:18]
    assert main([*same, "--strength", "0.5"]) == 0
    (varied,) = results(capsys)
    assert read_metadata(varied["file"]).settings["method"] == "variation"
    assert main([*same, "--mask", str(tmp_path / "black.png")]) == 2
    assert "Paint the part" in capsys.readouterr().err


def test_flow_model_uses_steps_solver_and_interval(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flow_listed: str
) -> None:
    asked = ["--model", flow_listed, "--prompt", "a cat", "--seed", "3", "--guidance", "2", "--steps", "3"]
    flow = ["--solver", "ab2", "--guidance-interval", "0.2", "0.8"]
    (first,) = draw_json(capsys, tmp_path, *asked, *flow)
    expected = {"guidance": 2.0, "steps": 3, "solver": "ab2", "guidance_start": 0.2, "guidance_end": 0.8}
    assert first["settings"] == expected and first["image_tokens"] == []
    (again,) = draw_json(capsys, tmp_path, "--from", first["file"])
    assert again["settings"] == expected
    assert Image.open(again["file"]).tobytes() == Image.open(first["file"]).tobytes()
    (other,) = draw_json(
        capsys, tmp_path, "--from", first["file"], "--solver", "euler", "--guidance-interval", "0", "1"
    )
    assert other["settings"] == {"guidance": 2.0, "steps": 3, "solver": "euler"}
    assert Image.open(other["file"]).tobytes() != Image.open(first["file"]).tobytes()


def test_flow_model_edits_by_the_method_that_fits_the_options(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flow_listed: str
) -> None:
    picture = Image.open(PICTURE).convert("RGB").resize((96, 96))
    picture.save(tmp_path / "in.png")
    mask = np.zeros((96, 96), np.uint8)
    mask[30:60, 30:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    same = ["edit", "--model", flow_listed, "--image", str(tmp_path / "in.png"), "--prompt", "a dog", "--steps", "2"]
    same += ["--out", str(tmp_path / "out"), "--json"]
    for flags in (
        ["--mask", str(tmp_path / "mask.png")],
        ["--source-prompt", "a cat", "--strength", "0.5"],
        [],
        ["--method", "image to image"],
    ):
        assert main([*same, *flags]) == 0, flags
    out, err = capsys.readouterr()
    painted, typed, described, noised = (json.loads(line) for line in out.splitlines())
    assert [r["settings"]["method"] for r in (painted, typed, described, noised)] == [
        "masked",
        "flowedit",
        "flowedit",
        "image to image",
    ]
    assert np.array_equal(np.asarray(Image.open(painted["file"]))[mask == 0], np.asarray(picture)[mask == 0])
    assert typed["source_prompt"] == "a cat" == read_metadata(typed["file"]).source_prompt
    assert "The model sees:" in err and described["source_prompt"] and painted["source_prompt"] == ""
    assert main([*same, "--method", "variation"]) == 1
    assert "no edit method variation" in capsys.readouterr().err
    assert main(["generate", "--from", typed["file"]]) == 2
    assert "result of an edit" in capsys.readouterr().err


def test_out_may_be_a_file_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "deep" / "cat.png"
    assert main(["generate", "--model", MODEL, "--prompt", "a cat", "--count", "2", "--out", str(target)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(target), str(target.with_name("cat-2.png"))]


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_out_may_name_another_kind_of_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str) -> None:
    target = tmp_path / f"cat.{kind}"
    assert main(["generate", "--model", MODEL, "--prompt", "a cat", "--count", "2", "--out", str(target)]) == 0
    files = capsys.readouterr().out.splitlines()
    assert files == [str(target), str(target.with_name(f"cat-2.{kind}"))]
    assert [read_metadata(file).seed for file in files] == [0, 1]
    assert main(["upscale", files[0], "--out", str(tmp_path / "large.png")]) == 0
    assert read_metadata(tmp_path / "large.png").settings["upscaled_from"] == target.name


def test_folder_with_a_dot_in_its_name_is_made_only_if_it_is_clearly_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["generate", "--model", MODEL, "--prompt", "a cat", "--out"]
    assert main([*flags, f"{tmp_path}/mine.old"]) == 2 and not (tmp_path / "mine.old").exists()
    for name in ("mine.old/", "mine.old", "2026.11"):
        assert main([*flags, f"{tmp_path}/{name}"]) == 0
    assert len(list((tmp_path / "mine.old").iterdir())) == 2 and len(list((tmp_path / "2026.11").iterdir())) == 1


def test_seed_minus_one_is_random_and_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    seeds = []
    for _ in range(2):
        assert (
            main(["generate", "--json", "--model", MODEL, "--prompt", "a", "--out", str(tmp_path), "--seed", "-1"]) == 0
        )
        out, err = capsys.readouterr()
        seeds.append(json.loads(out)["seed"])
        assert f"Random seed: {seeds[-1]}" in err
    assert seeds[0] != seeds[1]


def test_notice_of_a_load_names_the_precision_that_was_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["generate", "--model", MODEL, "--prompt", "a", "--out", str(tmp_path), "--device", "cpu"]
    assert main([*flags, "--precision", "bf16"]) == 0
    assert ": bf16 needs" in capsys.readouterr().err


def test_undecodable_line_of_a_conversation_is_refused_and_the_next_answered() -> None:
    command = [
        sys.executable,
        "-m",
        "janus_app",
        "chat",
        "--model",
        MODEL,
        "--max-new-tokens",
        "2",
        "--temperature",
        "0",
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, input=b"caf\xe9\nhello\n", capture_output=True, timeout=120
    )
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and b"cannot be decoded" in done.stderr
    assert done.stdout.count(b"\n") == 1


def test_models_lists_every_variant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    rows = {row["id"]: row for row in results(capsys)}
    assert {"janus-embedded", "janus-1.3b", "janus-pro-1b", "janus-pro-7b"} <= rows.keys()
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert all(row["title"] in text for row in rows.values())


def test_models_check_matches_the_real_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--check", "--json"]) == 0
    found = {r["name"]: (r["matched"], r["unused"], r["parameters"]) for r in results(capsys)}
    assert found == {
        "deepseek-ai/Janus-1.3B": (868, 14, 2_089_297_547),
        "deepseek-ai/Janus-Pro-1B": (868, 14, 2_089_297_547),
        "deepseek-ai/Janus-Pro-7B": (922, 14, 7_420_434_059),
        "deepseek-ai/JanusFlow-1.3B": (822, 13, 2_130_021_367),  # with the autoencoder it draws with
        "Skywork/UniPic2-Metaquery-9B": (2273, 0, 11_749_159_779),
        "deepseek-community/Janus-Pro-1B": (964, 0, 2_076_636_811),
        "deepseek-community/Janus-Pro-7B": (1018, 0, 7_407_773_323),
    }


def test_check_reports_each_kind_of_difference() -> None:
    facts = next(f for f in read_facts() if f["name"] == "deepseek-ai/Janus-Pro-1B")
    tensors = dict(facts["tensors"])
    removed = tensors.pop("gen_embed.weight")
    tensors["gen_head.vision_head.bias"] = [7]
    tensors["stranger.weight"] = [2, 2]
    result = check({**facts, "tensors": tensors})
    assert result.missing == ("gen_embed.weight",) and removed
    assert result.unexpected == ("stranger.weight",)
    assert result.wrong_shape == ("gen_head.vision_head.bias",)
    assert not result.ok and not check({**facts, "total_params": 1}).ok


def test_help_imports_no_heavy_library() -> None:
    code = "import sys; from janus_app.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print({'torch', 'gradio', 'transformers', 'numpy.random'} & set(sys.modules) - {'numpy.random'})"
    done = run_command("-c", code, program=())
    assert done.stdout.splitlines()[-1] == "set()"
    for program in (("-m", "janus_app"), ("app.py",)):
        assert "usage" in run_command("--help", program=program).stdout


def test_long_work_without_a_terminal_says_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drawing of a minute and a half, by a pretended clock; what is done in a moment says nothing."""
    clock = [0.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    bars = console._Bars()
    for done in range(1, 577):
        clock[0] += 0.15
        bars.show(Progress("draw", done, 576, "tokens", seconds_left=0.15 * (576 - done)))
    clock[0] += 4
    bars.show(Progress("decode", 0, 1, "pictures", seconds_left=2.0))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 9 and said[0] == "draw: 67 of 576 tokens, 1:16 min left"
    assert said[-1] == "decode: 0 of 1 pictures, 2 s left"
    bars = console._Bars()
    bars.show(Progress("read", 1, 9, "weights"))
    bars.show(Progress("download", 0, 4_000_000, "B"))
    bars.show(Progress("download", 3_000_000, 4_000_000, "B", "a.bin", 1_000_000.0))
    assert capsys.readouterr().err.splitlines() == [
        "download: 0 B of 4.0 MB",
        "download: 3.0 of 4.0 MB, 1.0 MB/s, 1 s left, a.bin",
    ]


def test_ctrl_c_closes_the_job_and_saves_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs, steps = [], []
    run, show = ModelSession.run, console._Bars.show

    def kept(session: ModelSession, request: Request) -> Iterator[Event]:
        runs.append(run(session, request))  # held here, so that nothing but `follow` closes it
        return runs[-1]

    def interrupted(bars: console._Bars, event: Progress) -> None:
        show(bars, event)
        if event.stage == "draw":
            steps.append(event)
            if len(steps) == 3:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ModelSession, "run", kept)
    monkeypatch.setattr(console._Bars, "show", interrupted)
    assert main(["generate", "--model", MODEL, "--prompt", "cats", "--count", "2", "--out", str(tmp_path)]) == 130
    assert len(steps) == 3 and inspect.getgeneratorstate(runs[0]) == inspect.GEN_CLOSED
    assert "Stopped" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_a_process_with_status_130() -> None:
    flags = ["-m", "janus_app", "chat", "--model", MODEL, "--prompt", "hi", "--max-new-tokens", "4000"]
    process = subprocess.Popen(
        [sys.executable, *flags], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.read(1)  # the answer has begun
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Stopped" in err and b"Traceback" not in err


def test_unexpected_exception_is_reported_as_a_bug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(generate, "draw_pictures", broken)
    flags = ["generate", "--model", MODEL, "--prompt", "a cat", "--out", str(tmp_path)]
    assert main(flags) == 70
    assert "bug in the app (ZeroDivisionError)" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        main([*flags, "--debug"])
