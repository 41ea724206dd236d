"""Which bytes are believed: the manifest's hash, else the one pinned at first contact, else the one the ETag gives."""

from __future__ import annotations

from pathlib import Path

from janus_app.errors import AppError
from janus_app.hub.ledger import HashStore
from janus_app.hub.progress import Digest
from janus_app.registry.types import File, Variant


class Verifier:
    """Judges files of variants, and remembers the verdict."""

    def __init__(self, ledger: HashStore) -> None:
        self.ledger = ledger

    def expected(self, variant: Variant, file: File) -> str | None:
        """The sha256 a file must have: the manifest's, else the one pinned at first contact, else None."""
        if file.sha256 is not None:
            return file.sha256
        pin = self.ledger.pin(_key(variant, file))
        return pin["sha256"] if pin else None

    def known_good(self, variant: Variant, file: File, path: Path) -> bool:
        """Whether the file was hashed before, with the right result, and has not changed since."""
        expected = self.expected(variant, file)
        return expected is not None and self.ledger.verified(path.resolve()) == expected

    def matches(self, variant: Variant, file: File, path: Path, digest: Digest) -> bool:
        """A cached file is right if its hash is the expected one; else if it is what its blob's name, the Hub's ETag at
        the time it was fetched, says."""
        if file.size is not None and digest.size != file.size:
            return False
        expected = self.expected(variant, file)
        return digest.sha256 == expected if expected else digest.fits(path.resolve().name)

    def accept(self, variant: Variant, file: File, path: Path, sha256: str, size: int) -> None:
        """Pin the hash where none was published, and remember that this file has it."""
        if file.sha256 is None:
            self.ledger.set_pin(_key(variant, file), sha256, size)
        self.ledger.set_verified(path.resolve(), sha256)

    def agree(self, variant: Variant, file: File, size: int, etag: str, endpoint: str) -> None:
        """Refuse before the first byte what cannot be the pinned file."""
        expected = self.expected(variant, file)
        if file.size is not None and size != file.size:
            reason = f"is {size:,} bytes long, expected {file.size:,}"
        elif expected and len(etag) == 64 and etag != expected:
            reason = f"has sha256 {etag[:12]}..., expected {expected[:12]}..."
        else:
            return
        raise AppError(
            f"{file.path} of {variant.repo} at {endpoint} {reason}. It is not the file this app trusts, so "
            "nothing was downloaded. Try another endpoint, or report it to the app's authors."
        )


def _key(variant: Variant, file: File) -> str:
    return f"{variant.repo}@{variant.revision}/{file.path}"
