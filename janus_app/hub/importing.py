"""Files that the user already has, taken into the cache as if they had been downloaded."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from janus_app.errors import AppError, Message
from janus_app.file_kinds import what_it_is, what_it_is_instead_of_text
from janus_app.files import os_errors_as_app_errors
from janus_app.hub.cache import RepoCache, check_free_space
from janus_app.hub.progress import ProgressReporter
from janus_app.hub.verify import BLOCK, MAX_GIT_HASHED, Digest, Verifier, hash_file
from janus_app.registry.checkpoint_folder import what_folder_is
from janus_app.registry.types import File, Variant
from janus_app.types import Progress

LFS_SUFFIXES = (".safetensors", ".bin")  # files that the Hub stores as LFS and names by their sha256


@dataclass(frozen=True)
class Imported:
    """`compared` files had the published hash, those named in `unknown` could not be compared.

    `linked`: the cache has hard links to the user's files, which take no space.
    """

    folder: Path
    compared: int
    unknown: tuple[str, ...]
    linked: bool

    def message(self, variant: Variant) -> Message:
        """The result as a sentence."""
        how = Message("import_linked") if self.linked else Message("import_copied")
        values = {"title": variant.title, "how": how, "count": self.compared}
        if not self.unknown:
            return Message("model_imported", **values)
        return Message("model_imported_partly_compared", files=", ".join(self.unknown), **values)


def import_files(
    variant: Variant,
    cache: RepoCache,
    verifier: Verifier,
    folder: Path,
    etags: Mapping[str, str],
    *,
    copy: bool,
    reserve: int,
) -> Generator[Progress, None, Imported]:
    """Take the variant's files from `folder` into the cache; the folder is not changed.

    On one disk the cache gets hard links, unless `copy`. `etags` has what the Hub says of files without a published
    hash, as far as it could be asked. Raises AppError, before anything is taken, if a file is missing or is not the
    one of this variant.
    """
    sources = {file: folder.joinpath(*file.path.split("/")) for file in variant.files}
    if missing := [file.path for file, source in sources.items() if not source.is_file()]:
        other = what_folder_is(folder) if any(path.endswith(LFS_SUFFIXES) for path in missing) else None
        raise other or AppError("import_files_missing", folder=folder, files=", ".join(missing), title=variant.title)
    reporter = ProgressReporter(stage="import", total=sum(source.stat().st_size for source in sources.values()))
    blobs: dict[File, tuple[str, Digest]] = {}
    unknown: list[str] = []
    for file, source in sources.items():
        reporter.label = file.path
        digest = yield from hash_file(source, reporter)
        expected, etag = verifier.expected(variant, file), etags.get(file.path, "")
        wrong_size = file.size is not None and digest.size != file.size
        if wrong_size or (expected and digest.sha256 != expected) or (etag and not digest.matches_etag(etag)):
            of_another_kind = what_it_is if file.path.endswith(LFS_SUFFIXES) else what_it_is_instead_of_text
            raise of_another_kind(source) or AppError(
                "import_file_differs", source=source, path=file.path, title=variant.title, sha256=digest.sha256[:12]
            )
        if not expected and not etag:
            unknown.append(file.path)
        blobs[file] = (etag or _likely_etag(file, digest), digest)
    linked = not copy
    with os_errors_as_app_errors(Message("model_not_imported", title=variant.title), cache.cache):
        for file, (etag, digest) in blobs.items():
            reporter.label = file.path
            linked = (yield from _take(sources[file], etag, digest, cache, reporter, linked, reserve)) and linked
            verifier.accept(variant, file, cache.link(etag, file.path), digest.sha256, digest.size)
    return Imported(cache.snapshot, len(blobs) - len(unknown), tuple(unknown), linked)


def _likely_etag(file: File, digest: Digest) -> str:
    """The ETag that the Hub most likely has for these bytes; a wrong guess costs a second copy later."""
    is_lfs = file.path.endswith(LFS_SUFFIXES) or digest.size >= MAX_GIT_HASHED
    return digest.sha256 if is_lfs else digest.git


def _take(
    source: Path, etag: str, digest: Digest, cache: RepoCache, reporter: ProgressReporter, link: bool, reserve: int
) -> Generator[Progress, None, bool]:
    """Link or copy a file into the cache as a blob. Returns whether it was linked."""
    blob = cache.blob(etag)
    blob.parent.mkdir(parents=True, exist_ok=True)
    new = blob.with_name(f"{blob.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    if link:
        try:
            os.link(source.resolve(), new)
            os.replace(new, blob)
            new.unlink(missing_ok=True)  # replace() does nothing if both names are links to one file
            return True
        except OSError:
            pass  # another disk, or one without links: copied instead
    check_free_space(cache.cache, digest.size, reserve)
    reporter.total += digest.size
    copied = Digest(digest.size)
    try:
        with source.open("rb") as read, new.open("wb") as write:
            while block := read.read(BLOCK):
                write.write(block)
                copied.update(block)
                reporter.done += len(block)
                yield from reporter.report()
            write.flush()
            os.fsync(write.fileno())
        if copied.sha256 != digest.sha256:
            raise AppError("import_file_changed", source=source)
        os.replace(new, blob)
    finally:
        new.unlink(missing_ok=True)
    return False
