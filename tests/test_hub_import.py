"""Import of folders that the user already has: only right files get into the cache, and the folder is unchanged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from janus_app.errors import AppError
from janus_app.hub import Hub, Imported
from janus_app.types import Progress, result_of
from tests.fake_hub import REPO, REVISION, FakeHub
from tests.hub_cases import BIG, CONFIG, FILES, blob, fetch, flip_first_byte, make_hub, no_environment, server, variant

__all__ = ["no_environment", "server"]  # fixtures


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
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
def test_imported_folder_equals_a_download(tmp_path: Path, server: FakeHub, user_folder: Path, copy: bool) -> None:
    done, steps = take(make_hub(tmp_path, server), user_folder, copy)
    assert (done.compared, done.unknown, done.linked) == (2, (), not copy)
    assert server.sent == 0 and {step.stage for step in steps} == {"import"}
    assert (blob(tmp_path).stat().st_ino == (user_folder / "model.safetensors").stat().st_ino) is not copy
    folder, fetched = fetch(make_hub(tmp_path, None, offline=True), variant())
    assert fetched == [], "the import hashed the files"
    for name, data in FILES.items():
        assert (folder / name).read_bytes() == data
        path = hf_hub_download(REPO, name, revision=REVISION, cache_dir=tmp_path / "cache", local_files_only=True)
        assert Path(path).read_bytes() == data
    assert make_hub(tmp_path, None).status(variant()).verified


def test_offline_import_names_files_without_published_hash(tmp_path: Path, user_folder: Path) -> None:
    done, _ = take(make_hub(tmp_path, None, offline=True), user_folder)
    assert (done.compared, done.unknown) == (1, ("config.json",))
    assert fetch(make_hub(tmp_path, None, offline=True), variant())[1] == []


@pytest.mark.parametrize("known", [True, False])
def test_files_of_another_model_are_refused_and_nothing_is_imported(
    tmp_path: Path, server: FakeHub, user_folder: Path, known: bool
) -> None:
    (user_folder / "model.safetensors").write_bytes(BIG[:-1] + bytes([BIG[-1] ^ 1]))
    with pytest.raises(AppError, match=r"is not the model\.safetensors of Tiny Janus.*Nothing was imported"):
        take(make_hub(tmp_path, server), user_folder, known=known)
    assert make_hub(tmp_path, server).status(variant()).on_disk == 0
    assert (user_folder / "config.json").read_bytes() == CONFIG


def test_incomplete_or_missing_folder_is_refused(tmp_path: Path, user_folder: Path) -> None:
    (user_folder / "config.json").unlink()
    with pytest.raises(AppError, match=r"lacks config\.json"):
        take(make_hub(tmp_path, None), user_folder)
    with pytest.raises(AppError, match="no folder"):
        take(make_hub(tmp_path, None), user_folder / "not there")


def test_import_by_copy_needs_free_space(tmp_path: Path, user_folder: Path) -> None:
    with pytest.raises(AppError, match="Not enough disk space"):
        take(make_hub(tmp_path, None, offline=True, reserve=10**18), user_folder, copy=True)
    assert not blob(tmp_path).exists()


def test_delete_of_imported_model_keeps_the_users_folder(tmp_path: Path, user_folder: Path) -> None:
    hub = make_hub(tmp_path, None, offline=True)
    take(hub, user_folder)
    hub.delete(variant())
    assert {path.name: path.read_bytes() for path in user_folder.iterdir()} == FILES


def test_changed_original_is_detected_and_not_moved(tmp_path: Path, server: FakeHub, user_folder: Path) -> None:
    take(make_hub(tmp_path, server), user_folder)
    flip_first_byte(user_folder / "model.safetensors")  # the cache has a link to it
    folder, _ = fetch(make_hub(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert (user_folder / "model.safetensors").read_bytes()[1:] == BIG[1:]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX paths")
def test_cache_and_endpoint_of_the_environment_are_used(
    tmp_path: Path, server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess
    import sys

    code = (
        "from tests.hub_cases import *; hub = Hub(retry=QUICK, reserve=0); print(hub.endpoint, hub.cache_dir);"
        "fetch(hub, variant())"
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
