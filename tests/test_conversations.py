"""Stored conversations: nothing is lost to a full disk, a damaged file or a second program."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
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

ROOT_IGNORES_MODES = hasattr(os, "geteuid") and os.geteuid() == 0


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


def test_conversation_is_restored_with_its_pictures_after_a_restart(tmp_path: Path) -> None:
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


def test_search_covers_titles_and_messages_newest_first(tmp_path: Path) -> None:
    store = Conversations(tmp_path)
    for number, text in enumerate(("Old FROGS", "newer toads", "frogs and toads")):
        store.save(replace(talk(new_conversation(), text), changed=f"2026-11-2{number}T10:00:00+00:00"))
    assert [c.name for c in store.find().conversations] == ["frogs and toads", "newer toads", "Old FROGS"]
    assert [c.name for c in store.find("frogs").conversations] == ["frogs and toads", "Old FROGS"]
    assert [c.name for c in store.find("TOADS frogs").conversations] == ["frogs and toads"]
    store.rename(store.find("newer").conversations[0].id, "  Pond \n life ")
    assert [c.name for c in store.find("pond").conversations] == ["Pond life"]
    assert [c.name for c in store.find("newer").conversations] == ["Pond life"], "its words are still found"


def test_edited_question_starts_a_branch_and_both_are_kept(tmp_path: Path) -> None:
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


def test_two_programs_saving_one_conversation_lose_nothing(tmp_path: Path) -> None:
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


def test_processes_saving_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
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


def test_change_of_the_file_by_another_program_is_seen_at_once(tmp_path: Path) -> None:
    one, two = Conversations(tmp_path), Conversations(tmp_path)
    base = talk(new_conversation(), "aaaa")
    one.save(base)
    two.find()
    for title in ("aaaa", "bbbb", "cccc"):  # same size, and within the file system's clock tick
        one.rename(base.id, title)
        assert two.open(base.id).title == title


def test_deleted_conversation_stays_deleted(tmp_path: Path) -> None:
    store = Conversations(tmp_path / "talks")
    said = talk(new_conversation(), "look", pictures=[picture(tmp_path)])
    store.save(said)
    store.delete(said.id)
    store.delete(said.id)  # in two tabs
    assert store.find().conversations == () and list((tmp_path / "talks").glob("*")) in ([], [tmp_path / "talks/.lock"])
    with pytest.raises(AppError, match="no longer exists"):
        store.open(said.id)
    with pytest.raises(AppError, match="was deleted"):
        store.save(talk(said, "an answer that came too late"))
    assert store.find().conversations == ()


@pytest.mark.parametrize("name", ["", "..", "../../etc", "2026-11-21_1234567g", "2026-11-21_12345678/x", "a\0b"])
def test_ids_from_a_browser_are_never_used_as_paths(tmp_path: Path, name: str) -> None:
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
def test_damaged_file_is_reported_and_never_overwritten(tmp_path: Path, content: bytes) -> None:
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


def test_picture_name_outside_the_folder_is_refused(tmp_path: Path) -> None:
    store = Conversations(tmp_path)
    said = talk(new_conversation(), "look", pictures=[picture(tmp_path)])
    store.save(said)
    file = tmp_path / said.id / "conversation.json"
    data = json.loads(file.read_text())
    data["messages"][0]["pictures"] = ["../../secret.png"]
    file.write_text(json.dumps(data))
    with pytest.raises(AppError, match="damaged"):
        store.open(said.id)


def test_cycle_of_messages_ends(tmp_path: Path) -> None:
    a, b = ChatMessage("0000000a", "0000000b", "user", "a"), ChatMessage("0000000b", "0000000a", "assistant", "b")
    assert len(Conversation("2026-11-21_00000000", messages=(a, b), head="0000000a").path) == 2


@pytest.mark.parametrize(
    ("number", "sentence"), [(errno.ENOSPC, "no space left"), (errno.EROFS, "cannot be written"), (errno.EIO, "cannot")]
)
def test_failed_write_is_an_app_error_and_keeps_the_old_file(
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
def test_read_only_folder_is_an_app_error(tmp_path: Path) -> None:
    folder = tmp_path / "talks"
    folder.mkdir(mode=0o500)
    with pytest.raises(AppError, match="cannot be written"):
        Conversations(folder).save(talk(new_conversation(), "x"))


def test_file_in_place_of_the_folder_is_an_app_error(tmp_path: Path) -> None:
    (tmp_path / "talks").write_text("")
    store = Conversations(tmp_path / "talks")
    assert store.find().conversations == ()
    with pytest.raises(AppError, match="was not saved"):
        store.save(talk(new_conversation(), "x"))


def test_export_contains_text_and_pictures(tmp_path: Path) -> None:
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
