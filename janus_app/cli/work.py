"""A studio for one command: the model's name to a loaded model, and settings to their values."""

from __future__ import annotations

import argparse
from typing import Any

from janus_app.cli.console import asking, follow
from janus_app.registry.catalog import Catalog, load_catalog
from janus_app.registry.types import Variant
from janus_app.runtime.session import ModelSession


def open_session() -> ModelSession:
    """A studio with nothing loaded. A broken model list is the asker's to mend."""
    from janus_app.hub import Hub

    with asking():
        return ModelSession(load_catalog(), Hub())


def chosen(catalog: Catalog, args: argparse.Namespace) -> Variant:
    """The variant of --model, or the default."""
    with asking():
        return catalog.resolve(args.model) if args.model else catalog.default()


def load(session: ModelSession, args: argparse.Namespace, variant: Variant) -> None:
    """Load what the flags name, with progress. Raises AppError, for an absent device before any download."""
    from janus_app.runtime.devices import resolve_device

    device = args.device or "auto"
    with asking():
        resolve_device(device)
    name = str(variant.folder) if variant.id not in session.catalog else variant.id
    follow(session.load(name, device, args.precision or "auto"))


def value(args: argparse.Namespace, variant: Variant, flag: str, setting: str, fallback: Any) -> Any:
    """A flag's value: what was given, else the variant's own default, else `fallback`."""
    given = getattr(args, flag)
    if given is not None:
        return given
    row = variant.settings.get(setting)
    return type(fallback)(row.default) if row is not None else fallback
