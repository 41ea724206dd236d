"""The gallery finds the pictures in a folder by their metadata, whatever other files the folder contains."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from janus_app.errors import AppError
from janus_app.outputs.descriptions import FOLDER, MAX_CHARACTERS, describe, description
from janus_app.outputs.gallery import Gallery, GalleryQuery
from janus_app.outputs.metadata import read_metadata
from janus_app.outputs.store import save_picture, save_png
from tests.samples import METADATA


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
        metadata = replace(METADATA, prompt=words, model=model, title=model.title(), verb=verb, created=created)
        metadata = replace(metadata, seed=seed)
        kind = {22: "jpg", 333: "webp"}.get(seed, "png")
        save_picture(folder / f"{created[:10]}_{seed}.{kind}", Image.new("RGB", (8, 8)), metadata)
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
def test_pictures_are_found_by_their_metadata(gallery: Gallery, wanted: GalleryQuery, seeds: list[int]) -> None:
    assert [entry.metadata.seed for entry in gallery.find(wanted)] == seeds


def test_favourites_are_stored_and_deleted_with_their_picture(gallery: Gallery) -> None:
    name = gallery.find(GalleryQuery("4444"))[0].name
    gallery.set_favourite(name, True)
    gallery.set_favourite(name, True)
    again = Gallery(gallery.folder)
    assert [entry.name for entry in again.find(GalleryQuery(favourites=True))] == [name]
    again.set_favourite(name, False)
    assert gallery.find(GalleryQuery(favourites=True)) == []
    gallery.set_favourite(name, True)
    gallery.delete(name)
    save_png(gallery.folder / name, Image.new("RGB", (8, 8)), METADATA)
    assert gallery.find(GalleryQuery(favourites=True)) == [], "a new picture of the same name is not a favourite"


def test_deleted_and_new_pictures_are_noticed(gallery: Gallery) -> None:
    assert len(gallery.find()) == 4
    gallery.delete(gallery.find()[0].name)
    save_png(gallery.folder / "new.png", Image.new("RGB", (8, 8)), replace(METADATA, seed=9))
    assert sorted(entry.metadata.seed for entry in gallery.find()) == [1, 9, 22, 333]
    (gallery.folder / "foreign.png").unlink()
    shutil.copy(gallery.folder / "new.png", gallery.folder / "foreign.png")  # a file may become ours
    assert len(gallery.find()) == 5


def test_description_is_stored_beside_its_picture_and_deleted_with_it(gallery: Gallery) -> None:
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
    with pytest.raises(AppError, match="The description was not saved"):
        describe(one, "a blue star")


def test_missing_picture_is_an_app_error(gallery: Gallery) -> None:
    for act in (gallery.path, gallery.delete, lambda n: gallery.set_favourite(n, True)):
        for name in ("gone.png", "../outputs/notes.txt", "folder.png", ""):
            with pytest.raises(AppError, match="no longer exists"):
                act(name)
    assert (gallery.folder / "notes.txt").is_file()


def test_zip_contains_exact_copies(gallery: Gallery, tmp_path: Path) -> None:
    names = [entry.name for entry in gallery.find(GalleryQuery("red"))]
    assert gallery.zip([*names, "gone.png"], tmp_path / "new" / "pictures.zip") == 2
    with zipfile.ZipFile(tmp_path / "new" / "pictures.zip") as archive:
        assert sorted(archive.namelist()) == sorted(names)
        assert all(archive.read(name) == gallery.path(name).read_bytes() for name in names)


def test_listing_leaves_out_image_tokens(gallery: Gallery) -> None:
    entry = gallery.find()[0]
    assert entry.metadata.image_tokens == () and read_metadata(gallery.path(entry.name)).image_tokens == (1, 2, 3)


def test_missing_folder_has_no_pictures(tmp_path: Path) -> None:
    assert Gallery(tmp_path / "nowhere").find() == [] and Gallery(tmp_path / "nowhere").models() == {}
