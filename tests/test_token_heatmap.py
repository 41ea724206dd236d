"""Token heat maps, the requests that metadata allow, and the commands that use them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from janus_app.cli import main
from janus_app.errors import AppError
from janus_app.outputs.metadata import read_metadata
from janus_app.outputs.store import save_png
from janus_app.types import Inspection, TokenFacts
from janus_app.workflows.token_heatmap import MEASURES, RAMP, colour, continued_request, heatmap, inspection_request
from tests.commands import MODEL, draw_json
from tests.samples import METADATA

CAT = ("--model", MODEL, "--prompt", "a cat")


def facts(entropy: float) -> TokenFacts:
    return TokenFacts(1, 0.5, entropy, entropy, ((1, 0.5),))


def test_heatmap_lightness_follows_the_value_and_a_frame_marks_the_chosen_patch() -> None:
    found = Inspection(Image.new("RGB", (384, 384), "white"), 24, tuple(facts(place / 100) for place in range(576)))
    entropy = MEASURES["entropy"]
    plain = heatmap(found, entropy)
    assert plain.size == (576, 576) and entropy.top(found) == 5.75

    def light(place: int) -> int:
        return sum(plain.getpixel((24 * (place % 24) + 12, 24 * (place // 24) + 12)))  # type: ignore[arg-type]

    steps = [light(place) for place in range(0, 576, 48)]
    assert steps == sorted(steps) and steps[-1] - steps[0] > 200, "the order is seen without colour too"
    framed = heatmap(found, entropy, 25)
    changed = {
        (x // 24, y // 24) for x in range(576) for y in range(576) if framed.getpixel((x, y)) != plain.getpixel((x, y))
    }
    assert changed == {(1, 1)}
    assert colour(-1) == RAMP[0] and colour(0.25) == RAMP[1] and colour(2) == RAMP[-1]


def test_large_patches_are_numbered() -> None:
    found = Inspection(Image.new("RGB", (96, 96)), 6, tuple(facts(2.0) for _ in range(36)))
    shades = {heatmap(found, MEASURES["entropy"]).getpixel((x, 48)) for x in range(96)}
    assert len(shades) > 3, "one colour and no number"
    assert MEASURES["probability"].text(0.5) == "50" and MEASURES["gap"].text(12.3) == "12"


def test_requests_follow_the_metadata() -> None:
    drawn = replace(
        METADATA,
        verb="generate",
        prompt="a cat",
        image_tokens=(5, 6, 7),
        settings={"guidance": 3.0, "temperature": 0.5},
    )
    asked = inspection_request(drawn)
    assert (asked.prompt, asked.image_tokens, asked.guidance, asked.temperature) == ("a cat", (5, 6, 7), 3.0, 0.5)
    kept = continued_request(drawn, 1, seed=9)
    assert (kept.image_tokens, kept.keep, kept.seed, kept.prompt) == ((5, 6, 7), 1, 9, "a cat")
    forced = continued_request(drawn, 1, seed=9, token=4)
    assert (forced.image_tokens, forced.keep) == ((5, 4, 7), 2)
    with pytest.raises(AppError, match="from 0 to 3, not 4"):
        continued_request(drawn, 4, seed=9)
    for act in (inspection_request, lambda record: continued_request(record, 0, 1)):
        with pytest.raises(AppError, match="does not draw token by token"):
            act(replace(drawn, image_tokens=()))
        with pytest.raises(AppError, match="follows an instruction"):
            act(replace(drawn, settings={"method": "instruct"}))


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_inspect_and_keep_agree_with_the_drawn_tokens(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (drawn,) = draw_json(capsys, tmp_path, *CAT, "--seed", "5", "--guidance", "3")
    model = ("--model", MODEL)
    heat = tmp_path / "heat.png"
    assert main(["inspect", drawn["file"], *model, "--json", "--out", str(heat), "--alternatives", "3"]) == 0
    cells = lines(capsys)
    assert [cell["token"] for cell in cells] == drawn["image_tokens"] and Image.open(heat).size == (576, 576)
    assert [(c["row"], c["column"]) for c in (cells[0], cells[7], cells[35])] == [(1, 1), (2, 2), (6, 6)]
    assert all(len(cell["alternatives"]) == 3 for cell in cells)

    assert main(["inspect", drawn["file"], *model, "--patch", "8"]) == 0
    summary, head, row = capsys.readouterr().out.splitlines()
    assert summary.startswith("36 patches, 6 in a row") and "entropy" in head
    assert row.split()[:4] == ["8", "2", "2", str(drawn["image_tokens"][7])]

    kept = ["generate", "--from", drawn["file"], *model, "--json", "--out", str(tmp_path / "on"), "--keep", "10"]
    assert main(kept) == 0
    (other,) = lines(capsys)
    assert other["seed"] == 6 and other["image_tokens"][:10] == drawn["image_tokens"][:10]
    assert other["image_tokens"][10:] != drawn["image_tokens"][10:]
    assert read_metadata(other["file"]).settings["kept"] == 10
    assert main([*kept, "--seed", "5"]) == 0
    assert lines(capsys)[0]["image_tokens"] == drawn["image_tokens"]


def test_best_of_saves_all_pictures_and_orders_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ranked = draw_json(capsys, tmp_path, *CAT, "--best-of", "3")
    assert sorted(picture["seed"] for picture in ranked) == [0, 1, 2] and len(list(tmp_path.glob("*.png"))) == 3
    scores = [picture["score"] for picture in ranked]
    assert scores == sorted(scores, reverse=True) and 0 < scores[-1] < scores[0] < 1


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["inspect", "FLOW"], "does not draw token by token"),
        (["inspect", "PLAIN"], "no metadata of this app"),
        (["inspect", "DRAWN", "--patch", "4"], "--patch must be a number from 1 to 3"),
        (["inspect", "DRAWN", "--out", "map.txt"], "must name a .png"),
        (["inspect", "DRAWN", "--alternatives", "0"], "number of alternatives"),
        (["generate", "--from", "DRAWN", "--keep", "9"], "kept tokens must be a whole number from 0 to 3"),
        (["generate", "--prompt", "x", "--keep", "9"], "--keep needs --from"),
        (["generate", "--prompt", "x", "--best-of", "3", "--count", "2"], "leave out --count"),
    ],
)
def test_impossible_requests_give_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: list[str], sentence: str
) -> None:
    drawn = replace(METADATA, verb="generate", prompt="a cat", image_tokens=(5, 6, 7))
    picture = Image.new("RGB", (8, 8))
    picture.save(tmp_path / "PLAIN.png")
    save_png(tmp_path / "DRAWN.png", picture, drawn)
    save_png(tmp_path / "FLOW.png", picture, replace(drawn, image_tokens=()))
    given = [str(tmp_path / f"{flag}.png") if flag in ("FLOW", "PLAIN", "DRAWN") else flag for flag in flags]
    assert main([*given, "--model", MODEL]) == 2
    assert sentence in capsys.readouterr().err


def test_inspect_refuses_or_reports_another_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A wrong number of tokens is refused; otherwise a line says that another model drew the picture."""
    drawn = replace(METADATA, verb="generate", prompt="a cat", image_tokens=(5, 6, 7))
    save_png(tmp_path / "three.png", Image.new("RGB", (8, 8)), drawn)
    assert main(["inspect", str(tmp_path / "three.png"), "--model", MODEL, "--precision", "fp32"]) == 1
    assert "needs 36 image tokens" in capsys.readouterr().err
    save_png(tmp_path / "fits.png", Image.new("RGB", (8, 8)), replace(drawn, image_tokens=(7,) * 36))
    assert main(["inspect", str(tmp_path / "fits.png"), "--model", MODEL, "--precision", "fp32"]) == 0
    assert f"drawn with {METADATA.title}; these are the probabilities" in capsys.readouterr().err
