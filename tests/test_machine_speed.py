"""How long a picture takes on this machine's processor: what is measured, kept and said."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from janus_app.hub import Hub
from janus_app.models.common.memory import Job
from janus_app.nn.fast.linear import has_bfloat16_instructions
from janus_app.registry.catalog import load_catalog
from janus_app.runtime import devices, fit, machine_speed
from janus_app.runtime.devices import Memory
from janus_app.runtime.fit import LoadOptions, plan_load
from janus_app.runtime.machine_speed import MachineSpeed, measure
from janus_app.runtime.session import ModelSession
from janus_app.ui.common.saved_images import SavedImages
from janus_app.ui.context import PageContext
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.models.model_list import fit_line, fits

CATALOG = load_catalog()
ONE = CATALOG["janus-pro-1b"]
# With AVX512_BF16, in quiet moments; the rates of the kernels are such that reading takes longer.
TWO_CORES = MachineSpeed(read=28e9, fp32=0.21e12, bf16=1.2e12, int8=40e9, nf4=40e9)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JANUS_APP_DATA", str(tmp_path))
    restart(monkeypatch)
    return tmp_path


def restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process, nothing is known but what the folder keeps."""
    monkeypatch.setattr(machine_speed, "_speed", None)
    monkeypatch.setattr(machine_speed, "_tried", float("-inf"))


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A roomy machine with instructions for bf16, whose speed is known."""
    monkeypatch.setattr(fit, "device_memory", lambda device: Memory(int(40e9), int(64e9)))
    monkeypatch.setattr(fit, "machine_speed", lambda: TWO_CORES)
    for module in ("fit", "machine_speed", "quantization"):
        monkeypatch.setattr(f"janus_app.runtime.{module}.has_bfloat16_instructions", lambda: True)


def at_another_start(speed: MachineSpeed | None, monkeypatch: pytest.MonkeyPatch) -> MachineSpeed | None:
    """What a new start of the program believes if its measurement finds `speed`; None = other programs disturb it."""
    monkeypatch.setattr(machine_speed, "measure", lambda: speed)
    restart(monkeypatch)
    return machine_speed.machine_speed()


def test_measurement_finds_a_speed_of_reading_and_of_products() -> None:
    found = measure()
    if found is None:
        pytest.skip("this machine is too busy")
    assert 1e6 < found.read < 1e13 and 1e6 < found.fp32 < 1e15 and 1e6 < found.bf16 < 1e15
    for rate in (found.int8, found.nf4):
        assert 1e6 < rate < 1e13 if has_bfloat16_instructions() else rate == 0


@pytest.mark.parametrize(("threads", "busy"), [(2, True), (1, False)])
def test_machine_on_which_one_thread_reads_faster_than_all_is_too_busy(
    threads: int, busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single thread has nothing to be compared with."""
    found = iter([1e9, 9e9])
    monkeypatch.setattr(machine_speed, "_reading", lambda work, slices: next(found))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(machine_speed, "device_memory", lambda device: Memory(int(40e9), int(64e9)))
    assert (measure() is None) == busy


@pytest.mark.parametrize("instructions", [True, False, None])
def test_measurement_grows_with_the_threads_and_leaves_out_what_is_never_used(
    instructions: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices, products = set[int](), set[tuple[int, torch.dtype]]()
    kernels = list[int]()

    def seconds(work: object, x: torch.Tensor, weight: torch.Tensor | None = None) -> float:
        if isinstance(work, torch.nn.Linear):
            kernels.append(len(x))
        elif weight is None:
            slices.add(x.nbytes)
        else:
            products.add((len(x), x.dtype))
        return 1e-3 * x.nbytes

    monkeypatch.setattr(machine_speed, "_seconds", seconds)
    monkeypatch.setattr(machine_speed, "has_bfloat16_instructions", lambda: instructions)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(machine_speed, "device_memory", lambda device: Memory(int(40e9), int(64e9)))
    assert measure() is not None
    assert slices == {8_000_000}
    assert kernels == ([2] * 40 if instructions else [])
    assert products == {(256, torch.float32), (256, torch.bfloat16 if instructions else torch.float32)}


def test_nothing_is_measured_where_the_free_memory_is_no_more_than_a_cache_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine_speed, "device_memory", lambda device: Memory(int(1e9), int(64e9)))
    monkeypatch.setattr(machine_speed, "_reading", None)
    assert measure() is None


def test_machine_is_measured_with_the_threads_that_a_load_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container with a quota; otherwise what is kept would be looked up under another number after the load."""
    threads = [64]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(machine_speed, "limit_threads_to_cgroup", lambda: threads.append(2))
    assert ", 2 threads, " in machine_speed.fingerprint()


def test_two_who_ask_at_once_wait_for_one_measurement(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    other = threading.Thread(target=machine_speed.machine_speed)

    def measuring() -> MachineSpeed:
        begun.append(1)
        if len(begun) == 1:
            other.start()
            other.join(0.2)  # long enough to begin as well
        return TWO_CORES

    monkeypatch.setattr(machine_speed, "measure", measuring)
    assert machine_speed.machine_speed() == TWO_CORES
    other.join()
    assert len(begun) == 1


def test_busy_machine_is_measured_again_later_and_not_for_each_question(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert at_another_start(None, monkeypatch) is None
    monkeypatch.setattr(machine_speed, "measure", lambda: TWO_CORES)
    assert machine_speed.machine_speed() is None
    monkeypatch.setattr(machine_speed, "_RETRY", 0.0)
    assert machine_speed.machine_speed() == TWO_CORES


def test_list_of_models_says_how_long_a_picture_takes_once_the_machine_was_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It measures nothing itself: the page would wait for that."""
    page = PageContext(ModelSession(CATALOG, Hub()), CATALOG, Texts(), SavedImages(folder, folder))
    monkeypatch.setattr(fit, "device_memory", lambda device: Memory(int(40e9), int(64e9)))

    def line(language: str) -> str:
        return fit_line(page, dict(fits(page, [ONE]))[ONE.id], language)

    assert line("en").startswith("fits this machine") and "picture" not in line("en")
    assert not (folder / machine_speed.FILE).exists()
    at_another_start(TWO_CORES, monkeypatch)
    assert re.fullmatch(r"fits this machine.*, about \d:\d\d min a picture", line("en")), line("en")
    assert re.fullmatch(r"可在本机.*，每张图片约需 \d 分 \d+ 秒", line("zh-CN")), line("zh-CN")


def test_fastest_of_the_first_starts_is_kept_for_this_processor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = MachineSpeed(1e9, 4e9, 2e9, 5e9), MachineSpeed(9e9, 3e9, 8e9, 0.0, 7e9)
    assert at_another_start(None, monkeypatch) is None and not list(folder.iterdir())
    assert at_another_start(slow, monkeypatch) == slow == at_another_start(None, monkeypatch)
    best = MachineSpeed(9e9, 4e9, 8e9, 5e9, 7e9)
    assert at_another_start(fast, monkeypatch) == best and at_another_start(slow, monkeypatch) == best
    faster = MachineSpeed(9e10, 9e10, 9e10, 9e10, 9e10)
    assert at_another_start(faster, monkeypatch) == best, "believed after three starts"
    monkeypatch.setattr(machine_speed, "fingerprint", lambda: "another processor, 64 threads")
    assert at_another_start(faster, monkeypatch) == faster


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 9}', '{"schema": 2, "speeds": {"KEY": {"read": "x"}}}'])
def test_file_that_says_nothing_is_replaced(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / machine_speed.FILE
    file.write_text(text.replace('"KEY"', json.dumps(machine_speed.fingerprint())))
    speed = MachineSpeed(1e9, 4e9, 2e9)
    assert at_another_start(speed, monkeypatch) == speed
    assert machine_speed.kept_speed() == speed


def options(name: str = "janus-pro-1b", device: str = "cpu", count: int = 1) -> LoadOptions:
    variant = CATALOG[name]
    return plan_load(variant, device=device, job=replace(fit.usual_job(variant), count=count))


@pytest.mark.parametrize(
    ("precision", "least", "most"), [("fp32", 224, 244), ("bf16", 123, 151), ("int8", 91, 97), ("nf4", 54, 60)]
)
def test_predicted_time_of_a_token_is_within_a_tenth_of_what_was_measured(
    precision: str, least: float, most: float, quiet: None
) -> None:
    """Milliseconds of one picture of Janus-Pro-1B on two cores with AVX512_BF16 (docs/memory.md)."""
    seconds = options().plan(precision).seconds
    assert seconds is not None and 0.9 * least < 1e3 * seconds / 576 < 1.1 * most


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_time_is_that_of_the_kernel_where_unpacking_takes_longer_than_reading(
    precision: str, quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine whose memory is quick for its processor; other precisions have no such kernel."""
    before = {each: options().plan(each).seconds for each in (precision, "bf16")}
    slow = replace(TWO_CORES, **{precision: 5e9})
    monkeypatch.setattr(fit, "machine_speed", lambda: slow)
    after = {each: options().plan(each).seconds for each in (precision, "bf16")}
    assert after["bf16"] == before["bf16"]
    assert before[precision] and after[precision] and after[precision] > 2 * before[precision]


def test_pictures_drawn_together_take_less_time_each_and_more_in_all(quiet: None) -> None:
    for precision in ("fp32", "bf16", "int8", "nf4"):
        one, four = options().plan(precision).seconds, options(count=4).plan(precision).seconds
        assert one and four and four < one < 4 * four, precision


def test_time_of_a_flow_model_comes_from_its_steps_and_operations(quiet: None) -> None:
    flow = CATALOG["janusflow-1.3b"]
    ten, thirty = (plan_load(flow, device="cpu", job=Job(steps=n)).plan("bf16").seconds for n in (10, 30))
    assert ten and thirty and thirty == pytest.approx(3 * ten)
    assert thirty == pytest.approx(87.5e12 / (0.85 * TWO_CORES.bf16), rel=0.1), "counted: 87.5 TFLOP in the decoder"


def test_advice_says_how_long_a_picture_takes_why_it_chose_and_what_is_quicker(quiet: None) -> None:
    said = options().message
    english, chinese = said.text("en"), said.text("zh-CN")
    assert "bf16 needs 5.0 GB, you have 40.0 GB free: it fits." in english
    assert "because this processor multiplies bf16 numbers itself" in english
    assert "A picture takes about 1:19 min. In nf4 it takes about 35 s" in english
    assert "每张图片约需 1 分 19 秒" in chinese and "nf4" in chinese and "因" in chinese
    int8, fits = options().judge("int8")
    assert fits and str(int8).endswith("it fits. A picture takes about 54 s.")


@pytest.mark.parametrize("instructions", [False, None])
def test_advice_without_bf16_instructions_knows_only_the_time_of_fp32(
    instructions: bool | None, quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The speeds of the other precisions were measured with them."""
    for module in ("fit", "machine_speed", "quantization"):
        monkeypatch.setattr(f"janus_app.runtime.{module}.has_bfloat16_instructions", lambda: instructions)
    found = options()
    assert [plan.precision for plan in found.plans if plan.seconds] == ["fp32"]
    said = str(found.message)
    assert "fp32 needs" in said and "A picture takes about" in said and said.count("takes about") == 1


def test_advice_on_a_busy_machine_is_given_without_a_time(quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "machine_speed", lambda: None)
    said = str(options().message)
    assert "it fits" in said and "A picture takes" not in said and "nf4" not in said
    assert options().plan("bf16").seconds is None


def test_nothing_is_measured_or_said_for_small_models_and_for_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> MachineSpeed:
        raise AssertionError("measured")

    monkeypatch.setattr(fit, "machine_speed", never)
    monkeypatch.setattr(fit, "device_memory", lambda device: Memory(int(40e9), int(64e9)))
    assert "picture" not in str(options("janus-embedded").message)
    card = devices.Placement("cuda:0", torch.device("cuda", 0))
    monkeypatch.setattr(fit, "placements", lambda name: [card])
    found = options(device="cuda")
    assert "picture" not in str(found.message) and {plan.seconds for plan in found.plans} == {None}


@pytest.mark.parametrize(("limit", "expected"), [(Memory(2, 10), 2), (Memory(50, 60), 8), (None, 8)])
def test_free_memory_is_what_is_available_within_the_containers_limit(
    limit: Memory | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the total, and not what only the container or only the machine has left."""
    import psutil

    class Machine:
        available, total = 8, 100

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Machine)
    monkeypatch.setattr(devices, "container_limit", lambda: limit)
    assert devices.device_memory(torch.device("cpu")).free == expected
