"""The fit advisor: sizes equal to the loader's, the order of preference, refusals, and models on several devices."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from janus_app.errors import AppError, is_out_of_memory
from janus_app.hub import Hub
from janus_app.models.common.memory import BytesPerElement, Job, Peak
from janus_app.models.janus import memory
from janus_app.nn.llama import LlamaModel
from janus_app.registry.catalog import load_catalog
from janus_app.registry.types import Variant
from janus_app.runtime import devices, fit, loader
from janus_app.runtime.devices import Memory, Placement, container_limit
from janus_app.runtime.fit import LoadOptions, plan_load, running_peak, split_layers, usual_job, weight_bytes
from janus_app.runtime.loader import load
from janus_app.runtime.offload import dispatch
from janus_app.runtime.quantization import plain_dtype
from janus_app.runtime.session import ModelSession
from janus_app.types import (
    PRECISIONS,
    QUANTIZED_PRECISIONS,
    ChatRequest,
    Finished,
    GenerateRequest,
    Progress,
    Turn,
    result_of,
)
from tests.conftest import CASES, GOLDEN, loaded

CPU, CARD, SECOND = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)
CATALOG = load_catalog()
SEVEN = CATALOG["janus-pro-7b"]


def free_everywhere(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(fit, "device_memory", lambda device: Memory(int(free), int(64e9)))


def on_a_card(
    monkeypatch: pytest.MonkeyPatch,
    card: float,
    host: float = 0.0,
    second: float | None = None,
    variant: Variant = SEVEN,
) -> LoadOptions:
    """The options of a model with this much memory free: the arithmetic, as no such card is here."""
    cards = (SECOND,) if second is not None else ()
    rooms = {"cuda:0": card, "cuda:1": second or 0.0, "cpu": host}
    found = [Placement("cuda:0", CARD)] + [Placement("cuda:all", CARD, cards)] * bool(cards)
    monkeypatch.setattr(fit, "placements", lambda name: [*found, Placement("cuda+cpu", CARD, cards, host=True)])
    monkeypatch.setattr(fit, "device_memory", lambda device: Memory(int(rooms[str(device)]), int(64e9)))
    return plan_load(variant, device="cuda")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_predicted_weights_are_what_the_loader_makes(name: str, precision: str) -> None:
    folder = GOLDEN / name / "checkpoint"
    network = loaded(folder, precision).model.network  # type: ignore[attr-defined]
    held = sum(t.nbytes for t in network.state_dict(keep_vars=True).values() if isinstance(t, torch.Tensor))
    for module in network.modules():
        if precision == "int8" and type(module).__name__ == "Linear8bitLt":
            held += module.weight.SCB.nbytes
        if precision == "nf4" and type(module).__name__ == "Linear4bit":
            held += module.weight.quant_state.absmax.nbytes
    predicted = weight_bytes(CATALOG.resolve(str(folder)), precision)
    extra = network.state_dict().keys() if precision in QUANTIZED_PRECISIONS else ()
    counted_twice = sum(network.state_dict()[k].nbytes for k in extra if k.endswith(("SCB", "absmax", "quant_map")))
    assert abs(held - counted_twice - predicted) <= 0.01 * predicted


def test_weights_in_the_manifest_are_those_of_the_advisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest counts all tensors of the files; the network leaves two unused groups out."""
    for variant in CATALOG.values():
        if variant.repo and variant.family == "janus" and variant.parameters:
            for precision in ("fp32", "bf16", "int8", "nf4"):
                ours = weight_bytes(variant, precision, device="cuda")
                assert 0 <= variant.memory[precision] - ours < 0.02 * ours, (variant.id, precision)


def test_predicted_cache_is_what_the_model_allocates() -> None:
    """The predicted cache is that of the buffers of a real drawing."""
    from janus_app.models.janus.modeling import JanusNetwork
    from janus_app.nn.llama import KVCache

    model = loaded(GOLDEN / "janus_pro_7b" / "checkpoint").model
    network: JanusNetwork = model.network  # type: ignore[attr-defined]
    seen: list[int] = []
    repeat = KVCache.repeat_rows

    def noted(self: KVCache, times: int) -> None:
        repeat(self, times)
        seen.append(self.keys.nbytes + self.values.nbytes)

    request = GenerateRequest("A small red house.", count=3, guidance=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KVCache, "repeat_rows", noted)
        assert isinstance(list(model.generate(request))[-1], Finished)
    tokens = len(model.prompt_rows(request)[0])  # type: ignore[attr-defined]
    side = model.capabilities.size[0]
    job = Job(count=3, guided=True, prompt=tokens, pictures=0, words=1, answer=1)
    assert seen == [memory.peak(network.config, side, job, BytesPerElement(4, 4, 4)).cache]


def test_larger_job_is_never_predicted_to_need_less() -> None:
    jobs = [Job(count=n, guided=g) for n in (1, 2, 4, 16) for g in (False, True)]
    peaks = [running_peak(SEVEN, "bf16", CARD, job).total for job in jobs]
    assert peaks == sorted(peaks)
    # checkpoints/README, section 5: 16 pictures of 30 + 576 tokens take 8.88 GiB of keys and values at 7B
    many = running_peak(SEVEN, "bf16", CARD, Job(count=16, prompt=30))
    assert many.cache == pytest.approx(8.88 * 2**30, rel=0.01)


def test_auto_takes_the_first_precision_that_fits_and_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = on_a_card(monkeypatch, 24e9)
    assert roomy.best is roomy.plans[0] and roomy.choose("auto").precision == "bf16"
    assert "it fits" in str(roomy.message)
    tight = on_a_card(monkeypatch, 11.2e9)
    first = tight.plans[0].need.total / 1e9
    int8 = tight.plan("int8").need.total / 1e9
    assert str(tight.message) == (
        f"Janus-Pro-7B: bf16 needs {first:.1f} GB, you have 11.2 GB free: int8 ({int8:.1f} GB) recommended."
    )
    assert tight.choose("auto").precision == "int8"
    smaller = tight.smaller("int8")
    assert smaller is not None and smaller.precision == "nf4"
    with pytest.raises(AppError, match=r"bf16 needs .* Choose int8"):
        tight.choose("bf16")
    assert on_a_card(monkeypatch, 8.5e9).choose("auto").precision == "nf4"


def test_unipic2_fits_cards_of_12_and_24_gigabytes_and_in_full_with_main_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nine = CATALOG["unipic2-metaquery-9b"]
    small = on_a_card(monkeypatch, 12.4e9, variant=nine)  # what such a card has free without a screen
    assert small.choose("auto").precision == "nf4" and "nf4 (11." in str(small.message)
    large = on_a_card(monkeypatch, 24e9, host=40e9, variant=nine)
    assert large.choose("auto").precision == "int8"
    whole = large.choose("bf16")
    assert whole.placement.host and whole.split and set(whole.split.values()) == {CPU}


def test_load_that_does_not_fit_reads_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AppError, match=r"even nf4 needs .* Choose a smaller model"):
        on_a_card(monkeypatch, 3e9).choose("auto")
    free_everywhere(monkeypatch, 1e6)
    opened: list[object] = []
    monkeypatch.setattr("janus_app.runtime.loader.read_tensors", lambda file: opened.append(file))
    with pytest.raises(AppError, match="Choose a smaller model"):
        loaded(GOLDEN / "janus_1_3b" / "checkpoint")
    assert not opened


def test_layers_go_to_main_memory_or_other_cards_only_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    offload = on_a_card(monkeypatch, 6e9, host=32e9).choose("auto")
    assert offload.placement.host and offload.precision == "bf16" and set(offload.split.values()) == {CPU}
    both = on_a_card(monkeypatch, 11e9, host=32e9, second=11e9).choose("auto")
    assert both.placement.name == "cuda:all" and set(both.split.values()) == {SECOND}
    assert list(both.split) == sorted(both.split) and max(both.split) == 29


def test_split_fits_the_devices_it_names() -> None:
    """Every split of invented sizes is checked against the free memory it was made for."""
    layers, rest, reserve = (10,) * 8, 20, 5
    found = 0
    for main, second, host in itertools.product(range(20, 140, 7), range(0, 100, 13), (0, 400_000_000)):
        split = split_layers(rest, layers, Peak(8, 3), reserve, {CARD: main, SECOND: second}, host)
        if split is None:
            continue
        found += 1
        away = [d for d in split.values() if d == CPU]
        here = sum(layers) - 10 * len(split)
        assert rest + here + 8 + 3 + reserve + (20 if away else 0) <= main
        assert 10 * sum(d == SECOND for d in split.values()) + 3 + reserve <= max(second, 8)
        assert not away or host
    assert found > 50
    assert split_layers(rest, layers, Peak(8, 3), reserve, {CARD: 30}, 0) is None


def test_missing_bitsandbytes_is_never_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "bitsandbytes_missing", lambda: True)
    assert on_a_card(monkeypatch, 11.2e9, host=32e9).choose("auto").placement.host
    with pytest.raises(AppError):
        on_a_card(monkeypatch, 11.2e9).choose("auto")


def test_memory_of_the_replaced_model_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free_everywhere(monkeypatch, 1e9)
    assert plan_load(SEVEN, device="cpu").best is None
    assert plan_load(SEVEN, device="cpu", freed={"cpu": int(40e9)}).best is not None


@pytest.mark.parametrize(("instructions", "expected"), [(True, "bf16"), (False, "fp32"), (None, "fp32")])
def test_a_cpu_loads_a_large_model_in_bfloat16_where_it_multiplies_that(
    instructions: bool | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("janus_app.runtime.fit.has_bfloat16_instructions", lambda: instructions)
    free_everywhere(monkeypatch, 40e9)
    options = plan_load(SEVEN, device="cpu")
    assert options.choose("auto").precision == expected and f"{expected} needs" in str(options.message)
    assert plan_load(CATALOG.default(), device="cpu").choose("auto").precision == "fp32"


def test_damaged_config_of_a_users_folder_is_an_error_and_a_downloaded_one_is_estimated(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "janus_pro_1b" / "checkpoint", tmp_path / "c"))
    variant = CATALOG.resolve(str(folder))
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(AppError) as caught:
        plan_load(variant, folder, "cpu")
    assert caught.value.code == "json_file_unreadable"
    assert plan_load(SEVEN, folder, "cpu").plan("bf16").config is None  # the fetch before the load repairs it


def test_usual_job_takes_the_settings_of_the_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = CATALOG.default()
    job = usual_job(embedded)
    assert (job.count, job.guided, job.answer) == (4, False, 64)
    assert usual_job(replace(embedded, settings={})) == Job()


def test_models_of_unknown_shape_are_estimated_by_their_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    stranger: Variant = replace(SEVEN, repo="somebody/else", memory={}, parameters=10**9)
    free_everywhere(monkeypatch, 10e9)
    assert weight_bytes(stranger, "bf16") == 2 * 10**9
    assert plan_load(stranger, device="cpu").best is not None


def test_container_limit_is_the_total_memory(tmp_path: Path) -> None:
    assert container_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 200\nactive_file 0\n")
    assert container_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert container_limit(tmp_path) == Memory(500, 1000)
    old = tmp_path / "old" / "memory"
    old.mkdir(parents=True)
    for name, text in (("limit_in_bytes", "900"), ("usage_in_bytes", "300"), ("stat", "total_inactive_file 100")):
        (old / (f"memory.{name}")).write_text(text)
    assert container_limit(tmp_path / "old") == Memory(700, 900)


def test_memory_that_pytorch_keeps_unused_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of 24 GB with a freshly fused 7B model: 8.4 GB in the allocator's cache."""
    counts = {"mem_get_info": (1.0e9, 24e9), "memory_reserved": 22.4e9, "memory_allocated": 14.0e9}
    for name, value in counts.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert devices.device_memory(torch.device("cuda:1")).free == pytest.approx(9.4e9)


@pytest.mark.parametrize("told", [True, False])
def test_memory_of_an_intel_gpu_is_its_own_also_where_its_driver_does_not_tell_what_is_free(
    monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    def free_and_total(device: torch.device) -> tuple[int, int]:
        if told:
            return 3 * 10**8, 12 * 10**9
        raise RuntimeError("The device (Arc B580) doesn't support querying the available free memory.")

    monkeypatch.setattr(torch.xpu, "mem_get_info", free_and_total)
    monkeypatch.setattr(torch.xpu, "memory_allocated", lambda device: 11_800_000_000)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: SimpleNamespace(total_memory=12 * 10**9))
    free = 300_000_000 if told else 200_000_000
    assert devices.device_memory(torch.device("xpu", 0)) == Memory(free, 12 * 10**9)


def test_steps_run_on_their_card_and_leave_the_thread_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a step that fails, and the end of a closed generator."""
    current, seen = ["cuda:0"], []

    @contextlib.contextmanager
    def device(card: torch.device) -> Iterator[None]:
        before, current[0] = current[0], str(card)
        try:
            yield
        finally:
            current[0] = before

    def steps(fails: bool) -> Generator[int, None, str]:
        try:
            for i in range(3):
                seen.append(current[0])
                yield i
            assert not fails
            return "done"
        finally:
            seen.append(current[0])

    monkeypatch.setattr(torch.cuda, "device", device)
    card, results = torch.device("cuda:1"), []

    def whole(fails: bool) -> Iterator[int]:
        results.append((yield from devices.under_device(card, steps(fails))))

    for _ in whole(False):
        assert current == ["cuda:0"]
    assert results == ["done"]
    with pytest.raises(AssertionError):
        list(whole(True))
    job = whole(False)
    next(job)
    job.close()
    assert seen == ["cuda:1"] * 10 and current == ["cuda:0"]


def test_bf16_is_asked_of_the_models_own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    card = [0]

    @contextlib.contextmanager
    def device(given: torch.device) -> Iterator[None]:
        card[0] = given.index
        yield
        card[0] = 0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: card[0] == 1)
    dtypes = [plain_dtype("nf4", torch.device("cuda", i)) for i in range(2)]
    assert dtypes == [torch.float16, torch.bfloat16]


def test_cuda_takes_the_card_with_most_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {0: 10e9, 1: 20e9, 2: 20.5e9}
    monkeypatch.setattr(devices, "cards", lambda: [torch.device("cuda", i) for i in free])
    monkeypatch.setattr(devices, "device_memory", lambda d: Memory(int(free[d.index]), int(24e9)))
    assert devices.resolve_device("cuda") == torch.device("cuda", 1)
    assert devices.resolve_device("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(AppError, match="3 CUDA card"):
        devices.resolve_device("cuda:3")
    assert [p.name for p in devices.placements("cuda:all")] == ["cuda:all"]
    names = devices.device_names()
    assert names[:4] == ["auto", "cuda:0", "cuda:1", "cuda:2"] and {"cuda:all", "cuda+cpu", "cpu"} < set(names)


def drawn(model: object) -> list[tuple[int, ...]]:
    *_, last = model.generate(GenerateRequest("A small red house.", count=2, seed=3))  # type: ignore[attr-defined]
    assert isinstance(last, Finished)
    return [p.image_tokens for p in last.pictures]


def said(model: object) -> tuple[int, ...]:
    request = ChatRequest((Turn("user", "Hello"),), temperature=0, max_new_tokens=12)
    *_, last = model.chat(request)  # type: ignore[attr-defined]
    assert isinstance(last, Finished)
    return last.token_ids


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_offloaded_layers_give_the_same_bits(precision: str) -> None:
    """Accelerate's hooks with the CPU as the main device: the structure of offloading, not its speed."""
    pytest.importorskip("accelerate")
    folder = GOLDEN / "janus_pro_1b" / "checkpoint"
    whole, parted = loaded(folder, precision).model, loaded(folder, precision).model
    layers = parted.network.language_model.model.layers  # type: ignore[attr-defined]
    last = len(layers) - 1
    dispatch(parted.network, "language_model.model.layers.", {last: CPU}, CPU)  # type: ignore[attr-defined]
    assert {p.device.type for p in layers[last].parameters()} == {"meta"}
    assert {p.device.type for p in layers[0].parameters()} == {"cpu"}
    assert drawn(parted) == drawn(whole) and said(parted) == said(whole)


def test_loader_puts_layers_where_the_plan_says(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    folder = Path(shutil.copytree(GOLDEN / "janus_pro_1b" / "checkpoint", tmp_path / "c"))
    whole = drawn(loaded(folder).model)
    plan = plan_load(CATALOG.resolve(str(folder)), folder, "cpu").choose("fp32")
    split_plan = replace(plan, placement=Placement("cpu", CPU, host=True), split={0: CPU})
    parted = result_of(load(split_plan)).model
    layers = parted.network.language_model.model.layers  # type: ignore[attr-defined]
    assert {p.device.type for p in layers[0].parameters()} == {"meta"}
    assert drawn(parted) == whole


def test_offloading_without_accelerate_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(AppError, match="pip install accelerate"):
        dispatch(torch.nn.Module(), "layers.", {0: CPU}, CPU)


def test_a_load_and_a_job_take_each_step_on_the_models_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a load leaves no memory of fused weights in PyTorch's cache."""
    where, seen = ["elsewhere"], dict[str, set[str]]()

    @contextlib.contextmanager
    def current(device: torch.device) -> Iterator[None]:
        where[0] = str(device)
        yield
        where[0] = "elsewhere"

    def note(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any) -> Any:
            seen.setdefault(name, set()).add(where[0])
            return function(*given)

        return noted

    monkeypatch.setattr(devices, "_current", current)
    monkeypatch.setattr(loader, "_place", note("weights", loader._place))
    monkeypatch.setattr(LlamaModel, "fuse", note("fuse", LlamaModel.fuse))
    monkeypatch.setattr(torch.cuda, "empty_cache", note("empty", lambda: None))
    monkeypatch.setattr(LlamaModel, "forward", note("compute", LlamaModel.forward))
    session = ModelSession(load_catalog(), Hub())
    for event in session.load(str(GOLDEN / "janus_pro_1b" / "checkpoint"), "cpu", "fp32"):
        if isinstance(event, Progress) and event.stage == "read":
            monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # from here: the plan is made
        assert where == ["elsewhere"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for _ in session.run(ChatRequest((Turn("user", "Hello"),), temperature=0, max_new_tokens=2)):
        assert where == ["elsewhere"]
    assert seen.pop("empty") >= {"cpu"}
    assert seen == {name: {"cpu"} for name in ("weights", "fuse", "compute")}


def test_cudnn_without_memory_for_an_engine_is_out_of_memory() -> None:
    assert is_out_of_memory(RuntimeError("GET was unable to find an engine to execute this computation"))


@pytest.mark.parametrize(
    "failure",
    [
        lambda: torch.empty(1 << 60, dtype=torch.uint8),  # what PyTorch raises on a CPU
        lambda: bytearray(1 << 62),
    ],
)
def test_real_allocation_failures_are_recognised(failure: object) -> None:
    with pytest.raises(Exception) as caught:
        failure()  # type: ignore[operator]
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shape mismatch")) and not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("precision", QUANTIZED_PRECISIONS)
def test_missing_or_old_bitsandbytes_is_explained(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    folder = GOLDEN / "janus_1_3b" / "checkpoint"
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(AppError, match=r"pip install bitsandbytes"):
        loaded(folder, precision)
    old = ModuleType("bitsandbytes")
    old.__spec__ = ModuleSpec("bitsandbytes", None)
    old.nn = ModuleType("nn")  # type: ignore[attr-defined]  # a release without these layers
    monkeypatch.setitem(sys.modules, "bitsandbytes", old)
    with pytest.raises(AppError, match=r"pip install -U bitsandbytes"):
        loaded(folder, precision)
