"""The page: Gradio widgets over the studio. Never imports torch."""

from janus_app import server as server  # imports Gradio, whatever the proxy variables say
