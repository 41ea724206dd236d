"""The page: Gradio widgets over the studio. Never imports torch."""

import os

from janus_app.hub.proxies import page_environment
from janus_app.ui.gradio_import import lean

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
with page_environment(), lean():  # its import creates HTTP clients, which a proxy variable can make impossible
    import gradio as gradio
