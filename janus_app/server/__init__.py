"""Access over HTTP."""

from janus_app.hub.proxies import page_environment

with page_environment():  # its import creates HTTP clients, which a proxy variable can make impossible
    import gradio as gradio
