"""What transformers and diffusers raise about a component's files, as errors of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from janus_app.errors import AppError


@contextlib.contextmanager
def library_errors_as_app_errors(what: str) -> Iterator[None]:
    """Turn any exception of a library into an AppError that says that the files of `what` cannot be used."""
    try:
        yield
    except AppError:
        raise
    except Exception as error:  # the libraries' checks raise many types
        reason = " ".join(str(error).split())[:200]
        raise AppError("component_unusable", what=what, kind=type(error).__name__, reason=reason) from error
