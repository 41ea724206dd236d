"""Models that know few pictures say so when they are shown another one."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import matplotlib.cbook
import numpy as np
import pytest
import torch
from PIL import Image

from janus_app.cli import main
from janus_app.errors import Message
from janus_app.models.common.known_pictures import FILE, KnownPictures, known_pictures_of
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.unknown import unknown_in
from janus_app.types import ChatRequest, EditRequest, GenerateRequest, Turn
from training.known_pictures import known_pictures
from training.picture_tokenizer import noisy
from training.pictures import render
from training.scenes import plan, seen_scene

EMBEDDED = [v for v in load_catalog().values() if v.id.endswith("-embedded")]
ASSETS = Path(__file__).parent.parent / "assets"


@pytest.fixture(scope="module")
def known() -> KnownPictures:
    found = known_pictures_of(EMBEDDED[0].folder)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """Grace Hopper, public domain; it is the picture that matplotlib ships as an example."""
    return Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")


def test_every_embedded_model_ships_the_kind_of_its_pictures() -> None:
    wanted = known_pictures()
    assert len(EMBEDDED) == 8
    for variant in EMBEDDED:
        assert variant.folder is not None
        with np.load(variant.folder / FILE) as shipped:
            assert set(shipped) == set(wanted)
            assert all(np.array_equal(shipped[name], wanted[name]) for name in wanted)


def test_pictures_of_the_world_are_known_however_they_were_stored(known: KnownPictures) -> None:
    rng = np.random.default_rng(3)
    torch.manual_seed(3)
    for number in range(60):
        picture = render(seen_scene(rng) if number % 2 else plan(rng, held_out=True).scene)
        if number % 3 == 0:
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
            changed = noisy(pixels)[0].permute(1, 2, 0).add(1).mul(127.5).byte()
            picture = Image.fromarray(changed.numpy())
        if number % 5 == 0:
            packed = BytesIO()
            picture.resize((384, 384)).save(packed, "JPEG", quality=40)
            picture = Image.open(packed)
        if number % 5 == 1:
            picture = picture.resize((77, 77))
        assert known.knows(picture), number
    shown = [*ASSETS.glob("drawn/*.png"), *ASSETS.glob("examples/*.png")]
    assert len(shown) > 16
    assert [file.name for file in shown if not known.knows(Image.open(file))] == []


def test_photographs_patterns_and_empty_pictures_are_unknown(known: KnownPictures, photograph: Image.Image) -> None:
    rng = np.random.default_rng(4)
    width, height = photograph.size
    others = [photograph, photograph.crop((0, 0, width, height // 2)), photograph.convert("L")]
    others += [Image.new("RGB", (50, 80), colour) for colour in ("white", "black", "grey", "skyblue", "navy")]
    others += [Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8))]
    # Blurred noise is as smooth as photographs are.
    others += [Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((256, 256)) for _ in range(8)]
    assert [number for number, other in enumerate(others) if known.knows(other)] == []


def test_notice_names_the_picture_of_this_turn_and_of_an_edit(photograph: Image.Image) -> None:
    variant = load_catalog().resolve("janus-embedded")
    notice = Message("picture_unknown", title=variant.title)
    mine = render(seen_scene(np.random.default_rng(5)))
    asked = Turn("user", "What is this?", (mine, photograph))
    earlier = (asked, Turn("assistant", "I see a cat."), Turn("user", "Describe the picture."))

    def told(request: ChatRequest | EditRequest | GenerateRequest) -> list[Message]:
        return list(unknown_in(request, variant, variant.folder))

    assert told(ChatRequest((asked,))) == [notice]
    assert told(ChatRequest((Turn("user", "What is this?", (mine,)),))) == []
    assert told(ChatRequest(earlier)) == [], "it was said when the picture was sent"
    assert told(EditRequest("a cat", photograph, method="instruct")) == [notice]
    assert told(EditRequest("a cat", mine, method="instruct", more_images=(photograph,))) == [notice]
    both = told(EditRequest("an astronaut", photograph, method="instruct"))
    assert [message.code for message in both] == ["picture_unknown", "words_unknown"]
    assert "a guess" in notice.text("en") and "猜测" in notice.text("zh-CN")
    assert list(unknown_in(ChatRequest((asked,)), variant, None)) == []


def test_command_line_says_that_a_photograph_is_unknown(
    photograph: Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "photograph.png"
    photograph.resize((128, 150)).save(file)
    assert main(["chat", "--image", str(file), "--prompt", "What is this?"]) == 0
    said = capsys.readouterr()
    assert "does not know pictures like this one" in said.err
    assert said.out.startswith("I see "), "without the space that a model begins with"


@pytest.mark.parametrize("content", [b"", b"PK", b"not an archive"])
def test_file_that_cannot_be_read_says_nothing(tmp_path: Path, content: bytes) -> None:
    assert known_pictures_of(tmp_path) is None
    (tmp_path / FILE).write_bytes(content)
    assert known_pictures_of(tmp_path) is None


@pytest.mark.parametrize("change", ["scenes", "parts", "shape", "objects", "large"])
def test_file_with_other_arrays_says_nothing(tmp_path: Path, change: str) -> None:
    arrays = known_pictures()
    if change in arrays:
        del arrays[change]
    elif change == "shape":
        arrays["parts"] = arrays["parts"][..., :3]
    elif change == "large":  # a few packed kilobytes
        arrays["parts"] = np.zeros((70_000, 4, 4, 4), dtype=np.uint8)
    else:
        arrays["parts"] = np.array([{}], dtype=object)
    np.savez_compressed(tmp_path / FILE, **arrays)  # type: ignore[arg-type]
    assert known_pictures_of(tmp_path) is None
