"""The one kind of error a person ever reads: what happened, and what to do next."""


class AppError(Exception):
    """A failure explained in a sentence or two, safe to print on the page and on the command line.

    Raise it with the remedy inside the message. Everything else that reaches the top is a bug of ours and is
    reported as one, without a traceback in the user's face.
    """
