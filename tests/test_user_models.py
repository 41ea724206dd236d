"""A folder of the user becomes a row of models.yaml."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from janus_app import files
from janus_app.errors import AppError
from janus_app.files import file_lock
from janus_app.registry.catalog import load_catalog, user_list
from janus_app.registry.user_models import register
from tests.conftest import GOLDEN
from tests.metaquery_golden import GOLDEN as METAQUERY


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JANUS_APP_MANIFEST", raising=False)
    monkeypatch.setenv("JANUS_APP_DATA", str(tmp_path / "data"))


def test_registered_metaquery_folder_fetches_what_the_same_path_fetches(tmp_path: Path) -> None:
    wanted = load_catalog()["metaquery-l"].components
    folder = tmp_path / "weights" / "mine"
    shutil.copytree(METAQUERY / "ckpt_llavaov_sd15", folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config |= {"mllm_id": wanted["mllm"].repo, "diffusion_model_id": wanted["diffusion"].repo}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    registered = register(folder, "Mine")
    catalog = load_catalog()
    assert registered.components == catalog.resolve("mine").components == wanted
    assert catalog.resolve(str(folder)).components == wanted
    assert "components" not in yaml.safe_load(user_list().read_text("utf-8"))["variants"][0]


def test_list_that_another_program_is_writing_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = GOLDEN / "janus_pro_1b" / "checkpoint"
    register(checkpoint, "First")
    before = user_list().read_bytes()
    monkeypatch.setattr(files, "LOCK_TIMEOUT", 0.05)
    lock = file_lock(user_list().with_name(".models.yaml.lock"))
    with lock, pytest.raises(AppError, match="locked by another program"):
        register(checkpoint, "Second")
    assert user_list().read_bytes() == before
    register(checkpoint, "Second")
    assert {"first", "second"} <= set(load_catalog())


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file in the place of the folder")
    with pytest.raises(AppError, match=r"models\.yaml") as refused:
        register(GOLDEN / "janus_pro_1b" / "checkpoint")
    assert refused.value.code == "model_list_not_writable"
