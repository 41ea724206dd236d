"""Record what the embedded models do (assets/selftest.json), and put the self-test's output here into docs/selftest.md.

python docs/make_selftest.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from janus_app.runtime.selftest.embedded import RECORDED, record  # noqa: E402
from janus_app.types import result_of  # noqa: E402

PAGE = ROOT / "docs" / "selftest.md"
COMMAND = [sys.executable, "-m", "janus_app", "selftest", "--device", "cpu"]


def main() -> None:
    RECORDED.write_text(result_of(record()), "utf-8")
    output = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    page = PAGE.read_text("utf-8")
    PAGE.write_text(re.sub(r"(?<=```text\n).*?(?=```)", lambda _: output, page, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main()
