"""The self-test: every check on the CPU, wrong results are found, one failure ends nothing, it can be stopped."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from janus_app.cli import _parse, main
from janus_app.errors import Message
from janus_app.runtime import selftest
from janus_app.runtime.devices import Memory
from janus_app.runtime.selftest import Check, Result, embedded, examine, failed, hardware, result, verdict
from janus_app.runtime.selftest.result import Bench, Item, alive
from janus_app.types import Model, Progress, result_of
from tests.commands import results, run_command

CPU = torch.device("cpu")
NAMES = {"machine", "ceilings", "kernels", "products", "embedded", "graphs", "precisions", "memory", "decoder"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sizes, but time for every check also on a busy machine."""
    monkeypatch.setattr(result, "SMALL_SECONDS", 1e9)


def of(items: Iterator[Any]) -> list[Result]:
    return [item for item in items if isinstance(item, Result)]


def bench(seconds: float = 1e6) -> Bench:
    return Bench(CPU, seconds)


def test_selftest_on_a_cpu_passes_every_check_and_shows_no_private_path(
    small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["selftest", "--device", "cpu", "--minutes", "20", "--json"]) == 0
    found = results(capsys)
    assert {row["check"] for row in found} == NAMES == {check.name for check in selftest.CHECKS}
    assert all(row.keys() == {"check", "level", "what", "detail", "remedy", "numbers"} for row in found)
    skipped = {row["check"] for row in found if row["level"] == "SKIP"}
    assert {row["level"] for row in found} == {"OK", "SKIP"} and skipped == {"kernels", "graphs"}
    assert str(Path.home()) + "/" not in json.dumps(found)
    rows = {row["what"]: row["numbers"] for row in found}
    exact = rows["Janus embedded, fp32"]
    assert exact["tokens"] == 72 and exact["tokens_differing"] == 0 and exact["answer_as_recorded"]
    assert 0 < rows["Janus embedded, nf4"]["probability_difference"] < 0.4
    assert rows["Memory"]["weights_held"] == rows["Memory"]["weights_predicted"] > 1e7
    assert rows["Decoder of 1B parameters"]["share_of_bandwidth"] > 0 and rows["int8"]["relative_error"] > 0


@pytest.mark.parametrize("number", range(8))
def test_each_embedded_model_does_what_is_recorded(number: int) -> None:
    (line,) = of(embedded.compared(bench(), embedded.shipped()[number], "fp32"))
    assert line.level == "OK", line.texts()
    assert line.numbers["answer_as_recorded"] and line.numbers["tokens_differing"] == 0


@pytest.mark.parametrize(("number", "change"), [(0, 1.5), *((n, 6.0) for n in range(1, 8)), (0, float("nan"))])
def test_wrong_computations_fail(number: int, change: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer whose results are off, or not numbers, as on a device with a broken kernel."""
    right = embedded.loaded

    def wrong(*given: Any) -> Iterator[Any]:
        model: Model = yield from right(*given)
        network: torch.nn.Module = model.network  # type: ignore[attr-defined]
        for name, tensor in network.named_parameters():
            if name.endswith("down_proj.weight"):
                tensor.mul_(change)
        return model

    monkeypatch.setattr(embedded, "loaded", wrong)
    (line,) = of(embedded.compared(bench(), embedded.shipped()[number], "fp32"))
    assert line.level == "FAIL" and line.remedy is not None, line.texts()
    assert failed([line]) and "cannot be trusted" in verdict([line]).text()


def test_only_fp32_must_give_the_recorded_tokens() -> None:
    known = embedded.recorded("janus-embedded")
    assert known is not None
    other = embedded.Observation(known.answer, ((7, *known.tokens[0][1:]), known.tokens[1]), known.probabilities, ())
    same = embedded.Observation(known.answer, known.tokens, known.probabilities, ())
    assert embedded.judge(other, same, "", "fp32").level == "WARN"
    assert embedded.judge(other, same, "", "bf16").level == "OK"


def test_check_that_raises_becomes_a_line_and_the_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(bench: Bench) -> Iterator[Item]:
        yield alive()
        raise RuntimeError(f"{Path.home()}/driver is odd\nand more")

    def full(bench: Bench) -> Iterator[Item]:
        yield alive()
        raise torch.OutOfMemoryError("CUDA out of memory")

    what = Message("selftest_memory")
    checks = tuple(
        Check(name, what, 0, run) for name, run in (("a", broken), ("b", full), ("machine", hardware.machine))
    )
    monkeypatch.setattr(selftest, "CHECKS", checks)
    found = of(examine("cpu"))
    assert [(line.check, line.level) for line in found] == [("a", "FAIL"), ("b", "WARN"), ("machine", "OK")]
    assert "~/driver is odd" in found[0].texts()["detail"] and "and more" not in found[0].texts()["detail"]
    assert all(line.remedy for line in found[:2])
    for language in ("en", "zh-CN"):
        assert all(line.texts(language)["detail"] for line in found) and verdict(found).text(language)


def test_checks_without_time_are_left_out_with_a_sentence() -> None:
    machine, *others = of(examine("cpu", minutes=1e-9))
    assert machine.level == "OK" and {line.level for line in others} == {"SKIP"}
    assert all("--minutes" in line.texts()["remedy"] for line in others)


def test_selftest_stops_within_a_step_of_a_check(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    def endless(bench: Bench) -> Iterator[Item]:
        try:
            while True:
                yield alive()
        finally:
            closed.append(True)

    checks = tuple(Check(name, Message("selftest_memory"), 0, endless) for name in "ab")
    monkeypatch.setattr(selftest, "CHECKS", checks)
    items = examine("cpu")
    assert all(isinstance(next(items), Progress) for _ in range(5))
    items.close()
    assert closed == [True]


def test_decoder_that_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "device_memory", lambda device: Memory(int(0.5e9), int(1e9)))
    (line,) = of(hardware.decoder(bench()))
    assert line.level == "SKIP" and "0.5 GB" in line.texts()["detail"].replace("500 MB", "0.5 GB") and line.remedy


@pytest.mark.parametrize("flags", [("--minutes", "0"), ("--minutes", "nan"), ("--device", "cuda:7"), ("--device", "x")])
def test_impossible_selftest_is_refused(flags: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", *flags]) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.strip()


def test_lines_and_verdict_are_in_the_language_of_the_system(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert main(["selftest", "--device", "cpu", "--minutes", "0.00001"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("OK    本机: cpu") and last.startswith("结论：")


def test_record_of_the_embedded_models_is_what_the_docs_script_writes() -> None:
    found = json.loads(result_of(embedded.record()))
    written = json.loads(embedded.RECORDED.read_text("utf-8"))
    assert found.keys() == written.keys() == {variant.id for variant in embedded.shipped()}


def test_docs_show_a_command_that_parses_and_the_output_of_a_cpu() -> None:
    page = (embedded.ASSETS.parent / "docs" / "selftest.md").read_text("utf-8")
    ((command,), (output,)) = (re.findall(rf"```{kind}\n(.*?)```", page, flags=re.DOTALL) for kind in ("bash", "text"))
    assert _parse(shlex.split(command)[3:]).minutes == selftest.MINUTES
    first, *_, last = output.splitlines()
    assert first.startswith("OK    Machine: cpu") and last.startswith("Verdict")
    for check in selftest.CHECKS:
        names = {"products": "int8:", "embedded": "embedded, fp32:", "precisions": "embedded, bf16:"}
        assert names.get(check.name, f"{check.what.text()}:") in output, check.name


def test_library_that_a_model_imports_says_nothing_to_the_user() -> None:
    done = run_command("chat", "--model", "janusflow-embedded", "--prompt", "Hello?", "--max-new-tokens", "1")
    assert done.returncode == 0 and "kernels" not in done.stderr and "Failed" not in done.stderr
