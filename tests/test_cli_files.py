"""`models download|verify|delete|import|convert` against a loopback Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from janus_app.cli import main
from tests.fake_hub import REPO, REVISION, FakeHub
from tests.hub_cases import no_environment, sha256
from tests.test_convert import pickled

__all__ = ["no_environment", "pickled"]


def row(files: dict[str, bytes]) -> dict[str, object]:
    return {
        "id": "tiny",
        "title": "Tiny Janus",
        "family": "janus",
        "repo": REPO,
        "revision": REVISION,
        "files": [{"path": n, "size": len(d), "sha256": sha256(d)} for n, d in files.items()],
        "code_licence": "MIT",
        "weights_licence": "MIT",
        "verbs": ["chat"],
        "size": [96, 96],
        "context": 512,
        "settings": {},
    }


@pytest.fixture
def server(pickled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub with the pickled tiny checkpoint, and an environment that names nothing else."""
    files = {file.name: file.read_bytes() for file in pickled.iterdir()}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"variants": [row(files)]}))
    with FakeHub(files) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("JANUS_APP_DATA", str(tmp_path / "data"))
        monkeypatch.setenv("JANUS_APP_MANIFEST", str(tmp_path / "models.yaml"))
        yield running


def listed(capsys: pytest.CaptureFixture[str], name: str) -> dict[str, object]:
    capsys.readouterr()
    assert main(["models", "--json"]) == 0
    return next(r for line in capsys.readouterr().out.splitlines() if (r := json.loads(line))["id"] == name)


def test_download_verify_convert_delete(server: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys, "tiny")["on_disk"] is False
    assert main(["models", "download", "tiny"]) == 0
    said = capsys.readouterr()
    assert "Tiny Janus is complete" in said.out and "models convert tiny" in said.err
    assert said.err.index("licences: MIT") < said.err.index("download: "), "said before anything is downloaded"
    assert "files done)" in said.err or "download: " in said.err
    assert server.resent == 0
    held = listed(capsys, "tiny")
    assert (held["on_disk"], held["verified"], held["convertible"]) == (True, True, True)
    assert main(["models", "download", "tiny"]) == 0
    assert "licences" not in capsys.readouterr().err
    assert main(["models", "verify", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"model": "tiny", "bytes": held["bytes_on_disk"]}
    assert main(["models", "convert", "tiny"]) == 0
    assert "safetensors" in capsys.readouterr().out
    assert listed(capsys, "tiny")["convertible"] is False
    assert main(["models", "delete", "tiny"]) == 2, "without a terminal, --yes is required"
    assert "--yes" in capsys.readouterr().err
    assert main(["models", "delete", "tiny", "--yes"]) == 0
    assert listed(capsys, "tiny")["bytes_on_disk"] == 0
    assert main(["models", "delete", "tiny"]) == 0
    assert capsys.readouterr().out == "Nothing was deleted.\n"


def test_import_as_a_listed_model(
    server: FakeHub, pickled: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["models", "import", str(pickled), "--model", "tiny"]) == 0
    assert "linked, which takes no space" in capsys.readouterr().out and server.sent == 0
    assert listed(capsys, "tiny")["verified"] is True
    assert main(["models", "import", str(pickled)]) == 2
    assert main(["models", "import", str(tmp_path / "none"), "--model", "tiny"]) == 1
    assert "no folder" in capsys.readouterr().err


def test_import_as_a_user_model(server: FakeHub, pickled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = Path(shutil.copytree(pickled, pickled.parent / "My Fine Tune"))
    manifest = pickled.parent / "models.yaml"
    manifest.write_text("# mine\n" + manifest.read_text())
    assert main(["models", "import", str(own), "--own", "My tune"]) == 0
    assert "as my-tune" in capsys.readouterr().out
    assert manifest.read_text().startswith("# mine\n")
    found = listed(capsys, "my-tune")
    assert (found["on_disk"], found["title"]) == (True, "My tune")
    assert main(["models", "import", str(own), "--own", "My tune"]) == 2, "names are unique"
    assert "already a model called my-tune" in capsys.readouterr().err
    before = manifest.read_text() + "defaults: {}\n"
    manifest.write_text(before)
    assert main(["models", "import", str(own), "--own", "Another"]) == 2
    assert "Add this entry yourself" in capsys.readouterr().err and manifest.read_text() == before


def test_unknown_and_missing_names_are_usage_errors(server: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "download"]) == 2
    assert main(["models", "verify", "tinny"]) == 2
    assert "Did you mean tiny?" in capsys.readouterr().err
    assert main(["models", "convert", "janus-embedded"]) == 1
    assert "nothing to convert" in capsys.readouterr().err
    assert server.sent == 0
