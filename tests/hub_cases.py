"""A tiny model on a FakeHub, shared by the tests of the hub; `server` and `no_environment` are fixtures to import."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from janus_app.hub import DownloadLimits, Hub, RetryPolicy
from janus_app.registry.types import File, Variant
from janus_app.types import Progress, result_of
from tests.fake_hub import COUNTS, REPO, REVISION, FakeHub

BIG = random.Random(0).randbytes(3_000_000)
CONFIG = b'{"model_type": "multi_modality"}'
FILES = {"config.json": CONFIG, "model.safetensors": BIG}
QUICK = RetryPolicy(attempts=3, first_wait=0.02, read_timeout=0.5)
PIECE = 200_000
WIDE = DownloadLimits(files=4, connections=4, range_bytes=PIECE, split_from=400_000)
AHEAD = WIDE.connections * WIDE.range_bytes  # the most bytes that wait in memory


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def variant(*, known: bool = True, **changes: object) -> Variant:
    """A row of the manifest for FILES; `known`: with the size and sha256 of the weights."""
    weights = File("model.safetensors", len(BIG) if known else None, sha256(BIG) if known else None)
    values: dict[str, object] = {
        "id": "tiny",
        "title": "Tiny Janus",
        "family": "janus",
        "repo": REPO,
        "revision": REVISION,
        "folder": None,
        "files": (File("config.json"), weights),
        "code_licence": "MIT",
        "weights_licence": "MIT",
        "licence_note": "",
        "verbs": ("chat",),
        "size": (96, 96),
        "context": 512,
        "settings": {},
    }
    return Variant(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with FakeHub(FILES) as running:
        yield running


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def make_hub(tmp_path: Path, server: FakeHub | None, **options: object) -> Hub:
    """A Hub with its cache and data in `tmp_path`; without a server, nothing answers at its endpoint."""
    endpoint = server.endpoint if server else "http://127.0.0.1:9"
    settings = {"retry": QUICK, "reserve": 0} | options
    return Hub(tmp_path / "cache", endpoint, data=tmp_path / "data", **settings)  # type: ignore[arg-type]


def fetch(hub: Hub, model: Variant) -> tuple[Path, list[Progress]]:
    """Fetch the model, compare its files with the published ones, and return its folder and the progress."""
    steps: list[Progress] = []
    folder = result_of(hub.fetch(model), steps.append)
    for file in model.files:
        expected = file.sha256 or (sha256(FILES[file.path]) if file.path in FILES else None)
        if expected is not None:
            COUNTS.checked += 1
            COUNTS.lost += sha256((folder / file.path).read_bytes()) != expected
    assert COUNTS.lost == 0
    return folder, steps


def fetch_until(hub: Hub, model: Variant, done: int) -> Generator[Progress, None, Path]:
    """A download stopped once more than `done` bytes arrived; it is still open."""
    work = hub.fetch(model)
    next(step for step in work if step.done > done)
    return work


def flip_first_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes([BIG[0] ^ 1]))


def blob(tmp_path: Path) -> Path:
    return tmp_path / "cache" / f"models--{REPO.replace('/', '--')}" / "blobs" / sha256(BIG)


def partial(tmp_path: Path) -> Path:
    return blob(tmp_path).with_name(sha256(BIG) + ".janus-partial")
