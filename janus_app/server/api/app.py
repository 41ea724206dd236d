"""The API as one ASGI application."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from janus_app.errors import AppError
from janus_app.server import mcp
from janus_app.server.api import errors
from janus_app.server.api.chat import Chat
from janus_app.server.api.context import ApiContext
from janus_app.server.api.edits import Edits
from janus_app.server.api.images import Images
from janus_app.server.api.models import Models
from janus_app.server.api.sdapi import Webui
from janus_app.server.mcp.mount import Mount

ABSENT = ("upscalers", "latent-upscale-modes", "sd-vae", "loras")  # clients ask for them before they draw


async def no_mcp(request: Request) -> Response:
    raise AppError("mcp_package_missing")


def api_app(context: ApiContext) -> Starlette:
    """The application behind /v1, /sdapi and /mcp; the last needs its lifespan. `ApiGate` decides who reaches it."""
    models, images, chat, webui = Models(context), Images(context), Chat(context), Webui(context)
    edits = Edits(images)
    routes = [
        Route("/v1/models", models.listed),
        Route("/v1/models/{name}", models.one),
        Route("/v1/images/generations", images.generations, methods=["POST"]),
        Route("/v1/images/edits", edits.edits, methods=["POST"]),
        Route("/v1/images/variations", edits.variations, methods=["POST"]),
        Route("/v1/images/files/{name}", images.file),
        Route("/v1/chat/completions", chat.completions, methods=["POST"]),
        Route("/sdapi/v1/options", webui.options),
        Route("/sdapi/v1/options", webui.set_options, methods=["POST"]),
        Route("/sdapi/v1/sd-models", webui.models),
        Route("/sdapi/v1/samplers", webui.samplers),
        Route("/sdapi/v1/schedulers", webui.schedulers),
        *(Route(f"/sdapi/v1/{name}", webui.nothing) for name in ABSENT),
        Route("/sdapi/v1/progress", webui.progress),
        Route("/sdapi/v1/interrupt", webui.interrupt, methods=["POST"]),
        Route("/sdapi/v1/txt2img", webui.txt2img, methods=["POST"]),
        Route("/sdapi/v1/img2img", webui.img2img, methods=["POST"]),
    ]
    tools = Mount(context) if mcp.is_installed() else None
    routes.append(Route("/mcp", tools or no_mcp, methods=["GET", "POST", "DELETE"]))
    return Starlette(
        routes=routes,
        lifespan=(lambda _: tools.run()) if tools else None,
        # As a middleware it also answers bugs, which Starlette itself would raise again.
        middleware=[Middleware(ExceptionMiddleware, handlers={Exception: errors.handle})],
        exception_handlers={HTTPException: errors.handle},
    )
