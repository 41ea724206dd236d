"""Files that version 0.1.0 wrote, before the redesign, are read with the values that were written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from janus_app.hub.verify import HashStore
from janus_app.outputs.descriptions import description
from janus_app.outputs.library import library
from janus_app.outputs.metadata import ImageMetadata, read_metadata, request_of
from janus_app.outputs.user_presets import Preset
from janus_app.outputs.votes import Tally
from janus_app.registry.catalog import load_catalog
from janus_app.types import GenerateRequest

ROOT = Path(__file__).parent.parent
OLD = Path(__file__).parent / "fixtures" / "old_version"
VERSIONS = {
    "python": "3.11.7",
    "torch": "2.13.0+cpu",
    "transformers": "5.23.0",
    "tokenizers": "0.23.3",
    "pillow": "12.3.0",
    "bitsandbytes": "0.50.2",
}
TOKENS = (1482, 4664, 4696, 4664, 4696, 4664, 4696, 4728, 4760, 4728, 4760, 4728, 4760, 0, 0, 0, 0, 0, 0, 4664, 4696,
          4664, 4696, 0, 0, 4664, 4696, 0, 0, 0, 0, 4728, 4760, 0, 0, 0)  # fmt: skip
EDITED_TOKENS = (1576, 4664, 4696, 4664, 4696, 0, 0, 4728, 4760, 4728, 4760, *(0,) * 25)


def metadata(file: str) -> ImageMetadata:
    return read_metadata(OLD / "pictures" / file)


def common(model: str, family: str) -> dict[str, object]:
    title = {"janus": "Janus embedded", "janusflow": "JanusFlow embedded"}[family]
    return {"app": "0.1.0", "model": model, "title": title, "repo": "", "revision": "", "family": family,
            "precision": "fp32", "device": "cpu", "size": (96, 96), "versions": VERSIONS}  # fmt: skip


def test_generated_picture_of_janus_keeps_its_image_tokens() -> None:
    found = metadata("janus_generate.png")
    assert found == ImageMetadata(
        **common("janus-embedded", "janus"),
        verb="generate",
        prompt="a red circle and a blue star",
        negative="fog, 雾",
        seed=11,
        created="2026-11-28T18:21:21+00:00",
        settings={"guidance": 4.0, "temperature": 0.9},
        image_tokens=TOKENS,
    )
    assert request_of(found) == GenerateRequest(
        "a red circle and a blue star", "fog, 雾", guidance=4.0, temperature=0.9, seed=11, image_tokens=TOKENS
    )


def test_edited_picture_of_janus() -> None:
    assert metadata("janus_edit.png") == ImageMetadata(
        **common("janus-embedded", "janus"),
        verb="edit",
        prompt="a green square",
        negative="",
        seed=4_294_967_295,
        created="2026-11-28T18:21:32+00:00",
        settings={"method": "region", "guidance": 1.0, "temperature": 0.4},
        image_tokens=EDITED_TOKENS,
    )


def test_generated_picture_of_janusflow() -> None:
    found = metadata("janusflow_generate.png")
    assert found == ImageMetadata(
        **common("janusflow-embedded", "janusflow"),
        verb="generate",
        prompt="a yellow star",
        negative="",
        seed=5,
        created="2026-11-28T18:21:42+00:00",
        settings={"guidance": 1.5, "steps": 4, "solver": "ab2", "guidance_start": 0.1, "guidance_end": 0.6},
    )
    assert request_of(found) == GenerateRequest(
        "a yellow star", guidance=1.5, seed=5, steps=4, solver="ab2", guidance_interval=(0.1, 0.6)
    )


def test_flowedit_picture_of_janusflow_keeps_its_source_prompt() -> None:
    found = metadata("janusflow_flowedit.png")
    assert found.settings == {
        "method": "flowedit",
        "guidance": 1.5,
        "image_guidance": 1.25,
        "strength": 0.5,
        "steps": 4,
    }
    assert (found.verb, found.prompt, found.source_prompt) == ("edit", "a blue star", "a yellow star")
    assert (found.seed, found.image_tokens, found.created) == (6, (), "2026-11-28T18:21:49+00:00")


def test_pictures_conversations_votes_and_presets_are_found(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    kept = library(tmp_path / "pictures", tmp_path / "data")

    pictures = {item.name: item.favourite for item in kept.gallery.find()}
    assert pictures == {
        "janusflow_flowedit.png": False,
        "janusflow_generate.png": False,
        "janus_edit.png": True,
        "janus_generate.png": False,
    }
    assert description(tmp_path / "pictures" / "janus_generate.png") == "a red circle\nabove a blue star, 星"

    listing = kept.conversations.find()
    assert listing.damaged == ()
    (conversation,) = listing.conversations
    assert conversation == kept.conversations.open("2026-11-28_47cb6ad0")
    assert (conversation.id, conversation.title) == ("2026-11-28_47cb6ad0", "Shapes 形状")
    assert conversation.created == conversation.changed == "2026-11-28T18:21:51+00:00"
    assert [(m.id, m.role, m.text, m.model) for m in conversation.path] == [
        ("555be3c9", "user", "What is this?\nLook closely. 第二行 👩‍🚀", ""),
        ("5dc1887a", "assistant", "A red circle and a blue star.", "Janus (embedded)"),
        ("52328ba2", "user", "And the middle?", ""),
        ("00f82e1c", "assistant", "A blue star.", "Janus (embedded)"),
    ]
    assert [m.text for m in conversation.ends] == ["Nothing there. \ud800", "A blue star."]
    (shown,) = conversation.path[0].pictures
    assert Path(shown).read_bytes() == (OLD / "pictures" / "janus_generate.png").read_bytes()

    assert kept.votes.all() == [Tally("Janus A", "JanusFlow B", 1, 1, 1), Tally("模型", "Janus A", 0, 1, 0)]
    assert kept.presets.of("janus") == [
        Preset("my portraits", "janus", {"guidance": 6.0, "temperature": 0.8, "count": 2})
    ]
    assert kept.presets.of("janusflow") == [
        Preset("柔和", "janusflow", {"steps": 20, "solver": "heun", "guidance": 2.5})
    ]


def test_saving_a_conversation_again_keeps_the_old_layout(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "data" / "conversations" / "2026-11-28_47cb6ad0" / "conversation.json"
    before = file.read_bytes()
    conversations = library(tmp_path / "pictures", tmp_path / "data").conversations
    conversations.save(conversations.open("2026-11-28_47cb6ad0"))
    assert file.read_bytes() == before


def test_user_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JANUS_APP_DATA", str(OLD / "data"))
    monkeypatch.delenv("JANUS_APP_MANIFEST", raising=False)
    catalog = load_catalog()

    mine, flow, brought = catalog["my-janus"], catalog["flow"], catalog["brought"]
    assert (mine.title, mine.family, mine.folder) == (
        "My Janus",
        "janus",
        Path("/home/someone/checkpoints/janus_embedded"),
    )
    assert (mine.size, mine.context, mine.parameters, mine.verbs) == ((96, 96), 1024, 5, ("chat", "generate", "edit"))
    assert {name: asdict(setting) for name, setting in mine.settings.items()}["top_p"] == {
        "default": 0.95,
        "low": 0.05,
        "high": 1.0,
        "step": 0.05,
    }
    assert (flow.title, flow.solvers) == ("Flow 流", ("euler", "heun", "ab2"))
    assert (
        flow.licence_note == "This checkpoint comes from your own folder; its licence is whatever its publisher says."
    )
    assert brought.user_supplied and brought.folder == OLD / "data" / "brought" and brought.settings == {}

    assert json.loads(json.dumps(asdict(catalog["by-hand"]))) == {
        "id": "by-hand",
        "title": "By hand",
        "family": "janusflow",
        "tagline": "",
        "verified": "",
        "repo": "owner/by-hand",
        "revision": "0123456789abcdef0123456789abcdef01234567",
        "folder": None,
        "files": [
            {"path": "config.json", "size": 1234, "sha256": None, "about": None},
            {"path": "sub/model.safetensors", "size": None, "sha256": "ab" * 32, "about": 4_000_000_000},
        ],
        "code_licence": "MIT",
        "weights_licence": "Their licence",
        "licence_note": "Read it.",
        "verbs": ["generate", "edit"],
        "size": [384, 512],
        "context": 4096,
        "settings": {
            "guidance": {"default": 2, "low": 1, "high": 10, "step": 0.5},
            "steps": {"default": 30, "low": 1, "high": 100, "step": 1},
        },
        "parameters": 2_000_000_000,
        "memory": {"fp32": 8_000_000_000, "bf16": 4_000_000_000},
        "examples": {"en": {"generate": ["a red circle", "a blue star"]}, "zh-CN": {"generate": ["红色的圆"]}},
        "status": "Not verified.",
        "notes": "A note.",
        "roles": "words",
        "solvers": ["heun", "euler"],
        "components": {
            "vae": {
                "repo": "owner/vae",
                "revision": "fedcba9876543210fedcba9876543210fedcba98",
                "files": [{"path": "vae.safetensors", "size": 335_000_000, "sha256": None, "about": None}],
                "licence": "Apache-2.0",
            }
        },
        "user_supplied": False,
        "edit_methods": ["masked", "flowedit"],
        "thinking": None,
    }


def test_hash_store(tmp_path: Path) -> None:
    shutil.copytree(OLD / "data", tmp_path, dirs_exist_ok=True)
    blob = tmp_path / "blob"
    blob.write_bytes(b"content")
    os.utime(blob, ns=(1_790_000_000_123_456_789,) * 2)
    known = (tmp_path / "verified.json").read_text("utf-8")
    (tmp_path / "verified.json").write_text(known.replace("/home/someone/blob", blob.as_posix()), "utf-8")

    store = HashStore(tmp_path)
    assert store.pin(f"owner/name@{'0' * 40}/model.safetensors") == "ab" * 32
    assert store.verified(blob) == "cd" * 32
    blob.write_bytes(b"changed")
    assert store.verified(blob) is None


def test_exported_script_draws_with_its_settings_again(tmp_path: Path) -> None:
    """The demo model's weights are not those of then: it draws larger pictures, of other tokens."""
    script = (OLD / "exported_script.txt").read_text("utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JANUS_APP_DATA": str(tmp_path / "data")}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    drawn, old = read_metadata(tmp_path / done.stdout.strip()), metadata("janus_generate.png")
    assert len(drawn.image_tokens) == len(TOKENS) and drawn.size == (192, 192)
    same = {name: getattr(old, name) for name in ("app", "created", "versions", "size", "image_tokens")}
    assert replace(drawn, **same) == old
