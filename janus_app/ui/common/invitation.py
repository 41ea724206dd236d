"""The invitation to a shared page: its link, also as a QR code."""

from __future__ import annotations

import io
from html import escape

import segno


def invitation(url: str, words: str, alt: str) -> str:
    """A line with the link and, beside it, the link as a QR code. `words` is the sentence before the link."""
    code = segno.make(url, error="m").svg_data_uri(scale=3, border=3, light="white")
    link = f'<a href="{escape(url, quote=True)}">{escape(url)}</a>'
    return (
        f'<div class="message invitation" role="status"><span>{escape(words)} {link}</span>'
        f'<img src="{escape(code, quote=True)}" alt="{escape(alt, quote=True)}"></div>'
    )


def printed_invitation(url: str) -> str:
    """The same for a terminal: the link, and the code in block characters."""
    out = io.StringIO()
    segno.make(url, error="m").terminal(out=out, compact=True, border=2)
    return f"Shared at {url}\n{out.getvalue()}"
