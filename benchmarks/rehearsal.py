"""The whole way of a model at its real size: random weights under the real names, from the download to a drawing.

    python -m benchmarks.rehearsal [--model janus-pro-1b] [--precision fp32,bf16,int8,nf4] [--verbs draw,ask,edit,page]
                                   [--small] [--keep FOLDER]

The checkpoint has the names, shapes, types and files of a row of the manifest; with `--small` the files alone are the
row's. A server on the loopback address stands for the Hub. Every stage is a command of the app in a process of its own:
a download that is killed and resumed, its verification, the conversion of a pickle, then in each precision a load, a
drawing, a question and an edit, and at last the page. The seconds that a picture takes stand beside those that `fit`
expects from the speed it measured of this machine. Memory is the most that the process held by itself (mapped
files aside), beside the need that `fit` predicts without its reserve, and what the interpreter and the libraries
take, measured with the demo model.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from benchmarks.random_checkpoint import Size, config_of, random_tensors, write_settings
from janus_app.paths import MANIFEST, ROOT
from janus_app.registry.catalog import load_catalog
from janus_app.registry.types import File, Variant
from janus_app.runtime.fit import KNOWN_CONFIGS
from janus_app.runtime.loader import expected_tensors

SMALL = Size(
    hidden=64, feed_forward=160, layers=2, heads=4, vocabulary=1280, channels=32, tower_width=64, tower_layers=1
)
PIECE = 1 << 20
PATIENCE = 600  # seconds until the model of the page is ready
ROW = "rehearsal"  # the id of the row that is rehearsed
PROMPT = "a red house and a blue car under a yellow sun"


# ---- the checkpoint


def write_files(variant: Variant, source: Path, small: bool) -> None:
    """The files of a row and of its components, with random weights, in a folder for each repository."""
    facts = json.loads(gzip.decompress((KNOWN_CONFIGS / f"{(variant.repo or '').split('/')[-1]}.json.gz").read_bytes()))
    config: dict[str, Any] = config_of(SMALL) if small else facts["config"]
    shapes: dict[str, Sequence[int]] = expected_tensors(config) if small else facts["tensors"]
    for role, component in variant.components.items():  # an autoencoder, whose config stands in the network's
        settings, prefix = config.pop(role), f"{role}."
        own = {name.removeprefix(prefix): shapes.pop(name) for name in list(shapes) if name.startswith(prefix)}
        (folder := source / component.repo.replace("/", "--")).mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(settings), "utf-8")
        _write_weights(own, component.files, folder)
    folder = source / str(variant.repo).replace("/", "--")
    write_settings(folder, config)
    _write_weights(shapes, variant.files, folder)


def _write_weights(shapes: dict[str, Sequence[int]], files: Sequence[File], folder: Path) -> None:
    """Random weights in bfloat16, spread over the weight files of a repository."""
    weights = [file.path for file in files if file.path.endswith((".bin", ".safetensors"))]
    size, places = 0, dict[str, str]()
    share = sum(map(_count, shapes.values())) / len(weights) + 1
    for name in sorted(shapes):
        places[name] = weights[int(size // share)]
        size += _count(shapes[name])
    for file in weights:
        tensors = random_tensors({name: shape for name, shape in sorted(shapes.items()) if places[name] == file})
        if file.endswith(".bin"):
            torch.save(tensors, folder / file)
        else:
            save_file(tensors, folder / file)
    if index := next((file.path for file in files if file.path.endswith(".index.json")), None):
        total = {"total_size": 2 * size}
        (folder / index).write_text(json.dumps({"metadata": total, "weight_map": places}), "utf-8")


def write_manifest(variant: Variant, folder: Path) -> Path:
    """A list of models with the row under another id, and without the sizes and hashes of the real files."""
    rows = yaml.safe_load(MANIFEST.read_text("utf-8"))["variants"]
    row = next(row for row in rows if row["id"] == variant.id) | {"id": ROW}
    for part in (row, *row.get("components", {}).values()):
        for file in part["files"]:
            file |= {"size": None, "sha256": None}
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"variants": [row]}, allow_unicode=True), "utf-8")
    return path


def _count(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


# ---- the server


@contextmanager
def hub_server(source: Path, pause: float = 0.0) -> Iterator[str]:
    """The address of a server that answers as the Hub does for the repositories with these files.

    It waits `pause` seconds before each piece, so that there is time to kill the download of a small one.
    """
    hashes = {path: _sha256(path) for path in source.glob("*/*")}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            match = re.fullmatch(r"/([^/]+)/([^/]+)/resolve/([0-9a-f]+)/([^/?]+)", self.path)
            path = source / f"{match[1]}--{match[2]}" / match[4] if match else None
            if match is None or path not in hashes:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size = path.stat().st_size
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start, end = (int(asked[1]), int(asked[2] or size - 1) + 1) if asked else (0, size)
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.send_header("Content-Length", str(end - start))
            self.send_header("X-Repo-Commit", match[3])
            self.send_header("ETag", f'"{hashes[path]}"')
            self.send_header("X-Linked-ETag", f'"{hashes[path]}"')
            self.send_header("X-Linked-Size", str(size))
            self.end_headers()
            if body:
                self._send(path, start, end)

        def _send(self, path: Path, start: int, end: int) -> None:
            with path.open("rb") as file, suppress(OSError):  # the client was killed
                file.seek(start)
                while start < end:
                    time.sleep(pause)
                    piece = file.read(min(PIECE if not pause else PIECE // 16, end - start))
                    self.wfile.write(piece)
                    start += len(piece)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- the stages


@dataclass(frozen=True)
class Stage:
    """What a command took: seconds, bytes of its own memory at the highest point, what it printed, and whether it was
    killed."""

    seconds: float
    peak: int
    printed: str
    killed: bool


class Rehearsal:
    """Runs commands of the app in an environment with files of its own."""

    def __init__(self, folder: Path, endpoint: str, manifest: Path) -> None:
        self._folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith(("_proxy", "_offline"))}
        self.environment = {
            **kept,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(folder / "hub"),
            "JANUS_APP_DATA": str(folder / "data"),
            "JANUS_APP_MANIFEST": str(manifest),
            "JANUS_APP_WEIGHT_CHECK": "off",  # random weights do not answer
            "LC_ALL": "C.UTF-8",
        }

    def command(self, *arguments: str, kill_after: int | None = None) -> Stage:
        """`python -m janus_app ...`; with `kill_after`, it is killed once the files it writes have so many bytes."""
        started, peak = time.perf_counter(), 0
        with (self._folder / "printed").open("w+") as printed:
            command = [sys.executable, "-m", "janus_app", *arguments]
            process = psutil.Popen(command, cwd=ROOT, env=self.environment, stdout=printed, stderr=subprocess.STDOUT)
            while process.poll() is None:
                peak = max(peak, own_memory(process.pid))
                if kill_after is not None and _written(self._folder / "hub") >= kill_after:
                    process.send_signal(signal.SIGKILL)
                time.sleep(0.02)
            printed.seek(0)
            text = printed.read()
        if process.returncode not in (0, -signal.SIGKILL if kill_after is not None else 0):
            raise SystemExit(f"{' '.join(arguments)} failed:\n{text}")
        return Stage(time.perf_counter() - started, peak, text, killed=process.returncode != 0)

    def page(self, name: str, precision: str) -> tuple[float, float, int]:
        """Seconds until the page answers and until its model is ready, and the memory it then holds."""
        started = time.perf_counter()
        command = [sys.executable, "app.py", "--model", name, "--precision", precision]
        process = psutil.Popen(
            command, cwd=ROOT, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            address = ""
            for line in process.stdout:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    address = found[0]
                    break
            if not address:
                raise SystemExit("the page did not start")
            threading.Thread(target=process.stdout.read, daemon=True).start()
            up = time.perf_counter() - started
            while not _ready(f"{address}/v1/models/{name}"):
                if time.perf_counter() - started > PATIENCE:
                    raise SystemExit("the page's model did not become ready")
                time.sleep(0.1)
            return up, time.perf_counter() - started, own_memory(process.pid)
        finally:
            process.terminate()
            process.wait()


def own_memory(process: int) -> int:
    """Bytes that a process holds itself: without the files that are mapped into it."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])
    return 0


def _written(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_blocks * 512 if path.is_file() and not path.is_symlink() else 0
    return total


def _ready(address: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with suppress(OSError, ValueError), direct.open(address, timeout=5) as answer:
        return bool(json.load(answer)["janus_app"]["loaded"])
    return False


def fetch_stages(run: Rehearsal, name: str, size: int) -> Iterator[tuple[str, Stage]]:
    for share in (0.2, 0.6):
        done = run.command("models", "download", name, kill_after=int(share * size))
        yield f"download, {'killed' if done.killed else 'over before it was killed'} at {share:.0%}", done
    yield "download, resumed", run.command("models", "download", name)
    yield "verify", run.command("models", "verify", name)


def precision_stages(
    run: Rehearsal, name: str, precision: str, verbs: Sequence[str], out: Path
) -> Iterator[tuple[str, Stage]]:
    chosen = ("--model", name, "--precision", precision, "--device", "cpu", "--prompt", PROMPT, "--json")
    picture = out / "picture.png"
    Image.new("RGB", (384, 384), (200, 60, 40)).save(picture)
    commands = {
        "draw": ("generate", *chosen, "--out", str(out)),
        "ask": ("chat", *chosen, "--image", str(picture)),
        "edit": ("edit", *chosen, "--image", str(picture), "--strength", "0.3", "--out", str(out)),
    }
    for verb, command in commands.items():
        if verb in verbs:
            yield verb, run.command(*command)


@dataclass(frozen=True)
class Prediction:
    """What `fit` says a precision needs: bytes without the reserve, and seconds for a picture where it knows them."""

    size: int
    seconds: float | None


def predicted(run: Rehearsal, name: str) -> dict[str, Prediction]:
    rows = records(run.command("fit", name, "--device", "cpu", "--json"))
    return {row["precision"]: Prediction(row["weights"] + row["cache"] + row["work"], row["seconds"]) for row in rows}


def records(done: Stage) -> list[dict[str, Any]]:
    """The lines of JSON that a command printed."""
    return [json.loads(text) for text in done.printed.splitlines() if text.startswith("{")]


def line(stage: str, done: Stage, need: int = 0, took: str = "") -> str:
    """A row of the table. took: seconds for a picture, as `picture_seconds` writes them."""
    held = f"{done.peak / 1e9:.2f}"
    memory = f"{need / 1e9:.2f} / {held} ({need / done.peak:.2f})" if need else held
    return f"| {stage} | {done.seconds:.1f} | {took} | {memory} |"


def picture_seconds(done: Stage, expected: float | None) -> str:
    """Seconds that a picture was to take and took."""
    took = max(record.get("seconds", 0.0) for record in records(done))
    return f"{expected:.0f} / {took:.0f} ({expected / took:.2f})" if expected else f"{took:.0f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rehearsal", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="janus-pro-1b", help="a row of the manifest")
    parser.add_argument("--precision", default="fp32,bf16,int8,nf4")
    parser.add_argument("--verbs", default="draw,ask,edit,page", help="some of these")
    parser.add_argument("--small", action="store_true", help="tiny weights in the same files")
    parser.add_argument("--keep", metavar="FOLDER", help="where the files are made, and stay")
    args = parser.parse_args(arguments)
    variant = load_catalog().resolve(args.model)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.keep or temporary)
        source = folder / "source"
        if not source.exists():
            write_files(variant, source, args.small)
        size = sum(path.stat().st_size for path in source.glob("*/*"))
        print(f"{variant.title}, {size / 1e9:.2f} GB of random weights, {torch.get_num_threads()} threads\n")
        print("| stage | seconds | a picture: predicted / taken (ratio) | GB predicted / held (ratio), or held |")
        print("|---|---|---|---|", flush=True)
        with hub_server(source, pause=0.03 if args.small else 0.0) as endpoint:
            run = Rehearsal(folder, endpoint, write_manifest(variant, folder))
            for stage, done in fetch_stages(run, ROW, size):
                print(line(stage, done), flush=True)
        shutil.rmtree(source)
        if any(file.path.endswith(".bin") for file in variant.files):
            print(line("convert to safetensors", run.command("models", "convert", ROW)), flush=True)
        out = folder / "pictures"
        out.mkdir(exist_ok=True)
        small = ("--prompt", PROMPT, "--precision", "fp32", "--device", "cpu", "--out", str(out))
        libraries = run.command("generate", *small)
        base = libraries.peak - predicted(run, "janus-embedded")["fp32"].size
        needs = predicted(run, ROW)
        verbs = args.verbs.split(",")
        for precision in args.precision.split(","):
            need = needs[precision]
            for stage, done in precision_stages(run, ROW, precision, verbs, out):
                took = picture_seconds(done, need.seconds) if stage == "draw" else ""
                print(line(f"{precision}: {stage}", done, need.size + base, took), flush=True)
        if "page" in verbs:
            up, ready, held = run.page(ROW, args.precision.split(",")[0])
            print(f"\npage up after {up:.1f} s, model ready after {ready:.1f} s, {held / 1e9:.2f} GB held")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
