"""`python -m janus_app mcp` with jobs that wait for their test: FOLDER and the options of the command."""

from __future__ import annotations

import sys
from pathlib import Path

from janus_app.cli import main
from tests.clients.held import hold_jobs

if __name__ == "__main__":
    hold_jobs(Path(sys.argv[1]))
    sys.exit(main(["mcp", "--out", *sys.argv[1:]]))
