"""How other programs connect to this app: a text for each, ready to be copied. tests/clients runs every one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from janus_app.paths import APP, ROOT

NO_KEY = "unused"  # for programs that insist on a key


def snippets(url: str, key: str, model: str, outputs: Path | None) -> Mapping[str, str]:
    """Program -> text, for the app at `url` and its `key`, "" for none. With `outputs`, the folder of pictures, also
    one that names folders of this machine.
    """
    made: dict[str, Callable[[], str]] = {
        "openai": lambda: _openai(url, key or NO_KEY, model),
        "curl": lambda: _curl(url, key, model),
        "open-webui": lambda: _open_webui(url, key or NO_KEY, model),
        "llm": lambda: _llm(url, key, model),
        "mcp-http": lambda: _mcp_http(url, key),
    }
    if outputs is not None:
        made["mcp-stdio"] = lambda: _mcp_stdio(outputs)
    return {name: make() for name, make in made.items()}


def _openai(url: str, key: str, model: str) -> str:
    return f"""\
import base64
from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key="{key}")
answer = client.images.generate(model="{model}", prompt="two green frogs")
with open("frogs.png", "wb") as file:
    file.write(base64.b64decode(answer.data[0].b64_json))
"""


def _curl(url: str, key: str, model: str) -> str:
    login = f" -H 'Authorization: Bearer {key}'" if key else ""
    body = json.dumps({"model": model, "prompt": "two green frogs"})
    return f"curl -s {url}/v1/images/generations{login} -H 'Content-Type: application/json' -d '{body}'\n"


def _open_webui(url: str, key: str, model: str) -> str:
    """The variables of its environment, each of which is also a setting of its admin panel."""
    lines = [f"OPENAI_API_BASE_URL={url}/v1", f"OPENAI_API_KEY={key}"]
    for enabled, engine, prefix, name in (
        ("ENABLE_IMAGE_GENERATION", "IMAGE_GENERATION_ENGINE", "IMAGES", "IMAGE_GENERATION_MODEL"),
        ("ENABLE_IMAGE_EDIT", "IMAGE_EDIT_ENGINE", "IMAGES_EDIT", "IMAGE_EDIT_MODEL"),
    ):
        lines += [f"{enabled}=true", f"{engine}=openai", f"{name}={model}"]
        lines += [f"{prefix}_OPENAI_API_BASE_URL={url}/v1", f"{prefix}_OPENAI_API_KEY={key}"]
    return "\n".join(lines) + "\n"


def _llm(url: str, key: str, model: str) -> str:
    """An entry of its file extra-openai-models.yaml. It sends the key as a header, and never one of OpenAI's."""
    login = f"  headers:\n    Authorization: Bearer {key}\n" if key else ""
    return f"- model_id: {APP}\n  model_name: {model}\n  api_base: {url}/v1\n  vision: true\n{login}"


def _mcp_http(url: str, key: str) -> str:
    headers = {"headers": {"Authorization": f"Bearer {key}"}} if key else {}
    return _json({"mcpServers": {APP: {"type": "http", "url": f"{url}/mcp", **headers}}})


def _mcp_stdio(outputs: Path) -> str:
    start = {"command": sys.executable, "args": ["-m", "janus_app", "mcp", "--out", str(outputs)]}
    return _json({"mcpServers": {APP: {**start, "env": {"PYTHONPATH": str(ROOT)}}}})


def _json(data: object) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
