"""Where the files of this checkout and of its user are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import platformdirs

APP = "janus_app"
ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "assets"
MANIFEST = ROOT / "weights_manifest.yaml"


def data_folder() -> Path:
    """The folder for what the app keeps for its user: conversations, own models, pinned hashes. Not created here.

    $JANUS_APP_DATA, else the platform's folder for the data of applications.
    """
    if chosen := os.environ.get("JANUS_APP_DATA"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":  # platformdirs would follow XDG_DATA_HOME, which earlier versions did not do on macOS
        return Path.home() / "Library" / "Application Support" / APP
    return platformdirs.user_data_path(APP, appauthor=False)
