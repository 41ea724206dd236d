"""A family of models is one folder and one line of the registry: nothing else in the program names one."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.models.common.memory import BytesPerElement, Job, Peak
from janus_app.models.family import CheckpointFacts, Family, Parts
from janus_app.models.registry import FAMILIES, detect_family, get_family
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.types import (
    Capabilities,
    ChatRequest,
    EditRequest,
    Event,
    Finished,
    GenerateRequest,
    Model,
    Picture,
    Setting,
    Thinking,
    drain,
)
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.draw.tab import draw_hint
from tests import tiny_mixed
from tests.conftest import GOLDEN

PACKAGE = Path(__file__).parent.parent / "janus_app"
MODELS = PACKAGE / "models"
FAMILY_CODE = [MODELS / name for name in FAMILIES] + [MODELS / "registry.py"]
OTHER_FILES = [
    file
    for file in sorted(PACKAGE.rglob("*.py"))
    if not any(place == file or place in file.parents for place in FAMILY_CODE)
]
CHECKPOINTS = {
    "janus": GOLDEN / "janus_pro_1b" / "checkpoint",
    "janusflow": GOLDEN / "janusflow_1_3b" / "checkpoint",
    "metaquery": GOLDEN.parent / "metaquery" / "ckpt_llavaov_sd15",
    "unipic2": GOLDEN.parent / "unipic2" / "ckpt_tiny",
    "regression": GOLDEN.parent / "metamorph" / "checkpoint",
}


def config_of(name: str) -> dict[str, Any]:
    """The config of a checkpoint of a family; one of them has only tests that write theirs."""
    if name == "mixed_diffusion":
        return tiny_mixed.TRANSFUSION
    config: dict[str, Any] = json.loads((CHECKPOINTS[name] / get_family(name).config_file).read_text("utf-8"))
    return config


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every identifier, imported module and string constant."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield line, node.value
        elif isinstance(node, ast.ImportFrom):
            yield line, node.module or ""
        for field in ("id", "attr", "arg", "name", "asname"):
            if isinstance(text := getattr(node, field, None), str):
                yield line, text


def family_names_in(tree: ast.AST) -> list[tuple[int, str]]:
    """Identifiers and identifier-like strings with the id of a family as one of their words, such as is_janusflow."""
    found = []
    for line, text in names_in(tree):
        words = re.split(r"[._]", text.lower().replace("janus_app", ""))
        if re.fullmatch(r"[\w.:]+", text) and set(words) & FAMILIES.keys():
            found.append((line, text))
    return found


@pytest.mark.parametrize("file", OTHER_FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_file_outside_the_families_names_one(file: Path) -> None:
    assert family_names_in(ast.parse(file.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "x = family == 'janus'",
        "def is_janusflow(): ...",
        "from janus_app.models.metaquery import config",
        "label('image_guidance_janusflow')",
    ],
)
def test_the_search_finds_a_family_name(code: str) -> None:
    assert family_names_in(ast.parse(code))


def test_the_search_leaves_the_program_s_own_name_alone() -> None:
    code = "from janus_app.types import Model\nKEY = 'janus_app'\nHINT = 'Load a Janus model.'"
    assert not family_names_in(ast.parse(code))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_detects_its_own_checkpoint_and_no_other(name: str) -> None:
    config = config_of(name)
    assert [other for other in FAMILIES if get_family(other).detect(config)] == [name]
    assert detect_family(config) is get_family(name) and get_family(name).id == name


def test_unknown_families_and_checkpoints_are_refused_with_what_is_known() -> None:
    with pytest.raises(AppError, match="janus, janusflow, metaquery") as refused:
        get_family("llama")
    assert refused.value.code == "family_unknown"
    with pytest.raises(AppError, match=r"'llama'.*JanusFlow") as refused:
        detect_family({"model_type": "llama"})
    assert refused.value.code == "checkpoint_type_unknown"


def test_only_a_model_that_draws_tokens_is_said_to_paint_row_by_row() -> None:
    for variant in load_catalog().values():
        hint = draw_hint(Texts(), variant, "en")
        if "generate" in variant.verbs:
            assert ("row by row" in hint) == (get_family(variant.family).drawing == "tokens"), variant.id
            assert ("noise" in hint) == (get_family(variant.family).drawing != "tokens"), variant.id


# ---- a family of its own


class ToyNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.brush = nn.Linear(3, 1, bias=False)


class ToyModel:
    """Draws squares in the colour of its three weights."""

    def __init__(self, network: ToyNetwork, side: int) -> None:
        self.network, self.side = network, side
        self.capabilities = Capabilities(verbs=frozenset({"generate"}), size=(side, side), context=16)

    def generate(self, request: GenerateRequest) -> Iterator[Event]:
        red, green, blue = (int(value) for value in self.network.brush.weight[0].tolist())
        picture = Image.new("RGB", (self.side, self.side), (red, green, blue))
        yield Finished(pictures=(Picture(picture, request.seed),))

    def chat(self, request: ChatRequest) -> Iterator[Event]:
        raise NotImplementedError

    def edit(self, request: EditRequest) -> Iterator[Event]:
        raise NotImplementedError


def describe_toy(folder: Path, config: Mapping[str, Any]) -> CheckpointFacts:
    return CheckpointFacts((config["side"], config["side"]), 16, {"count": Setting(1, 1, 4, 1)})


def read_toy_config(folder: Path, parts: Parts | None) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return config


def toy_peak(config: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement) -> Peak:
    return Peak(0, 3 * side * side * job.count)


def toy_pipeline(
    network: nn.Module,
    folder: Path,
    *,
    context: int,
    roles: str = "",
    edit_methods: Sequence[str] = (),
    parts: Parts | None = None,
    thinking: Thinking | None = None,
) -> Model:
    return ToyModel(cast(ToyNetwork, network), 8)


TOY = Family(
    id="toy",
    title="Toy",
    drawing="tokens",
    detect=lambda config: config.get("model_type") == "toy",
    describe=describe_toy,
    read_config=read_toy_config,
    build=lambda config: ToyNetwork(),
    job_peak=toy_peak,
    pipeline=toy_pipeline,
    quantized_prefix="brush.",
    picture_decoder_prefix="brush.",
)


def test_a_new_family_loads_and_draws_through_the_real_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "toy", TOY)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "toy", "side": 8}), "utf-8")
    save_file({"brush.weight": torch.tensor([[10.0, 20.0, 30.0]])}, tmp_path / "model.safetensors")
    session = ModelSession(load_catalog(), Hub())
    drain(session.load(str(tmp_path), "cpu", "fp32"))
    variant = load_catalog().resolve(str(tmp_path))
    assert (variant.family, variant.size, set(variant.settings)) == ("toy", (8, 8), {"count"})
    assert session.state.variant_id == variant.id
    *_, last = session.run(GenerateRequest("a square"))
    assert isinstance(last, Finished) and last.pictures[0].image.getpixel((4, 4)) == (10, 20, 30)


def test_a_checkpoint_of_a_new_family_that_lacks_a_tensor_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "toy", TOY)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "toy", "side": 8}), "utf-8")
    save_file({"other.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(AppError, match=r"other\.weight"):
        drain(ModelSession(load_catalog(), Hub()).load(str(tmp_path), "cpu", "fp32"))
