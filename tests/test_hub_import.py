"""Folders the user already has become cached models; nothing wrong gets in and nothing of the user's is harmed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from janus_app.errors import AppError
from janus_app.hub import Hub, Imported
from janus_app.types import Progress, result_of
from tests.fake_hub import REPO, REVISION, FakeHub, Fault
from tests.test_hub import BIG, CONFIG, FILES, a_hub, blob, drain, no_environment, partial, variant

__all__ = ["no_environment"]


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with FakeHub(FILES) as running:
        yield running


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


def take(hub: Hub, folder: Path, copy: bool = False, known: bool = True) -> tuple[Imported, list[Progress]]:
    steps: list[Progress] = []
    work = hub.import_folder(variant(known=known), folder, copy=copy)
    return result_of(work, steps.append), steps


@pytest.mark.parametrize("copy", [False, True])
def test_an_imported_folder_is_a_downloaded_model(tmp_path: Path, server: FakeHub, mine: Path, copy: bool) -> None:
    done, steps = take(a_hub(tmp_path, server), mine, copy)
    assert (done.compared, done.unknown, done.linked) == (2, (), not copy)
    assert server.sent == 0 and {step.stage for step in steps} == {"import"}
    assert (blob(tmp_path).stat().st_ino == (mine / "model.safetensors").stat().st_ino) is not copy
    folder, fetched = drain(a_hub(tmp_path, None, offline=True), variant())
    assert fetched == [], "what was imported was hashed already"
    for name, data in FILES.items():
        assert (folder / name).read_bytes() == data
        path = hf_hub_download(REPO, name, revision=REVISION, cache_dir=tmp_path / "cache", local_files_only=True)
        assert Path(path).read_bytes() == data
    assert a_hub(tmp_path, None).status(variant()).verified


def test_offline_unpublished_hashes_are_taken_and_named(tmp_path: Path, mine: Path) -> None:
    done, _ = take(a_hub(tmp_path, None, offline=True), mine)
    assert (done.compared, done.unknown) == (1, ("config.json",))
    assert drain(a_hub(tmp_path, None, offline=True), variant())[1] == []


@pytest.mark.parametrize("known", [True, False])
def test_another_models_files_are_refused_and_nothing_is_taken(
    tmp_path: Path, server: FakeHub, mine: Path, known: bool
) -> None:
    (mine / "model.safetensors").write_bytes(BIG[:-1] + bytes([BIG[-1] ^ 1]))
    with pytest.raises(AppError, match=r"is not the model\.safetensors of Tiny Janus.*Nothing was imported"):
        take(a_hub(tmp_path, server), mine, known=known)
    assert a_hub(tmp_path, server).status(variant()).on_disk == 0
    assert (mine / "config.json").read_bytes() == CONFIG


def test_an_incomplete_folder_is_refused_by_name(tmp_path: Path, mine: Path) -> None:
    (mine / "config.json").unlink()
    with pytest.raises(AppError, match=r"lacks config\.json"):
        take(a_hub(tmp_path, None), mine)
    with pytest.raises(AppError, match="no folder"):
        take(a_hub(tmp_path, None), mine / "not there")


def test_a_copy_without_room_is_refused(tmp_path: Path, mine: Path) -> None:
    with pytest.raises(AppError, match="Not enough disk space"):
        take(a_hub(tmp_path, None, offline=True, reserve=10**18), mine, copy=True)
    assert not blob(tmp_path).exists()


def test_deleting_what_was_imported_leaves_the_users_folder(tmp_path: Path, mine: Path) -> None:
    hub = a_hub(tmp_path, None, offline=True)
    take(hub, mine)
    hub.delete(variant())
    assert {path.name: path.read_bytes() for path in mine.iterdir()} == FILES


def test_a_changed_original_is_noticed_and_never_moved(tmp_path: Path, server: FakeHub, mine: Path) -> None:
    take(a_hub(tmp_path, server), mine)
    with (mine / "model.safetensors").open("r+b") as file:  # the cache's link sees it too
        file.write(bytes([BIG[0] ^ 1]))
    folder, _ = drain(a_hub(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert (mine / "model.safetensors").read_bytes()[1:] == BIG[1:]


def test_what_is_being_downloaded_is_not_deleted(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=99, pause=0.01))
    work = a_hub(tmp_path, server).fetch(variant())
    for step in work:
        if step.done > 300_000:
            break
    with pytest.raises(AppError, match="being downloaded right now"):
        a_hub(tmp_path, server).delete(variant())
    work.close()
    status = a_hub(tmp_path, server).status(variant())
    assert status.unfinished == partial(tmp_path).stat().st_size > 0 and not status.verified
    assert a_hub(tmp_path, server).delete(variant()) >= status.unfinished
    assert not partial(tmp_path).exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX paths")
def test_home_and_endpoint_of_the_environment_are_used(
    tmp_path: Path, server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess
    import sys

    code = (
        "from tests.test_hub import *; hub = Hub(retry=QUICK, reserve=0); print(hub.endpoint, hub.cache_dir);"
        "drain(hub, variant())"
    )
    clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    own = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": server.endpoint, "JANUS_APP_DATA": str(tmp_path / "data")}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        clean.pop(name, None)
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=clean | own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [server.endpoint, str(tmp_path / "home" / "hub")]
    assert (tmp_path / "home" / "hub" / blob(tmp_path).relative_to(tmp_path / "cache")).read_bytes() == BIG
