"""Where the repositories that a checkpoint names by id lie on disk."""

from __future__ import annotations

from pathlib import Path


def component_beside(folder: Path, component: str) -> Path | None:
    """The user's own copy of a repository that a checkpoint in `folder` names: in the folder `components` inside or
    beside it, "owner/name" as `owner/name`, `owner--name` or `name`."""
    name = component.removeprefix("components/")
    for place in component_places(folder):
        for spelling in (name, name.replace("/", "--"), name.split("/")[-1]):
            if (place / spelling).is_dir():
                return place / spelling
    return None


def component_places(folder: Path) -> tuple[Path, Path]:
    """Where copies of the repositories that a checkpoint names are looked for."""
    folder = folder.resolve()
    return folder / "components", folder.parent / "components"
