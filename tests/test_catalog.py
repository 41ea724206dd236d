"""The manifest's rows, bad rows by name, the user's own rows, and folders."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from platformdirs.unix import Unix
from platformdirs.windows import Windows

from janus_app.errors import AppError
from janus_app.paths import MANIFEST, data_folder
from janus_app.registry.catalog import load_catalog
from janus_app.registry.types import File

ROW: dict[str, Any] = {
    "id": "mine",
    "title": "Mine",
    "family": "janus",
    "repo": "me/mine",
    "revision": "0" * 40,
    "files": [{"path": "model.safetensors", "size": 5, "sha256": None}],
    "code_licence": "MIT",
    "weights_licence": "MIT",
    "verbs": ["chat"],
    "size": [384, 384],
    "context": 4096,
    "settings": {"guidance": {"default": 5, "low": 1, "high": 10, "step": 0.5}},
}


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JANUS_APP_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("JANUS_APP_MANIFEST", raising=False)


def written(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"variants": list(rows)}), encoding="utf-8")
    return path


def test_built_in_rows() -> None:
    catalog = load_catalog()
    assert {"janus-embedded", "janus-1.3b", "janus-pro-1b", "janus-pro-7b", "janusflow-1.3b"} <= catalog.keys()
    assert catalog.default(False).is_local and catalog.default(True).id in catalog
    for variant in catalog.values():
        assert set(variant.verbs) <= {"chat", "generate", "edit"} and variant.status
        assert all(variant.prompts(verb, language) for verb in variant.verbs for language in ("en", "zh-CN", "fr"))
        assert all(s.low <= s.default <= s.high for s in variant.settings.values())
    embedded, seven = catalog["janus-embedded"], catalog["janus-pro-7b"]
    assert embedded.folder == MANIFEST.parent / "assets" / "janus_embedded" and embedded.download_bytes == 0
    assert (embedded.size, embedded.context) == ((192, 192), 512)
    assert 14.8e9 < seven.download_bytes < 14.9e9 and seven.repo == "deepseek-ai/Janus-Pro-7B"
    # nothing but the one weight form is downloaded, and each file is loadable data
    assert {Path(file.path).suffix for file in seven.files} == {".json", ".bin"}
    assert catalog["janus-1.3b"].memory["bf16"] == 2 * catalog["janus-1.3b"].parameters
    assert hash(seven) != hash(embedded)


def test_folder_of_a_row_is_that_row(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = load_catalog()
    monkeypatch.chdir(MANIFEST.parent)
    for row in catalog.values():
        if row.folder is not None and not row.user_supplied:
            weights = next(row.folder.glob("*.safetensors"))
            named = {str(row.folder), str(weights), str(row.folder.relative_to(MANIFEST.parent))}
            assert {catalog.resolve(name).id for name in named} == {row.id}
            assert catalog.resolve(str(row.folder)).roles == row.roles


def test_component_is_another_repository(tmp_path: Path) -> None:
    flow = load_catalog()["janusflow-1.3b"]
    vae = flow.parts["vae"]
    assert (vae.repo, vae.folder, vae.parts) == ("stabilityai/sdxl-vae", None, {})
    assert flow.download_bytes == flow.file_bytes + vae.file_bytes and vae.file_bytes > 3e8
    sound = {"repo": "a/b", "revision": "0" * 40, "files": [{"path": "config.json", "size": None, "sha256": None}]}
    for wrong, field, reason in (
        ({"vea": sound}, "components", "vae"),
        ({"vae": {**sound, "revision": "main"}}, "components.vae.revision", "40"),
        ({"vae": {**sound, "files": []}}, "components.vae.files", "list of files"),
        ({"vae": {**sound, "files": [{"path": "../x", "size": 1, "sha256": None}]}}, "components.vae.files", "stays"),
    ):
        path = written(tmp_path, {**ROW, "components": wrong})
        with pytest.raises(AppError, match=rf"(?s){field}.*{reason}"):
            load_catalog(path)
    assert load_catalog(written(tmp_path, {**ROW, "components": {"vae": sound}}))[ROW["id"]].parts


def test_unknown_name_is_answered_with_similar_ones(tmp_path: Path) -> None:
    catalog = load_catalog()
    assert catalog.resolve(" Janus-Pro-7B ").id == "janus-pro-7b"
    with pytest.raises(AppError, match=r"Did you mean janus-pro-1b.*Known models: janus-embedded"):
        catalog.resolve("janus_pro1b")
    for odd in ("", "x" * 100_000, "a\0b", str(tmp_path / "nothing"), "~nobody-here/x"):
        with pytest.raises(AppError, match="Known models"):
            catalog.resolve(odd)


def test_user_rows_come_from_argument_environment_or_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, ROW)
    assert load_catalog(path)["mine"].files == (File("model.safetensors", 5, None),)
    monkeypatch.setenv("JANUS_APP_MANIFEST", str(path))
    assert "mine" in load_catalog() and {"janus-embedded", "janusflow-1.3b"} <= load_catalog().keys()
    monkeypatch.delenv("JANUS_APP_MANIFEST")
    assert "mine" not in load_catalog()
    data_folder().mkdir()
    path.rename(data_folder() / "models.yaml")
    assert "mine" in load_catalog()


def test_data_folder_of_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JANUS_APP_DATA")
    monkeypatch.setenv("HOME", "/home/someone")
    for xdg, expected in (("", "/home/someone/.local/share"), ("/data", "/data")):
        monkeypatch.setenv("XDG_DATA_HOME", xdg)
        assert Unix("janus_app", appauthor=False).user_data_path == Path(expected, "janus_app")
        if sys.platform == "linux":
            assert data_folder() == Path(expected, "janus_app")


def test_data_folder_of_macos_does_not_follow_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JANUS_APP_DATA")
    monkeypatch.setenv("HOME", "/Users/someone")
    monkeypatch.setattr(sys, "platform", "darwin")
    for xdg in ("", "/data"):
        monkeypatch.setenv("XDG_DATA_HOME", xdg)
        assert data_folder() == Path("/Users/someone/Library/Application Support/janus_app")


def test_data_folder_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.windows.get_win_folder", {"CSIDL_LOCAL_APPDATA": "/AppData/Local"}.__getitem__)
    assert Windows("janus_app", appauthor=False).user_data_path == Path("/AppData/Local/janus_app")


def test_data_folder_may_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("JANUS_APP_DATA", "~/elsewhere")
    assert data_folder() == Path("/home/someone/elsewhere")


def test_relative_folder_is_relative_to_its_list(tmp_path: Path) -> None:
    row = {key: value for key, value in ROW.items() if key not in ("repo", "revision", "files")}
    assert load_catalog(written(tmp_path, row | {"folder": "weights"}))["mine"].folder == tmp_path / "weights"


SETTING = {"default": 5, "low": 1, "high": 10, "step": 1}


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"revision": "main"}, "revision", "40 lower-case hex"),
        ({"revision": None}, "revision", "40 lower-case hex"),
        ({"repo": "https://example.org/x"}, "repo", "owner/name"),
        ({"id": "../x"}, "id", "lower-case letters"),
        ({"id": "janus-pro-7b"}, "id", "built-in model"),
        ({"title": ""}, "title", "not empty"),
        ({"verbs": ["sing"]}, r"verbs\.0", "one of chat"),
        ({"size": [384]}, "size", "width, height"),
        ({"size": [384, 10**9]}, r"size\.1", "8 to 8192"),
        ({"context": 0}, "context", "above 0"),
        ({"memory": {"fp4": 1}}, "memory", "one of fp32"),
        ({"folder": "here"}, "repo", "exactly one"),
        ({"colour": "red"}, "colour", "no field with this name"),
        ({5: "red"}, "5", "no field with this name"),
        ({"settings": {"guidence": SETTING}}, "settings", "one of guidance"),
        ({"settings": {"guidance": SETTING | {"default": 11}}}, r"settings\.guidance", "between low and high"),
        ({"settings": {"guidance": SETTING | {"high": float("inf")}}}, r"settings\.guidance\.high", "finite"),
        ({"settings": {"guidance": SETTING | {"step": 0}}}, r"settings\.guidance\.step", "above 0"),
        ({"family": "llama"}, "family", "one of janus"),
        ({"solvers": ["rk4"]}, r"solvers\.0", "one of euler"),
        ({"solvers": []}, "solvers", "list of different solvers"),
        ({"files": [{"path": "a", "size": 1, "sha256": "abc"}]}, r"files\.0\.sha256", "64 lower-case hex"),
        ({"files": [{"path": "a", "size": 0, "sha256": None}]}, r"files\.0\.size", "bytes above 0"),
        ({"files": [{"path": "a", "size": 1}]}, r"files\.0\.sha256", "is missing"),
        *(
            ({"files": [{"path": path, "size": 1, "sha256": None}]}, "files", "stays inside")
            for path in ("/etc/passwd", "../x", "a/../../x", "a\\..\\x", "C:/x", "a//b", "./a")
        ),
        ({"files": [{"path": "a", "size": 1, "sha256": None}] * 2}, "files", "twice"),
    ],
)
def test_error_of_a_bad_row_names_row_field_and_reason(
    tmp_path: Path, change: dict[str, Any], field: str, reason: str
) -> None:
    path = written(tmp_path, copy.deepcopy(ROW) | change)
    name = change.get("id", "mine")
    with pytest.raises(AppError, match=rf"own\.yaml, model '{name}', field '{field}': .*{reason}"):
        load_catalog(path)


def test_error_of_a_bad_row_is_translated(tmp_path: Path) -> None:
    with pytest.raises(AppError) as caught:
        load_catalog(written(tmp_path, ROW | {"size": [384, 10**9]}))
    assert "字段 'size.1'：必须是 8 到 8192 像素；现在是 1000000000" in caught.value.text("zh-CN")
    assert (caught.value.code, caught.value.status) == ("model_row_wrong", 422)


def test_missing_field_and_repeated_id_are_refused(tmp_path: Path) -> None:
    for field in ("title", "revision", "files", "settings"):
        row = {key: value for key, value in ROW.items() if key != field}
        with pytest.raises(AppError, match=f"field '{field}': is missing"):
            load_catalog(written(tmp_path, row))
    with pytest.raises(AppError, match="used by two rows"):
        load_catalog(written(tmp_path, ROW, ROW))
    with pytest.raises(AppError, match="model 'number 2'"):
        load_catalog(written(tmp_path, ROW, "what"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("variants: [", "not valid YAML near line"), ("- a", "list called 'variants'"), ("", "list called"),
     ("variants: !!python/object/apply:os.getcwd []", "not valid YAML"), (b"\xff\xfe", "cannot be read"),
     ("variants: " + "[" * 5_000, "cannot be read")],
)  # fmt: skip
def test_error_names_a_malformed_list(tmp_path: Path, text: str | bytes, reason: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(AppError, match=rf"own\.yaml.*{reason}"):
        load_catalog(path)


def test_error_names_a_missing_list(tmp_path: Path) -> None:
    with pytest.raises(AppError, match=r"none\.yaml cannot be read"):
        load_catalog(tmp_path / "none.yaml")


CONFIG: dict[str, Any] = {
    "model_type": "multi_modality",
    "vision_config": {"params": {"image_size": 96}},
    "language_config": {"max_position_embeddings": 512},
}


def folder(tmp_path: Path, config: object, weights: bool = True) -> str:
    place = tmp_path / "My Janus"
    place.mkdir()
    (place / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if weights:
        (place / "model.safetensors").write_bytes(b"")
    return str(place)


def test_folder_with_janusflow_is_detected(tmp_path: Path) -> None:
    flow = {**CONFIG, "vision_gen_enc_config": {}, "vision_und_enc_config": {"params": {"image_size": 48}}}
    variant = load_catalog().resolve(folder(tmp_path, flow))
    assert (variant.family, variant.size) == ("janusflow", (48, 48))
    assert variant.solvers == load_catalog()["janusflow-1.3b"].solvers
    assert variant.settings.keys() == load_catalog()["janusflow-1.3b"].settings.keys()


def test_folder_is_described_from_its_config(tmp_path: Path) -> None:
    variant = load_catalog().resolve(folder(tmp_path, CONFIG))
    assert (variant.id, variant.family, variant.size, variant.context) == ("folder-my-janus", "janus", (96, 96), 512)
    assert variant.is_local and variant.download_bytes == 0
    assert variant.settings.keys() == load_catalog()["janus-pro-7b"].settings.keys()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (CONFIG | {"model_type": "janus"}, "text_config"),
        (CONFIG | {"model_type": "llama"}, "'llama', which this app does not support"),
        (
            CONFIG | {"vision_config": {"params": {"image_size": 10**9}}},
            "image_size = 1000000000; it must be a whole number from 8 to 4096",
        ),
        ("[]", "does not contain a JSON object"),
        ("{", "cannot be read"),
        ("[" * 200_000, "cannot be read"),
        ("x" * 2_000_000, "too large"),
    ],
)
def test_folder_with_another_kind_of_model_is_refused(tmp_path: Path, config: object, reason: str) -> None:
    with pytest.raises(AppError, match=reason):
        load_catalog().resolve(folder(tmp_path, config))


def test_folder_without_weights_or_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AppError, match=r"no config\.json"):
        load_catalog().resolve(str(tmp_path))
    with pytest.raises(AppError, match="no weights"):
        load_catalog().resolve(folder(tmp_path, CONFIG, weights=False))
