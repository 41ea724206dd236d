"""GET /v1/models and /v1/models/{id}: the models that can answer now, without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from janus_app.registry.types import Variant
from janus_app.server.api.context import ApiContext


def model_row(variant: Variant, context: ApiContext) -> dict[str, Any]:
    state = context.session.state
    loaded = state.variant_id == variant.id
    facts: dict[str, Any] = {
        "title": variant.title,
        "verbs": list(variant.verbs),
        "size": list(variant.size),
        "context": variant.context,
        "loaded": loaded,
    }
    if loaded and state.capabilities:
        facts |= {"precision": state.precision, "edit_methods": list(state.capabilities.edit_methods)}
    owner = (variant.repo or "").partition("/")[0] or "janus_app"
    return {"id": variant.id, "object": "model", "created": _created(variant), "owned_by": owner, "janus_app": facts}


def _created(variant: Variant) -> int:
    """When its files came here, in seconds since 1970; 0 where not known."""
    folder: Path | None = variant.folder
    try:
        return int(folder.stat().st_mtime) if folder else 0
    except OSError:
        return 0


class Models:
    def __init__(self, context: ApiContext) -> None:
        self.context = context

    async def listed(self, request: Request) -> JSONResponse:
        found = await self.context.threaded(self.context.models)
        return JSONResponse({"object": "list", "data": [model_row(v, self.context) for v in found.values()]})

    async def one(self, request: Request) -> JSONResponse:
        name = request.path_params["name"]
        found = await self.context.threaded(self.context.models)
        variant = found.get(name.strip().lower())
        if variant is None:
            variant = await self.context.threaded(self.context.variant, name)
            await self.context.threaded(self.context.require_files, variant)
        return JSONResponse(model_row(variant, self.context))
