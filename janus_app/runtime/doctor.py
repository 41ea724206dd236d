"""Checks whether this machine is ready. Each check tries the real thing and gives a finding and, if needed, a remedy.

No finding contains a private path (the home folder is shown as ~), an address of the machine, a password or a token.
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
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from janus_app.errors import AppError, Message
from janus_app.formatting import size_text
from janus_app.hub import Hub
from janus_app.hub.probe import host_of, hub_problem
from janus_app.hub.proxies import NO_PROXY, effective, proxy_of, proxy_variables
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.findings import Finding, as_text, without_home
from janus_app.runtime.gpus import Card, Driver, GpuFacts, gpu_findings, triton_finding

OLDEST, NEWEST = (3, 11), (3, 13)  # of Python; diffusers, transformers and huggingface-hub need 3.11
PACKAGES = ("gradio", "tokenizers", "safetensors", "pillow", "huggingface_hub")
REINSTALL = Message("doctor_reinstall")
UPDATE_BITSANDBYTES = Message("doctor_update_bitsandbytes")
LOW_DISK = 2e9  # bytes
PORT = 7860
__all__ = ["Finding", "as_text", "examine"]


def examine(outputs: Path, port: int | None = PORT, timeout: float = 4.0, hub: Hub | None = None) -> Iterator[Finding]:
    """Run all checks in order and yield each finding at once. A check that raises becomes a FAIL.

    `port` None skips the check of the port, which a running page uses itself.
    """
    hub = hub or Hub()
    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("Python", _python),
        ("Packages", _packages),
        ("PyTorch", _torch),
        ("Quantisation", _quantization),
        ("Triton", _triton),
        ("Offload", _offload),
        ("Models", lambda: _models(hub)),
        ("Disk", lambda: _disk(outputs, hub.cache_dir)),
        ("Proxies", lambda: proxy_findings(hub)),
        ("Hub", lambda: hub_findings(hub, timeout)),
        ("Host names", _names),
        *([("Port", lambda: _port(port))] if port is not None else []),
    )
    for what, check in checks:
        try:
            yield from check()
        except AppError as error:
            yield Finding("FAIL", what, error.message, Message("doctor_see_detail"))
        except Exception as error:  # a broken installation can raise anything; the other checks are still useful
            reason = without_home(str(error))[:300]
            yield Finding("FAIL", what, Message("doctor_check_failed", kind=_kind(error), reason=reason), REINSTALL)


def _kind(error: BaseException) -> str:
    return type(error).__name__


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        detail = Message("doctor_python", version=version, system=platform.system(), machine=platform.machine())
        yield Finding("OK", "Python", detail)
    else:
        oldest, newest = (".".join(map(str, release)) for release in (OLDEST, NEWEST))
        remedy = Message("doctor_install_python", oldest=oldest, newest=newest)
        yield Finding("FAIL", "Python", Message("doctor_version", version=version), remedy)


def _packages() -> Iterator[Finding]:
    for package in PACKAGES:
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            yield Finding("FAIL", package, Message("doctor_not_installed"), REINSTALL)
            continue
        if package == "gradio" and not (6, 31) <= tuple(map(int, version.split(".")[:2])) < (7, 0):
            yield Finding("WARN", package, Message("doctor_gradio_untested", version=version), REINSTALL)
        else:
            yield Finding("OK", package, Message("doctor_version", version=version))


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:  # a missing system library raises OSError, a broken build anything
        yield Finding("FAIL", "PyTorch", Message("doctor_import_failed", kind=_kind(error)), REINSTALL)
        return
    yield from gpu_findings(gpu_facts(torch))
    yield Finding("OK", Message("doctor_memory"), _main_memory())


def gpu_facts(torch: Any) -> GpuFacts:
    """What PyTorch, the drivers and the system say about the GPUs."""
    version = torch.version
    there = torch.cuda.is_available()
    xpu = torch.xpu.get_device_name(0) if torch.xpu.is_available() else None
    return GpuFacts(
        system=platform.system(),
        torch=torch.__version__,
        cuda=version.cuda,
        hip=getattr(version, "hip", None),
        xpu_build=getattr(version, "xpu", None) is not None,
        architectures=tuple(torch.cuda.get_arch_list()) if there else (),
        cards=tuple(_card(torch, index) for index in range(torch.cuda.device_count() if there else 0)),
        xpu=xpu,
        mps=torch.backends.mps.is_available(),
        driver=_driver(),
        amd=Path("/dev/kfd").exists(),
        triton=_triton_version(),
    )


def _driver() -> Driver | None:
    """NVIDIA's driver, None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        output = subprocess.run([program], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return Driver()
    found = [re.search(rf"{what} Version:\s*([\d.]+)", output) for what in ("Driver", "CUDA")]
    return Driver(*(match[1] if match else "" for match in found))


def _card(torch: Any, index: int) -> Card:
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    try:
        free, total = torch.cuda.mem_get_info(index)
        probe = torch.ones(64, 64, device=f"cuda:{index}")
        assert float((probe @ probe)[0, 0]) == 64
        with torch.cuda.device(index):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    except Exception as error:
        return Card(name, capability, failure=_kind(error))
    return Card(name, capability, free, total, bf16)


def _triton_version() -> str | None:
    for package in ("triton", "triton-windows", "triton-rocm"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def _main_memory() -> Message:
    import torch

    from janus_app.runtime.devices import device_memory

    memory = device_memory(torch.device("cpu"))
    return Message("doctor_memory_free", free=memory.free / 1e9, total=memory.total / 1e9)


def _quantization() -> Iterator[Finding]:
    """Compute an int8 and an nf4 product with the layers the loader makes, on the device it would choose."""
    import torch

    from janus_app.runtime.devices import resolve_device
    from janus_app.runtime.quantization import quantized_linear

    device = resolve_device("auto")
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    exact = x @ weight.T
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs its casts and missing optional kernels
    for precision, limit in (("int8", 0.05), ("nf4", 0.3)):
        try:
            version = metadata.version("bitsandbytes")
            layer = quantized_linear(weight, precision, device, dtype)
            with torch.inference_mode():
                approximate = layer(x.to(device, dtype)).float().cpu()
            error = float((approximate - exact).norm() / exact.norm())
        except Exception as failure:
            yield Finding("WARN", precision, _quantization_failure(failure, device.type), UPDATE_BITSANDBYTES)
            continue
        if error < limit:
            detail = Message("doctor_quantization", version=version, device=device.type, error=error)
            yield Finding("OK", precision, detail)
        else:
            detail = Message("doctor_quantization_wrong", device=device.type, error=error)
            yield Finding("WARN", precision, detail, UPDATE_BITSANDBYTES)


def _quantization_failure(error: Exception, device: str) -> Message:
    cause = error.__cause__ or error
    if isinstance(cause, ImportError):
        return Message("doctor_bitsandbytes_missing", device=device)
    return Message("doctor_quantization_failed", device=device, kind=_kind(cause))


def _triton() -> Iterator[Finding]:
    """Compile and run a kernel on a CUDA card; without one there is nothing to try."""
    import torch

    facts = gpu_facts(torch)
    if known := triton_finding(facts):
        yield known
        return
    version = facts.triton
    remedy = Message("doctor_install_triton")
    try:
        double = torch.compile(lambda x: x * 2 + 1)
        correct = bool((double(torch.ones(1024, device="cuda")) == 3).all())
    except Exception as error:  # no compiler, no headers or an unsuitable version: the remedy is the same
        yield Finding("WARN", "Triton", Message("doctor_triton_failed", version=version, kind=_kind(error)), remedy)
        return
    if correct:
        yield Finding("OK", "Triton", Message("doctor_works", version=version))
    else:
        yield Finding("WARN", "Triton", Message("doctor_triton_wrong"), remedy)


def _offload() -> Iterator[Finding]:
    """Run a layer through accelerate's offload hooks on the CPU."""
    what = Message("doctor_offload")
    try:
        version = metadata.version("accelerate")
        import torch
        from accelerate import cpu_offload
    except Exception as error:
        detail = Message("doctor_accelerate_failed", kind=_kind(error))
        yield Finding("WARN", what, detail, Message("doctor_install_accelerate"))
        return
    layer = torch.nn.Linear(4, 4)
    x = torch.ones(1, 4)
    with torch.inference_mode():
        equal = torch.equal(layer(x), cpu_offload(layer, execution_device=torch.device("cpu"))(x))
    if equal:
        yield Finding("OK", what, Message("doctor_accelerate", version=version))
    else:
        detail = Message("doctor_accelerate_wrong", version=version)
        yield Finding("WARN", what, detail, Message("doctor_update_accelerate"))


def _models(hub: Hub) -> Iterator[Finding]:
    catalog = load_catalog()
    for variant in catalog.values():
        status = hub.status(variant)
        if status.complete:
            verified = status.verified or variant.is_local
            size = size_text(status.on_disk)
            code = "doctor_model_verified" if verified else "doctor_model_unverified"
            yield Finding("OK", variant.id, Message(code, size=size))
        elif variant.is_local and variant.id == catalog.default().id:
            yield Finding("FAIL", variant.id, Message("doctor_embedded_missing"), Message("doctor_restore_weights"))
        elif variant.is_local:
            yield Finding("SKIP", variant.id, Message("doctor_model_absent"))
        else:
            left = size_text(status.total - status.on_disk)
            detail = Message("doctor_model_not_downloaded", left=left)
            if status.on_disk:
                detail = Message("doctor_model_partial", done=size_text(status.on_disk), left=left)
            yield Finding("SKIP", variant.id, detail)


def _disk(outputs: Path, cache: Path) -> Iterator[Finding]:
    for what, folder, remedy in (
        (Message("doctor_outputs_folder"), outputs, Message("doctor_choose_outputs")),
        (Message("doctor_download_folder"), cache, Message("doctor_choose_cache")),
    ):
        place = _existing(folder)
        if not (place.is_dir() and os.access(place, os.W_OK)):
            yield Finding("WARN", what, Message("doctor_folder_read_only", folder=str(folder)), remedy)
            continue
        free = shutil.disk_usage(place).free
        detail = Message("doctor_folder_free", folder=str(folder), free=free / 1e9)
        if free < LOW_DISK:
            yield Finding("WARN", what, detail, Message("doctor_free_space"))
        else:
            yield Finding("OK", what, detail)


def _existing(folder: Path) -> Path:
    """The folder or its nearest parent that exists."""
    folder = folder.expanduser().absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def hub_findings(hub: Hub, timeout: float) -> Iterator[Finding]:
    """Whether the Hub answers within `timeout` seconds, and if not, because of what."""
    if hub.offline:
        yield Finding("OK", "Hub", Message("doctor_hub_offline"))
        return
    proxied = proxy_of(hub.endpoint) is not None
    try:
        problem = hub_problem(hub.endpoint, timeout)
    except AppError as error:
        yield Finding("WARN", "Hub", error.message, Message("doctor_hub_not_asked"))
        return
    if problem:
        yield Finding("WARN", "Hub", problem, Message("doctor_hub_not_asked" if proxied else "doctor_set_proxy"))
    else:
        yield Finding("OK", "Hub", Message("doctor_hub_answers", host=host_of(hub.endpoint)))


def proxy_findings(hub: Hub) -> Iterator[Finding]:
    """Every variable that is set, and what follows from it for downloads. The page itself uses no proxy."""
    variables = proxy_variables()
    if not variables:
        yield Finding("OK", Message("doctor_proxies"), Message("doctor_no_proxies"))
    used, counting, host = proxy_of(hub.endpoint), effective(), urlsplit(hub.endpoint).hostname or "?"
    for variable in variables:
        values = {"value": variable.shown, "host": host}
        if not variable.value:
            yield Finding("OK", variable.name, Message("doctor_proxy_empty"))
        elif counting.get(variable.name.lower()) != variable:
            yield Finding("OK", variable.name, Message("doctor_proxy_ignored", **values))
        elif variable.name.lower() == NO_PROXY:
            yield Finding("OK", variable.name, Message("doctor_proxy_exceptions", **values))
        elif problem := variable.problem():
            yield Finding("WARN", variable.name, problem, Message("doctor_proxy_stops_downloads"))
        else:
            code = "doctor_proxy_used" if variable == used else "doctor_proxy_unused"
            yield Finding("OK", variable.name, Message(code, **values))


def _names() -> Iterator[Finding]:
    count = sum(bool(name.strip()) for name in os.environ.get("JANUS_APP_HOSTS", "").split(","))
    yield Finding("OK", Message("doctor_names"), Message("doctor_names_detail", count=count))


def _port(port: int) -> Iterator[Finding]:
    what = Message("doctor_port")
    if port_is_free("127.0.0.1", port):
        yield Finding("OK", what, Message("doctor_port_free", port=port))
    else:
        yield Finding("WARN", what, Message("doctor_port_in_use", port=port), Message("doctor_choose_port"))


def port_is_free(host: str, port: int) -> bool:
    """Whether a server can listen on the port. An unknown host counts as not free."""
    if not 1 <= port <= 65535:  # the system takes it modulo 65536
        return False
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as listener:
            if os.name != "nt":  # as servers do: a port released a moment ago is free
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            return True
    except OSError:
        return False
