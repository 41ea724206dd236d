"""Thinking in words: a plan before the picture, or a judgement of it and a second attempt."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError

from janus_app.cli import main
from janus_app.cluster.spread import split
from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.models.common.tokenizer import EOS, IMAGE, IMAGE_BEGIN, IMAGE_END, PAD, Piece, Special
from janus_app.models.janus.pipeline import JanusModel
from janus_app.outputs.metadata import metadata_of, parameters, read_metadata, request_of
from janus_app.outputs.store import OutputStore
from janus_app.registry.catalog import load_catalog
from janus_app.registry.schema import Row, first_problem
from janus_app.runtime.session import ModelSession, provenance_of
from janus_app.server.api.schemas import ImageBody
from janus_app.types import Event, Finished, GenerateRequest, Notice, TextDelta, Thinking, drain
from janus_app.workflows.export import export
from janus_app.workflows.settings import generate_settings
from janus_app.workflows.token_heatmap import inspection_request
from tests.conftest import GOLDEN, loaded
from tests.page_server import MANIFEST, ROW
from tests.planner import OTHER, PLANS, taught_planner
from tests.planner import PROMPT as THE_PROMPT
from training.planner import scene_of
from training.world import read_grid

FOLDER = GOLDEN / "janus_pro_1b" / "checkpoint"
PROMPT = "two green frogs"
ANSWERING = Thinking(ask="Plan {prompt} in words:", tokens=12)
REWRITING = Thinking(ask="Describe {prompt}.", system="You plan.", draw="{prompt}. {plan}", tokens=12, temperature=0)
JUDGING = Thinking(judge="\nDoes it match?", again="\nNext, a new image", tokens=8)


@pytest.fixture(scope="module")
def usual() -> JanusModel:
    model = loaded(FOLDER).model
    assert isinstance(model, JanusModel)
    return model


@pytest.fixture(scope="module")
def taught(usual: JanusModel) -> Callable[[Thinking], JanusModel]:
    return lambda thinking: JanusModel(usual.network, FOLDER, context=512, thinking=thinking)


def request(**settings: Any) -> GenerateRequest:
    return GenerateRequest(PROMPT, **{"think": True, "guidance": 2.0, "seed": 3, **settings})


def finish(events: Iterator[Event]) -> tuple[Finished, str]:
    """The end, and all text that was written on the way."""
    seen = list(events)
    assert isinstance(seen[-1], Finished)
    return seen[-1], "".join(event.text for event in seen if isinstance(event, TextDelta))


@torch.inference_mode()
def written(model: JanusModel, ids: list[int], limit: int) -> list[int]:
    """The likeliest continuation, with the whole text run anew for every token."""
    network, text = model.network, list[int]()
    while len(text) < limit:
        embeds = network.text_embeds(torch.tensor(ids + text))
        logits = network.language_model.lm_head(network(embeds[None])[0, -1])
        text.append(int(logits.argmax()))
        if text[-1] in (model.tokenizer.id(EOS), model.tokenizer.id(IMAGE_BEGIN)):
            return text[:-1]
    return text


@torch.inference_mode()
def drawn(model: JanusModel, rows: list[torch.Tensor], guidance: float) -> tuple[int, ...]:
    """The likeliest image tokens, written out."""
    network, tokens, embeds = model.network, list[int](), torch.stack(rows)
    for _ in range(36):
        condition, nothing = network.gen_head(network(embeds)[:, -1])
        tokens.append(int((nothing + guidance * (condition - nothing)).argmax()))
        embeds = torch.cat([embeds, network.token_embeds(torch.tensor([tokens[-1]])).expand(2, 1, -1)], dim=1)
    return tuple(tokens)


def rows_of(model: JanusModel, ids: list[int]) -> list[torch.Tensor]:
    pad = [model.tokenizer.id(PAD)] * (len(ids) - 2)
    with torch.inference_mode():
        return [model.network.text_embeds(torch.tensor(row)) for row in (ids, [ids[0], *pad, ids[-1]])]


def test_picture_follows_the_plan_in_the_same_answer(taught: Callable[[Thinking], JanusModel]) -> None:
    model = taught(replace(ANSWERING, temperature=0))
    pieces: list[Piece] = [Special("<|User|>"), f": Plan {PROMPT} in words:\n\n", Special("<|Assistant|>"), ":"]
    asked = model.tokenizer.encode(pieces)
    plan = model.tokenizer.decode(written(model, asked, 12)).strip()
    result, text = finish(model.generate(request(temperature=0)))
    assert text.strip() == result.pictures[0].plan == plan != ""
    behind = model.tokenizer.encode([*pieces, f" {plan}", Special(IMAGE_BEGIN)])
    assert result.pictures[0].image_tokens == drawn(model, rows_of(model, behind), 2.0)


def test_picture_of_a_prompt_with_its_plan(taught: Callable[[Thinking], JanusModel]) -> None:
    model = taught(REWRITING)
    pieces: list[Piece] = [
        "You plan.\n\n",
        Special("<|User|>"),
        f": Describe {PROMPT}.\n\n",
        Special("<|Assistant|>"),
        ":",
    ]
    plan = model.tokenizer.decode(written(model, model.tokenizer.encode(pieces), 12)).strip()
    result, _ = finish(model.generate(request(temperature=0)))
    assert result.pictures[0].plan == plan != ""
    (both,) = finish(model.generate(GenerateRequest(f"{PROMPT}. {plan}", guidance=2.0, temperature=0)))[0].pictures
    assert result.pictures[0].image_tokens == both.image_tokens


def test_judged_picture_is_kept_or_drawn_again_behind_the_first_and_the_judgement(
    usual: JanusModel, taught: Callable[[Thinking], JanusModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = taught(replace(JUDGING, temperature=0))
    network, tokenizer = model.network, model.tokenizer
    words = [tokenizer.encode([word], begin=False)[-1] for word in ("Yes", "No")]
    (plain,) = finish(usual.generate(request(temperature=0, think=False)))[0].pictures
    found = []
    for answers in (words, words[::-1]):  # an untaught model says the same word; as the other answer it means the other
        monkeypatch.setattr("janus_app.models.janus.think.answers", lambda _, answers=answers: answers)
        result, text = finish(model.generate(request(temperature=0)))
        assert result.pictures[0].judgement == text.strip() != ""
        found += result.pictures
    kept, picture = sorted(found, key=lambda one: one.image_tokens != plain.image_tokens)
    assert kept.image_tokens == plain.image_tokens and kept.judgement == picture.judgement
    prompt: list[Piece] = [Special("<|User|>"), f": {PROMPT}\n\n", Special("<|Assistant|>"), ":", Special(IMAGE_BEGIN)]
    begun = tokenizer.encode(prompt)
    look = tokenizer.encode([Special(IMAGE, 36), Special(IMAGE_END), "\nDoes it match?"], begin=False)
    with torch.inference_mode():
        seen = network.text_embeds(torch.tensor(begun + look))
        seen[len(begun) : len(begun) + 36] = network.picture_embeds(model.processor(plain.image)[None])[0]
        said: list[int] = []
        while len(said) < 8:
            embeds = torch.cat([seen, network.text_embeds(torch.tensor(said, dtype=torch.long))])
            logits = network.language_model.lm_head(network(embeds[None])[0, -1])
            said.append(int(logits.argmax()) if said else max(words, key=lambda token: float(logits[token])))
            if said[-1] == tokenizer.id(EOS):
                del said[-1]
                break
        assert tokenizer.decode(said).strip() == picture.judgement
        behind = tokenizer.encode([Special(EOS), "\nNext, a new image", Special(IMAGE_BEGIN)], begin=False)
        pixels = (torch.tensor(list(plain.image.tobytes())).view(96, 96, 3).permute(2, 0, 1)[None] / 127.5) - 1
        tokens = network.gen_vision_model.encode(pixels)[0]
        tail = torch.cat([network.token_embeds(tokens), network.text_embeds(torch.tensor(look[36:] + said + behind))])
        rows = [torch.cat([row, tail]) for row in rows_of(model, begun)]
    assert picture.image_tokens == drawn(model, rows, 2.0) != plain.image_tokens


def test_plan_depends_on_the_seed_and_is_shared_by_all_pictures(taught: Callable[[Thinking], JanusModel]) -> None:
    model = taught(ANSWERING)
    both = finish(model.generate(request(count=2)))[0].pictures
    plans = {picture.plan for picture in both}
    assert len(plans) == 1 and finish(model.generate(request(seed=4)))[0].pictures[0].plan not in plans
    again = request(seed=4, plan=both[1].plan)
    assert finish(model.generate(again))[0].pictures[0].image_tokens == both[1].image_tokens
    other = finish(model.generate(replace(again, plan="three red houses")))
    assert other[0].pictures[0].image_tokens != both[1].image_tokens and other[1] == ""


def test_planning_stops_within_a_step_and_at_the_limit(taught: Callable[[Thinking], JanusModel]) -> None:
    model = taught(ANSWERING)
    events = model.generate(request())
    assert sum(isinstance(next(events), TextDelta) for _ in range(4)) == 3
    events.close()
    notices = [
        e.message.code for e in taught(replace(ANSWERING, tokens=2)).generate(request()) if isinstance(e, Notice)
    ]
    assert notices == ["plan_cut"]


def test_model_that_was_not_taught_refuses_to_think(
    usual: JanusModel, taught: Callable[[Thinking], JanusModel]
) -> None:
    for model, asked, code in (
        (usual, request(), "thinking_untaught"),
        (usual, request(think=False, plan="red"), "plan_untaught"),
        (taught(JUDGING), request(plan="red"), "plan_untaught"),
    ):
        with pytest.raises(AppError) as caught:
            model.generate(asked)
        assert caught.value.code == code


def test_record_keeps_what_was_thought(taught: Callable[[Thinking], JanusModel], tmp_path: Path) -> None:
    """For the exact picture, for another seed, for the token view and for other programs."""
    variant = replace(load_catalog().resolve(str(FOLDER)), thinking=ANSWERING)
    assert generate_settings({}, variant)["think"] is True and not generate_settings({"think": False}, variant)["think"]
    model, asked = taught(ANSWERING), request(seed=9)
    (picture,) = finish(model.generate(asked))[0].pictures
    saved = OutputStore(tmp_path).save_picture(picture, provenance_of(variant, "fp32", "cpu", asked))
    record = read_metadata(saved.file)
    assert record.plan == picture.plan and record.settings["think"] is True
    assert f"Plan: {picture.plan}" in parameters(record)
    again = request_of(record)
    for one in (again, replace(again, image_tokens=())):
        (other,) = finish(model.generate(one))[0].pictures
        assert (other.image_tokens, other.plan) == (picture.image_tokens, picture.plan)
    inspected = inspection_request(record)
    rows = model.prompt_rows(inspected)
    assert torch.equal(rows[0], model.prompt_rows(again)[0])
    judged = replace(picture, plan="", judgement="No, it is blue.")
    record = metadata_of(judged, provenance_of(variant, "fp32", "cpu", asked))
    assert record.judgement == judged.judgement
    with pytest.raises(AppError) as caught:
        inspection_request(record)
    assert caught.value.code == "tokens_of_judged_picture"


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"ask": "Plan it."}, "row_must_be_thinking"),
        ({"ask": "Plan {prompt}", "draw": "{prompt}"}, "row_must_be_thinking"),
        ({"judge": "Right?"}, "row_must_be_thinking"),
        ({"ask": "Plan {prompt}", "tokens": 0}, "row_must_be_tokens"),
        ({"ask": "Plan {prompt}", "temperature": 3.0}, "row_must_be_temperature"),
        ({"ask": 3}, "row_must_be_text"),
        ({"ask": "Plan {prompt}", "plan": "x"}, "row_field_unknown"),
    ],
)
def test_row_that_says_it_badly_is_refused(row: dict[str, Any], code: str) -> None:
    fields = yaml.safe_load(Path("weights_manifest.yaml").read_text("utf-8"))["variants"]
    (known,) = [one for one in fields if one["id"] == "t2i-r1"]
    with pytest.raises(ValidationError) as caught:
        Row.model_validate(known | {"thinking": row})
    field, reason = first_problem(caught.value)
    assert field.startswith("thinking") and (code in (reason.code, getattr(reason.values.get("rule"), "code", "")))


def test_embedded_model_that_was_taught_to_plan_draws_exactly_its_plan(tmp_path: Path) -> None:
    """Taught by `training.planner`, kept as a copy with a row of its own, and drawn with as any model."""
    catalog, variant = load_catalog(), taught_planner(tmp_path)
    catalog.include(variant)
    session = ModelSession(catalog, Hub())
    drain(session.load(variant.id, "cpu"))
    given = [(prompt, "", plan) for prompt, plan in PLANS.items()]
    for prompt, own, plan in (*given, (THE_PROMPT, OTHER, OTHER)):
        settings = generate_settings({"plan": own, "count": 1, "seed": 640}, variant)
        (drawn,) = session.result(GenerateRequest(prompt, **settings)).pictures
        assert drawn.plan == plan
        scene = scene_of(plan)
        assert scene is not None and read_grid(np.array(drawn.image_tokens)) == scene


def test_command_line_thinks_by_the_row_and_takes_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = ROW.format(id="tiny-p", title="Tiny P", folder=FOLDER, guidance=2.0)
    thinking = '    thinking: {ask: "Plan {prompt}:", tokens: 6}\n'
    (tmp_path / "models.yaml").write_text(MANIFEST.format(rows=row + thinking), "utf-8")
    monkeypatch.setenv("JANUS_APP_MANIFEST", str(tmp_path / "models.yaml"))

    def drawn(*words: str) -> tuple[dict[str, Any], str]:
        assert main(["generate", *words, "--out", str(tmp_path), "--json"]) == 0
        out, err = capsys.readouterr()
        return json.loads(out.splitlines()[-1]), err

    first, err = drawn("--model", "tiny-p", "--prompt", PROMPT, "--seed", "5")
    assert first["plan"] and first["settings"]["think"] is True
    assert first["plan"].splitlines()[-1] in err, "the plan is shown while it is written"
    again, _ = drawn("--from", first["file"], "--seed", "6")
    assert again["plan"] == first["plan"] and again["image_tokens"] != first["image_tokens"]
    assert drawn("--from", first["file"], "--prompt", "a red house", "--seed", "6")[0]["plan"] != first["plan"]
    assert drawn("--from", first["file"], "--plan", "blue")[0]["plan"] == "blue"
    assert drawn("--model", "tiny-p", "--prompt", PROMPT, "--no-think")[0]["plan"] == ""
    assert f"--plan={first['plan']}" in shlex.split(export(read_metadata(first["file"]), "cli"))
    copy = shutil.copytree(FOLDER, tmp_path / "copy")  # the folder of a row is that row
    assert main(["generate", "--model", str(copy), "--prompt", PROMPT, "--think"]) == 1
    assert "not taught to plan" in capsys.readouterr().err


def test_programs_and_replicas_think_alike() -> None:
    variant = replace(load_catalog().resolve(str(FOLDER)), thinking=ANSWERING)
    for sent, think, plan in (({}, True, ""), ({"thinking": False}, False, ""), ({"plan": " red "}, True, "red")):
        settings = generate_settings(ImageBody(prompt=PROMPT, **sent).given(), variant)
        assert (settings["think"], settings["plan"]) == (think, plan)
    assert split(request(count=4), 4) == [request(count=4)], "pictures of one plan are drawn in one place"
    assert len(split(request(count=4, plan="red"), 4)) == 4
