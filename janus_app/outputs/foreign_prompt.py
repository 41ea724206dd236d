"""Prompt and seed in pictures of other programs: of AUTOMATIC1111's web UI, its forks and imitators, and of ComfyUI.

The web UI writes one text (prompt, "Negative prompt: …", then a line of settings) into the PNG chunk `parameters`, or
into the EXIF UserComment of a JPEG or WebP. ComfyUI writes the graph that drew the picture as JSON: `prompt` is the
graph as it ran, `workflow` the one on the screen; in WebP and JPEG they stand in EXIF texts that begin with that name.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from PIL import Image

from janus_app.errors import AppError
from janus_app.outputs.image_io import MAX_BYTES, Source, open_bytes, read_bounded
from janus_app.outputs.metadata import ImageMetadata, read_metadata
from janus_app.types import MAX_SEED

WEB_UI, COMFY_UI = "Stable Diffusion web UI", "ComfyUI"
MAX_CHARACTERS = 4_000_000  # graphs of ComfyUI are long
# Of a graph that is made to take long: samplers that are tried, nodes and inputs looked at behind each, links in a row.
MAX_SAMPLERS, MAX_NODES, MAX_INPUTS, MAX_LINKS = 20, 300, 100, 20
EXIF_FOLDER, USER_COMMENT = 0x8769, 0x9286
EXIF_TEXTS = (0x010E, 0x010F, 0x0110)  # ImageDescription, Make, Model: where ComfyUI puts its JSON
SETTINGS_LINE = re.compile(r"(?:^|, ?)(?:Steps|Seed|Sampler): ?[^,\n]+(?:,|$)")
SEED = re.compile(r"(?:^|,) ?Seed: ?(\d+)")
NEGATIVE = "Negative prompt:"
# Names of inputs, in the order in which they are looked at.
TEXTS = ("text", "prompt", "text_g", "t5xxl", "clip_l", "text_l", "string", "value")
SEEDS = ("seed", "noise_seed", "noise", "value")
STEERED = ("positive", "guider", "conditioning")

Graph = Mapping[str, Mapping[str, Any]]  # id of a node -> its inputs: values, and links as [id, number of the output]


@dataclass(frozen=True)
class ForeignPrompt:
    """What a picture of another program says. `seed` is None where it has none that this app could use."""

    program: str
    prompt: str
    negative: str
    seed: int | None


def read_foreign(source: Source) -> ForeignPrompt:
    """The prompt in a picture at a path, in bytes or open. Raises AppError where there is no picture or no prompt."""
    picture = source
    if not isinstance(picture, (bytes, Image.Image)):
        picture = read_bounded(picture, MAX_BYTES)
    if isinstance(picture, bytes):
        picture = open_bytes(picture)
    texts = dict(_texts(picture))
    found = None
    for key, read in (("parameters", _web_ui), ("prompt", _comfy_ui), ("workflow", _comfy_ui)):
        if found is None and key in texts:
            found = read(texts[key])
    if found is None:
        raise AppError("record_missing")
    return found


def read_settings(source: Source) -> ImageMetadata | ForeignPrompt:
    """The metadata of a picture of this app, or the prompt of another program's. Raises AppError like both."""
    try:
        return read_metadata(source)
    except AppError as error:
        if error.code != "record_missing":
            raise
    return read_foreign(source)


def _texts(picture: Image.Image) -> Iterator[tuple[str, str]]:
    """The texts by the names of their PNG chunks, those of the EXIF data included."""
    for text in _exif_texts(picture):
        name, colon, rest = text.partition(":")
        if colon and name.strip().lower() in ("prompt", "workflow") and rest.lstrip().startswith("{"):
            yield name.strip().lower(), rest
        elif text.startswith("{"):
            yield "prompt", text
        elif SEED.search(text) or NEGATIVE in text:
            yield "parameters", text
    for key in ("parameters", "prompt", "workflow"):
        chunk = picture.info.get(key)
        if isinstance(chunk, str) and len(chunk) <= MAX_CHARACTERS:
            yield key, chunk


def _exif_texts(picture: Image.Image) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exif = picture.getexif()
            values = [exif.get_ifd(EXIF_FOLDER).get(USER_COMMENT), exif.get(USER_COMMENT), *map(exif.get, EXIF_TEXTS)]
    except Exception:  # damaged EXIF data raise anything; then there is nothing to read
        return
    for value in values:
        text = _user_comment(value) if isinstance(value, bytes) else value
        if isinstance(text, str) and text and len(text) <= MAX_CHARACTERS:
            yield text.strip("\0")


def _user_comment(value: bytes) -> str:
    """The text of an EXIF UserComment. It names its encoding in 8 bytes, but not the byte order of UTF-16."""
    encoding, body = value[:8].strip(b"\0 "), value[8:]
    if encoding == b"UNICODE":
        both = [body.decode(order, "replace") for order in ("utf-16-be", "utf-16-le")]
        return max(both, key=lambda text: sum(character < "\u0100" for character in text))
    return (body if encoding in (b"ASCII", b"") else value).decode("utf-8", "replace")


def _web_ui(text: str) -> ForeignPrompt | None:
    lines = text.strip().splitlines()
    last = next((i for i in reversed(range(len(lines))) if SETTINGS_LINE.search(lines[i])), len(lines))
    words = "\n".join(lines[:last])
    prompt, _, negative = ("\n" + words).partition("\n" + NEGATIVE)
    seed = SEED.search(lines[last]) if last < len(lines) else None
    return _found(WEB_UI, prompt, negative, int(seed[1][:20]) if seed else None)


def _found(program: str, prompt: Any, negative: Any, seed: Any) -> ForeignPrompt | None:
    usable = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= MAX_SEED
    prompt, negative = (text.strip() if isinstance(text, str) else "" for text in (prompt, negative))
    if negative == prompt:  # a graph that steers by one text alone leads to it from both sides
        negative = ""
    return ForeignPrompt(program, prompt, negative, seed if usable else None) if prompt else None


def _comfy_ui(text: str) -> ForeignPrompt | None:
    try:
        graph = _graph(json.loads(text))
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError, IndexError):
        return None
    samplers = [node for node, inputs in graph.items() if _steered(inputs) or _first(inputs, TEXTS[:3])]
    # The node that draws has a seed; others only pass a prompt on, or load a model.
    samplers.sort(key=lambda node: (not _steered(graph[node]), not any(key in graph[node] for key in SEEDS[:3])))
    for node in samplers[:MAX_SAMPLERS]:
        seed = _value(graph, node, SEEDS, int)
        if found := _found(COMFY_UI, _words(graph, node, "positive"), _words(graph, node, "negative"), seed):
            return found
    return None


def _graph(saved: Any) -> Graph:
    """The inputs of each node, of a graph as it ran or as it is on the screen."""
    if not isinstance(saved.get("nodes"), list):
        bodies = {str(node): body for node, body in saved.items() if isinstance(body, dict)}
        return {node: dict(body["inputs"]) for node, body in bodies.items() if "inputs" in body}
    links = {link[0]: [str(link[1]), link[2]] for link in saved.get("links") or ()}
    graph = {}
    for node in saved["nodes"]:
        linked = {one["name"]: links[one["link"]] for one in node.get("inputs") or () if one.get("link") in links}
        values = node.get("widgets_values") or ()
        named = dict(values) if isinstance(values, dict) else _guessed(values, "positive" in linked)
        graph[str(node["id"])] = named | linked
    return graph


def _guessed(values: Sequence[Any], draws: bool) -> dict[str, Any]:
    """The values of a node on the screen have no names: a text node's first text is its words, a number its seed."""
    words = next((value for value in values if isinstance(value, str)), None)
    seed = next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), None)
    return ({} if draws or words is None else {"text": words}) | ({} if seed is None else {"seed": seed})


def _steered(inputs: Mapping[str, Any]) -> bool:
    return any(_is_link(inputs.get(key)) for key in STEERED)


def _first(inputs: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((inputs[key] for key in keys if inputs.get(key) not in (None, "")), None)


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and [type(part) for part in value] in ([str, int], [int, int])


def _value(graph: Graph, node: str, keys: tuple[str, ...], kind: type) -> Any:
    """The first value of that kind among the inputs, also where a link brings it."""
    seen: set[str] = set()
    while node in graph and node not in seen and len(seen) <= MAX_LINKS:
        seen.add(node)
        value = _first(graph[node], keys)
        if not _is_link(value):
            return value if isinstance(value, kind) else None
        node = str(value[0])
    return None


def _words(graph: Graph, sampler: str, role: str) -> str | None:
    """The text that steers a sampler: its own for "positive", or that of the first text node behind its input."""
    inputs = graph[sampler]
    keys = STEERED if role == "positive" else ("negative", "guider")
    waiting = deque(str(inputs[key][0]) for key in keys if _is_link(inputs.get(key)))
    if not waiting:
        return _value(graph, sampler, TEXTS if role == "positive" else ("negative_prompt", "negative"), str)
    seen = {sampler}
    while waiting and len(seen) <= MAX_NODES:
        node = waiting.popleft()
        if node in seen or node not in graph:
            continue
        seen.add(node)
        inputs = graph[node]
        # Nodes that take both pass each on by itself.
        behind = [role] if _is_link(inputs.get(role)) else list(islice(inputs, MAX_INPUTS))
        text = None if behind == [role] else _value(graph, node, TEXTS, str)
        if text is not None:
            return str(text)
        waiting += [str(inputs[key][0]) for key in behind if _is_link(inputs[key])]
    return None
