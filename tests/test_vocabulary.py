"""Models that know few words say which words of a prompt they do not know."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.asked import asked
from benchmarks.faithful import checks
from benchmarks.judge import look
from janus_app.errors import Message
from janus_app.models.common.vocabulary import FILE, Vocabulary, vocabulary_of
from janus_app.registry.catalog import load_catalog
from janus_app.registry.types import Variant
from janus_app.runtime.unknown import unknown_in
from janus_app.types import ChatRequest, Finished, GenerateRequest, Request, Turn, drain
from janus_app.workflows.settings import drawing_settings
from tests.conftest import loaded
from training.captions import caption
from training.pictures import render
from training.scenes import plan, seen_scene
from training.talk import TYPES, ask
from training.vocabulary import sentences, vocabulary

ROOT = Path(__file__).parent.parent
EMBEDDED = [v for v in load_catalog().values() if v.id.endswith("-embedded")]


def embedded(name: str) -> Vocabulary:
    found = vocabulary_of(load_catalog().resolve(name).folder)
    assert found is not None
    return found


def told(variant: Variant, request: Request) -> Message | None:
    """The only thing that a model is said not to know of a request."""
    found = list(unknown_in(request, variant, variant.folder))
    assert len(found) <= 1, found
    return found[0] if found else None


@pytest.mark.parametrize("variant", EMBEDDED, ids=lambda v: v.id)
def test_files_beside_the_embedded_models_are_those_of_their_world(variant: Any) -> None:
    follows = variant.id.startswith(("metaquery", "metamorph", "transfusion", "lmfusion"))
    shipped = json.loads((variant.folder / FILE).read_text("utf-8"))
    assert shipped == json.loads(json.dumps(vocabulary(follows)))
    known = embedded(variant.id)
    for text in sentences(follows, seed=77, count=1500):
        assert not known.unknown(text), text
    for prompts in variant.examples.values():
        for text in (*prompts["generate"], *prompts.get("edit", ())):
            assert not known.unknown(text), text


@pytest.mark.parametrize("variant", EMBEDDED, ids=lambda v: v.id)
def test_example_prompts_are_drawn_as_asked_at_default_settings(variant: Any) -> None:
    """They were chosen because eight seeds in a row, these among them, were right."""
    model = loaded(variant.folder, roles=variant.roles).model
    settings = drawing_settings({}, variant)
    prompts = [text for language in variant.examples.values() for text in language["generate"]]
    wrong = []
    for text in prompts:
        request = GenerateRequest(text, **{**settings, "count": 2, "seed": 1000})
        drawn = drain(model.generate(request))
        assert isinstance(drawn, Finished)
        wrong += [text for picture in drawn.pictures if not checks(asked(text), look(picture.image))["all"]]
    assert len(wrong) <= 1, wrong  # another processor rounds differently


def readme_prompts() -> list[str]:
    """What the READMEs draw, on the command line and in Python."""
    texts = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh-CN.md"))
    drawn = r'(?:generate|grid) [^\n]*?--prompt "([^"]+)"|GenerateRequest\("([^"]+)"'
    return sorted({one or other for text in texts for one, other in re.findall(drawn, text)})


def test_prompts_of_the_readmes_are_drawn_as_asked() -> None:
    variant, prompts = load_catalog().default(), readme_prompts()
    assert len(prompts) >= 4 and sum(not prompt.isascii() for prompt in prompts) >= 2, prompts
    model = loaded(variant.folder, roles=variant.roles).model
    settings = drawing_settings({}, variant)
    wrong = []
    for text in prompts:
        assert not embedded(variant.id).unknown(text), text
        drawn = drain(model.generate(GenerateRequest(text, **{**settings, "count": 4, "seed": 7})))
        assert isinstance(drawn, Finished)
        wrong += [text for picture in drawn.pictures if not checks(asked(text), look(picture.image))["all"]]
    assert len(wrong) <= 1, wrong  # another processor rounds differently


def test_what_a_prompt_asks_for_is_read_from_its_words() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        meant = plan(rng)
        text = caption(meant, rng)
        found = asked(text)
        assert (found.background, found.relation) == (meant.background, meant.relation), text
        for one, other in zip(found.groups, meant.groups, strict=True):
            assert (one.count, one.thing, one.colour, one.small) == (
                other.count,
                other.thing,
                other.colour,
                other.small,
            )
            assert one.slots == other.slots or meant.form not in ("placed", "two places"), text


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("An astronaut riding a horse at sunset!", "astronaut riding horse sunset"),
        ("Two green FROGS, and the frog's house.", ""),
        ("please draw three butterflies in the sky", ""),
        ("a red star above a blue box", "box"),
        ("a black cat on a white background", "black"),
        ("17 cats", "17"),
        ("кот", "кот"),
        ("一个宇航员在日落下", "宇航员 日落"),
        ("红色的房子左边有两只绿色的青蛙，浅蓝色背景", ""),
        ("夜晚的红色房子", ""),
        ("沙滩上有三颗黄色的星星", ""),
        ("two dogs in the snow", ""),
        ("一只 red 的大象", "大象"),
        ("I'd like two blue cars, nothing else", ""),
        ("帮我画一只猫", ""),
        ("", ""),
    ],
)
def test_unknown_words_are_found_and_inflections_are_known(text: str, unknown: str) -> None:
    assert embedded("janus-embedded").unknown(text) == tuple(unknown.split())


@pytest.mark.parametrize(
    ("typed", "finished"),
    [
        ("two gr", "two "),
        ("two green fr", "two green "),
        ("two green frogs", "two green "),
        ("an astron", "an astron"),
        ("a fr ", "a fr "),
        ("一只绿色的青", "一只绿色的"),
        ("", ""),
    ],
)
def test_a_word_that_is_being_typed_is_not_called_unknown(typed: str, finished: str) -> None:
    assert embedded("janus-embedded").finished(typed) == finished


def test_a_drawing_is_told_what_to_try_instead_in_the_language_of_its_prompt() -> None:
    variant = load_catalog().resolve("janus-embedded")
    english = told(variant, GenerateRequest("a frogg and an astronaut"))
    assert english == Message(
        "words_unknown",
        title=variant.title,
        words="frogg, astronaut",
        known="frog, cat, butterfly, bus, on the beach, at night",
    )
    said = english.text("en")
    assert "does not know: frogg, astronaut" in said and "frog, cat" in said
    chinese = told(variant, GenerateRequest("一个宇航员"))
    assert (
        chinese is not None and "宇航员" in chinese.text("zh-CN") and chinese.text("zh-CN").endswith("沙滩上、夜晚。")
    )
    assert told(variant, ChatRequest((Turn("user", "astronaut?"),))) is None
    assert not list(unknown_in(GenerateRequest("astronaut"), variant, None))


@pytest.mark.parametrize("variant", EMBEDDED, ids=lambda v: v.id)
def test_questions_of_the_picture_world_are_known_and_others_are_offered_one(variant: Any) -> None:
    known, rng = embedded(variant.id), np.random.default_rng(78)
    for number in range(400):
        kind = TYPES[number // 2 % len(TYPES)]
        question = ask(seen_scene(rng), rng, bool(number % 2), kind).question
        assert known.question_notice(question, "M") is None, question
    picture = render(seen_scene(rng))

    def asked_about(text: str, images: tuple[Image.Image, ...] = (picture,), before: str = "") -> Message | None:
        earlier = (Turn("user", before, (picture,)), Turn("assistant", "Yes.")) if before else ()
        return told(variant, ChatRequest((*earlier, Turn("user", text, images))))

    for examples in variant.examples.values():
        assert [text for text in examples["chat"] if asked_about(text)] == []
    named = asked_about("What colour is the astronaut?")
    assert named is not None and "does not know: astronaut. Try for example: What colour is" in named.text("en")
    assert asked_about("他在做什么？") is not None and asked_about("What is he doing?") is not None
    assert asked_about("What is he doing?", ()) is None, "without a picture the model says itself what it knows"
    assert asked_about("what colour are they", (), "Is there a blue cat?") is None
    assert asked_about("它们是什么颜色？") is None
    hat, chinese = asked_about("how big is his hat", (), "Is there a blue cat?"), asked_about("帽子是什么颜色？")
    assert hat is not None and "Try for example: How big is the cat?" in hat.text("en")
    assert chinese is not None and "不认识：帽子。可以试试：" in chinese.text("zh-CN")
    assert "是什么颜色" in chinese.text("zh-CN")
    for offered in re.findall(r"[^?？.。]+[?？.。]", hat.values["known"] + chinese.values["known"]):
        assert asked_about(offered.strip()) is None, offered


@pytest.mark.parametrize("content", ["", "[1]", '{"words": 3}', '{"words": ["a"], "things": []}'])
def test_vocabulary_that_cannot_be_read_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content, "utf-8")
    assert vocabulary_of(tmp_path) is None
    assert vocabulary_of(tmp_path / "nowhere") is None
