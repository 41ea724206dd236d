"""What this PyTorch can do with the GPUs of this machine, and which build of PyTorch would do more.

Pure functions of `GpuFacts`, which the doctor collects, so that every machine can be judged in a test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from janus_app.errors import Message
from janus_app.runtime.findings import Finding

WHEELS = "https://download.pytorch.org/whl"
TORCH = "torch>=2.13,<3"
TORCH_BEFORE_TURING = "torch>=2.13,<2.15"  # from 2.15 on, no build has kernels for GPUs before Turing
CUDA_13, CUDA_12, ROCM, XPU = "cu130", "cu126", "rocm7.2", "xpu"  # the builds of PyTorch 2.13
TURING, BLACKWELL, MAXWELL = (7, 5), (10, 0), (5, 0)
NVIDIA_ONLY = Message("doctor_card_without_engine")

Version = tuple[int, ...]


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver: its version and the newest CUDA it supports, as nvidia-smi prints them; "" if unknown."""

    version: str = ""
    cuda: str = ""

    def message(self) -> Message:
        if not self.version:
            return Message("doctor_driver_unknown")
        if not self.cuda:
            return Message("doctor_version", version=self.version)
        return Message("doctor_driver_version", version=self.version, cuda=self.cuda)


@dataclass(frozen=True)
class Card:
    """A GPU that PyTorch lists as a CUDA (or ROCm) device. Memory in bytes; `failure` is the kind of exception that a
    small product raises there, "" if it is right."""

    name: str
    capability: tuple[int, int]
    free: float = 0
    total: float = 0
    bf16: bool = True
    failure: str = ""


@dataclass(frozen=True)
class GpuFacts:
    """`cuda` and `hip` are the versions that PyTorch was built for, `architectures` the GPUs, such as sm_90.

    `xpu` is the name of an Intel GPU that PyTorch can use. `amd`: the kernel's driver of AMD GPUs is loaded. `triton`
    is the version of the package, under any of its names.
    """

    system: str
    torch: str
    cuda: str | None = None
    hip: str | None = None
    xpu_build: bool = False
    architectures: tuple[str, ...] = ()
    cards: tuple[Card, ...] = ()
    xpu: str | None = None
    mps: bool = False
    driver: Driver | None = None
    amd: bool = False
    triton: str | None = None


def gpu_findings(facts: GpuFacts) -> Iterator[Finding]:
    """The build of PyTorch and each GPU, with the command that installs the right build where this one is wrong."""
    yield Finding("OK", "PyTorch", _build(facts))
    if facts.cards and facts.driver and facts.cuda:
        used = Message("doctor_driver_used", driver=facts.driver.message(), cuda=facts.cuda)
        yield Finding("OK", Message("doctor_driver"), used)
    for index, card in enumerate(facts.cards):
        yield _card(f"cuda:{index}", card, facts)
    if not facts.cards:
        yield _other(facts)


def triton_finding(facts: GpuFacts) -> Finding | None:
    """What is known of Triton without compiling a kernel; None if one can be compiled."""
    if facts.triton and facts.cards:
        return None
    if facts.triton:
        return Finding("OK", "Triton", Message("doctor_triton_untried", version=facts.triton))
    if not facts.cards:
        return Finding("OK", "Triton", Message("doctor_triton_missing"))
    package = "triton-windows" if facts.system == "Windows" else "triton"
    return Finding("WARN", "Triton", Message("doctor_triton_slow"), Message("doctor_pip_install", package=package))


def _build(facts: GpuFacts) -> Message:
    if facts.hip:
        return Message("doctor_torch_rocm", version=facts.torch, hip=facts.hip)
    if facts.cuda:
        return Message("doctor_torch_cuda", version=facts.torch, cuda=facts.cuda)
    return Message("doctor_torch_xpu" if facts.xpu_build else "doctor_torch_without_cuda", version=facts.torch)


def _card(what: str, card: Card, facts: GpuFacts) -> Finding:
    capability = ".".join(map(str, card.capability))
    values = {"name": card.name, "capability": capability, "free": card.free / 1e9, "total": card.total / 1e9}
    if facts.hip and not card.failure:
        return Finding("OK", what, Message("doctor_card_rocm", **values))
    if facts.cuda and not has_kernels(card.capability, facts.architectures):
        built = f"{facts.architectures[0]}–{facts.architectures[-1]}"
        detail = Message("doctor_card_without_kernels", cuda=facts.cuda, built=built, **values)
        return Finding("WARN", what, detail, _build_for(card.capability, facts.driver))
    if card.failure:
        detail = Message("doctor_card_broken", name=card.name, kind=card.failure)
        return Finding("WARN", what, detail, Message("doctor_card_busy"))
    return Finding("OK", what, Message("doctor_card_ready" if card.bf16 else "doctor_card_without_bf16", **values))


def has_kernels(capability: tuple[int, int], architectures: tuple[str, ...]) -> bool:
    """Whether a build for `architectures` runs on a GPU; an empty list is unknown and counts as yes.

    sm_XY is machine code for GPUs of generation X from X.Y on (with an "a": for X.Y alone), compute_XY an intermediate
    code that the driver compiles for any GPU from X.Y on.
    """
    for architecture in architectures:
        kind, _, number = architecture.partition("_")
        digits = number.rstrip("af")
        if not digits.isdigit():
            return True
        own = divmod(int(digits), 10)
        if own == capability or (kind == "compute" and own <= capability):
            return True
        if kind == "sm" and not number.endswith("a") and own[0] == capability[0] and own <= capability:
            return True
    return not architectures


def _build_for(capability: tuple[int, int], driver: Driver | None) -> Message:
    """The build of PyTorch that has kernels for a GPU."""
    if capability < MAXWELL:
        return Message("doctor_card_too_old")
    if capability < TURING:
        return install_torch(CUDA_12, TORCH_BEFORE_TURING)
    install = install_torch(CUDA_13)
    if capability >= BLACKWELL and driver and (13,) > _version(driver.cuda) > ():
        return Message("doctor_update_driver_then", cuda="13.0", install=install)
    return install if capability >= BLACKWELL else _build_of_driver(driver)


def _build_of_driver(driver: Driver | None) -> Message:
    """The newest build of PyTorch that a driver can run: one for CUDA x.y runs on any driver for CUDA x."""
    newest = _version(driver.cuda) if driver else ()
    return install_torch(CUDA_12 if newest and newest < (13,) else CUDA_13)


def _other(facts: GpuFacts) -> Finding:
    """The finding where PyTorch has no CUDA device."""
    what = Message("doctor_card")
    if facts.hip:
        return Finding("WARN", what, Message("doctor_rocm_unseen", hip=facts.hip), Message("doctor_join_render_group"))
    if facts.xpu:
        return Finding("OK", what, Message("doctor_card_intel", name=facts.xpu, limits=NVIDIA_ONLY))
    if facts.driver:
        return _unused_nvidia(what, facts, facts.driver)
    if facts.mps:
        return Finding("OK", what, Message("doctor_card_apple", limits=NVIDIA_ONLY))
    if facts.xpu_build:
        return Finding("WARN", what, Message("doctor_intel_unseen"), Message("doctor_install_intel_driver"))
    if facts.amd:
        return Finding("WARN", what, Message("doctor_amd_unusable"), install_torch(ROCM))
    return Finding("OK", what, Message("doctor_card_none"))


def _unused_nvidia(what: Message, facts: GpuFacts, driver: Driver) -> Finding:
    newest, shown = _version(driver.cuda), driver.message()
    if newest and newest < (12,):  # no build of today
        detail = Message("doctor_driver_too_old", driver=shown)
        return Finding("WARN", what, detail, Message("doctor_update_driver", cuda="13.0"))
    if facts.cuda is None:
        return Finding("WARN", what, Message("doctor_card_unusable", driver=shown), _build_of_driver(driver))
    if newest and newest[0] < _version(facts.cuda)[0]:
        detail = Message("doctor_driver_older_than_build", driver=shown, cuda=facts.cuda)
        install = install_torch(CUDA_12)
        return Finding("WARN", what, detail, Message("doctor_update_driver_or", cuda=facts.cuda, install=install))
    detail = Message("doctor_card_unseen", driver=shown)
    return Finding("WARN", what, detail, Message("doctor_card_hidden", cuda=facts.cuda))


def install_torch(build: str, torch: str = TORCH) -> Message:
    """How to replace PyTorch by the build of an index of pytorch.org."""
    return Message("doctor_install_torch", torch=torch, index=f"{WHEELS}/{build}")


def _version(text: str) -> Version:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
