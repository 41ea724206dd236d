"""LoRA adapters: merged at load, in every precision, and refused with a sentence where they do not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from janus_app.cli import main
from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.outputs.metadata import metadata_of, read_metadata
from janus_app.paths import ASSETS
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.adapters import WEIGHTS, Adapter, find_adapter
from janus_app.runtime.fit import plan_load
from janus_app.runtime.loader import load
from janus_app.runtime.session import ModelSession
from janus_app.types import Finished, GenerateRequest, drain, result_of
from janus_app.workflows.export import export
from tests.conftest import GOLDEN
from training.lora import Lora

EMBEDDED = ASSETS / "janus_embedded"
TINY = GOLDEN / "janus_1_3b" / "checkpoint"
LAYER = "language_model.model.layers.0.self_attn.q_proj"
DRAWN, TAUGHT = "three purple houses", "a yellow star in the top left corner"
RANK = 8


def write_adapter(folder: Path, weights: dict[str, Tensor], **config: Any) -> Path:
    """An adapter as PEFT saves it, from matrices by layer and half: "layer.lora_A"."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"base_model.model.{name}.weight": tensor.detach().contiguous() for name, tensor in weights.items()}
    save_file(named, folder / WEIGHTS)
    facts = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "base_model_name_or_path": "me/base"}
    (folder / "adapter_config.json").write_text(json.dumps(facts | config), "utf-8")
    return folder


def pair(layer: str = LAYER, rank: int = 4, shape: tuple[int, int] = (64, 64), seed: int = 0) -> dict[str, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, shape[1], generator=stream)
    return {f"{layer}.lora_A": a, f"{layer}.lora_B": torch.randn(shape[0], rank, generator=stream)}


@pytest.fixture(scope="module")
def hidden() -> int:
    return int(json.loads((TINY / "config.json").read_text("utf-8"))["language_config"]["hidden_size"])


def with_adapters(folder: Path, *adapters: Adapter, precision: str = "fp32") -> Any:
    plan = plan_load(load_catalog().resolve(str(folder)), folder, "cpu").choose(precision)
    return result_of(load(replace(plan, adapters=adapters))).model


def refusal(folder: Path, adapter: Adapter) -> AppError:
    with pytest.raises(AppError) as caught:
        with_adapters(folder, adapter)
    return caught.value


def drawn(model: Any, prompt: str) -> tuple[int, ...]:
    last = drain(model.generate(GenerateRequest(prompt, guidance=1.0, temperature=0.0)))
    assert isinstance(last, Finished)
    return last.pictures[0].image_tokens


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that was taught, in a few steps, to draw the picture of one prompt for another."""
    model = with_adapters(EMBEDDED)
    tokens = torch.tensor([drawn(model, TAUGHT)])
    torch.manual_seed(0)
    lora = Lora(EMBEDDED, RANK, ("q_proj", "down_proj"))
    network = lora.network
    with torch.inference_mode():
        prompt = model.prompt_rows(GenerateRequest(DRAWN, guidance=1.0))[0]
        inputs = torch.cat([prompt, network.token_embeds(tokens[0, :-1])])[None]
    inputs = inputs.clone()
    optimizer = torch.optim.Adam([*lora.a, *lora.b], lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(network.gen_head(network(inputs)[0, len(prompt) - 1 :]), tokens[0]).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("adapters") / "stars"
    lora.save(folder, "me/base")
    return folder


def test_trained_adapter_draws_what_it_was_taught_and_nothing_at_strength_0(taught: Path) -> None:
    plain = with_adapters(EMBEDDED)
    target, before = drawn(plain, TAUGHT), drawn(plain, DRAWN)
    after = drawn(with_adapters(EMBEDDED, Adapter("stars", taught)), DRAWN)
    assert sum(a == b for a, b in zip(after, target, strict=True)) > 0.9 * len(target)
    assert sum(a == b for a, b in zip(before, target, strict=True)) < 0.7 * len(target)  # most of both is background
    off = with_adapters(EMBEDDED, Adapter("stars", taught, 0.0))
    expected = {name: tensor for name, tensor in plain.network.state_dict().items() if not tensor.is_meta}  # packed
    assert all(torch.equal(off.network.state_dict()[name], tensor) for name, tensor in expected.items())
    assert drawn(off, DRAWN) == before


def test_picture_of_an_adapter_says_so_and_the_session_changes_adapters(taught: Path, tmp_path: Path) -> None:
    session = ModelSession(load_catalog(), Hub())
    adapter = find_adapter(f"{taught}=0.5")
    drain(session.load("janus-embedded", "cpu", "fp32", [adapter]))
    request = GenerateRequest("a red house", guidance=1.0, seed=3)
    finished = session.result(request)
    assert finished.provenance is not None and finished.provenance.adapters == ("stars=0.5",)
    assert metadata_of(finished.pictures[0], finished.provenance).settings["adapters"] == "stars=0.5"
    drain(session.run_on(None, lambda loaded: request, ()))
    assert session.loaded is not None and session.loaded.plan.adapters == ()
    assert session.loaded.plan.precision == "fp32"
    broken = write_adapter(tmp_path / "broken", pair("language_model.model.layers.99.mlp.up_proj"))
    with pytest.raises(AppError):
        drain(session.load("janus-embedded", "cpu", "fp32", [find_adapter(str(broken))]))
    assert session.loaded is not None, "a wrong adapter costs no model"


@pytest.mark.parametrize("precision", ["fp32", "int8", "nf4"])
def test_merged_adapters_are_the_sum_and_are_quantized_with_the_weights(
    tmp_path: Path, precision: str, hidden: int
) -> None:
    if precision != "fp32":
        pytest.importorskip("bitsandbytes")
    one = write_adapter(tmp_path / "one", pair(shape=(hidden, hidden)), lora_alpha=6)
    two = write_adapter(
        tmp_path / "two", pair(shape=(hidden, hidden), seed=1), use_rslora=True, alpha_pattern={"q_proj": 3}
    )
    mine = with_adapters(TINY, Adapter("one", one, 0.5), Adapter("two", two, -1.0), precision=precision)
    changed = tmp_path / "merged"
    changed.mkdir()
    for file in TINY.iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    weights = load_file(TINY / "model.safetensors")
    deltas = []
    for folder, scale in ((one, 0.5 * 6 / 4), (two, -1.0 * 3 / 4**0.5)):
        halves = load_file(folder / WEIGHTS)
        a, b = (halves[f"base_model.model.{LAYER}.lora_{half}.weight"] for half in "AB")
        deltas.append(scale * (b @ a))
    weights = {name: tensor.float() for name, tensor in weights.items()}
    weights[f"{LAYER}.weight"] = weights[f"{LAYER}.weight"] + deltas[0] + deltas[1]
    save_file(weights, changed / "model.safetensors")
    expected = with_adapters(changed, precision=precision).network.state_dict()
    for name, tensor in mine.network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)


@pytest.mark.parametrize(
    "layer",
    [
        LAYER,
        "model.layers.0.self_attn.q_proj",  # trained on the language model alone
        "model.language_model.layers.0.self_attn.q_proj",  # trained with transformers
    ],
)
def test_layer_is_known_by_the_names_of_every_trainer(tmp_path: Path, layer: str, hidden: int) -> None:
    adapter = Adapter("a", write_adapter(tmp_path / "a", pair(layer, shape=(hidden, hidden))))
    changed, plain = with_adapters(TINY, adapter), with_adapters(TINY)
    states = changed.network.state_dict(), plain.network.state_dict()
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == [f"{LAYER}.weight"]


def pickle_it(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-200])


def lose_half(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({name: tensor for name, tensor in weights.items() if "lora_A" in name}, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("weights", "config", "change", "code"),
    [
        ({"shape": (8, 8)}, {}, None, "adapter_shape_differs"),
        ({"layer": "language_model.model.layers.77.self_attn.q_proj"}, {}, None, "adapter_layer_missing"),
        ({"layer": "transformer.h.0.attn.c_attn"}, {}, None, "adapter_layer_missing"),
        ({"rank": 500}, {}, None, "adapter_rank_too_large"),
        ({"rank": 0}, {}, None, "adapter_shape_differs"),
        ({}, {"use_dora": True}, None, "adapter_kind_unsupported"),
        ({}, {"peft_type": "IA3"}, None, "adapter_kind_unsupported"),
        ({}, {"modules_to_save": ["lm_head"]}, None, "adapter_kind_unsupported"),
        ({}, {"lora_alpha": "many"}, None, "adapter_kind_unsupported"),
        ({}, {"alpha_pattern": {"(a+)+$": 1}}, None, "adapter_kind_unsupported"),
        ({}, {}, pickle_it, "adapter_is_pickle"),
        ({}, {}, lose_half, "adapter_half_missing"),
        ({}, {}, cut, "weights_cut"),
        ({}, {}, lambda folder: (folder / WEIGHTS).unlink(), "adapter_without_weights"),
        ({}, {}, lambda folder: (folder / "adapter_config.json").unlink(), "adapter_without_config"),
        ({}, {}, lambda folder: save_file({"x": torch.zeros(1)}, folder / WEIGHTS), "adapter_tensor_unknown"),
    ],
)
def test_adapter_that_does_not_fit_is_refused_with_the_reason(
    tmp_path: Path, hidden: int, weights: Any, config: Any, change: Callable[[Path], object] | None, code: str
) -> None:
    folder = write_adapter(tmp_path / "a", pair(**({"shape": (hidden, hidden)} | weights)), **config)
    if change:
        change(folder)
    error = refusal(TINY, Adapter("mine", folder))
    assert error.code == code
    if code in ("adapter_shape_differs", "adapter_layer_missing"):
        assert "me/base" in str(error)


def test_adapter_is_found_by_name_or_path_with_its_strength(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JANUS_APP_DATA", str(tmp_path))
    named = write_adapter(tmp_path / "adapters" / "frogs", pair())
    assert find_adapter("frogs") == Adapter("frogs", named) and find_adapter("frogs=0.25").strength == 0.25
    assert find_adapter(f"{named / WEIGHTS}=-1") == Adapter("frogs", named.resolve(), -1.0)
    for text, code in (
        ("cats", "adapter_unknown"),
        ("frogs=nan", "adapter_strength_wrong"),
        ("frogs=99", "adapter_strength_wrong"),
    ):
        with pytest.raises(AppError) as caught:
            find_adapter(text)
        assert caught.value.code == code
    with pytest.raises(AppError, match="frogs"):
        find_adapter(str(named), paths=False)


def test_command_line_draws_with_an_adapter(taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "house.png"
    command = ["generate", "--model", "janus-embedded", "--prompt", DRAWN, "--guidance", "1", "--out", str(out)]
    assert main([*command, "--adapter", f"{taught}=0.75"]) == 0
    assert read_metadata(out).settings["adapters"] == "stars=0.75"
    line = export(read_metadata(out), "cli")
    assert "--adapter=stars=0.75" in line
    hostile = replace(read_metadata(out), settings={"adapters": "/tmp/x=1, a/b=1, frogs=0.5, -rf"})
    assert re.findall(r"--adapter=(\S+)", export(hostile, "cli")) == ["frogs=0.5"]
    assert main([*command, "--adapter", "nothing-of-this-name"]) == 2
    assert "nothing-of-this-name" in capsys.readouterr().err
