"""Downloads by the real huggingface_hub client from a loopback Hub with faults."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from janus_app.errors import AppError
from janus_app.hub.cache import status_of_folder
from janus_app.hub.progress import ProgressReporter
from janus_app.registry.types import File
from tests.fake_hub import REPO, REVISION, SECOND, FakeHub, Fault
from tests.hub_cases import (
    BIG,
    CONFIG,
    FILES,
    blob,
    fetch,
    fetch_until,
    flip_first_byte,
    make_hub,
    no_environment,
    partial,
    server,
    sha256,
    variant,
)

__all__ = ["no_environment", "server"]  # fixtures


def test_download_is_found_by_huggingface_hub(tmp_path: Path, server: FakeHub) -> None:
    hub, model = make_hub(tmp_path, server), variant()
    assert not hub.status(model).complete
    folder, steps = fetch(hub, model)
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert (steps[-1].done, steps[-1].total) == (len(BIG) + len(CONFIG),) * 2
    status = hub.status(model)
    assert (status.complete, status.on_disk, status.total) == (True, steps[-1].total, steps[-1].total)
    for name, data in FILES.items():
        path = hf_hub_download(REPO, name, revision=REVISION, cache_dir=tmp_path / "cache", local_files_only=True)
        assert Path(path).read_bytes() == data
    assert not list(blob(tmp_path).parent.glob("*.janus-*"))


def test_second_fetch_makes_no_request_and_hashes_nothing(tmp_path: Path, server: FakeHub) -> None:
    fetch(make_hub(tmp_path, server), variant())
    before = len(server.requests)
    folder, steps = fetch(make_hub(tmp_path, server), variant())
    assert len(server.requests) == before and steps == []
    assert (folder / "config.json").read_bytes() == CONFIG


def test_files_fetched_by_huggingface_hub_are_hashed_once_and_used(tmp_path: Path, server: FakeHub) -> None:
    for name in FILES:
        hf_hub_download(REPO, name, revision=REVISION, cache_dir=tmp_path / "cache", endpoint=server.endpoint)
    sent = server.sent
    _, steps = fetch(make_hub(tmp_path, server), variant(known=False))
    assert {step.stage for step in steps} == {"verify"} and server.sent == sent
    assert fetch(make_hub(tmp_path, server), variant(known=False))[1] == []


@pytest.mark.parametrize("known", [True, False])
def test_file_with_flipped_byte_in_cache_is_fetched_again(tmp_path: Path, server: FakeHub, known: bool) -> None:
    model = variant(known=known)
    fetch(make_hub(tmp_path, server), model)
    flip_first_byte(blob(tmp_path))
    with pytest.raises(AppError, match=r"not complete"):
        fetch(make_hub(tmp_path, server, offline=True), model)
    folder, _ = fetch(make_hub(tmp_path, server), model)
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_truncated_file_in_cache_is_fetched_again(tmp_path: Path, server: FakeHub) -> None:
    fetch(make_hub(tmp_path, server), variant())
    os.truncate(blob(tmp_path), 1000)
    assert not make_hub(tmp_path, server).status(variant()).complete
    folder, _ = fetch(make_hub(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_verify_names_damaged_files(tmp_path: Path, server: FakeHub) -> None:
    hub = make_hub(tmp_path, server)
    fetch(hub, variant())
    list(hub.verify(variant()))
    before = blob(tmp_path).stat()
    flip_first_byte(blob(tmp_path))
    os.utime(blob(tmp_path), ns=(before.st_atime_ns, before.st_mtime_ns))  # bit rot does not change the date
    with pytest.raises(AppError, match=r"model\.safetensors damaged"):
        list(hub.verify(variant()))
    assert not hub.status(variant()).complete


def test_broken_connections_cause_no_byte_to_be_sent_twice(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=4, die_after=500_000))
    folder, _ = fetch(make_hub(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert server.sent == len(BIG) + len(CONFIG)


def test_partial_file_of_failed_download_is_resumed_by_another_server(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(die_after=1_000_000))
    server.fault("model.safetensors", Fault(times=99, status=503, method="GET"))
    with pytest.raises(AppError, match=r"HTTP 503.*are kept"):
        fetch(make_hub(tmp_path, server), variant())
    assert partial(tmp_path).stat().st_size == 1_000_000
    with FakeHub(FILES) as another:
        folder, _ = fetch(make_hub(tmp_path, another), variant())
        assert another.sent == len(BIG) - 1_000_000
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_cancelled_download_resumes_at_the_next_byte(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(pause=0.01))
    fetch_until(make_hub(tmp_path, server), variant(), 400_000).close()
    kept = partial(tmp_path).stat().st_size
    assert 400_000 < kept < len(BIG)
    assert blob(tmp_path).exists() is False
    before = [request for request in server.requests if "Range" in request[2]]
    folder, _ = fetch(make_hub(tmp_path, server), variant())
    resumed = [request for request in server.requests if "Range" in request[2]]
    assert before == [] and {request[2]["Range"] for request in resumed} == {f"bytes={kept}-"}
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_fetch_may_be_advanced_from_different_threads(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(pause=0.005))
    work, ended = make_hub(tmp_path, server).fetch(variant()), []

    def step() -> None:
        try:
            next(work)
        except StopIteration as end:
            ended.append(end.value)

    while not ended:
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    fetch(make_hub(tmp_path, server), variant())  # the lock was released


def test_damaged_partial_file_is_downloaded_again(tmp_path: Path, server: FakeHub) -> None:
    partial(tmp_path).parent.mkdir(parents=True)
    partial(tmp_path).write_bytes(b"\0" * 1_000_000)
    folder, steps = fetch(make_hub(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert any("starting this file again" in str(step.detail) for step in steps)


def test_server_that_ignores_ranges_restarts_the_file(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(die_after=700_000))
    server.fault("model.safetensors", Fault(no_range=True))
    folder, steps = fetch(make_hub(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert all(step.done <= step.total for step in steps if step.total)


def test_stalled_server_is_retried_and_reported(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(stall_after=900_000))
    folder, steps = fetch(make_hub(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert any("trying again" in str(step.detail) for step in steps)
    assert server.sent == len(BIG) + len(CONFIG)


def test_wrong_content_is_quarantined_and_never_linked(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=2, corrupt_at=2_000_000))
    hub = make_hub(tmp_path, server)
    with pytest.raises(AppError, match="wrong content"):
        fetch(hub, variant())
    assert not blob(tmp_path).exists() and "model.safetensors" in hub.status(variant()).missing
    server.clear_faults()
    folder, _ = fetch(hub, variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert not list(blob(tmp_path).parent.glob("*.janus-*"))


def test_wrong_small_file_is_refused_by_git_hash(tmp_path: Path, server: FakeHub) -> None:
    server.fault("config.json", Fault(corrupt_at=3))
    with pytest.raises(AppError, match=r"config\.json.*wrong content"):
        fetch(make_hub(tmp_path, server), variant())


def test_hash_that_differs_from_manifest_is_refused_before_download(tmp_path: Path, server: FakeHub) -> None:
    model = variant(files=(File("model.safetensors", None, "0" * 64),))
    with pytest.raises(AppError, match="not the file this app trusts"):
        fetch(make_hub(tmp_path, server), model)
    assert server.sent == 0


def test_unpublished_hash_is_pinned_and_reported(tmp_path: Path, server: FakeHub) -> None:
    hub = make_hub(tmp_path, server)
    _, steps = fetch(hub, variant(known=False))
    assert any(f"pinned now: sha256 {sha256(BIG)}" in str(step.detail) for step in steps)
    hub.delete(variant(known=False))
    server.files["model.safetensors"] = BIG[::-1]
    with pytest.raises(AppError, match="not the file this app trusts"):
        fetch(hub, variant(known=False))


def test_unreadable_pins_raise_an_error(tmp_path: Path, server: FakeHub) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pins.json").write_text("{")
    with pytest.raises(AppError, match=r"pins\.json cannot be read"):
        fetch(make_hub(tmp_path, server), variant(known=False))


def test_announced_sizes_are_checked(tmp_path: Path, server: FakeHub) -> None:
    server.announced["model.safetensors"] = len(BIG) + 5
    with pytest.raises(AppError, match="expected 3,000,000"):
        fetch(make_hub(tmp_path, server), variant())
    with pytest.raises(AppError, match="failed 3 times"):
        fetch(make_hub(tmp_path, server), variant(known=False))
    server.announced["model.safetensors"] = len(BIG) - 5
    with pytest.raises(AppError, match="longer than"):
        fetch(make_hub(tmp_path / "other", server), variant(known=False))
    assert not blob(tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (401, "", "refuses access"),
        (403, "GatedRepo", "accept its terms"),
        (403, "", "refuses access"),
        (404, "RepoNotFound", "does not exist"),
        (404, "RevisionNotFound", "Revision .* does not exist"),
        (404, "EntryNotFound", "has no file config.json"),
    ],
)
@pytest.mark.parametrize("where", ["HEAD", "GET"])
def test_refusals_are_explained_without_retry(
    tmp_path: Path, server: FakeHub, status: int, code: str, sentence: str, where: str
) -> None:
    server.fault("config.json", Fault(status=status, code=code, method=where))
    with pytest.raises(AppError, match=sentence):
        fetch(make_hub(tmp_path, server), variant())


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_server_errors_are_retried(tmp_path: Path, server: FakeHub, status: int) -> None:
    server.fault("model.safetensors", Fault(times=2, status=status))
    folder, steps = fetch(make_hub(tmp_path, server), variant())
    assert any(f"HTTP {status}" in str(step.detail) for step in steps)
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_missing_network_and_offline_mode_are_explained(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="cannot be reached"):
        fetch(make_hub(tmp_path, None), variant())
    with pytest.raises(AppError, match=r"config.json, model.safetensors missing.*HF_HUB_OFFLINE"):
        fetch(make_hub(tmp_path, None, offline=True), variant())


def test_offline_mode_uses_cached_files(tmp_path: Path, server: FakeHub) -> None:
    fetch(make_hub(tmp_path, server), variant())
    folder, _ = fetch(make_hub(tmp_path, None, offline=True), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_mirror_receives_no_token(tmp_path: Path, server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(make_hub(tmp_path, server), variant())
    assert server.requests and not any("authorization" in {k.lower() for k in r[2]} for r in server.requests)


def test_short_disk_space_is_reported_before_the_first_byte(tmp_path: Path, server: FakeHub) -> None:
    with pytest.raises(AppError, match=r"3\.0 MB are needed and .* should stay free"):
        fetch(make_hub(tmp_path, server, reserve=10**18), variant())
    assert server.sent == 0


def test_delete_frees_everything(tmp_path: Path, server: FakeHub) -> None:
    hub = make_hub(tmp_path, server)
    fetch(hub, variant())
    assert hub.delete(variant()) == len(BIG) + len(CONFIG)
    assert hub.status(variant()).on_disk == 0 and not blob(tmp_path).parent.parent.exists()


def test_delete_keeps_what_another_revision_uses(tmp_path: Path, server: FakeHub) -> None:
    hub = make_hub(tmp_path, server)
    folder, _ = fetch(hub, variant())
    other = folder.with_name("f" * 40)
    other.mkdir()
    (other / "model.safetensors").symlink_to(os.readlink(folder / "model.safetensors"))
    assert hub.delete(variant()) == len(CONFIG)
    assert not folder.exists() and (other / "model.safetensors").read_bytes() == BIG


def test_delete_keeps_another_repository_with_the_same_commit(tmp_path: Path, server: FakeHub) -> None:
    hub = make_hub(tmp_path, server)
    server.files["second/config.json"] = CONFIG
    fork = variant(repo=SECOND, files=(File("config.json"),))
    fetch(hub, variant())
    fetch(hub, fork)
    hub.delete(variant())
    assert hub.status(fork).complete and not hub.status(variant()).on_disk
    fetch(hub, variant())
    hub.delete(fork)
    assert hub.status(variant()).complete and not hub.status(fork).on_disk


def test_delete_removes_a_damaged_repository(tmp_path: Path, server: FakeHub) -> None:
    hub = make_hub(tmp_path, server)
    folder, _ = fetch(hub, variant())
    blob(tmp_path).unlink()  # leaves a link to nothing, which huggingface_hub calls corrupted
    assert hub.delete(variant()) == len(CONFIG)
    assert not folder.parent.parent.exists()


def test_delete_removes_an_unfinished_download(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=99, pause=0.01))
    hub = make_hub(tmp_path, server)
    work = fetch_until(hub, variant(), 300_000)
    with pytest.raises(AppError, match="being downloaded right now"):
        hub.delete(variant())
    work.close()
    status = hub.status(variant())
    assert status.unfinished == partial(tmp_path).stat().st_size > 0 and not status.verified
    assert hub.delete(variant()) >= status.unfinished
    assert not partial(tmp_path).exists()


def test_local_folder_is_checked_but_never_changed(tmp_path: Path) -> None:
    hub, model = make_hub(tmp_path, None), variant(repo=None, revision=None, folder=tmp_path / "mine", files=())
    with pytest.raises(AppError, match=r"no config\.json"):
        fetch(hub, model)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_bytes(CONFIG)
    assert fetch(hub, model) == (tmp_path / "mine", [])
    assert hub.status(model).complete
    with pytest.raises(AppError, match="not deleted"):
        hub.delete(model)


def test_slow_consumer_gets_fewer_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("janus_app.hub.progress.time.monotonic", lambda: clock[0])
    reporter, reports = ProgressReporter(total=1000), 0
    for _ in range(1000):
        clock[0] += 0.01  # a block of work
        reporter.done += 1
        for _ in reporter.report():
            reports += 1
            clock[0] += 5.0  # a slow page
    assert reports <= 1000 * 0.01 / 1.0 + 2


def test_status_of_a_folder_that_cannot_be_read_is_missing(tmp_path: Path) -> None:
    too_long = tmp_path / ("x" * 300)
    assert not status_of_folder(too_long).complete
