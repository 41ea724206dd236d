"""Failures in the shape of OpenAI's API: {"error": {"message", "type", "param", "code"}} with an HTTP status."""

from __future__ import annotations

import json
import logging
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from janus_app.errors import AppError, Message, match_language
from janus_app.server.bridge import ClientGone

RETRY_SECONDS = 5
# Codes that clients of OpenAI's API compare.
CODES = {"api_model_unknown": "model_not_found", "api_key_wrong": "invalid_api_key"}
PARAMS = {  # what a sentence names -> the field of a request
    "input_prompt": "prompt",
    "input_edit_prompt": "prompt",
    "input_count": "n",
    "input_negative": "negative_prompt",
    "input_max_new_tokens": "max_tokens",
}
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
FIELD_REASONS = {
    "missing": "api_field_missing",
    "string_type": "api_field_not_text",
    "int_type": "api_field_not_whole",
    "int_parsing": "api_field_not_whole",
    "int_from_float": "api_field_not_whole",
    "float_type": "api_field_not_number",
    "float_parsing": "api_field_not_number",
    "finite_number": "api_field_not_number",
    "bool_type": "api_field_not_boolean",
    "bool_parsing": "api_field_not_boolean",
}
logger = logging.getLogger(__name__)


class FieldError(AppError):
    """What is wrong with the field `param` of a request."""

    def __init__(self, message: Message, param: str) -> None:
        super().__init__(message)
        self.param = param


def field_error(error: ValidationError) -> FieldError:
    """The first field that does not fit."""
    problem = error.errors(include_url=False, include_input=False)[0]
    raised = problem.get("ctx", {}).get("error")  # by a validator of our own
    if isinstance(raised, ValueError) and raised.args and isinstance(raised.args[0], AppError):
        return FieldError(raised.args[0].message, _place(problem["loc"]))
    code, context = FIELD_REASONS.get(problem["type"]), problem.get("ctx", {})
    if problem["type"] == "literal_error":
        reason = Message("api_field_not_one_of", known=context["expected"])
    elif code is None and {"ge", "le"} & context.keys():
        reason = Message("api_field_out_of_range", bound=context.get("ge", context.get("le")))
    else:
        reason = Message(code or "api_field_malformed")
    place = _place(problem["loc"])
    return FieldError(Message("api_field_wrong", field=place or Message("api_body"), reason=reason), place)


def _place(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc)


def error_object(error: AppError, language: str = "en") -> dict[str, Any]:
    """The value of "error"."""
    kind = TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    code = CODES.get(error.code, error.code)
    return {"message": error.text(language), "type": kind, "param": _param(error), "code": code}


def _param(error: AppError) -> str | None:
    if isinstance(error, FieldError):
        return error.param
    if error.code in ("api_model_unknown", "model_not_downloaded"):
        return "model"
    named = error.message.values.get("name")
    return PARAMS.get(named.code, named.code.removeprefix("input_")) if isinstance(named, Message) else None


def error_response(error: AppError, language: str = "en") -> JSONResponse:
    headers = {}
    if error.status in (429, 503):
        headers["Retry-After"] = str(RETRY_SECONDS)
    else:  # clients of OpenAI's API repeat a request after a conflict or a failure; here it would fail again
        headers["x-should-retry"] = "false"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": error_object(error, language)}, error.status, headers)


def bug(error: BaseException) -> AppError:
    """An unexpected exception for the client: the log has the traceback, the client gets a sentence."""
    logger.error("a request of the API failed", exc_info=error)
    return AppError("api_bug", kind=type(error).__name__)


def as_app_error(error: BaseException) -> AppError:
    """Any failure of a handler, as what the client is told."""
    if isinstance(error, AppError):
        return error
    if isinstance(error, ValidationError):
        return field_error(error)
    if isinstance(error, HTTPException):
        known = {404: "api_route_unknown", 405: "api_method_not_allowed"}
        return AppError(known.get(error.status_code, "api_body_malformed"))
    return bug(error)


def language_of(request: Request) -> str:
    return match_language(request.headers.get("accept-language", ""))


async def handle(request: Request, error: Exception) -> JSONResponse:
    """The exception handler of every route."""
    if isinstance(error, ClientGone):
        return JSONResponse(None, 499)  # nobody reads it
    failure, language = as_app_error(error), language_of(request)
    if request.url.path.startswith("/sdapi"):
        text = failure.text(language)
        return JSONResponse({"error": failure.code, "detail": text, "errors": text}, failure.status)
    return error_response(failure, language)


def event_of(error: AppError, language: str) -> str:
    """A failure in the middle of a stream."""
    return f"data: {json.dumps({'error': error_object(error, language)})}\n\n"
