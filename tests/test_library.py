"""What a person made is kept as plain files: nothing is lost to a full disk, a damaged file or a second program."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from janus_app.errors import AppError
from janus_app.outputs.conversation_export import export
from janus_app.outputs.conversations import ChatMessage, Conversation, Conversations, new_conversation, new_id
from janus_app.outputs.descriptions import FOLDER, MAX_CHARACTERS, describe, description
from janus_app.outputs.gallery import Gallery, GalleryQuery
from janus_app.outputs.metadata import ImageMetadata, read_metadata
from janus_app.outputs.store import save_png

ROOT_IGNORES_MODES = hasattr(os, "geteuid") and os.geteuid() == 0
RECORD = ImageMetadata(
    "1", "tiny-a", "Tiny A", "", "", "janus", "fp32", "cpu", "generate", "a red circle", "", 7, (8, 8),
    "2026-11-20T10:00:00+00:00", {"guidance": 5.0}, {}, (1, 2, 3),
)  # fmt: skip


def talk(conversation: Conversation, *texts: str, pictures: Sequence[str] = ()) -> Conversation:
    """User and model in turns; the pictures go with the first message."""
    for index, text in enumerate(texts):
        role: Any = "assistant" if conversation.path and conversation.path[-1].role == "user" else "user"
        shown = tuple(pictures) if index == 0 else ()
        conversation = conversation.with_message(ChatMessage(new_id(), conversation.head, role, text, shown))
    return conversation


def texts(conversation: Conversation) -> list[str]:
    return [message.text for message in conversation.path]


def picture(folder: Path, name: str = "red.png", colour: str = "red") -> str:
    Image.new("RGB", (8, 8), colour).save(folder / name)
    return str(folder / name)


# ---- conversations


def test_a_conversation_comes_back_with_its_pictures_after_a_restart(tmp_path: Path) -> None:
    given = picture(tmp_path)
    content = Path(given).read_bytes()
    said = talk(new_conversation(), "What is it?\nTell me.", "A red square.", pictures=[given])
    Conversations(tmp_path / "talks").save(said)
    os.unlink(given)  # the upload was in the page's temporary folder

    again = Conversations(tmp_path / "talks")
    (found,) = again.find().conversations
    assert found.name == "What is it?" and texts(found) == ["What is it?\nTell me.", "A red square."]
    assert Path(again.open(found.id).path[0].pictures[0]).read_bytes() == content
    readable = json.loads((tmp_path / "talks" / said.id / "conversation.json").read_text())
    assert [m["text"] for m in readable["messages"]] == texts(said)


def test_search_covers_titles_and_messages_and_newest_come_first(tmp_path: Path) -> None:
    store = Conversations(tmp_path)
    for number, text in enumerate(("Old FROGS", "newer toads", "frogs and toads")):
        store.save(replace(talk(new_conversation(), text), changed=f"2026-11-2{number}T10:00:00+00:00"))
    assert [c.name for c in store.find().conversations] == ["frogs and toads", "newer toads", "Old FROGS"]
    assert [c.name for c in store.find("frogs").conversations] == ["frogs and toads", "Old FROGS"]
    assert [c.name for c in store.find("TOADS frogs").conversations] == ["frogs and toads"]
    store.rename(store.find("newer").conversations[0].id, "  Pond \n life ")
    assert [c.name for c in store.find("pond").conversations] == ["Pond life"]
    assert [c.name for c in store.find("newer").conversations] == ["Pond life"], "its words are still found"


def test_an_edited_question_is_a_branch_and_both_stay(tmp_path: Path) -> None:
    first = talk(new_conversation(), "one", "answer one", "two", "answer two")
    edited = talk(first.at(first.path[1].id), "two, edited", "answer to the edit")
    assert texts(edited) == ["one", "answer one", "two, edited", "answer to the edit"]
    store = Conversations(tmp_path)
    store.save(edited)
    back = store.open(edited.id)
    assert texts(back) == texts(edited)
    assert [texts(back.at(end.id))[2:] for end in back.ends] == [
        ["two", "answer two"],
        ["two, edited", "answer to the edit"],
    ]


def test_two_programs_with_one_conversation_lose_nothing(tmp_path: Path) -> None:
    base = talk(new_conversation(), "hello", "hi")
    one, two = Conversations(tmp_path), Conversations(tmp_path)
    one.save(base)
    one.save(talk(base, "from one"))
    two.rename(base.id, "Named by two")
    two.save(talk(base, "from two"))
    back = one.open(base.id)
    assert back.title == "Named by two" and texts(back) == ["hello", "hi", "from two"]
    assert {end.text for end in back.ends} == {"from one", "from two"}


def _save_many(folder: str, base: Conversation, mark: str) -> None:
    store = Conversations(Path(folder))
    for number in range(10):
        store.save(talk(base, f"{mark}{number}"))


def test_processes_saving_at_once_lose_nothing(tmp_path: Path) -> None:
    base = talk(new_conversation(), "hello", "hi")
    Conversations(tmp_path).save(base)
    start = multiprocessing.get_context("spawn")
    workers = [start.Process(target=_save_many, args=(str(tmp_path), base, mark)) for mark in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    said = {message.text for message in Conversations(tmp_path).open(base.id).messages}
    assert said == {"hello", "hi", *(f"{mark}{n}" for mark in "ab" for n in range(10))}


def test_an_edit_of_the_stored_file_is_seen_at_once(tmp_path: Path) -> None:
    one, two = Conversations(tmp_path), Conversations(tmp_path)
    base = talk(new_conversation(), "aaaa")
    one.save(base)
    two.find()
    for title in ("aaaa", "bbbb", "cccc"):  # same size, and within the file system's clock tick
        one.rename(base.id, title)
        assert two.open(base.id).title == title


def test_a_deleted_conversation_is_gone_with_its_pictures(tmp_path: Path) -> None:
    store = Conversations(tmp_path / "talks")
    said = talk(new_conversation(), "look", pictures=[picture(tmp_path)])
    store.save(said)
    store.delete(said.id)
    store.delete(said.id)  # in two tabs
    assert store.find().conversations == () and list((tmp_path / "talks").glob("*")) in ([], [tmp_path / "talks/.lock"])
    with pytest.raises(AppError, match="no longer there"):
        store.open(said.id)
    with pytest.raises(AppError, match="was deleted"):
        store.save(talk(said, "an answer that came too late"))
    assert store.find().conversations == ()


@pytest.mark.parametrize("name", ["", "..", "../../etc", "2026-11-21_1234567g", "2026-11-21_12345678/x", "a\0b"])
def test_ids_from_a_browser_are_never_paths(tmp_path: Path, name: str) -> None:
    store = Conversations(tmp_path / "talks")
    (tmp_path / "keep").mkdir()
    for act in (store.open, store.delete, lambda n: store.rename(n, "x")):
        with pytest.raises(AppError):
            act(name)
    assert (tmp_path / "keep").is_dir()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"schema": 1}',
        b'{"schema": 2, "messages": []}',
        b'{"schema": 1, "title": "", "created": "", "changed": "", "head": "", "messages": [1]}',
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_file_is_named_left_alone_and_never_written_over(tmp_path: Path, content: bytes) -> None:
    store = Conversations(tmp_path)
    said, other = talk(new_conversation(), "mine"), talk(new_conversation(), "other")
    store.save(said)
    store.save(other)
    file = tmp_path / said.id / "conversation.json"
    file.write_bytes(content)
    listing = store.find()
    assert [c.name for c in listing.conversations] == ["other"] and listing.damaged == (said.id,)
    with pytest.raises(AppError, match="cannot be read"):
        store.open(said.id)
    assert file.read_bytes() == content
    store.save(said)  # a tab still has it on view
    assert texts(store.open(said.id)) == ["mine"]
    assert [f.read_bytes() for f in file.parent.glob("damaged-*.json")] == [content]


def test_a_stored_picture_can_not_name_a_file_elsewhere(tmp_path: Path) -> None:
    store = Conversations(tmp_path)
    said = talk(new_conversation(), "look", pictures=[picture(tmp_path)])
    store.save(said)
    file = tmp_path / said.id / "conversation.json"
    data = json.loads(file.read_text())
    data["messages"][0]["pictures"] = ["../../secret.png"]
    file.write_text(json.dumps(data))
    with pytest.raises(AppError, match="damaged"):
        store.open(said.id)


def test_a_circle_in_a_file_ends(tmp_path: Path) -> None:
    a, b = ChatMessage("0000000a", "0000000b", "user", "a"), ChatMessage("0000000b", "0000000a", "assistant", "b")
    assert len(Conversation("2026-11-21_00000000", messages=(a, b), head="0000000a").path) == 2


@pytest.mark.parametrize(
    ("number", "sentence"), [(errno.ENOSPC, "no space left"), (errno.EROFS, "cannot be written"), (errno.EIO, "cannot")]
)
def test_a_disk_that_refuses_is_a_sentence_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, sentence: str
) -> None:
    store = Conversations(tmp_path)
    said = talk(new_conversation(), "first")
    store.save(said)
    before = (tmp_path / said.id / "conversation.json").read_bytes()

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)  # where a full disk speaks at the latest
    with pytest.raises(AppError, match=sentence):
        store.save(talk(said, "second"))
    monkeypatch.undo()
    assert (tmp_path / said.id / "conversation.json").read_bytes() == before
    assert not list((tmp_path / said.id).glob(".*.part"))


@pytest.mark.skipif(ROOT_IGNORES_MODES, reason="root may write everywhere")
def test_a_read_only_folder_is_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "talks"
    folder.mkdir(mode=0o500)
    with pytest.raises(AppError, match="cannot be written"):
        Conversations(folder).save(talk(new_conversation(), "x"))


def test_a_file_in_the_place_of_the_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "talks").write_text("")
    store = Conversations(tmp_path / "talks")
    assert store.find().conversations == ()
    with pytest.raises(AppError, match="was not saved"):
        store.save(talk(new_conversation(), "x"))


def test_exports_hold_the_words_and_the_pictures(tmp_path: Path) -> None:
    said = talk(new_conversation(), "Look / at: it?", "A **red** square", pictures=[picture(tmp_path)])
    store = Conversations(tmp_path / "talks")
    store.save(said)
    kept = store.open(said.id)
    file = export(kept, "md", tmp_path / "out")
    assert file.name == "Look  at it.zip"
    with zipfile.ZipFile(file) as archive:
        inside = set(archive.namelist())
        text = archive.read("conversation.md").decode()
        (shown,) = inside - {"conversation.md"}
        assert f"]({shown})" in text and "## You" in text and "A **red** square" in text
        assert archive.read(shown) == Path(kept.path[0].pictures[0]).read_bytes()
    plain = export(talk(new_conversation(), "only words"), "json", tmp_path / "out")
    assert plain.suffix == ".json" and json.loads(plain.read_text())["messages"][0]["text"] == "only words"


# ---- pictures


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    """Four pictures of two models and two verbs, a day apart, among files that are not ours."""
    rows = (
        ("a red circle", "tiny-a", "generate", "2026-11-17T10:00:00+00:00", 1),
        ("a blue star", "tiny-b", "generate", "2026-11-18T10:00:00+00:00", 22),
        ("Zwei RÖTLICHE Häuser", "tiny-a", "edit", "2026-11-19T10:00:00+00:00", 333),
        ("a red star", "tiny-b", "edit", "2026-11-20T10:00:00+00:00", 4444),
    )
    folder = tmp_path / "outputs"
    for words, model, verb, created, seed in rows:
        record = replace(RECORD, prompt=words, model=model, title=model.title(), verb=verb, created=created, seed=seed)
        save_png(folder / f"{created[:10]}_{seed}.png", Image.new("RGB", (8, 8)), record)
    Image.new("RGB", (8, 8)).save(folder / "foreign.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 40)
    (folder / "notes.txt").write_text("red")
    (folder / "folder.png").mkdir()
    return Gallery(folder)


@pytest.mark.parametrize(
    ("wanted", "seeds"),
    [
        (GalleryQuery(), [4444, 333, 22, 1]),
        (GalleryQuery("red"), [4444, 1]),
        (GalleryQuery("STAR red"), [4444]),
        (GalleryQuery("rötliche"), [333]),
        (GalleryQuery("4444"), [4444]),
        (GalleryQuery("tiny-b"), [4444, 22]),
        (GalleryQuery(model="tiny-a"), [333, 1]),
        (GalleryQuery(verb="edit"), [4444, 333]),
        (GalleryQuery("star", model="tiny-b", verb="generate"), [22]),
        (GalleryQuery(since=1_795_082_400), [4444, 333]),  # 2026-11-19 10:00 UTC
        (GalleryQuery("nothing like it"), []),
    ],
)
def test_pictures_are_found_by_what_they_carry(gallery: Gallery, wanted: GalleryQuery, seeds: list[int]) -> None:
    assert [entry.metadata.seed for entry in gallery.find(wanted)] == seeds


def test_favourites_survive_and_follow_their_picture(gallery: Gallery) -> None:
    name = gallery.find(GalleryQuery("4444"))[0].name
    gallery.set_favourite(name, True)
    gallery.set_favourite(name, True)
    again = Gallery(gallery.folder)
    assert [entry.name for entry in again.find(GalleryQuery(favourites=True))] == [name]
    again.set_favourite(name, False)
    assert gallery.find(GalleryQuery(favourites=True)) == []
    gallery.set_favourite(name, True)
    gallery.delete(name)
    save_png(gallery.folder / name, Image.new("RGB", (8, 8)), RECORD)
    assert gallery.find(GalleryQuery(favourites=True)) == [], "a new picture of the same name is not a favourite"


def test_deleted_and_new_pictures_are_noticed(gallery: Gallery) -> None:
    assert len(gallery.find()) == 4
    gallery.delete(gallery.find()[0].name)
    save_png(gallery.folder / "new.png", Image.new("RGB", (8, 8)), replace(RECORD, seed=9))
    assert sorted(entry.metadata.seed for entry in gallery.find()) == [1, 9, 22, 333]
    (gallery.folder / "foreign.png").unlink()
    shutil.copy(gallery.folder / "new.png", gallery.folder / "foreign.png")  # a file may become ours
    assert len(gallery.find()) == 5


def test_a_description_lies_beside_its_picture_and_goes_with_it(gallery: Gallery) -> None:
    one, other = (gallery.path(entry.name) for entry in gallery.find()[:2])
    before = one.read_bytes()
    assert description(one) == ""
    describe(one, " a red\ncircle " + "x" * 5_000)
    assert description(one).startswith("a red\ncircle") and len(description(one)) <= MAX_CHARACTERS
    assert description(other) == "" and one.read_bytes() == before
    assert len(gallery.find()) == len(Gallery(gallery.folder).find()), "a description is no picture"
    gallery.delete(one.name)
    one.write_bytes(before)
    assert description(one) == "", "a new picture of the same name has not been looked at"
    (one.parent / FOLDER).rmdir()
    (one.parent / FOLDER).write_text("in the way")
    with pytest.raises(AppError, match="The description was not kept"):
        describe(one, "a blue star")


def test_a_picture_that_is_gone_is_a_sentence(gallery: Gallery) -> None:
    for act in (gallery.path, gallery.delete, lambda n: gallery.set_favourite(n, True)):
        for name in ("gone.png", "../outputs/notes.txt", "folder.png", ""):
            with pytest.raises(AppError, match="no longer there"):
                act(name)
    assert (gallery.folder / "notes.txt").is_file()


def test_all_found_pictures_can_be_taken_away_byte_for_byte(gallery: Gallery, tmp_path: Path) -> None:
    names = [entry.name for entry in gallery.find(GalleryQuery("red"))]
    assert gallery.zip([*names, "gone.png"], tmp_path / "new" / "pictures.zip") == 2
    with zipfile.ZipFile(tmp_path / "new" / "pictures.zip") as archive:
        assert sorted(archive.namelist()) == sorted(names)
        assert all(archive.read(name) == gallery.path(name).read_bytes() for name in names)


def test_a_listing_holds_no_tokens_but_the_file_does(gallery: Gallery) -> None:
    entry = gallery.find()[0]
    assert entry.metadata.image_tokens == () and read_metadata(gallery.path(entry.name)).image_tokens == (1, 2, 3)


def test_no_folder_is_no_pictures(tmp_path: Path) -> None:
    assert Gallery(tmp_path / "nowhere").find() == [] and Gallery(tmp_path / "nowhere").models() == {}
