"""Schedulers of diffusers from the fields of their configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from janus_app.errors import AppError

SCHEDULERS = (
    "PNDMScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "LMSDiscreteScheduler",
)


def new_scheduler(raw: Mapping[str, Any], what: str, known: Sequence[str] = SCHEDULERS) -> Any:
    """A new scheduler of the class that `raw` names, one of `known`; `what` names the config in errors.

    Raises AppError for another class, and for fields that diffusers cannot use.
    """
    from janus_app.models.common.lazy_import import importing
    from janus_app.models.common.library_errors import library_errors_as_app_errors

    name = str(raw.get("_class_name"))
    if name not in known:
        raise AppError("denoiser_unknown", component="scheduler", given=name[:60], known=", ".join(known))
    with importing:
        import diffusers
    with library_errors_as_app_errors(what):
        made = getattr(diffusers, name).from_config(raw)
        made.set_timesteps(1)
        return made
