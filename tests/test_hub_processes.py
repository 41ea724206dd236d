"""Downloads in other processes: killed, at the same time, on a full disk, without permission to write."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from janus_app.errors import AppError
from janus_app.hub import DownloadLimits
from tests.fake_hub import COUNTS, FakeHub, Fault
from tests.hub_cases import AHEAD, BIG, CONFIG, FILES, WIDE, blob, fetch, make_hub, partial, variant

ROOT = Path(__file__).parent.parent
KILLS = int(os.environ.get("JANUS_APP_TEST_KILLS", "6"))  # 50 for the long run

FETCH = """
import sys
from pathlib import Path
from tests.fake_hub import FakeHub
from tests.hub_cases import WIDE, Hub, QUICK, fetch, make_hub, variant
from janus_app.errors import AppError
{before}
folder = Path({folder!r})
hub = Hub(folder / "cache", {endpoint!r}, data=folder / "data", retry=QUICK, reserve=0, limits={limits})
try:
    {act}
except AppError as error:
    print(error)
    sys.exit(3)
"""


def start_fetch(
    folder: Path, server: FakeHub, before: str = "", limits: str = "None", act: str = "print(fetch(hub, variant())[0])"
) -> subprocess.Popen[str]:
    """Run `before`, then `act`, in a process of its own; AppErrors are printed and end it with status 3."""
    code = FETCH.format(folder=str(folder), endpoint=server.endpoint, before=before, limits=limits, act=act)
    clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=clean, stdout=subprocess.PIPE, text=True)


def partial_size(tmp_path: Path) -> int:
    try:
        return partial(tmp_path).stat().st_size
    except FileNotFoundError:  # not begun, or just renamed
        return 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize(("limits", "ahead"), [("None", 0), ("WIDE", AHEAD)], ids=["one connection", "four"])
def test_download_killed_at_random_points_resumes_and_loses_nothing(tmp_path: Path, limits: str, ahead: int) -> None:
    at, kills, sizes = random.Random(1), 0, []
    with FakeHub(FILES) as server:
        # Slow enough that no process finishes before a busy machine kills it.
        server.fault("model.safetensors", Fault(times=10_000, pause=0.4 if ahead else 0.1))
        for _ in range(KILLS):
            kept = partial_size(tmp_path)
            goal = kept + at.randrange(1, len(BIG) // (KILLS + 1))
            asked = len(server.requests)
            process = start_fetch(tmp_path, server, limits=limits)
            while process.poll() is None:
                if partial_size(tmp_path) >= goal:
                    process.kill()
                    break
                time.sleep(0.002)
            assert process.wait() == -signal.SIGKILL, "the process ended before it was killed"
            kills += 1
            assert not blob(tmp_path).exists(), "an incomplete file got its final name"
            assert BIG.startswith(partial(tmp_path).read_bytes()), "the partial file is not a prefix"
            ranges = [r[2]["Range"] for r in server.requests[asked:] if "Range" in r[2]]
            starts = [int(text.removeprefix("bytes=").split("-")[0]) for text in ranges]
            assert min(starts, default=0) == kept, "the download did not continue at the end of the partial file"
            sizes.append(partial_size(tmp_path))
        server.clear_faults()
        before = server.sent
        folder, _ = fetch(make_hub(tmp_path, server, limits=WIDE if ahead else None), variant())
        assert (folder / "model.safetensors").read_bytes() == BIG
        late = server.sent - before - (len(BIG) - sizes[-1])
        assert 0 <= late <= 1 << 18, "more was sent again than was on its way to the killed process"
        again = server.resent  # lost with the process: bytes in a socket, or ahead of the end of the file
    COUNTS.kills += kills
    assert kills == KILLS and sizes == sorted(sizes)
    print(f"killed {kills} times, {len(BIG):,} bytes, kept each time {sizes}, served again {again:,}, files lost: 0")


@pytest.mark.parametrize("limits", ["None", "WIDE"])
def test_two_processes_download_a_file_once(tmp_path: Path, limits: str) -> None:
    with FakeHub(FILES) as server:
        server.fault("model.safetensors", Fault(times=99, pause=0.01))
        both = [start_fetch(tmp_path, server, limits=limits) for _ in range(2)]
        assert [process.wait(timeout=60) for process in both] == [0, 0]
        assert (server.sent, server.resent) == (len(BIG) + len(CONFIG), 0)
    assert blob(tmp_path).read_bytes() == BIG


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_full_disk_is_explained_and_partial_file_is_kept(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))"
    with FakeHub(FILES) as server:
        process = start_fetch(tmp_path, server, before=limit)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 3 and "is full" in said and "kept" in said
        kept, before = partial(tmp_path).stat().st_size, server.sent
        assert 1_000_000 < kept <= 1_500_000
        fetch(make_hub(tmp_path, server), variant())
        assert server.sent - before == len(BIG) - kept


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB; only root may mount one."""
    place = tmp_path / "cache"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=2m", "janus-test", str(place)]
    if sys.platform != "linux" or mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("limits", [None, WIDE], ids=["one connection", "four"])
def test_download_resumes_after_space_was_freed(
    tmp_path: Path, small_disk: Path, limits: DownloadLimits | None
) -> None:
    with FakeHub(FILES) as server:
        with pytest.raises(AppError, match="Not enough disk space"):
            fetch(make_hub(tmp_path, server, limits=limits), variant())
        # Another program fills the disk after the check; here the check is told of more space than there is.
        hub = make_hub(tmp_path, server, limits=limits, reserve=-(10**9))
        with pytest.raises(AppError, match=r"is full; [\d.]+ (kB|MB) more are needed. What arrived is kept"):
            fetch(hub, variant())
        kept = partial(tmp_path).read_bytes()
        assert 1_000_000 < len(kept) < len(BIG) and BIG.startswith(kept)
        subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
        before = len(server.requests)
        folder, _ = fetch(hub, variant())
        assert (folder / "model.safetensors").read_bytes() == BIG
        ranges = [r[2]["Range"] for r in server.requests[before:] if "Range" in r[2]]
        assert min(int(text[6:].split("-")[0]) for text in ranges) == len(kept)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs user ids")
def test_read_only_cache_is_explained_and_complete_one_is_used(tmp_path: Path) -> None:
    # Root may write anywhere, so the child becomes the user nobody, after one fetch that imports what is needed
    # (nobody may be unable to read the Python installation).
    drop = f"""
import os
fetch(Hub(Path({str(tmp_path / "warm")!r}), ENDPOINT, data=Path({str(tmp_path / "warm")!r}), reserve=0), variant())
os.geteuid() == 0 and os.setuid(65534)
"""
    with FakeHub(FILES) as server:
        (tmp_path / "cache").mkdir(mode=0o555)
        for parent in [tmp_path, *tmp_path.parents][:-2]:
            parent.chmod(parent.stat().st_mode | 0o055)
        process = start_fetch(tmp_path, server, before=drop.replace("ENDPOINT", repr(server.endpoint)))
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 3 and "cannot be written" in said, said
        (tmp_path / "cache").chmod(0o755)
        fetch(make_hub(tmp_path, server), variant())
        for path in (tmp_path / "cache").rglob("*"):
            if path.is_dir():
                path.chmod(0o555)
        sent = server.sent  # the warm-up finds its files
        process = start_fetch(tmp_path, server, before=drop.replace("ENDPOINT", repr(server.endpoint)))
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and server.sent == sent, said
        for path in (tmp_path / "cache").rglob("*"):
            if path.is_dir():
                path.chmod(0o755)


def test_download_left_open_does_not_block_exit(tmp_path: Path) -> None:
    with FakeHub(FILES) as server:
        server.fault("model.safetensors", Fault(times=99, pause=0.05))
        process = start_fetch(tmp_path, server, act="next(work := hub.fetch(variant()))")
        assert process.wait(timeout=30) == 0
