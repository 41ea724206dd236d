"""The one kind of error a person ever reads: what happened, and what to do next."""

from __future__ import annotations

import errno

# How the libraries say that memory ran out where they raise no type of their own for it.
_NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "could not create a memory",
    "could not create a primitive",  # oneDNN, where it finds no room for one
    "alloc_failed",
    "unable to mmap",
)


class AppError(Exception):
    """A failure explained in a sentence or two, safe to print on the page and on the command line.

    Raise it with the remedy inside the message. Everything else that reaches the top is a bug of ours and is
    reported as one, without a traceback in the user's face.
    """


class NoRoom(AppError):
    """A load ran out of memory. `offer` is the precision to try next, "" where none is smaller."""

    def __init__(self, sentence: str, offer: str = "") -> None:
        super().__init__(sentence)
        self.offer = offer


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, PyTorch or a library below says that memory ran out, on whatever device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _NO_MEMORY)
