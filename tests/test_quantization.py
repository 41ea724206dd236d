"""bitsandbytes runs no code of the Hub, also where it would fetch some without being asked."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from janus_app.models.common.lazy_import import importing
from janus_app.runtime import quantization

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed here")

KERNELS = "def get_kernel(repo, **_):\n    print('fetched', repo)\n    raise RuntimeError\n"
# bitsandbytes on a processor with AVX512-BF16 and on an Apple GPU, as far as it decides what to fetch.
LOAD = """
import contextlib, ctypes, importlib, platform, torch
symbol = ctypes.CDLL.__getattr__
has = lambda library, name: (lambda: True) if name == "has_avx512bf16_cpu" else symbol(library, name)
ctypes.CDLL.__getattr__ = has
platform.mac_ver = lambda: ("26.0", ("", "", ""), "")
torch.backends.mps.is_available = lambda: True

from janus_app.models.common.lazy_import import importing
from janus_app.runtime import quantization
quantization.quantized_linear(torch.ones(64, 64), "nf4", torch.device("cpu"), torch.float32)
from bitsandbytes.backends.cpu import ops as cpu
from bitsandbytes.backends.mps import ops as apple
assert apple._get_kernel() is None
print("loaded")
apple._kernel_load_failed = False
assert apple._get_kernel() is None
with contextlib.suppress(RuntimeError):  # it cannot register its operations twice
    importlib.reload(cpu)
"""


def test_bitsandbytes_fetches_no_code_from_the_hub_for_this_app(tmp_path: Path) -> None:
    """With the package `kernels` installed, which it asks for code as soon as the app does not prevent it."""
    (tmp_path / "kernels.py").write_text(KERNELS)
    path = [str(tmp_path), str(Path(__file__).parent.parent), *sys.path]
    run = subprocess.run(
        [sys.executable, "-c", LOAD],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(path), "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    hub = "fetched kernels-community"
    assert run.stdout.split("\n") == ["loaded", f"{hub}/bitsandbytes-mps", f"{hub}/quantization-bitsandbytes", ""]


def test_packages_that_import_bitsandbytes_themselves_find_no_kernels_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As transformers and diffusers do; every import of them is done inside this block."""
    (tmp_path / "kernels.py").write_text(KERNELS)
    monkeypatch.syspath_prepend(str(tmp_path))
    with importing, importing:
        assert find_spec("kernels") is None
        with pytest.raises(ImportError):
            import_module("kernels")
    assert find_spec("kernels") is not None, "other programs' imports are not our business"


def test_imports_of_two_threads_do_not_uncover_the_package_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernels.py").write_text(KERNELS)
    (tmp_path / "bitsandbytes.py").write_text("import sys\nhidden = 'kernels' in sys.modules\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, name)
    with ThreadPoolExecutor(1) as pool:
        with importing:
            other = pool.submit(quantization.import_bitsandbytes)
            assert not wait([other], 0.2).done, "it began in the middle of another import"
        assert other.result(60).hidden
    monkeypatch.delitem(sys.modules, "bitsandbytes")
    assert "kernels" not in sys.modules and find_spec("kernels") is not None
