"""Variant and its parts: what the manifest says about a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from janus_app.models.common.components import component_beside
from janus_app.types import Setting, Thinking

DEFAULT_LANGUAGE = "en"


@dataclass(frozen=True)
class File:
    """One file of a checkpoint. `size` is exact, `about` the published rounded one; None = not known."""

    path: str
    size: int | None = None
    sha256: str | None = None
    about: int | None = None


@dataclass(frozen=True)
class Component:
    """Another repository that a variant needs: files of `repo` at `revision`, with a licence of its own."""

    repo: str
    revision: str
    files: tuple[File, ...]
    licence: str = ""


@dataclass(frozen=True)
class Variant:
    """A model that can be loaded: a row of the manifest, or a folder that holds a checkpoint.

    repo, revision  where the weights are on the Hub, None for weights on this machine
    folder          where they are on this machine, None for weights on the Hub
    size            native (width, height) of a picture, in pixels
    context         tokens the model was trained to hold
    parameters      0 where not known
    memory          bytes of the weights in each precision; may be empty
    examples        language -> verb -> prompts
    tagline         what it is good for, in a few words
    status          a sentence about what was verified, and how
    roles           "words" or "tokens": how a conversation's two roles are written; "" = as processor_config.json says
    solvers         those of types.SOLVERS that a flow model offers, its default first; empty for other models
    components      further repositories by name ("vae"), which are fetched with it
    user_supplied   the weights cannot be downloaded: the user puts them into `folder`
    verified        what was done here to check it, in a word; weights_manifest.yaml explains the words
    edit_methods    what it was trained for, where that is not what its family usually offers
    thinking        how it was taught to think in words, None where it was not
    """

    id: str
    title: str
    family: str
    repo: str | None
    revision: str | None
    folder: Path | None
    files: tuple[File, ...]
    code_licence: str
    weights_licence: str
    licence_note: str
    verbs: tuple[str, ...]
    size: tuple[int, int]
    context: int
    settings: Mapping[str, Setting] = field(hash=False)
    parameters: int = 0
    memory: Mapping[str, int] = field(default_factory=dict, hash=False)
    examples: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict, hash=False)
    tagline: str = ""
    status: str = ""
    notes: str = ""
    roles: str = ""
    solvers: tuple[str, ...] = ()
    components: Mapping[str, Component] = field(default_factory=dict, hash=False)
    user_supplied: bool = False
    edit_methods: tuple[str, ...] = ()
    verified: str = ""
    thinking: Thinking | None = None

    @property
    def is_local(self) -> bool:
        """Whether it names a folder in place of a repository. `hub.status` says whether all it needs is there."""
        return self.folder is not None

    @property
    def component_licences(self) -> str:
        """The repositories of its components with their licences; empty for none."""
        return "; ".join(f"{one.repo}: {one.licence}" for one in self.components.values() if one.licence)

    @property
    def file_bytes(self) -> int:
        """Bytes of its own files to download, exact where sizes are known; 0 for weights on this machine."""
        return sum(file.size or file.about or 0 for file in self.files) if self.repo else 0

    @property
    def download_bytes(self) -> int:
        """Bytes of all files to download, those of its components included."""
        return self.file_bytes + sum(part.file_bytes for part in self.parts.values())

    @property
    def parts(self) -> dict[str, Variant]:
        """The components as variants, so that they are downloaded like one.

        Without those that lie in a folder `components` in or beside the checkpoint: they are used from there.
        """
        return {
            name: replace(
                self,
                id=f"{self.id}.{name}",
                title=f"{self.title} ({name})",
                repo=part.repo,
                revision=part.revision,
                folder=None,
                files=part.files,
                weights_licence=part.licence or self.weights_licence,
                components={},
            )
            for name, part in self.components.items()
            if self.folder is None or component_beside(self.folder, part.repo) is None
        }

    def prompts(self, verb: str, language: str = DEFAULT_LANGUAGE) -> tuple[str, ...]:
        """Example prompts of a verb; English ones where the language has none."""
        prompts = self.examples.get(language, {}).get(verb)
        return prompts or self.examples.get(DEFAULT_LANGUAGE, {}).get(verb, ())
