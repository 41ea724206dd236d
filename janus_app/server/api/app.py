"""The API as one ASGI application."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Route

from janus_app.server.api import errors
from janus_app.server.api.context import ApiContext
from janus_app.server.api.images import Images
from janus_app.server.api.models import Models


def api_app(context: ApiContext) -> Starlette:
    """The application behind /v1 and /sdapi. `ApiGate` decides who reaches it."""
    models, images = Models(context), Images(context)
    routes = [
        Route("/v1/models", models.listed),
        Route("/v1/models/{name}", models.one),
        Route("/v1/images/generations", images.generations, methods=["POST"]),
        Route("/v1/images/files/{name}", images.file),
    ]
    return Starlette(
        routes=routes,
        # As a middleware it also answers bugs, which Starlette itself would raise again.
        middleware=[Middleware(ExceptionMiddleware, handlers={Exception: errors.handle})],
        exception_handlers={HTTPException: errors.handle},
    )
