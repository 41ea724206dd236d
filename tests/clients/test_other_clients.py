"""The command line tool `llm`, and webuiapi, against the app."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import webuiapi
from PIL import Image

LLM_MODEL = """
- model_id: tiny
  model_name: tiny-a
  api_base: {url}/v1
  vision: true
"""


@pytest.mark.parametrize("streaming", [[], ["--no-stream"]])
def test_llm_answers_about_a_picture(url: str, tmp_path: Path, streaming: list[str]) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(LLM_MODEL.format(url=url))
    Image.new("RGB", (96, 96), "red").save(tmp_path / "red.png")
    options = ["-m", "tiny", "-a", str(tmp_path / "red.png"), "-o", "max_tokens", "8", "--no-log", *streaming]
    command = [sys.executable, "-m", "llm", *options, "What is it?"]
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


@pytest.fixture(scope="module")
def webui(url: str) -> webuiapi.WebUIApi:
    parts = urlsplit(url)
    return webuiapi.WebUIApi(host=parts.hostname, port=parts.port)


def test_webuiapi_draws_and_redraws_under_a_mask(webui: webuiapi.WebUIApi) -> None:
    drawn = webui.txt2img(prompt="a red circle", seed=7, cfg_scale=5)
    assert drawn.image.size == (96, 96) and drawn.info["seed"] == 7
    again = webui.txt2img(prompt="a red circle", seed=7, cfg_scale=5)
    assert drawn.image.tobytes() == again.image.tobytes()
    mask = Image.new("L", drawn.image.size, 255)
    edited = webui.img2img(images=[drawn.image], mask_image=mask, prompt="blue", seed=3)
    assert edited.image.size == (96, 96)


def test_webuiapi_chooses_a_model(webui: webuiapi.WebUIApi) -> None:
    for name in ("tiny-b", "tiny-a"):
        webui.util_set_model(name)
        assert webui.util_get_current_model() == name
    assert "tiny-b" in webui.util_get_model_names()
    assert webui.get_samplers() and webui.get_progress()["progress"] == 0
