"""Files appear whole under a name that no other file has, whatever the file system can do."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from janus_app import files
from janus_app.files import typed_path, write_atomically


def no_links(*_: Any) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_existing_files_are_kept_and_the_new_one_is_numbered(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(files.os, "link", no_links)
    paths = [write_atomically(tmp_path / "a.png", text, keep_existing=True) for text in (b"1", b"2", b"3")]
    assert [path.name for path in paths] == ["a.png", "a-2.png", "a-3.png"]
    assert [path.read_bytes() for path in paths] == [b"1", b"2", b"3"]
    assert sorted(os.listdir(tmp_path)) == ["a-2.png", "a-3.png", "a.png"]


def test_no_reader_meets_an_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every call that changes the folder, what is listed there under a picture's name is whole."""

    def watched(name: str) -> None:
        call = getattr(os, name)

        def look(*args: Any, **options: Any) -> Any:
            assert all(file.read_bytes() for file in tmp_path.glob("[!.]*.png"))
            return call(*args, **options)

        monkeypatch.setattr(files.os, name, look)

    for name in ("link", "replace", "unlink"):
        watched(name)
    assert write_atomically(tmp_path / "a.png", b"picture", keep_existing=True).read_bytes() == b"picture"


def test_failed_write_leaves_no_empty_file_where_links_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "link", no_links)
    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "a.png", b"picture", keep_existing=True)
    assert not list(tmp_path.iterdir())


def test_typed_path_loses_its_quotes_and_file_scheme(tmp_path: Path) -> None:
    file = tmp_path / "two frogs 100%.png"
    file.touch()
    uri = file.as_uri()
    assert "%20" in uri
    pasted = (f'"{file}"', f"'{file}'", f"  “{file}” ", uri, uri.replace("file:///", "file://localhost/"), f'"{uri}"')
    assert {typed_path(text) for text in (*pasted, str(file), file)} == {file}
    assert typed_path("file:///a#b?c%3Fd.png") == Path("/a#b?c?d.png")
    assert typed_path("file://[x") == Path("file://[x")
    assert typed_path("~/it's.png") == Path("~/it's.png") and typed_path("") == Path("")


def test_file_whose_name_has_quotes_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "'odd'.png").touch()
    monkeypatch.chdir(tmp_path)
    assert typed_path("'odd'.png") == Path("'odd'.png")
    assert typed_path("a\0b") == Path("a\0b")
