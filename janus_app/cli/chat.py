"""`chat`: one question, or a conversation typed line by line."""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import replace

from PIL.Image import Image

from janus_app.cli import options
from janus_app.cli.common import chosen_variant, load_model, open_session, picture_json, require_verb
from janus_app.cli.console import clean, emit, follow, say, usage_errors
from janus_app.errors import AppError, Message
from janus_app.outputs.image_io import open_picture
from janus_app.outputs.store import OutputStore
from janus_app.registry.types import Variant
from janus_app.runtime.session import ModelSession
from janus_app.types import ChatRequest, Finished, Turn
from janus_app.workflows.settings import chat_settings

SUMMARY = "Ask about pictures, or just talk."
HELP = Message("cli_chat_help")


def add_options(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    parser.add_argument("--prompt", help="the question; without it a conversation is read from the terminal")
    parser.add_argument("--image", action="append", default=[], help="a picture to ask about; may be given again")
    options.add_transparency(parser)
    options.add_sampling(parser, "always the most likely word")
    parser.add_argument("--top-p", type=float, help="share of likely words to choose from, 0.01 to 1")
    parser.add_argument("--max-new-tokens", type=int, help="the longest answer, 1 to 4096 tokens")
    options.add_out(parser)
    options.add_json(parser)
    options.add_vectors(parser)


def run(args: argparse.Namespace) -> int:
    session = open_session()
    variant = chosen_variant(session.catalog, args)
    require_verb(variant, "chat")
    with usage_errors():
        images = tuple(open_picture(path, args.transparency) for path in args.image)
        first = _request(args, variant, Turn("user", "hello" if args.prompt is None else args.prompt, images))
    load_model(session, args, variant)
    if args.prompt is None:
        return _converse(session, first, images, args)
    _answer(session, first, args)
    return 0


def _request(args: argparse.Namespace, variant: Variant, turn: Turn) -> ChatRequest:
    return ChatRequest(
        turns=(turn,),
        **chat_settings(vars(args), variant),
    )


def _answer(session: ModelSession, request: ChatRequest, args: argparse.Namespace) -> str:
    """Print the answer and save the pictures in it; returns its text."""
    finished = follow(session.run(request), text_to=None if args.json else sys.stdout)
    assert isinstance(finished, Finished) and session.variant is not None
    saved = OutputStore(args.out).save(finished)
    if not args.json:
        print(flush=True)
        for stored in saved:
            print(stored.file, flush=True)
        return finished.text
    drawn = [
        picture_json(stored, picture, args.vectors) for stored, picture in zip(saved, finished.pictures, strict=True)
    ]
    state, usage = session.state, finished.usage
    emit(
        {
            "text": finished.text,
            "token_ids": list(finished.token_ids),
            "prompt_tokens": usage.prompt_tokens if usage else None,
            "new_tokens": usage.new_tokens if usage else None,
            "context": usage.context if usage else None,
            "seed": request.seed,
            "model": session.variant.id,
            "revision": session.variant.revision or "",
            "precision": state.precision,
            "device": state.device.partition(":")[0],
            "seconds": round(finished.compute_seconds, 3),
            **({"pictures": drawn} if drawn else {}),
        }
    )
    return finished.text


def _converse(session: ModelSession, settings: ChatRequest, images: tuple[Image, ...], args: argparse.Namespace) -> int:
    """Answer line after line until the input ends. A turn that fails or is stopped is dropped from the conversation."""
    typed = sys.stdin.isatty()
    if typed:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - line editing in input()
        say(HELP)
    turns: tuple[Turn, ...] = ()
    status = 0
    while True:
        line = _read_line(typed)
        if line is None or line == "/quit":
            return 0 if typed else status
        if not line:
            continue
        try:
            if line == "/reset":
                turns, images = (), ()
                say(Message("cli_new_conversation"))
            elif line == "/help":
                say(HELP)
            elif line.startswith("/image "):
                images = (*images, open_picture(line.removeprefix("/image "), args.transparency))
                say(Message("cli_pictures_attached", count=len(images)))
            elif line.startswith("/"):
                raise AppError("cli_chat_command_unknown", command=line.split()[0], help=HELP)
            else:
                conversation = (*turns, Turn("user", line, images))
                answer = _answer(session, replace(settings, turns=conversation), args)
                turns, images = (*conversation, Turn("assistant", answer)), ()
        except AppError as error:
            say(error.message)
            status = 1
        except KeyboardInterrupt:
            if not typed:
                raise
            print(file=sys.stderr)
            say(Message("cli_question_stopped"))


def _read_line(typed: bool) -> str | None:
    """The next line without its end, None at the end of the input."""
    try:
        if typed:
            return input("> ").strip()
        line = sys.stdin.readline()
        return clean(line).strip() if line else None
    except EOFError:
        print(file=sys.stderr)
        return None
