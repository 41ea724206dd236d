"""Where a MetaQuery checkpoint's parts come from: the user's own copies first, then what the manifest can fetch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from janus_app.errors import AppError
from janus_app.hub import Hub, RetryPolicy
from janus_app.registry.catalog import load_catalog
from janus_app.registry.types import Component, File, Variant
from janus_app.runtime.fit import plan_load
from janus_app.runtime.loader import load
from janus_app.types import Capabilities, drain, result_of
from tests.fake_hub import REPO, REVISION, FakeHub, Fault
from tests.metaquery_golden import GOLDEN

LANGUAGE = GOLDEN / "components" / "llava-onevision-mini-ov-hf"
FILES = {file.name: file.read_bytes() for file in LANGUAGE.glob("*.json")}


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with FakeHub(FILES) as running:
        yield running


@pytest.fixture
def row(tmp_path: Path) -> Variant:
    """A row for a checkpoint whose language model is a repository of the Hub and whose diffuser lies beside it."""
    folder = tmp_path / "weights" / "mine"
    shutil.copytree(GOLDEN / "ckpt_llavaov_sd15", folder)
    shutil.copytree(
        GOLDEN / "components" / "tiny-stable-diffusion-v1-5",
        tmp_path / "weights" / "components" / "tiny-stable-diffusion-v1-5",
    )
    write_config(folder, mllm_id=REPO)
    files = tuple(File(name) for name in FILES)
    return replace(load_catalog()["metaquery-b"], folder=folder, components={"mllm": Component(REPO, REVISION, files)})


def write_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8")) | changes
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def a_hub(tmp_path: Path, server: FakeHub) -> Hub:
    patience = RetryPolicy(attempts=2, first_wait=0.02, read_timeout=0.5)
    return Hub(tmp_path / "cache", server.endpoint, data=tmp_path / "data", retry=patience, reserve=0)


def opened(row: Variant, hub: Hub) -> Capabilities:
    assert row.folder is not None
    return result_of(
        load(plan_load(row, row.folder, "cpu", components=hub.part_folders(row)).choose("fp32"))
    ).model.capabilities


def test_missing_components_are_downloaded(tmp_path: Path, server: FakeHub, row: Variant) -> None:
    hub = a_hub(tmp_path, server)
    assert list(row.parts) == ["mllm"] and not hub.status(row).complete
    drain(hub.fetch(row))
    assert {path.name for path in hub.part_folders(row)["mllm"].iterdir()} == set(FILES)
    assert opened(row, hub).size == (64, 64)


@pytest.mark.parametrize("place", ["inside", "beside"])
def test_local_copy_of_a_component_is_preferred_to_the_hub(
    tmp_path: Path, server: FakeHub, row: Variant, place: str
) -> None:
    assert row.folder is not None
    at = row.folder if place == "inside" else row.folder.parent
    shutil.copytree(LANGUAGE, at / "components" / REPO)
    hub = a_hub(tmp_path, server)
    assert not row.parts and hub.status(row).complete
    drain(hub.fetch(row))
    assert not server.requests, "nobody is asked for what is here"
    assert opened(row, hub).size == (64, 64)


def test_a_gated_component_is_named(tmp_path: Path, server: FakeHub, row: Variant) -> None:
    server.fault("*", Fault(times=99, status=403, code="GatedRepo"))
    with pytest.raises(AppError, match=f"{REPO} requires you to accept its terms first"):
        drain(a_hub(tmp_path, server).fetch(row))


def test_user_supplied_row_uses_the_components_of_its_config(monkeypatch: pytest.MonkeyPatch, row: Variant) -> None:
    """A checkpoint on Qwen2.5-VL put where MetaQuery-B is expected must not be given LLaVA's files."""
    assert row.folder is not None
    catalog, large = load_catalog(), load_catalog()["metaquery-l"].components
    monkeypatch.setitem(catalog._variants, "metaquery-b", replace(catalog["metaquery-b"], folder=row.folder))
    write_config(row.folder, mllm_id=large["mllm"].repo, diffusion_model_id=large["diffusion"].repo)
    assert catalog.resolve("metaquery-b").components == large
    write_config(row.folder, mllm_id="somebody/else")
    assert list(catalog.resolve("metaquery-b").components) == ["diffusion"]
    (row.folder / "config.json").unlink()
    assert catalog.resolve("metaquery-b").components == catalog["metaquery-b"].components
