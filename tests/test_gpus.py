"""The doctor's verdict on GPUs, from facts as other machines report them, and the builds that the README names."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from janus_app.runtime.gpus import (
    CUDA_12,
    CUDA_13,
    ROCM,
    TORCH,
    TORCH_BEFORE_TURING,
    WHEELS,
    XPU,
    Card,
    Driver,
    GpuFacts,
    gpu_findings,
    has_kernels,
    triton_finding,
)

ROOT = Path(__file__).parents[1]
CU126 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
CU130 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
OLD, NEW = Driver("550.54.14", "12.4"), Driver("580.65.06", "13.0")
CPU = GpuFacts("Linux", "2.13.0+cpu")
BUILD_12 = GpuFacts("Linux", "2.13.0+cu126", cuda="12.6", architectures=CU126, triton="3.7.1")
BUILD_13 = GpuFacts("Linux", "2.13.0+cu130", cuda="13.0", architectures=CU130, triton="3.7.1")


def with_card(build: GpuFacts, name: str, capability: tuple[int, int], driver: Driver = NEW) -> GpuFacts:
    return replace(build, driver=driver, cards=(Card(name, capability, 20e9, 24e9),))


CASES = {
    "new card": (with_card(BUILD_13, "RTX 4090", (8, 9)), "OK", "doctor_card_ready", ""),
    "Blackwell, build for CUDA 12.6": (
        with_card(BUILD_12, "RTX 5090", (12, 0)),
        "WARN",
        "doctor_card_without_kernels",
        f'{TORCH}" --index-url {WHEELS}/{CUDA_13}`',
    ),
    "Blackwell, build and driver for CUDA 12": (
        with_card(BUILD_12, "RTX 5090", (12, 0), Driver("570.1", "12.8")),
        "WARN",
        "doctor_card_without_kernels",
        "supports CUDA 13.0. Run",
    ),
    "Pascal, build for CUDA 13": (
        with_card(BUILD_13, "GTX 1080", (6, 1)),
        "WARN",
        "doctor_card_without_kernels",
        f'{TORCH_BEFORE_TURING}" --index-url {WHEELS}/{CUDA_12}`',
    ),
    "Pascal (P100), build for CUDA 13": (
        with_card(BUILD_13, "P100", (6, 0)),
        "WARN",
        "doctor_card_without_kernels",
        CUDA_12,
    ),
    "Volta, build for CUDA 13": (with_card(BUILD_13, "V100", (7, 0)), "WARN", "doctor_card_without_kernels", CUDA_12),
    "Volta, build for CUDA 12.6": (with_card(BUILD_12, "V100", (7, 0)), "OK", "doctor_card_ready", ""),
    "Kepler": (with_card(BUILD_12, "K80", (3, 7)), "WARN", "doctor_card_without_kernels", "--device cpu"),
    "driver without a card, build without CUDA": (
        replace(CPU, driver=NEW),
        "WARN",
        "doctor_card_unusable",
        f"{WHEELS}/{CUDA_13}`",
    ),
    "old driver, build without CUDA": (
        replace(CPU, driver=OLD),
        "WARN",
        "doctor_card_unusable",
        f"{WHEELS}/{CUDA_12}`",
    ),
    "driver older than the build": (
        replace(BUILD_13, driver=OLD),
        "WARN",
        "doctor_driver_older_than_build",
        f"{WHEELS}/{CUDA_12}`",
    ),
    "driver of before CUDA 12": (
        replace(BUILD_12, driver=Driver("470.1", "11.4")),
        "WARN",
        "doctor_driver_too_old",
        "13.0",
    ),
    "hidden card": (replace(BUILD_12, driver=OLD), "WARN", "doctor_card_unseen", "CUDA_VISIBLE_DEVICES"),
    "driver that says nothing": (replace(BUILD_13, driver=Driver()), "WARN", "doctor_card_unseen", "CUDA 13.0"),
    "ROCm": (
        with_card(GpuFacts("Linux", "2.13.0+rocm7.2", hip="7.2", amd=True), "RX 7900", (11, 0)),
        "OK",
        "doctor_card_rocm",
        "",
    ),
    "ROCm without rights": (
        GpuFacts("Linux", "2.13.0+rocm7.2", hip="7.2", amd=True),
        "WARN",
        "doctor_rocm_unseen",
        "render,video",
    ),
    "AMD driver, build without ROCm": (replace(CPU, amd=True), "WARN", "doctor_amd_unusable", f"{WHEELS}/{ROCM}`"),
    "AMD processor beside an NVIDIA card": (
        replace(with_card(BUILD_13, "RTX 4090", (8, 9)), amd=True),
        "OK",
        "doctor_card_ready",
        "",
    ),
    "Apple": (GpuFacts("Darwin", "2.13.0", mps=True), "OK", "doctor_card_apple", ""),
    "Intel": (GpuFacts("Linux", "2.13.0+xpu", xpu_build=True, xpu="Intel Arc B580"), "OK", "doctor_card_intel", ""),
    "Intel without a driver": (
        GpuFacts("Linux", "2.13.0+xpu", xpu_build=True),
        "WARN",
        "doctor_intel_unseen",
        "Intel's GPU driver",
    ),
    "none": (CPU, "OK", "doctor_card_none", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_gpu_is_judged_with_the_command_that_helps(case: str) -> None:
    facts, level, code, remedy = CASES[case]
    *_, finding = gpu_findings(facts)
    assert (finding.level, finding.detail.code) == (level, code)
    for language in ("en", "zh-CN"):
        texts = finding.texts(language)
        assert bool(texts["remedy"]) == (level != "OK") and (language != "en" or remedy in texts["remedy"])


@pytest.mark.parametrize(("mps", "part"), [(True, "no float64"), (False, "CPU is used")])
def test_apple_is_told_what_works(mps: bool, part: str) -> None:
    *_, finding = gpu_findings(GpuFacts("Darwin", "2.13.0", mps=mps))
    assert part in str(finding.detail)


def test_build_has_kernels_for_its_generation_and_ptx_for_later_ones() -> None:
    assert has_kernels((8, 9), CU126) and has_kernels((12, 1), CU130) and has_kernels((9, 0), ("sm_90a",))
    assert not has_kernels((10, 0), CU126) and not has_kernels((8, 0), ("sm_86",))
    assert has_kernels((12, 0), ("sm_90", "compute_90")) and not has_kernels((8, 0), ("compute_90",))
    assert has_kernels((12, 0), ()) and has_kernels((11, 0), ("gfx1100",))


def test_triton_is_missed_where_a_card_could_use_it() -> None:
    windows = replace(with_card(BUILD_13, "RTX 4090", (8, 9)), system="Windows", triton=None)
    finding = triton_finding(windows)
    assert finding is not None and finding.level == "WARN" and "pip install triton-windows`" in str(finding.remedy)
    linux = triton_finding(replace(windows, system="Linux"))
    assert linux is not None and "pip install triton`" in str(linux.remedy)
    without_card = triton_finding(GpuFacts("Windows", "2.13.0+cpu"))
    assert without_card is not None and without_card.level == "OK"
    assert triton_finding(replace(windows, triton="3.7.1")) is None  # it is tried


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_readme_names_the_builds_that_the_doctor_names(readme: str) -> None:
    text = (ROOT / readme).read_text("utf-8")
    assert set(re.findall(rf"{WHEELS}/(\w+(?:\.\d+)?)", text)) == {CUDA_12, CUDA_13, ROCM, XPU}
    assert set(re.findall(r"torch>=[^\"]+", text)) == {TORCH, TORCH_BEFORE_TURING}
    assert TORCH in (ROOT / "requirements.txt").read_text("utf-8").splitlines()
