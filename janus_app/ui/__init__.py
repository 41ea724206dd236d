"""The page: Gradio widgets over the studio. Never imports torch."""
