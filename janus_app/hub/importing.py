"""Files the user already has, taken into the cache as if they had been downloaded: hashed, named, linked."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from janus_app.errors import AppError
from janus_app.hub.download import check_room
from janus_app.hub.errors import explain_disk
from janus_app.hub.layout import RepoCache
from janus_app.hub.progress import BLOCK, GIT_HASHED, Digest, ProgressReporter, hash_file
from janus_app.hub.trust import Verifier
from janus_app.registry.types import File, Variant
from janus_app.types import Progress

LARGE = (".safetensors", ".bin")  # what the Hub keeps as LFS and names by its sha256


@dataclass(frozen=True)
class Imported:
    """What an import did: files compared with a published hash, files taken as they are, whether space was saved."""

    folder: Path
    compared: int
    unknown: tuple[str, ...]
    linked: bool

    def line(self, variant: Variant) -> str:
        """The same in words."""
        how = "linked, which takes no space" if self.linked else "copied"
        if not self.unknown:
            return f"{variant.title} is imported ({how}); files whose hash is the published one: {self.compared}."
        return (
            f"{variant.title} is imported ({how}); files whose hash is the published one: {self.compared}. "
            f"Taken as they are, because their hashes could be asked nowhere: {', '.join(self.unknown)}."
        )


def import_files(
    variant: Variant,
    cache: RepoCache,
    trust: Verifier,
    folder: Path,
    etags: Mapping[str, str],
    *,
    copy: bool,
    reserve: int,
) -> Generator[Progress, None, Imported]:
    """Take the variant's files from `folder` into the cache; the folder stays as it is.

    Where both lie on one disk the cache gets hard links, which take no space, unless `copy`. `etags` holds what the
    Hub says of files without a published hash, as far as it could be asked. Raises AppError, before anything was
    taken, where a file is absent or is not the one of this variant.
    """
    sources = {file: folder.joinpath(*file.path.split("/")) for file in variant.files}
    if absent := [file.path for file, source in sources.items() if not source.is_file()]:
        raise AppError(
            f"{folder} lacks {', '.join(absent)}, which {variant.title} needs. Nothing was imported. "
            "Give the folder that holds all files of the repository."
        )
    meter = ProgressReporter(stage="import", total=sum(source.stat().st_size for source in sources.values()))
    names: dict[File, tuple[str, Digest]] = {}
    unknown: list[str] = []
    for file, source in sources.items():
        meter.label = file.path
        digest = yield from hash_file(source, meter)
        expected, etag = trust.expected(variant, file), etags.get(file.path, "")
        wrong_length = file.size is not None and digest.size != file.size
        if wrong_length or (expected and digest.sha256 != expected) or (etag and not digest.fits(etag)):
            raise AppError(
                f"{source} is not the {file.path} of {variant.title} (sha256 {digest.sha256[:12]}...). Nothing was "
                "imported. If it is a model of your own, import the folder under a name of its own."
            )
        if not expected and not etag:
            unknown.append(file.path)
        names[file] = (etag or _name(file, digest), digest)
    linked = not copy
    try:
        for file, (etag, digest) in names.items():
            meter.label = file.path
            linked = (yield from _take(sources[file], etag, digest, cache, meter, linked, reserve)) and linked
            trust.accept(variant, file, cache.link(etag, file.path), digest.sha256, digest.size)
    except OSError as error:
        raise explain_disk(error, cache.cache, meter.total) from error
    return Imported(cache.snapshot, len(names) - len(unknown), tuple(unknown), linked)


def _name(file: File, digest: Digest) -> str:
    """The name the Hub would most likely give these bytes; a wrong guess only costs a second copy one day."""
    large = file.path.endswith(LARGE) or digest.size >= GIT_HASHED
    return digest.sha256 if large else digest.git


def _take(
    source: Path, etag: str, digest: Digest, cache: RepoCache, meter: ProgressReporter, link: bool, reserve: int
) -> Generator[Progress, None, bool]:
    """Put the bytes into the cache under their name. True if that took no space."""
    blob = cache.blob(etag)
    blob.parent.mkdir(parents=True, exist_ok=True)
    fresh = blob.with_name(f"{blob.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    if link:
        try:
            os.link(source.resolve(), fresh)
            os.replace(fresh, blob)
            # Two links to one file: replace() leaves the new name where both are the same already.
            fresh.unlink(missing_ok=True)
            return True
        except OSError:
            pass  # another disk, or one without links: copied instead
    check_room(cache.cache, digest.size, reserve)
    meter.total += digest.size
    copied = Digest(digest.size)
    try:
        with source.open("rb") as read, fresh.open("wb") as write:
            while block := read.read(BLOCK):
                write.write(block)
                copied.update(block)
                meter.done += len(block)
                yield from meter.report()
            write.flush()
            os.fsync(write.fileno())
        if copied.sha256 != digest.sha256:
            raise AppError(f"{source} changed while it was copied. Nothing of it was kept; try again.")
        os.replace(fresh, blob)
    finally:
        fresh.unlink(missing_ok=True)
    return False
