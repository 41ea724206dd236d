"""First contact with weights: random ones look wrong, trained ones pass, NaNs are named; kept, repeatable, optional."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from shutil import copytree
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from janus_app.cli import main
from janus_app.errors import AppError, Message
from janus_app.hub import Hub
from janus_app.models.common.weight_check import picture_problem, tokens_problem
from janus_app.registry.catalog import load_catalog
from janus_app.runtime import weight_check
from janus_app.runtime.fit import plan_load
from janus_app.runtime.session import ModelSession
from janus_app.runtime.weight_check import WeightCheck, answer_problem, check
from janus_app.types import Event, Notice, Progress, result_of
from janus_app.ui.common.saved_images import SavedImages
from janus_app.ui.context import PageContext
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.models import files_panel
from janus_app.ui.tabs.models.files_panel import FilesHandlers
from janus_app.ui.tabs.models.model_line import checked_line, warnings
from tests.conftest import GOLDEN, loaded

METAQUERY = GOLDEN.parent / "metaquery" / "ckpt_llavaov_sana"
RANDOM = [*(GOLDEN / case / "checkpoint" for case in ("janus_pro_1b", "janusflow_1_3b")), METAQUERY]
RANDOM += [GOLDEN.parent / "unipic2" / "ckpt_tiny"]
# The app itself checks none of them. Not metamorph-embedded: it leaves the picture of unknown words empty.
EMBEDDED = ("janus-embedded", "janusflow-embedded", "metaquery-embedded", "pisces-embedded", "transfusion-embedded")
EMBEDDED += ("lmfusion-embedded", "llavafusion-embedded")


@pytest.fixture(autouse=True)
def switched_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(weight_check.ENV_SWITCH)
    monkeypatch.setenv("JANUS_APP_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(weight_check, "SECONDS", 600.0)  # busy machines are slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copytree(GOLDEN / "janus_1_3b" / "checkpoint", tmp_path / "mine")


def session() -> ModelSession:
    return ModelSession(load_catalog(), Hub())


def notices(events: Iterator[Event]) -> list[str]:
    return [event.message.code for event in events if isinstance(event, Notice)]


def stages(events: Iterator[Event]) -> set[str]:
    return {event.stage for event in events if isinstance(event, Progress)}


def outcome(folder: Path, **facts: Any) -> WeightCheck:
    found = result_of(check(loaded(folder, **facts), lambda: False))
    assert found is not None and found.complete
    return found


@pytest.mark.parametrize("folder", RANDOM, ids=lambda folder: folder.name + folder.parent.name)
def test_random_weights_look_wrong(folder: Path) -> None:
    problems = outcome(folder).problems
    assert problems and problems[0].code.startswith("weights_answer_")


@pytest.mark.parametrize("name", EMBEDDED)
def test_trained_weights_pass(name: str) -> None:
    variant = load_catalog()[name]
    assert variant.folder is not None and not weight_check.wanted(variant)
    assert outcome(variant.folder) == WeightCheck()


def test_answer_must_begin_as_recorded_where_that_is_known(folder: Path) -> None:
    (problem,) = outcome(folder, id="janus-embedded").problems[:1]
    assert problem.code == "weights_answer_not_as_recorded"


def test_weights_with_nan_are_named_and_the_model_stays_usable(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("down_proj.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, file)
    mine = session()
    assert notices(mine.load(str(folder), "cpu"))[-1] == "weights_look_wrong"
    found = mine.state.weight_check
    assert found is not None and [problem.code for problem in found.problems] == ["model_output_not_finite"]
    assert mine.state.phase == "ready" and mine.loaded is not None


def test_outcome_is_kept_for_files_and_precision_and_can_be_made_again(folder: Path) -> None:
    first, second = session(), session()
    assert "check" in stages(first.load(str(folder), "cpu"))
    again = list(second.load(str(folder), "cpu"))
    assert "check" not in stages(iter(again)) and notices(iter(again)) == ["weights_look_wrong"]
    assert second.state.weight_check == first.state.weight_check != WeightCheck()
    kept = (weight_check.data_folder() / weight_check.FILE).read_text()
    assert str(folder) not in kept and folder.name not in json.loads(kept)["checks"]
    assert notices(second.check_weights()) == ["weights_look_wrong"]
    assert "check" in stages(second.load(str(folder), "cpu", "bf16"))
    (folder / "model.safetensors").touch()  # other files, as far as one can see without reading them
    assert "check" in stages(second.load(str(folder), "cpu"))


def test_weights_in_subfolders_and_components_are_told_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part, beside = folder / "transformer" / "weights.bin", folder.parent / "components" / "owner" / "x" / "a.bin"
    fetched = folder.parent / "fetched" / "a.bin"
    variant = load_catalog().resolve(str(folder))
    options = plan_load(variant, folder, "cpu", components={"mllm": fetched.parent})
    plan, keys = options.choose("fp32"), []
    for file in (part, beside, fetched):
        file.parent.mkdir(parents=True)
        keys.append(weight_check.key_of(plan))
        file.write_bytes(b"weights")
    keys.append(weight_check.key_of(plan))
    assert len(set(keys)) == 4

    def vanished(plan: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(weight_check, "key_of", vanished)
    assert weight_check.WeightChecks().find(plan) is None


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1, "checks": {"KEY": {"problems": [{"code": "gone"}]}}}'])
def test_damaged_file_of_outcomes_costs_another_check_alone(folder: Path, text: str) -> None:
    mine = session()
    list(mine.load(str(folder), "cpu"))
    assert mine.loaded is not None
    file = weight_check.data_folder() / weight_check.FILE
    file.write_text(text.replace("KEY", weight_check.key_of(mine.loaded.plan)))
    assert "check" in stages(mine.load(str(folder), "cpu"))
    assert json.loads(file.read_text())["schema"] == 1


def test_cancelled_check_leaves_a_loaded_model_and_no_outcome(folder: Path) -> None:
    mine = session()
    with closing(mine.load(str(folder), "cpu")) as job:
        next(event for event in job if isinstance(event, Progress) and event.stage == "check")
        assert mine.state.phase == "busy"
    assert mine.state.phase == "ready" and mine.loaded is not None and mine.state.weight_check is None
    assert not (weight_check.data_folder() / weight_check.FILE).exists()


def test_check_makes_way_for_a_waiting_job(folder: Path) -> None:
    mine = session()
    job = mine.load(str(folder), "cpu")
    next(event for event in job if isinstance(event, Progress) and event.stage == "check")
    with closing(mine.unload()) as waiting:
        next(waiting)
        rest = list(job)
        assert [event.stage for event in rest if isinstance(event, Progress)] == ["ready"]
    assert mine.loaded is not None and mine.state.weight_check is None


def test_slow_machine_checks_less_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_check, "SECONDS", -1.0)
    mine = session()
    assert notices(mine.load(str(folder), "cpu"))[-1] == "weights_checked_partly"
    assert mine.state.weight_check == WeightCheck((), complete=False)


def test_switch_and_embedded_models_skip_the_check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = session()
    assert "check" not in stages(mine.load("janus-embedded", "cpu"))
    monkeypatch.setenv(weight_check.ENV_SWITCH, "off")
    assert "check" not in stages(mine.load(str(folder), "cpu"))
    assert notices(mine.check_weights()) == ["weights_look_wrong"]  # asked for by hand
    with pytest.raises(AppError, match="No model"):
        list(session().check_weights())


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_model_bar_says_checked_or_what_looked_wrong(folder: Path, tmp_path: Path, language: str) -> None:
    mine = session()
    page = PageContext(mine, mine.catalog, Texts(language), SavedImages(tmp_path, tmp_path))
    list(mine.load(str(folder), "cpu"))
    (told,) = warnings(page, language)
    assert ("something looks wrong" if language == "en" else "看起来有问题") in told
    list(mine.load("janus-embedded", "cpu"))
    assert not warnings(page, language)
    list(mine.check_weights())
    assert ("checked on this machine" if language == "en" else "已在本机检查") in checked_line(page, language)


def test_model_manager_checks_again_and_loads_the_model_first(folder: Path, tmp_path: Path) -> None:
    mine = session()
    page = PageContext(mine, mine.catalog, Texts(), SavedImages(tmp_path, tmp_path))
    with gr.Blocks():
        chosen, panel = gr.Dropdown([str(folder)]), files_panel.build(page)
    handlers = FilesHandlers(page, panel, chosen)
    for _ in range(2):  # the load checks weights never checked; the second time they are loaded
        *_, last = handlers.check({chosen: str(folder)}, None)  # type: ignore[arg-type]
        assert last[panel.work].count("something looks wrong") == 1 and mine.loaded is not None
        assert last[panel.check]["interactive"] and not last[panel.stop]["visible"]


def test_command_line_says_it_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--model", str(folder), "--device", "cpu", "--prompt", "What?"]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "looks wrong" in line)
    assert "Verify its files" in line


GOOD_ANSWERS = [
    "The picture shows a blue boat and two dogs on a beach.",
    "图中有一只猫和两个气球。",
    "2",
    " No, there is no red cat.",
    "**Boat**: a boat/ship\n\n- **Dogs** (2)\n",
    "An image of a cat: it's small, white (with a tail).",
]
BAD_ANSWERS = {
    "the the the the the the the the": "weights_answer_repeats",
    "ab ab ab ab ab ab ab ab ab ab": "weights_answer_repeats",
    "\ufffd\ufffdM~K\ufffd#atage]\ufffd": "weights_answer_unreadable",
    "#### $$ %% 12 == <> || ~~": "weights_answer_unreadable",
    "ovirovirovirovindlyonguhatneliscnatrugmentoliteral": "weights_answer_unreadable",
    " blu%^ity A%^ dogoldldYouust conten linear~`photographustailphotograph resolu": "weights_answer_unreadable",
    " \n": "weights_answer_empty",
}


def test_answers_are_judged_as_language_or_not() -> None:
    for text in GOOD_ANSWERS:
        assert answer_problem(text, range(12)) is None, text
    for text, code in BAD_ANSWERS.items():
        pieces = text.split(" ")
        problem = answer_problem(text, [pieces.index(piece) for piece in pieces])
        assert problem is not None and problem.code == code, text


def test_pictures_and_tokens_are_judged_as_drawn_or_not() -> None:
    beach = Image.open(weight_check.ASSETS / "examples" / "beach.png")
    noise = Image.effect_noise((96, 96), 80)
    assert picture_problem(beach) is None
    assert picture_problem(noise) == Message("weights_picture_noise")
    assert picture_problem(Image.new("RGB", (96, 96), "red")) == Message("weights_picture_plain")
    assert tokens_problem([*range(10)] * 5, 6.0, 14.0) is None
    assert tokens_problem([3] * 47 + [4], 6.0, 14.0) is not None
    assert tokens_problem([*range(48)], 13.9, 14.0) is not None
