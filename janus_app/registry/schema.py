"""The shape of a row of the weights manifest, as a JSON schema.

A `description` is what a person reads when a field fails, so each says what the field must be.
"""

from __future__ import annotations

from typing import Any

from janus_app.types import EDIT_SETTINGS, PRECISIONS, SOLVERS, VERBS

# vae: the autoencoder JanusFlow draws with. mllm and diffusion: whose configs and tokenizers MetaQuery is built from.
COMPONENTS = ("vae", "mllm", "diffusion")
SETTINGS = (
    "guidance",
    "image_guidance",
    "temperature",
    "steps",
    "guidance_start",
    "guidance_end",
    "count",
    "strength",
    "chat_temperature",
    "top_p",
    "max_new_tokens",
)

_TEXT: dict[str, Any] = {"type": "string", "minLength": 1, "description": "must be a text that is not empty"}
_BYTES: dict[str, Any] = {
    "type": ["integer", "null"],
    "minimum": 1,
    "description": "must be a whole number of bytes above 0, or null where it is not known",
}
_FILE: dict[str, Any] = {
    "type": "object",
    "required": ["path", "size", "sha256"],
    "additionalProperties": False,
    "description": "must be {path, size, sha256, about}; about may be left out, unknown ones are null",
    "properties": {
        "path": _TEXT,
        "size": _BYTES,
        "about": _BYTES,
        "sha256": {
            "type": ["string", "null"],
            "pattern": "^[0-9a-f]{64}$",
            "description": "must be 64 lower-case hex digits in quotes, or null where it is not known",
        },
    },
}
_NUMBER: dict[str, Any] = {"type": "number", "description": "must be a number"}
_SETTING: dict[str, Any] = {
    "type": "object",
    "required": ["default", "low", "high", "step"],
    "additionalProperties": False,
    "properties": {
        "default": _NUMBER,
        "low": _NUMBER,
        "high": _NUMBER,
        "step": {"type": "number", "exclusiveMinimum": 0, "description": "must be a number above 0"},
    },
    "description": "must be {default, low, high, step}",
}
_PROMPTS: dict[str, Any] = {"type": "array", "items": _TEXT, "description": "must be a list of prompts"}

_REPO: dict[str, Any] = {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$",
    "description": "must be owner/name as the Hub spells it",
}
_REVISION: dict[str, Any] = {
    "type": "string",
    "pattern": "^[0-9a-f]{40}$",
    "description": "must be a commit of 40 lower-case hex digits (branch names such as main can change)",
}
_FILES: dict[str, Any] = {"type": "array", "items": _FILE, "minItems": 1, "description": "must be a list of files"}
_COMPONENT: dict[str, Any] = {
    "type": "object",
    "required": ["repo", "revision", "files"],
    "additionalProperties": False,
    "properties": {"repo": _REPO, "revision": _REVISION, "files": _FILES, "licence": _TEXT},
    "description": "must be {repo, revision, files, licence}; licence may be left out",
}

ROW: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": False,
    "required": ["id", "title", "family", "code_licence", "weights_licence", "verbs", "size", "context", "settings"],
    "properties": {
        "id": {
            "type": "string",
            "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$",
            "description": "must be lower-case letters, digits, dots, dashes and underscores, at most 64 of them",
        },
        "title": _TEXT,
        "family": _TEXT,
        "repo": _REPO,
        "revision": _REVISION,
        "folder": _TEXT,
        "files": _FILES,
        "components": {
            "type": "object",
            "propertyNames": {"enum": list(COMPONENTS), "description": f"must be one of {', '.join(COMPONENTS)}"},
            "additionalProperties": _COMPONENT,
            "description": f"must map names ({', '.join(COMPONENTS)}) to {{repo, revision, files, licence}}",
        },
        "code_licence": _TEXT,
        "weights_licence": _TEXT,
        "licence_note": _TEXT,
        "verbs": {
            "type": "array",
            "items": {"enum": list(VERBS), "description": f"must be one of {', '.join(VERBS)}"},
            "minItems": 1,
            "uniqueItems": True,
            "description": f"must be a list of different verbs out of {', '.join(VERBS)}",
        },
        "size": {
            "type": "array",
            "items": {"type": "integer", "minimum": 8, "maximum": 8192, "description": "must be 8 to 8192 pixels"},
            "minItems": 2,
            "maxItems": 2,
            "description": "must be [width, height] in pixels",
        },
        "context": {"type": "integer", "minimum": 1, "description": "must be a whole number of tokens above 0"},
        "parameters": {"type": "integer", "minimum": 0, "description": "must be a whole number, 0 for not known"},
        "memory": {
            "type": "object",
            "propertyNames": {"enum": list(PRECISIONS), "description": f"must be one of {', '.join(PRECISIONS)}"},
            "additionalProperties": {"type": "integer", "minimum": 1, "description": "must be bytes above 0"},
            "description": "must map precisions to bytes",
        },
        "settings": {
            "type": "object",
            "propertyNames": {"enum": list(SETTINGS), "description": f"must be one of {', '.join(SETTINGS)}"},
            "additionalProperties": _SETTING,
            "description": "must map setting names to {default, low, high, step}",
        },
        "solvers": {
            "type": "array",
            "items": {"enum": list(SOLVERS), "description": f"must be one of {', '.join(SOLVERS)}"},
            "minItems": 1,
            "uniqueItems": True,
            "description": f"must be a list of different solvers out of {', '.join(SOLVERS)}, the usual one first",
        },
        "edit_methods": {
            "type": "array",
            "items": {"enum": list(EDIT_SETTINGS), "description": f"must be one of {', '.join(EDIT_SETTINGS)}"},
            "minItems": 1,
            "uniqueItems": True,
            "description": f"must be a list of different ways of editing out of {', '.join(EDIT_SETTINGS)}",
        },
        "examples": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "propertyNames": {"enum": list(VERBS), "description": f"must be one of {', '.join(VERBS)}"},
                "additionalProperties": _PROMPTS,
                "description": "must map verbs to lists of prompts",
            },
            "description": "must map a language (en, zh-CN) to verbs to lists of prompts",
        },
        "roles": {"enum": ["words", "tokens"], "description": "must be words or tokens"},
        "yours": {"type": "boolean", "description": "must be true where the user brings the weights into `folder`"},
        "status": _TEXT,
        "notes": _TEXT,
    },
}
