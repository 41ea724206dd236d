"""Write docs/doctor.md: what the doctor says in ten circumstances.

python docs/make_doctor_page.py

The GPUs are described by the facts that such machines report; variables and missing packages are set in this process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from janus_app.hub import Hub  # noqa: E402
from janus_app.hub.proxies import proxy_variables  # noqa: E402
from janus_app.runtime.doctor import hub_findings, proxy_findings  # noqa: E402
from janus_app.runtime.findings import Finding, as_text  # noqa: E402
from janus_app.runtime.gpus import Card, Driver, GpuFacts, gpu_findings, triton_finding  # noqa: E402

PAGE = ROOT / "docs" / "doctor.md"
INTRODUCTION = """# What the doctor says

`python -m janus_app doctor` checks this machine and prints a line for each check: `OK`; `WARN`, a feature will not
work; or `FAIL`, the app cannot work. Below a problem stands what to do. It speaks Chinese where the system does. On the
page, *Check this machine* shows the same.

These are the lines that matter in ten circumstances. `python docs/make_doctor_page.py` writes this page by running the
doctor's checks on the facts that such machines report; the machines themselves were not at hand.
"""
CU126 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
CU130 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
NEW, OLD = Driver("580.65.06", "13.0"), Driver("550.54.14", "12.4")
CPU = GpuFacts("Linux", "2.13.0+cpu", triton="3.7.1")
CUDA_12 = GpuFacts("Linux", "2.13.0+cu126", cuda="12.6", architectures=CU126, driver=NEW, triton="3.7.1")
CUDA_13 = GpuFacts("Linux", "2.13.0+cu130", cuda="13.0", architectures=CU130, driver=NEW, triton="3.7.1")
WINDOWS = replace(CUDA_13, system="Windows", triton=None)
HUB = "https://huggingface.co"


def gpus(facts: GpuFacts, *cards: Card) -> list[Finding]:
    facts = replace(facts, cards=cards)
    triton = triton_finding(facts)
    return [*gpu_findings(facts), *([triton] if triton else [])]


def variables(endpoint: str, socks: bool = True, **values: str) -> list[Finding]:
    """What the doctor says of proxies; and of the Hub, where it says so without asking it."""
    with environment(values, socks):
        found = list(proxy_findings(Hub(endpoint=endpoint, offline=False)))
        if endpoint == HUB and socks:
            return found
        return found + list(hub_findings(Hub(endpoint=endpoint, offline=False), timeout=1))


@contextmanager
def environment(values: dict[str, str], socks: bool) -> Iterator[None]:
    import httpcore2  # noqa: F401  decides on its import whether it can use SOCKS
    from huggingface_hub.utils import close_session  # a client reads the variables when it is created

    modules = {} if socks else {"socksio": None}
    with patch.dict(os.environ), patch.dict(sys.modules, modules):
        for variable in proxy_variables():
            del os.environ[variable.name]
        os.environ.update(values)
        close_session()
        try:
            yield
        finally:
            close_session()


def circumstances() -> dict[str, list[Finding]]:
    return {
        "No GPU": gpus(CPU),
        "An NVIDIA card that is ready": gpus(CUDA_13, Card("NVIDIA GeForce RTX 4090", (8, 9), 23.2e9, 25.3e9)),
        "Windows with the PyTorch that pip installs there by itself": gpus(
            replace(CPU, system="Windows", driver=NEW, triton=None)
        ),
        "Windows without Triton": gpus(WINDOWS, Card("NVIDIA GeForce RTX 4070", (8, 9), 11.6e9, 12.9e9)),
        "A card newer than the build of PyTorch": gpus(CUDA_12, Card("NVIDIA GeForce RTX 5090", (12, 0))),
        "A card older than the build of PyTorch": gpus(CUDA_13, Card("NVIDIA GeForce GTX 1080", (6, 1))),
        "A driver older than the build of PyTorch": gpus(replace(CUDA_13, driver=OLD)),
        "Apple silicon": gpus(GpuFacts("Darwin", "2.13.0", mps=True)),
        "A company's proxy": variables(
            HUB,
            HTTP_PROXY="http://old.example:3128",
            http_proxy="",
            https_proxy="http://user:password@proxy.example:3128",
            no_proxy="localhost,.example",
        ),
        "A SOCKS proxy, and a mirror without its scheme": variables(
            "hf-mirror.com", socks=False, ALL_PROXY="socks5://127.0.0.1:7891"
        ),
    }


def page() -> str:
    parts = [INTRODUCTION]
    for title, findings in circumstances().items():
        parts.append(f"## {title}\n\n```text\n{as_text(findings)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
