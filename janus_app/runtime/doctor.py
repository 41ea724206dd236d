"""Is this machine ready? Each check is tried for real and answers with a line and, where needed, a remedy.

Nothing here names a private path (the home folder is shown as ~), an address of the machine, or a token.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from janus_app.errors import AppError
from janus_app.formatting import size_text
from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog

Level = Literal["OK", "WARN", "FAIL"]
OLDEST, NEWEST = (3, 11), (3, 13)  # diffusers, transformers and huggingface-hub left 3.10 behind
REINSTALL = "Run `python -m pip install -r requirements.txt`."
LOW_DISK = 2e9
PORT = 7860


@dataclass(frozen=True)
class Finding:
    """One checked thing. FAIL = the app cannot work without it; WARN = something it can do will not work."""

    level: Level
    what: str
    detail: str
    remedy: str = ""


def as_text(findings: Sequence[Finding]) -> str:
    """Findings as lines to paste into a bug report."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:4}  {finding.what}: {finding.detail}")
        if finding.remedy:
            lines.append(f"      {finding.remedy}")
    return "\n".join(lines)


def examine(outputs: Path, port: int | None = PORT, timeout: float = 4.0, hub: Hub | None = None) -> Iterator[Finding]:
    """All checks in order, each reported as soon as it is done. Raises nothing: a check that breaks is a FAIL.

    port None leaves that check out: a running page sits on its own.
    """
    hub = hub or Hub()
    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("Python", _python),
        ("Packages", _packages),
        ("PyTorch", _torch),
        ("Quantisation", _quantisation),
        ("Triton", _triton),
        ("Offload", _offload),
        ("Models", lambda: _models(hub)),
        ("Disk", lambda: _disk(outputs, hub.cache_dir)),
        ("Hub", lambda: _hub(hub, timeout)),
        *([("Port", lambda: _port(port))] if port is not None else []),
    )
    for what, check in checks:
        try:
            for finding in check():
                yield replace(finding, detail=_home(finding.detail))
        except AppError as error:
            yield Finding("FAIL", what, _home(str(error)), "See the line itself.")
        except Exception as error:  # a broken installation breaks in its own ways; the rest is still worth a look
            yield Finding(
                "FAIL", what, f"this check broke: {type(error).__name__}: {_home(str(error))[:300]}", REINSTALL
            )


def _home(text: str) -> str:
    """The text with the home folder shown as ~."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def _python() -> Iterator[Finding]:
    version = sys.version_info[:2]
    if not OLDEST <= version <= NEWEST:
        oldest, newest = (".".join(map(str, release)) for release in (OLDEST, NEWEST))
        remedy = f"Install Python {oldest} to {newest} and make a fresh virtual environment with it."
        yield Finding("FAIL", "Python", platform.python_version(), remedy)
    else:
        yield Finding("OK", "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> Iterator[Finding]:
    for package in ("gradio", "tokenizers", "safetensors", "pillow", "huggingface_hub"):
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            yield Finding("FAIL", package, "not installed", REINSTALL)
            continue
        if package == "gradio" and not (6, 31) <= tuple(map(int, version.split(".")[:2])) < (7, 0):
            yield Finding("WARN", package, f"{version}; the page is tested with 6.31 and later 6.x", REINSTALL)
        else:
            yield Finding("OK", package, version)


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:  # a missing system library raises OSError, a broken build anything
        yield Finding("FAIL", "PyTorch", f"cannot be imported ({type(error).__name__})", REINSTALL)
        return
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    yield Finding("OK", "PyTorch", f"{torch.__version__}, {built}")
    if torch.cuda.is_available():
        yield from _cards(torch)
        return
    driver = _driver()
    if driver and not torch.version.cuda:
        remedy = "There is an NVIDIA driver: install a CUDA build of PyTorch from pytorch.org to use the card."
        yield Finding("WARN", "Graphics card", f"this PyTorch cannot use it (driver {driver})", remedy)
    elif driver:
        remedy = (
            f"Update the NVIDIA driver to one that supports CUDA {torch.version.cuda}, or install a PyTorch built for "
            "an older CUDA."
        )
        yield Finding("WARN", "Graphics card", f"PyTorch sees none though driver {driver} is there", remedy)
    elif torch.backends.mps.is_available():
        yield Finding("OK", "Graphics card", "Apple GPU (mps)")
    else:
        yield Finding("OK", "Graphics card", "none; the CPU is used. Fine for the embedded model")
    yield Finding("OK", "Memory", _main_memory())


def _driver() -> str:
    """The NVIDIA driver's version and the newest CUDA it serves, "" where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        done = subprocess.run([program], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    version = re.search(r"Driver Version:\s*([\d.]+)", done.stdout)
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", done.stdout)
    words = [version.group(1) if version else "unknown", f"for CUDA up to {cuda.group(1)}" if cuda else ""]
    return " ".join(word for word in words if word)


def _main_memory() -> str:
    import torch

    from janus_app.runtime.devices import device_memory

    memory = device_memory(torch.device("cpu"))
    return f"{memory.free / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"


def _cards(torch: Any) -> Iterator[Finding]:
    yield Finding("OK", "Driver", f"NVIDIA {_driver() or 'unknown'}; PyTorch uses CUDA {torch.version.cuda}")
    for index in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(index)
        try:
            free, total = torch.cuda.mem_get_info(index)
            probe = torch.ones(64, 64, device=f"cuda:{index}")
            assert float((probe @ probe)[0, 0]) == 64
        except Exception as error:
            remedy = "Another program may hold the card, or this PyTorch was not built for it: see pytorch.org."
            yield Finding("WARN", f"cuda:{index}", f"{name} cannot calculate ({type(error).__name__})", remedy)
            continue
        with torch.cuda.device(index):
            half = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16, fp16 is used"
        major, minor = torch.cuda.get_device_capability(index)
        detail = f"{name} (capability {major}.{minor}), {free / 1e9:.1f} of {total / 1e9:.1f} GB free, {half}"
        yield Finding("OK", f"cuda:{index}", detail)
    yield Finding("OK", "Memory", _main_memory())


def _quantisation() -> Iterator[Finding]:
    """An int8 and an nf4 product through the very layers the loader makes, on the device it would choose."""
    import torch

    from janus_app.runtime.devices import resolve_device
    from janus_app.runtime.quantization import quantised_linear

    device = resolve_device("auto")
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    exact = x @ weight.T
    for precision, limit in (("int8", 0.05), ("nf4", 0.3)):
        try:
            version = metadata.version("bitsandbytes")
            layer = quantised_linear(weight, precision, device, dtype)
            logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it remarks on its own casts
            with torch.inference_mode():
                near = layer(x.to(device, dtype)).float().cpu()
            error = float((near - exact).norm() / exact.norm())
        except Exception as failure:
            remedy = "Choose bf16 or fp32, or run `python -m pip install -U bitsandbytes`."
            yield Finding("WARN", precision, f"does not work on {device.type} ({_kind(failure)})", remedy)
            continue
        if error < limit:
            yield Finding(
                "OK", precision, f"bitsandbytes {version} works on {device.type} (error of a product {error:.1%})"
            )
        else:
            remedy = "Choose bf16 or fp32, or run `python -m pip install -U bitsandbytes`."
            yield Finding("WARN", precision, f"gives wrong numbers on {device.type} ({error:.0%} off)", remedy)


def _kind(error: Exception) -> str:
    """What a failure is, in a few words: our own sentence's cause, else its type."""
    cause = error.__cause__ or error
    return "bitsandbytes is not installed" if isinstance(cause, ImportError) else type(cause).__name__


def _triton() -> Iterator[Finding]:
    """On a card, a kernel is compiled and run; without one there is nothing to run it on."""
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        yield Finding("OK", "Triton", "not installed; only needed for speed on NVIDIA cards")
        return
    import torch

    if not torch.cuda.is_available():
        yield Finding("OK", "Triton", f"{version}, not tried: no card")
        return
    remedy = "Models run without it, more slowly. Install a C compiler and the Triton that belongs to your PyTorch."
    try:
        double = torch.compile(lambda x: x * 2 + 1)
        right = bool((double(torch.ones(1024, device="cuda")) == 3).all())
    except Exception as error:  # no compiler, no headers, a version that does not fit: all mean the same here
        yield Finding("WARN", "Triton", f"{version} cannot compile here ({type(error).__name__})", remedy)
        return
    yield Finding("OK", "Triton", f"{version} works") if right else Finding("WARN", "Triton", "wrong numbers", remedy)


def _offload() -> Iterator[Finding]:
    """Whether layers can be spread over several devices: tried on the CPU, by the library's own hooks."""
    try:
        version = metadata.version("accelerate")
        import torch
        from accelerate import cpu_offload
    except Exception as error:
        detail = f"accelerate cannot be used ({type(error).__name__}); models must fit one device"
        yield Finding("WARN", "Offload", detail, "Run `python -m pip install accelerate`.")
        return
    layer = torch.nn.Linear(4, 4)
    x = torch.ones(1, 4)
    with torch.inference_mode():
        same = torch.equal(layer(x), cpu_offload(layer, execution_device=torch.device("cpu"))(x))
    level: Level = "OK" if same else "WARN"
    remedy = "" if same else "Run `python -m pip install -U accelerate`."
    yield Finding(level, "Offload", f"accelerate {version}" + ("" if same else " changes results"), remedy)


def _models(hub: Hub) -> Iterator[Finding]:
    catalog = load_catalog()
    for variant in catalog.values():
        status = hub.status(variant)
        if status.complete:
            sure = "verified" if status.verified or variant.is_local else "it is verified when it is first loaded"
            yield Finding("OK", variant.id, f"on disk, {size_text(status.on_disk)}, {sure}")
        elif variant.is_local:
            if variant.id != catalog.default().id:
                yield Finding("OK", variant.id, "not on this machine")
                continue
            remedy = "Copy the app anew: its embedded weights belong to it."
            yield Finding("FAIL", variant.id, "its files are missing", remedy)
        else:
            left = size_text(status.total - status.on_disk)
            had = (
                f"{size_text(status.on_disk)} downloaded, whole files and parts" if status.on_disk else "not downloaded"
            )
            yield Finding("OK", variant.id, f"{had}; loading it fetches {left} once")


def _disk(outputs: Path, cache: Path) -> Iterator[Finding]:
    for what, folder in (("Outputs folder", outputs), ("Download folder", cache)):
        place = _existing(folder)
        shown = _home(str(folder))
        if not os.access(place, os.W_OK):
            remedy = "Choose another with --out." if folder == outputs else "Set HF_HUB_CACHE to a writable folder."
            yield Finding("WARN", what, f"{shown} cannot be written", remedy)
            continue
        free = shutil.disk_usage(place).free
        level: Level = "WARN" if free < LOW_DISK else "OK"
        remedy = "Free some space before you download or draw much." if level == "WARN" else ""
        yield Finding(level, what, f"{shown}, {free / 1e9:.1f} GB free", remedy)


def _existing(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _hub(hub: Hub, timeout: float) -> Iterator[Finding]:
    if hub.offline:
        yield Finding("OK", "Hub", "offline mode is on (HF_HUB_OFFLINE); only models on disk can be loaded")
        return
    host = urlsplit(hub.endpoint).hostname or "the Hub"
    try:
        request = urllib.request.Request(hub.endpoint, method="HEAD")
        with urllib.request.urlopen(request, timeout=timeout):
            pass
    except urllib.error.HTTPError:
        pass  # it answered, which is all that was asked
    except (OSError, ValueError):
        remedy = "Models on disk work without it. Behind a firewall set HTTPS_PROXY, or HF_ENDPOINT to a mirror."
        yield Finding("WARN", "Hub", f"{host} cannot be reached", remedy)
        return
    yield Finding("OK", "Hub", f"{host} answers")


def _port(port: int) -> Iterator[Finding]:
    if port_is_free("127.0.0.1", port):
        yield Finding("OK", "Port", f"{port} is free")
    else:
        yield Finding("WARN", "Port", f"{port} is in use", "Start with `python app.py --port 7861`, or another number.")


def port_is_free(host: str, port: int) -> bool:
    """Can a server listen there? An unknown host counts as not free."""
    if not 1 <= port <= 65535:  # the system would take it modulo 65536
        return False
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as listener:
            if os.name != "nt":  # as servers do, so that a port just given back counts as free
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            return True
    except OSError:
        return False
