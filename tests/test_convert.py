"""Conversion of pickled weights to safetensors."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from janus_app.errors import AppError
from janus_app.hub import progress
from janus_app.hub.cache import converted_folder, find_converted, is_convertible
from janus_app.registry.types import File, Variant
from janus_app.runtime.convert import convert, convert_variant
from janus_app.runtime.tensor_files import read_tensors
from janus_app.runtime.tensor_match import weight_files
from janus_app.types import Notice, Progress, result_of
from tests.conftest import GOLDEN, loaded
from tests.fake_hub import FakeHub
from tests.hub_cases import fetch, make_hub, no_environment, sha256, variant

__all__ = ["no_environment"]
CHECKPOINT = GOLDEN / "janus_pro_1b" / "checkpoint"
SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in weight_files(folder) for name, tensor in read_tensors(file)}


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """The tiny checkpoint in the form of the large ones: shards of pickles and an index."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINT, folder)
    state = tensors_of(folder)
    (folder / "pytorch_model.bin").unlink()
    torch.save({"step": 7}, folder / "training_args.bin")  # not in the index, so not part of the model
    names = sorted(state)
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    for shard, half in zip(SHARDS, halves, strict=True):
        torch.save({name: state[name] for name in half}, folder / shard)
    weight_map = {name: shard for shard, half in zip(SHARDS, halves, strict=True) for name in half}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def run(folder: Path, **options: Any) -> tuple[Path, list[Progress]]:
    steps: list[Progress] = []
    work = convert(folder, **({"reserve": 0} | options))
    return result_of(work, steps.append), steps


@pytest.mark.parametrize("part", [10**9, 200_000])
def test_converted_copy_is_equal_and_preferred_by_the_loader(pickled: Path, part: int) -> None:
    before = tensors_of(pickled)
    assert is_convertible(pickled)
    inside, steps = run(pickled, part=part)
    files = weight_files(pickled)
    assert {file.parent for file in files} == {inside} and (len(files) > 3) is (part < 10**9)
    after = tensors_of(pickled)
    assert after.keys() == before.keys()
    assert all(after[n].dtype == t.dtype and torch.equal(after[n], t) for n, t in before.items())
    assert {name for file in files for name in load_file(file)} == set(before)
    total = sum(tensor.nbytes for tensor in before.values())
    assert (steps[-1].done, steps[-1].total) == (total, total)  # what a folder holds, not three times that
    assert not is_convertible(pickled) and run(pickled)[1] == []
    assert loaded(pickled).plan.precision == "fp32"


@pytest.mark.parametrize("zipped", [True, False])
def test_training_checkpoint_of_any_name_is_converted_and_then_loads(tmp_path: Path, zipped: bool) -> None:
    folder = Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))
    before = {name: tensor.clone() for name, tensor in tensors_of(folder).items()}
    (folder / "pytorch_model.bin").unlink()
    wrapped = {"state_dict": {f"model.{name}": tensor for name, tensor in before.items()}, "epoch": 3}
    torch.save(wrapped, folder / "last.ckpt", _use_new_zipfile_serialization=zipped)
    torch.save([1, 2], folder / "losses.pt")
    steps = list[Any]()
    copy = result_of(convert(folder, reserve=0), steps.append)
    assert [step.message.code for step in steps if isinstance(step, Notice)] == ["weights_unwrapped"]
    assert {file.parent for file in weight_files(folder)} == {copy} and not is_convertible(folder)
    assert {name.removeprefix("model.") for name in tensors_of(folder)} == before.keys()
    assert loaded(folder).plan.precision == "fp32"


def test_converted_copy_is_ignored_after_pickles_changed(pickled: Path) -> None:
    inside, _ = run(pickled)
    os.utime(pickled / SHARDS[0], ns=(1, 1))
    assert find_converted(pickled) is None
    assert [file.name for file in weight_files(pickled)] == list(SHARDS)
    assert run(pickled)[0] == inside and find_converted(pickled) == inside
    next(inside.glob("*.safetensors")).unlink()
    assert [file.name for file in weight_files(pickled)] == list(SHARDS)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {_Evil.mark}",)

    mark = ""


def test_pickle_with_code_is_refused_and_not_executed(pickled: Path, tmp_path: Path) -> None:
    _Evil.mark = str(tmp_path / "ran")
    torch.save({"x": _Evil()}, pickled / SHARDS[1])
    with pytest.raises(AppError, match="asks to run code"):
        run(pickled)
    (pickled / SHARDS[1]).write_bytes(pickle.dumps({"x": _Evil()}))
    with pytest.raises(AppError):
        run(pickled)
    assert not (tmp_path / "ran").exists() and not converted_folder(pickled).exists()


def test_truncated_pickle_is_refused(pickled: Path) -> None:
    os.truncate(pickled / SHARDS[0], 5_000)
    with pytest.raises(AppError, match="incomplete"):
        run(pickled)
    assert not converted_folder(pickled).exists()


def test_closed_conversion_leaves_no_files(pickled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TICK", 0.0)  # a quick machine would be done before the second report
    work = convert(pickled, part=200_000, reserve=0)
    for step in work:
        if step.done > 500_000:
            break
    work.close()
    assert not list(pickled.glob("janus-converted*")) and is_convertible(pickled)
    (pickled / "janus-converted.77.part").mkdir()  # what a killed process leaves
    run(pickled)
    assert [path.name for path in pickled.glob("janus-converted*")] == ["janus-converted"]


def test_conversion_needs_free_space(pickled: Path) -> None:
    with pytest.raises(AppError, match="Not enough disk space"):
        run(pickled, reserve=10**18)
    assert not list(pickled.glob("janus-converted*"))


def test_tied_and_transposed_tensors_are_stored_separately(pickled: Path) -> None:
    for shard in SHARDS:
        (pickled / shard).unlink()
    base = torch.arange(12.0).reshape(3, 4)
    torch.save({"a": base, "b": base, "c": base.T}, pickled / "pytorch_model.bin")
    run(pickled)
    after = tensors_of(pickled)
    assert torch.equal(after["a"], base) and torch.equal(after["b"], base) and torch.equal(after["c"], base.T)


@pytest.fixture
def server(pickled: Path) -> Iterator[FakeHub]:
    with FakeHub({file.name: file.read_bytes() for file in pickled.iterdir()}) as running:
        yield running


def cached(server: FakeHub) -> Variant:
    return variant(files=tuple(File(name, len(data), sha256(data)) for name, data in server.files.items()))


def test_cached_model_is_converted_beside_its_snapshot(tmp_path: Path, server: FakeHub) -> None:
    hub, model = make_hub(tmp_path, server), cached(server)
    inside = result_of(convert_variant(hub, model))
    folder, steps = fetch(hub, model)
    assert steps == [], "the conversion hashed its files"
    assert sorted(path.name for path in folder.iterdir()) == sorted(server.files), "the snapshot is unchanged"
    assert {file.parent for file in weight_files(folder)} == {inside}
    status = hub.status(model)
    assert status.converted > 0 and not status.convertible
    with next(inside.glob("*.safetensors")).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    _, steps = fetch(hub, model)
    assert any("damaged and was removed" in str(step.detail) for step in steps)
    assert {file.parent for file in weight_files(folder)} == {folder} and hub.status(model).convertible
    assert hub.delete(model) >= status.on_disk and not inside.exists()


MEASURE = """
import re, sys, threading, time
from pathlib import Path
from janus_app.runtime.convert import convert
most, stop = 0, False
def held():  # without pages of mapped files, which the system frees when it needs memory
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
def look():
    global most
    while not stop:
        most = max(most, held())
        time.sleep(0.002)
before = held()
thread = threading.Thread(target=look); thread.start()
for step in convert(Path(sys.argv[1]), part=int(sys.argv[2]), reserve=0):
    pass
stop = True; thread.join()
print(most - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads RssAnon of Linux")
def test_conversion_memory_is_bounded_by_part_size(tmp_path: Path) -> None:
    part, count = 16_000_000, 24
    state = {f"layer.{i}": torch.randn(part // 4) for i in range(count)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), str(part)], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < count * part / 2, "the whole checkpoint was in memory"
