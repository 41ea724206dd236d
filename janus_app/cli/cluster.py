"""`cluster head|join|stop`: the machines of a cluster, each with one command (docs/cluster.md)."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable

from janus_app.cli.console import UsageError, say
from janus_app.cluster.ray_serve import OBJECT_STORE_BYTES, SLOT, environment, require_ray
from janus_app.errors import AppError, Message, system_language

SUMMARY = "Make this machine the head of a cluster, or one of its members (docs/cluster.md)."
PORT = 6379
TOKEN_VARIABLE = "RAY_AUTH_TOKEN"
RAY = (sys.executable, "-m", "ray.scripts.scripts")


def add_options(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    head = actions.add_parser("head", help="start a cluster here", description="Start a cluster on this machine.")
    head.add_argument("--host", default="127.0.0.1", help="this machine's address in a private network")
    head.add_argument("--port", type=int, default=PORT, help=f"default {PORT}")
    join = actions.add_parser("join", help="let a cluster use this machine", description="Join a cluster.")
    join.add_argument("address", metavar="HOST:PORT", help="what `cluster head` printed")
    join.add_argument("--host", help="this machine's address in the private network (default: found by itself)")
    join.add_argument("--token", help=f"what `cluster head` printed; ${TOKEN_VARIABLE} does the same")
    for one in (head, join):
        one.add_argument(
            "--replicas", type=int, default=1, help="replicas without a card that this machine has room for (default 1)"
        )
        one.add_argument("--block", action="store_true", help="stay until Ctrl+C, and then stop; for services")
    actions.add_parser("stop", help="stop what runs here", description="Stop what the other actions started here.")


def run(args: argparse.Namespace) -> int:
    require_ray()
    if args.action != "stop" and not 1 <= args.replicas <= 64:
        raise UsageError("cluster_slots_out_of_range", given=args.replicas)
    return {"head": _head, "join": _join, "stop": _stop}[args.action](args)


def _head(args: argparse.Namespace) -> int:
    host = private_address(args.host)
    token = _ray(["get-auth-token", "--generate"], {}).splitlines()[-1]
    options = ["--head", f"--node-ip-address={host}", f"--port={args.port}", "--include-dashboard=false"]
    message = Message("cluster_started", host=host, port=args.port, token=token)
    return _start(args, options, message, environment(args.replicas, host))


def _join(args: argparse.Namespace) -> int:
    token = args.token or os.environ.get(TOKEN_VARIABLE)
    if not token:
        raise UsageError("cluster_token_missing", variable=TOKEN_VARIABLE)
    options = [f"--address={args.address}"] + ([f"--node-ip-address={args.host}"] if args.host else [])
    variables = environment(args.replicas, args.host or "") | {TOKEN_VARIABLE: token}
    return _start(args, options, Message("cluster_joined", address=args.address), variables)


def _stop(args: argparse.Namespace) -> int:
    _ray(["stop"], {})
    say(Message("cluster_stopped"))
    return 0


def _start(args: argparse.Namespace, options: list[str], message: Message, variables: dict[str, str]) -> int:
    """Start Ray's processes on this machine; with --block, stay as long as they run."""
    resources = f"--resources={json.dumps({SLOT: args.replicas})}"
    store = f"--object-store-memory={OBJECT_STORE_BYTES}"
    command = ["start", *options, resources, store, "--disable-usage-stats"]
    _ray([*command, *["--block"] * args.block], variables, lambda: print(message.text(system_language()), flush=True))
    return 0


def private_address(host: str) -> str:
    """The address, unless it is one that the whole internet may reach. Raises UsageError."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise UsageError("cluster_host_malformed", given=host) from None
    if address.is_unspecified or not (address.is_private or address.is_loopback):
        raise UsageError("cluster_host_public", given=host)
    return host


def _ray(arguments: list[str], variables: dict[str, str], on_start: Callable[[], None] = lambda: None) -> str:
    """Run a command of Ray and return what it prints. Raises AppError with the end of that where it fails.

    `on_start` is called when Ray runs, which is before the end of a command that stays.
    """
    lines: list[str] = []
    with subprocess.Popen(
        [*RAY, *arguments], env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None

        def end(*_: object) -> None:
            process.terminate()  # else Ray's processes would stay
            raise SystemExit(128 + signal.SIGTERM)

        signal.signal(signal.SIGTERM, end)
        for line in filter(None, map(str.strip, process.stdout)):
            lines.append(line)
            if "Ray runtime started" in line:
                on_start()
    if process.returncode:
        raise AppError(
            "cluster_command_failed", command=arguments[0], reason=lines[-1][:300].rstrip(".") if lines else ""
        )
    return "\n".join(lines)
