"""The curves of a trainer's log."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from training.curves import draw, main, read_log
from training.trainer import Run

LOG = """\
Some library's chatter
step 25 1.0 min draw flow 0.5000 words 0.9000
step 50 2.0 min draw flow 0.2500 words -0.9500
step 75 3.0 min draw flow 7.0000 words 7.0000
resumed at step 60
step 75 1.0 min draw flow 0.1250 words 0.9750
"""


def test_log_of_several_runs_is_one_curve_without_what_was_lost() -> None:
    assert read_log(LOG) == {
        "draw flow": {25: 0.5, 50: 0.25, 75: 0.125},
        "words": {25: 0.9, 50: -0.95, 75: 0.975},
    }


def test_log_of_a_real_run_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimiser = torch.optim.SGD([{"params": [weight], "initial_lr": 0.1}], lr=0.1)
    run = Run(argparse.Namespace(minutes=60, decay=1.0), [optimiser])
    for left in run.steps(tmp_path / "state.pt", dict):
        weight.square().sum().backward()
        run.log({"tiles read": 1.0, "left": left})
        if run.step == 49:
            run.args.minutes = 0.0001
    curves = read_log(capsys.readouterr().out)
    assert curves["tiles read"] == {25: 1.0, 50: 1.0} and curves["left"].keys() == {25, 50}


def test_picture_is_drawn_and_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, out = tmp_path / "run.log", tmp_path / "pictures" / "run.svg"
    log.write_text(LOG, "utf-8")
    monkeypatch.setattr("sys.argv", ["curves", str(log), "--out", str(out), "--numbers", "words"])
    main()
    first = out.read_bytes()
    assert b"<svg" in first and len(first) < 60_000
    draw({"words": read_log(LOG)["words"]}, out)
    assert out.read_bytes() == first
    monkeypatch.setattr("sys.argv", ["curves", str(log), "--out", str(out), "--numbers", "word"])
    with pytest.raises(SystemExit):
        main()
