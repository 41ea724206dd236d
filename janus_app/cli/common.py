"""What the commands share: a session, the chosen model, requests from options, and saved pictures."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from janus_app.cli.console import UsageError, emit, follow, say, usage_errors
from janus_app.errors import Message
from janus_app.outputs.metadata import ImageMetadata
from janus_app.outputs.store import OutputStore, StoredImage
from janus_app.registry.catalog import Catalog, load_catalog
from janus_app.registry.types import Variant
from janus_app.runtime.face import Session
from janus_app.runtime.session import ModelSession
from janus_app.types import EditRequest, GenerateRequest, Picture, RankRequest

if TYPE_CHECKING:
    from janus_app.runtime.adapters import Adapter


def open_session() -> ModelSession:
    """A session with no model loaded. Raises UsageError for a broken model list."""
    from janus_app.hub import Hub

    with usage_errors():
        return ModelSession(load_catalog(), Hub())


def chosen_variant(catalog: Catalog, args: argparse.Namespace) -> Variant:
    """The variant of --model, or the default one. Raises UsageError for an unknown name."""
    with usage_errors():
        return catalog.resolve(args.model) if args.model else catalog.default()


def recorded_variant(catalog: Catalog, args: argparse.Namespace, record: ImageMetadata) -> Variant:
    """The variant of --model, or else the one that drew the picture. Raises UsageError where that one is unknown."""
    if args.model is not None:
        return catalog.resolve(args.model)
    if record.model not in catalog:  # looked up, never resolved: a file's metadata must not choose a folder
        raise UsageError("recorded_model_unlisted", title=record.title)
    return catalog[record.model]


def require_verb(variant: Variant, verb: str) -> None:
    """Raises UsageError where the variant does not support the verb."""
    if verb not in variant.verbs:
        raise UsageError("cli_verb_unsupported", title=variant.title, verb=verb, verbs=", ".join(variant.verbs))


def tell_licences(session: Session, variant: Variant) -> None:
    """Say under which licences files will be downloaded; nothing where none will be."""
    if not session.hub.status(variant).complete and (variant.repo or variant.parts):
        named = "; ".join(filter(None, (variant.weights_licence, variant.component_licences)))
        say(Message("models_licences", title=variant.title, named=named))


@dataclass(frozen=True)
class Asked:
    """What is to be loaded, as `Session.load` takes it."""

    name: str
    device: str
    precision: str
    adapters: tuple[Adapter, ...]


def asked(session: Session, args: argparse.Namespace, variant: Variant) -> Asked:
    """How --device, --precision and --adapter say to load the variant. Says under which licences files will be fetched.

    Raises UsageError for an absent device, an unknown adapter, and a size that the variant does not draw.
    """
    side, size = (getattr(args, name, None) for name in ("side", "size"))
    if "width" in variant.settings:
        if side is not None:
            raise UsageError("cli_size_in_one_option")
    elif side is not None or size not in (None, variant.size):
        raise UsageError("picture_size_fixed", title=variant.title, width=variant.size[0], height=variant.size[1])
    device = args.device or "auto"
    adapters: tuple[Adapter, ...] = ()
    with usage_errors():  # PyTorch is imported only where it is asked: the page opens before it
        if device not in ("auto", "cpu"):
            from janus_app.runtime.devices import resolve_device

            resolve_device(device)
        if args.adapter:
            from janus_app.runtime.adapters import find_adapter

            adapters = tuple(find_adapter(text) for text in args.adapter)
    tell_licences(session, variant)
    name = variant.id if variant.id in session.catalog else args.model or str(variant.folder)
    return Asked(name, device, args.precision or "auto", adapters)


def load_model(session: Session, args: argparse.Namespace, variant: Variant) -> None:
    """Load the variant as --device and --precision say, showing progress.

    Raises AppError; for an absent device before anything is downloaded.
    """
    wanted = asked(session, args, variant)
    follow(session.load(wanted.name, wanted.device, wanted.precision, wanted.adapters))


def draw_pictures(session: ModelSession, request: GenerateRequest | EditRequest, args: argparse.Namespace) -> int:
    """Run the request, save its pictures in --out and print one line for each, the best first with --best-of."""
    finished = follow(session.run(request), text_to=sys.stderr)
    assert finished is not None
    if isinstance(request, GenerateRequest) and request.think and not request.plan:
        print(file=sys.stderr, flush=True)  # the end of what the model wrote
    saved = OutputStore(args.out).save(finished)
    scores: tuple[float, ...] = ()
    if getattr(args, "best_of", None) is not None:  # after saving, so that a failed ranking loses no picture
        ranked = follow(session.run(RankRequest(request.prompt, tuple(picture.image for picture in finished.pictures))))
        assert ranked is not None
        scores = ranked.scores
    for place in sorted(range(len(saved)), key=lambda place: -scores[place] if scores else 0):
        file = saved[place].file
        if args.json:
            score = {"score": scores[place]} if scores else {}
            picture = picture_json(saved[place], finished.pictures[place], args.vectors)
            emit(picture | {"seconds": round(finished.compute_seconds, 3)} | score)
        else:
            print(f"{file}  {100 * scores[place]:.1f} %" if scores else file, flush=True)
    return 0


def picture_json(stored: StoredImage, picture: Picture, with_vectors: bool) -> dict[str, Any]:
    """What --json prints of a saved picture, with --vectors also the vectors it was painted from, if any."""
    record = stored.metadata
    vectors = {"vectors": picture.vectors.rows} if with_vectors and picture.vectors is not None else {}
    return {
        "file": str(stored.file),
        "seed": record.seed,
        "image_tokens": list(record.image_tokens),
        "width": record.size[0],
        "height": record.size[1],
        "prompt": record.prompt,
        "model": record.model,
        "revision": record.revision,
        "precision": record.precision,
        "device": record.device,
        "settings": dict(record.settings),
        "source_prompt": record.source_prompt,
        "plan": record.plan,
        "judgement": record.judgement,
        **vectors,
    }
