"""Downloads by the real client from a loopback Hub that misbehaves."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from janus_app.errors import AppError
from janus_app.hub import Hub, RetryPolicy
from janus_app.hub.progress import ProgressReporter
from janus_app.registry.types import File, Variant
from janus_app.types import Progress, result_of
from tests.fake_hub import COUNTS, REPO, REVISION, FakeHub, Fault

BIG = random.Random(0).randbytes(3_000_000)
CONFIG = b'{"model_type": "multi_modality"}'
FILES = {"config.json": CONFIG, "model.safetensors": BIG}
QUICK = RetryPolicy(attempts=3, first_wait=0.02, read_timeout=0.5)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def variant(*, known: bool = True, **changes: object) -> Variant:
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


def a_hub(tmp_path: Path, server: FakeHub | None, **options: object) -> Hub:
    endpoint = server.endpoint if server else "http://127.0.0.1:9"
    settings = {"retry": QUICK, "reserve": 0} | options
    return Hub(tmp_path / "cache", endpoint, data=tmp_path / "data", **settings)  # type: ignore[arg-type]


def drain(hub: Hub, model: Variant) -> tuple[Path, list[Progress]]:
    steps: list[Progress] = []
    work = hub.fetch(model)
    folder = result_of(work, steps.append)
    compare(folder, model)
    return folder, steps


def compare(folder: Path, model: Variant) -> None:
    """Count the files of a finished download, and those that are not what was published."""
    for file in model.files:
        wanted = file.sha256 or (sha256(FILES[file.path]) if file.path in FILES else None)
        if wanted is not None:
            COUNTS.checked += 1
            COUNTS.lost += sha256((folder / file.path).read_bytes()) != wanted


def blob(tmp_path: Path) -> Path:
    return tmp_path / "cache" / f"models--{REPO.replace('/', '--')}" / "blobs" / sha256(BIG)


def partial(tmp_path: Path) -> Path:
    return blob(tmp_path).with_name(sha256(BIG) + ".janus-partial")


def test_a_fresh_download_is_found_by_the_client_itself(tmp_path: Path, server: FakeHub) -> None:
    hub, model = a_hub(tmp_path, server), variant()
    assert not hub.status(model).complete
    folder, steps = drain(hub, model)
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert (steps[-1].done, steps[-1].total) == (len(BIG) + len(CONFIG),) * 2
    status = hub.status(model)
    assert (status.complete, status.on_disk, status.total) == (True, steps[-1].total, steps[-1].total)
    for name, data in FILES.items():
        path = hf_hub_download(REPO, name, revision=REVISION, cache_dir=tmp_path / "cache", local_files_only=True)
        assert Path(path).read_bytes() == data
    assert not list(blob(tmp_path).parent.glob("*.janus-*"))


def test_the_second_start_asks_nobody_and_hashes_nothing(tmp_path: Path, server: FakeHub) -> None:
    drain(a_hub(tmp_path, server), variant())
    before = len(server.requests)
    folder, steps = drain(a_hub(tmp_path, server), variant())
    assert len(server.requests) == before and steps == []
    assert (folder / "config.json").read_bytes() == CONFIG


def test_a_model_fetched_by_the_client_is_hashed_once_and_used(tmp_path: Path, server: FakeHub) -> None:
    for name in FILES:
        hf_hub_download(REPO, name, revision=REVISION, cache_dir=tmp_path / "cache", endpoint=server.endpoint)
    sent = server.sent
    _, steps = drain(a_hub(tmp_path, server), variant(known=False))
    assert {step.stage for step in steps} == {"verify"} and server.sent == sent
    assert drain(a_hub(tmp_path, server), variant(known=False))[1] == []


@pytest.mark.parametrize("known", [True, False])
def test_a_flipped_byte_in_the_cache_is_noticed_and_fetched_again(tmp_path: Path, server: FakeHub, known: bool) -> None:
    model = variant(known=known)
    drain(a_hub(tmp_path, server), model)
    with blob(tmp_path).open("r+b") as file:
        file.seek(1_234_567)
        file.write(bytes([BIG[1_234_567] ^ 1]))
    with pytest.raises(AppError, match=r"not complete"):
        drain(a_hub(tmp_path, server, offline=True), model)
    folder, _ = drain(a_hub(tmp_path, server), model)
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_a_truncated_file_is_noticed_and_fetched_again(tmp_path: Path, server: FakeHub) -> None:
    drain(a_hub(tmp_path, server), variant())
    os.truncate(blob(tmp_path), 1000)
    assert not a_hub(tmp_path, server).status(variant()).complete
    folder, _ = drain(a_hub(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_verify_names_what_is_damaged(tmp_path: Path, server: FakeHub) -> None:
    hub = a_hub(tmp_path, server)
    drain(hub, variant())
    list(hub.verify(variant()))
    seen = blob(tmp_path).stat()
    with blob(tmp_path).open("r+b") as file:
        file.write(bytes([BIG[0] ^ 1]))
    os.utime(blob(tmp_path), ns=(seen.st_atime_ns, seen.st_mtime_ns))  # bit rot leaves no date
    with pytest.raises(AppError, match=r"model\.safetensors damaged"):
        list(hub.verify(variant()))
    assert not hub.status(variant()).complete


def test_a_server_that_dies_midway_costs_no_byte_twice(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=4, die_after=500_000))
    folder, _ = drain(a_hub(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert server.sent == len(BIG) + len(CONFIG)


def test_a_server_that_is_gone_leaves_the_part_for_another_day(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(die_after=1_000_000))
    server.fault("model.safetensors", Fault(times=99, status=503, method="GET"))
    with pytest.raises(AppError, match=r"HTTP 503.*are kept"):
        drain(a_hub(tmp_path, server), variant())
    assert partial(tmp_path).stat().st_size == 1_000_000
    with FakeHub(FILES) as another:
        folder, _ = drain(a_hub(tmp_path, another), variant())
        assert another.sent == len(BIG) - 1_000_000
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_cancel_then_resume_fetches_no_byte_twice(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(pause=0.01))
    work = a_hub(tmp_path, server).fetch(variant())
    for step in work:
        if step.done > 400_000:
            break
    work.close()
    kept = partial(tmp_path).stat().st_size
    assert 400_000 < kept < len(BIG)
    assert blob(tmp_path).exists() is False
    before = [request for request in server.requests if "Range" in request[2]]
    folder, _ = drain(a_hub(tmp_path, server), variant())
    resumed = [request for request in server.requests if "Range" in request[2]]
    assert before == [] and {request[2]["Range"] for request in resumed} == {f"bytes={kept}-"}
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_the_generator_may_move_between_threads(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(pause=0.005))
    work, ended = a_hub(tmp_path, server).fetch(variant()), []

    def step() -> None:
        try:
            next(work)
        except StopIteration as end:
            ended.append(end.value)

    while not ended:
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    drain(a_hub(tmp_path, server), variant())  # the lock was given back


def test_a_damaged_kept_part_is_started_again_once(tmp_path: Path, server: FakeHub) -> None:
    partial(tmp_path).parent.mkdir(parents=True)
    partial(tmp_path).write_bytes(b"\0" * 1_000_000)
    folder, steps = drain(a_hub(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert any("starting this file again" in str(step.detail) for step in steps)


def test_a_server_without_ranges_is_served_from_the_start(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(die_after=700_000))
    server.fault("model.safetensors", Fault(no_range=True))
    folder, steps = drain(a_hub(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert all(step.done <= step.total for step in steps if step.total)


def test_a_stalled_server_is_left_and_reports_go_on(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(stall_after=900_000))
    folder, steps = drain(a_hub(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert any("trying again" in str(step.detail) for step in steps)
    assert server.sent == len(BIG) + len(CONFIG)


def test_wrong_content_is_set_aside_and_never_linked(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=2, corrupt_at=2_000_000))
    hub = a_hub(tmp_path, server)
    with pytest.raises(AppError, match="wrong content"):
        drain(hub, variant())
    assert not blob(tmp_path).exists() and "model.safetensors" in hub.status(variant()).missing
    server._faults.clear()
    folder, _ = drain(hub, variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert not list(blob(tmp_path).parent.glob("*.janus-*"))


def test_a_wrong_small_file_is_refused_by_gits_hash(tmp_path: Path, server: FakeHub) -> None:
    server.fault("config.json", Fault(corrupt_at=3))
    with pytest.raises(AppError, match=r"config\.json.*wrong content"):
        drain(a_hub(tmp_path, server), variant())


def test_a_hash_other_than_the_manifests_is_refused_before_a_byte(tmp_path: Path, server: FakeHub) -> None:
    model = variant(files=(File("model.safetensors", None, "0" * 64),))
    with pytest.raises(AppError, match="not the file this app trusts"):
        drain(a_hub(tmp_path, server), model)
    assert server.sent == 0


def test_an_unknown_hash_is_said_to_be_and_pinned(tmp_path: Path, server: FakeHub) -> None:
    hub = a_hub(tmp_path, server)
    _, steps = drain(hub, variant(known=False))
    assert any(f"pinned now: sha256 {sha256(BIG)}" in str(step.detail) for step in steps)
    hub.delete(variant(known=False))
    server.files["model.safetensors"] = BIG[::-1]
    with pytest.raises(AppError, match="not the file this app trusts"):
        drain(hub, variant(known=False))


def test_unreadable_pins_are_an_error_not_a_clean_slate(tmp_path: Path, server: FakeHub) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pins.json").write_text("{")
    with pytest.raises(AppError, match=r"pins\.json cannot be read"):
        drain(a_hub(tmp_path, server), variant(known=False))


def test_announced_lengths_are_checked(tmp_path: Path, server: FakeHub) -> None:
    server.announced["model.safetensors"] = len(BIG) + 5
    with pytest.raises(AppError, match="expected 3,000,000"):
        drain(a_hub(tmp_path, server), variant())
    with pytest.raises(AppError, match="failed 3 times"):
        drain(a_hub(tmp_path, server), variant(known=False))
    server.announced["model.safetensors"] = len(BIG) - 5
    with pytest.raises(AppError, match="longer than"):
        drain(a_hub(tmp_path / "other", server), variant(known=False))
    assert not blob(tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (401, "", "refuses access"),
        (403, "GatedRepo", "terms to be accepted"),
        (403, "", "refuses access"),
        (404, "RepoNotFound", "does not exist"),
        (404, "RevisionNotFound", "Revision .* does not exist"),
        (404, "EntryNotFound", "has no file config.json"),
    ],
)
@pytest.mark.parametrize("where", ["HEAD", "GET"])
def test_refusals_are_explained_at_once(
    tmp_path: Path, server: FakeHub, status: int, code: str, sentence: str, where: str
) -> None:
    server.fault("config.json", Fault(status=status, code=code, method=where))
    with pytest.raises(AppError, match=sentence):
        drain(a_hub(tmp_path, server), variant())


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_busy_server_is_asked_again(tmp_path: Path, server: FakeHub, status: int) -> None:
    server.fault("model.safetensors", Fault(times=2, status=status))
    folder, steps = drain(a_hub(tmp_path, server), variant())
    assert any(f"HTTP {status}" in str(step.detail) for step in steps)
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_no_network_and_offline_mode_are_explained(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="cannot be reached"):
        drain(a_hub(tmp_path, None), variant())
    with pytest.raises(AppError, match=r"config.json, model.safetensors missing.*HF_HUB_OFFLINE"):
        drain(a_hub(tmp_path, None, offline=True), variant())


def test_offline_uses_what_is_there(tmp_path: Path, server: FakeHub) -> None:
    drain(a_hub(tmp_path, server), variant())
    folder, _ = drain(a_hub(tmp_path, None, offline=True), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_a_mirror_never_gets_the_users_token(tmp_path: Path, server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    drain(a_hub(tmp_path, server), variant())
    assert server.requests and not any("authorization" in {k.lower() for k in r[2]} for r in server.requests)


def test_no_room_is_said_with_numbers_before_the_first_byte(tmp_path: Path, server: FakeHub) -> None:
    with pytest.raises(AppError, match=r"3\.0 MB are needed and .* should stay free"):
        drain(a_hub(tmp_path, server, reserve=10**18), variant())
    assert server.sent == 0


def test_delete_frees_everything(tmp_path: Path, server: FakeHub) -> None:
    hub = a_hub(tmp_path, server)
    drain(hub, variant())
    assert hub.delete(variant()) == len(BIG) + len(CONFIG)
    assert hub.status(variant()).on_disk == 0 and not blob(tmp_path).parent.parent.exists()


def test_local_folders_are_only_looked_at(tmp_path: Path) -> None:
    hub, model = a_hub(tmp_path, None), variant(repo=None, revision=None, folder=tmp_path / "mine", files=())
    with pytest.raises(AppError, match=r"no config\.json"):
        drain(hub, model)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_bytes(CONFIG)
    assert drain(hub, model) == (tmp_path / "mine", [])
    assert hub.status(model).complete
    with pytest.raises(AppError, match="not deleted"):
        hub.delete(model)


def test_a_slow_listener_does_not_slow_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("janus_app.hub.progress.time.monotonic", lambda: clock[0])
    meter, reports = ProgressReporter(total=1000), 0
    for _ in range(1000):
        clock[0] += 0.01  # a block of work
        meter.done += 1
        for _ in meter.report():
            reports += 1
            clock[0] += 5.0  # the page takes its time
    assert reports <= 1000 * 0.01 / 1.0 + 2
