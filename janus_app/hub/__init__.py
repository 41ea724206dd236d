"""Model files on this machine: downloaded, resumed, verified, imported and deleted.

hub = Hub()
folder = yield from hub.fetch(variant)      # Progress events; closing the generator cancels
"""

import os

from janus_app.hub.cache import CacheStatus
from janus_app.hub.hub import RESERVE, Hub
from janus_app.hub.importing import Imported
from janus_app.hub.transfer import DownloadLimits, RetryPolicy

__all__ = ["RESERVE", "CacheStatus", "DownloadLimits", "Hub", "Imported", "RetryPolicy"]

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # huggingface_hub, which reads it, is imported later
