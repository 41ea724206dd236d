"""The options that several commands have. Their default is None, "not given": the model's own row has the defaults."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import NoReturn

from janus_app.cli.console import UsageError
from janus_app.files import typed_path
from janus_app.outputs.store import is_picture_name
from janus_app.types import MAX_STEPS, PRECISIONS, SOLVERS, TRANSPARENCY, TRANSPARENCY_VARIABLE

DEVICE_HELP = (
    "auto, cpu, cuda, cuda:1, cuda:all (layers over all cards), cuda+cpu (layers that do not fit wait in main memory), "
    "mps or xpu (default auto)"
)


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, without the whole usage text."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{message[:1].upper()}{message[1:]}. See `{self.prog} --help`.\n")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, such as 512x768, not {text!r}")
    return int(width), int(height)


class _Pair(argparse.Action):
    """Keeps two values as a tuple."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: object, _: object = None) -> None:
        setattr(namespace, self.dest, tuple(values))  # type: ignore[arg-type]


def add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", help="show the traceback of an unexpected failure")


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="a model of `models`, or a folder holding a checkpoint")
    parser.add_argument("--device", help=DEVICE_HELP)
    precisions = ("auto", *PRECISIONS)
    parser.add_argument("--precision", choices=precisions, help="number format of the weights (default auto)")
    add_adapters(parser)


def add_adapters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adapter",
        metavar="NAME[=STRENGTH]",
        action="append",
        help="LoRA adapter to merge into the weights: a folder, or a name in the adapters folder (docs/models.md); "
        "strength 1 where none is given; can be repeated",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object per result to stdout")


def add_vectors(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vectors",
        action="store_true",
        help="with --json: also the vectors that the model wrote for each picture, where it writes some",
    )


def add_sampling(parser: argparse.ArgumentParser, zero: str) -> None:
    parser.add_argument("--temperature", type=float, help=f"0 to 2; 0 = {zero}")
    parser.add_argument("--seed", type=int, help="whole number from 0 (default 0); -1 = a random one, which is printed")


def add_transparency(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--transparency",
        choices=TRANSPARENCY,
        help="transparent parts of a picture: on white, or drop, which takes the colours stored under them as the "
        f"models' published code does (default ${TRANSPARENCY_VARIABLE}, else white)",
    )


def add_drawing(parser: argparse.ArgumentParser) -> None:
    """The options of the commands that draw."""
    parser.add_argument("--negative", help="negative prompt: what to avoid")
    parser.add_argument("--count", type=int, help="how many pictures, 1 to 16 (default 1); picture i uses seed + i")
    parser.add_argument("--guidance", type=float, help="how closely to follow the prompt, 1 to 20; 1 = off")
    parser.add_argument("--steps", type=int, help=f"for models that draw in steps, 1 to {MAX_STEPS}; others ignore it")
    parser.add_argument(
        "--solver", choices=SOLVERS, help="for flow models: how a step is computed (ab2 = Adams-Bashforth)"
    )
    parser.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        action=_Pair,
        metavar=("FROM", "UNTIL"),
        help="for flow models: use guidance only between these points, 0 = noise, 1 = picture (default 0 1)",
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="WIDTHxHEIGHT",
        help="for models that draw in several sizes: pixels of a drawing; of an edit, the longer side counts",
    )
    parser.add_argument(
        "--turbo", action="store_true", help="for token models: the same picture in fewer passes (docs/engine.md)"
    )
    add_sampling(parser, "always the most likely token; flow models ignore it")
    add_out(parser)
    for name in ("--width", "--height"):  # other programs have them
        parser.add_argument(name, dest="side", help=argparse.SUPPRESS)


def add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=_destination,
        default="outputs",
        help="folder, or a .png, .jpg or .webp name, to write to (default outputs)",
    )


def _destination(text: str) -> Path:
    """The path to write to. Raises UsageError for a file of another kind, which must not become a folder."""
    path = typed_path(text)
    folder = path.is_dir() or text.endswith(("/", os.sep))
    if not folder and re.fullmatch(r"\.[A-Za-z]\w{0,4}", path.suffix) and not is_picture_name(path):
        raise UsageError("cli_out_kind_unknown", suffix=path.suffix)
    return path


def add_page(parser: argparse.ArgumentParser) -> None:
    """The options of app.py: how the page is served."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 = the whole network")
    parser.add_argument("--port", type=int, help="default 7860, or the next free one")
    parser.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="also answer to this host name, as a proxy's; *.example.org = all names below it; can be repeated",
    )
    parser.add_argument("--root-path", metavar="PATH", help="the sub-path of a reverse proxy, such as /janus")
    parser.add_argument("--share", action="store_true", help="a public link through Gradio, behind a password")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask visitors for it; $JANUS_APP_AUTH does the same")
    parser.add_argument(
        "--api-key", metavar="KEY", help="other programs must send it (docs/api.md); $JANUS_APP_API_KEY does the same"
    )
    parser.add_argument(
        "--allow-origin",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="let this web site use the API from a browser, as https://app.example.org; can be repeated",
    )
    parser.add_argument(
        "--fetch-images", action="store_true", help="let other programs name pictures by a public web address"
    )
    parser.add_argument("--lang", default="auto", choices=("auto", "en", "zh-CN"), help="language of the page")
    parser.add_argument(
        "--idle-unload",
        type=float,
        metavar="MINUTES",
        help="unload a model that was idle for this long (default never)",
    )
    parser.add_argument(
        "--cluster",
        metavar="local:N|HOST:PORT",
        help="draw with several models at once: N on this machine, or those of a cluster's machines (docs/cluster.md)",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser window")
