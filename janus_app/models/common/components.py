"""Where the repositories that a checkpoint names by id lie on disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from janus_app.models.family import Parts, WeightSource

AUTOENCODER = "vae"  # the component's role, the folder it is in, and the prefix of its tensors in the network


def component_beside(folder: Path, component: str) -> Path | None:
    """The user's own copy of a repository that a checkpoint in `folder` names: in the folder `components` inside or
    beside it, "owner/name" as `owner/name`, `owner--name` or `name`."""
    name = component.removeprefix("components/")
    for place in component_places(folder):
        for spelling in (name, name.replace("/", "--"), name.split("/")[-1]):
            if (place / spelling).is_dir():
                return place / spelling
    return None


def named_folder(folder: Path, name: str) -> Path | None:
    """The folder with a config.json that a checkpoint in `folder` names: a path, also relative to it, or a repository
    in `components`."""
    if ((place := folder / Path(name).expanduser()) / "config.json").is_file():
        return place
    return component_beside(folder, name)


def component_places(folder: Path) -> tuple[Path, Path]:
    """Where copies of the repositories that a checkpoint names are looked for."""
    folder = folder.resolve()
    return folder / "components", folder.parent / "components"


def find_autoencoder(folder: Path, parts: Parts | None, names: Iterable[str] = ()) -> Path | None:
    """The autoencoder of a checkpoint: inside its folder, where `parts` say, or beside it.

    `names` are those that its folder may have beside the checkpoint, apart from "vae".
    """
    beside = folder.resolve().parent
    fetched = (parts[AUTOENCODER],) if parts and AUTOENCODER in parts else ()
    places = (folder / AUTOENCODER, *fetched, *(beside / name for name in (AUTOENCODER, *names)))
    return next((place for place in places if (place / "config.json").is_file()), None)


def autoencoder_source(autoencoder: Path) -> WeightSource:
    """The weights in the folder of an autoencoder, whose tensors the network calls `vae.*`."""

    def remap_key(name: str) -> str:
        from janus_app.models.common.autoencoder import current_key

        return f"{AUTOENCODER}.{current_key(name)}"

    return WeightSource(autoencoder, "diffusion_pytorch_model", remap_key)
