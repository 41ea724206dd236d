"""Access over HTTP, and the interfaces for other programs. Never imports Gradio."""
