"""JanusFlow's files: the autoencoder from its own repository or a folder, and what is said when they do not fit."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file

from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.models.janusflow.modeling import JanusFlowNetwork
from janus_app.models.janusflow.pipeline import JanusFlowModel
from janus_app.models.janusflow.velocity import PromptVelocity
from janus_app.models.registry import get_family
from janus_app.registry.catalog import Catalog, load_catalog
from janus_app.registry.types import Component, File
from janus_app.runtime.fit import plan_load
from janus_app.runtime.loader import load
from janus_app.runtime.quantization import tensor_dtype
from janus_app.runtime.session import ModelSession
from janus_app.types import ChatRequest, Finished, GenerateRequest, Progress, Turn, drain
from tests.conftest import GOLDEN, loaded
from tests.fake_hub import REPO, REVISION, SECOND, FakeHub

FLOW = GOLDEN / "janusflow_1_3b"
DRAW = GenerateRequest("a red house", steps=2)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A writable folder with a checkpoint, its autoencoder inside."""
    folder = Path(shutil.copytree(FLOW / "checkpoint", tmp_path / "flow" / "checkpoint"))
    shutil.copytree(FLOW / "vae", folder / "vae")
    return folder


def change_json(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(file.read_text("utf-8"))
    change(value)
    file.write_text(json.dumps(value), "utf-8")


def pixels(model: object) -> bytes:
    *_, last = cast(JanusFlowModel, model).generate(DRAW)
    assert isinstance(last, Finished)
    return last.pictures[0].image.tobytes()


def held() -> int:
    """Tensors with memory behind them in all networks of this process."""
    gc.collect()
    networks = [o for o in gc.get_objects() if type(o) is JanusFlowNetwork]
    return sum(not t.is_meta for n in networks for t in n.parameters())


def refused(folder: Path, *words: str) -> None:
    """The load fails with a sentence, and nothing half-loaded stays in memory."""
    before = held()  # other tests keep whole models
    with pytest.raises(AppError) as caught:
        loaded(folder)
    for word in words:
        assert word in str(caught.value)
    del caught
    assert held() == before, "the advisor keeps meta networks only"


def test_the_autoencoder_inside_or_beside_the_folder_is_the_same(place: Path) -> None:
    inside = pixels(loaded(place).model)
    for name in ("vae", "sdxl-vae"):
        beside = place.parent / name
        shutil.move(place / "vae", beside)
        assert pixels(loaded(place).model) == inside
        shutil.move(beside, place / "vae")


def test_older_names_of_the_autoencoder_s_attention(place: Path) -> None:
    expected = pixels(loaded(place).model)
    file = place / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(file)
    renamed = {}
    for name, tensor in tensors.items():
        for new, was in old.items():
            name = name.replace(f".{new}.", f".{was}.")
        renamed[name] = tensor
    assert renamed.keys() != tensors.keys()
    save_file(renamed, file)
    assert pixels(loaded(place).model) == expected


def test_a_component_from_its_own_repository(tmp_path: Path) -> None:
    """The variant and its autoencoder come from two repositories of a Hub and are loaded together."""
    own = {file.name: file.read_bytes() for file in (FLOW / "checkpoint").iterdir()}
    vae = {file.name: file.read_bytes() for file in (FLOW / "vae").iterdir()}
    flow = replace(
        load_catalog()["janusflow-1.3b"],
        repo=REPO,
        revision=REVISION,
        files=tuple(File(name) for name in own),
        components={"vae": Component(SECOND, REVISION, tuple(File(name) for name in vae))},
    )
    with FakeHub({**own, **{f"second/{name}": data for name, data in vae.items()}}) as server:
        hub = Hub(tmp_path / "cache", server.endpoint, data=tmp_path / "data", reserve=0)
        assert set(hub.status(flow).missing) == {*own, *(f"vae/{name}" for name in vae)}
        session = ModelSession(Catalog({flow.id: flow}, {"cpu": flow.id, "gpu": flow.id}), hub)
        steps: list[Any] = []
        drain(session.load(flow.id, "cpu", "fp32"), steps.append)
        status = hub.status(flow)
        everything = sum(len(data) for data in (*own.values(), *vae.values()))
        assert status.complete and status.verified and status.on_disk == status.total == everything
        assert sum(e.total for e in steps if isinstance(e, Progress) and str(e.detail) == "complete") in (0, everything)
        drawn = drain(session.run(DRAW))
        assert isinstance(drawn, Finished) and drawn.pictures[0].image.size == (96, 96)
        hub.part_folders(flow)["vae"].joinpath("config.json").unlink()
        assert hub.status(flow).missing == ("vae/config.json",) and not hub.status(flow).complete
        drain(session.unload())
        assert hub.delete(flow) > 0.9 * everything and hub.status(flow).on_disk == 0


def test_missing_autoencoder_is_explained(place: Path) -> None:
    shutil.rmtree(place / "vae")
    refused(place, "autoencoder", "stabilityai/sdxl-vae", "folder vae")


def test_an_autoencoder_without_weights_or_with_damaged_ones(place: Path) -> None:
    file = place / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    refused(place, "diffusion_pytorch_model.safetensors", "1,000 bytes", "missing")
    file.unlink()
    refused(place, "has no weights", "diffusion_pytorch_model")


def test_an_autoencoder_of_another_model(place: Path) -> None:
    tensors = load_file(place / "vae" / "diffusion_pytorch_model.safetensors")
    config = place / "vae" / "config.json"
    change_json(config, lambda c: c.update(latent_channels=8))
    refused(place, "shape", "vae.")
    channels = {"encoder.conv_out": 16, "quant_conv": 16, "post_quant_conv": 8}
    for name, tensor in tensors.items():
        for part, rows in channels.items():
            if name.startswith(part + "."):
                shape = (rows, *tensor.shape[1:])
                if name.endswith("conv.weight") and "quant" in name:
                    shape = (rows, rows, 1, 1)
                tensors[name] = torch.zeros(shape)
    tensors["decoder.conv_in.weight"] = torch.zeros(32, 8, 3, 3)
    save_file(tensors, place / "vae" / "diffusion_pytorch_model.safetensors")
    refused(place, "8 latent channels", "draws 4")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
        ({"block_out_channels": [10**12, 16, 32, 32]}, "block_out_channels"),
        ({"block_out_channels": "many"}, "block_out_channels"),
        ({"latent_channels": 0}, "latent_channels"),
        ({"layers_per_block": -1}, "layers_per_block"),
        ({"scaling_factor": 0}, "scaling_factor"),
        ({"norm_num_groups": 7}, "not describe a usable autoencoder"),
        ({"down_block_types": ["Nothing"] * 4}, "not describe a usable autoencoder"),
    ],
)
def test_absurd_autoencoder_configs(place: Path, change: dict[str, Any], word: str) -> None:
    change_json(place / "vae" / "config.json", lambda c: c.update(change))
    refused(place, word)


@pytest.mark.parametrize(
    ("section", "change", "word"),
    [
        ("vision_gen_enc_config", {"block_out_channels": [10**12]}, "block_out_channels"),
        ("vision_gen_enc_config", {"block_out_channels": [64, 64]}, "one number"),
        ("vision_gen_enc_config", {"stride": 4}, "enc.stride is 4"),
        ("vision_gen_enc_config", {"hidden_size": 32}, "language_config.hidden_size"),
        ("vision_gen_dec_config", {"upsamples": 0}, "upsamples"),
        ("vision_gen_dec_config", {"in_channels": 32}, "shape"),
        ("vision_gen_dec_config", {"out_channels": 8}, "dec.out_channels is 8"),
        ("vision_und_enc_config", {"patch_size": None}, "patch_size"),
    ],
)
def test_absurd_checkpoint_configs(place: Path, section: str, change: dict[str, Any], word: str) -> None:
    change_json(place / "config.json", lambda c: c[section]["params"].update(change))
    refused(place, word)


def test_a_janusflow_folder_given_as_janus_and_the_other_way_round(place: Path) -> None:
    catalog = load_catalog()
    as_janus = replace(catalog["janus-1.3b"], folder=place, repo=None)
    with pytest.raises(AppError, match="checkpoint of JanusFlow"):
        list(load(plan_load(as_janus, place, "cpu").choose("fp32")))
    janus = GOLDEN / "janus_1_3b" / "checkpoint"
    as_flow = replace(catalog["janusflow-1.3b"], folder=janus, repo=None, components={})
    with pytest.raises(AppError, match="does not contain a JanusFlow"):
        list(load(plan_load(as_flow, janus, "cpu").choose("fp32")))


def test_missing_picture_marks_join_the_vocabulary_as_in_the_reference(place: Path) -> None:
    change_json(place / "processor_config.json", lambda c: c.update(image_end_tag="<not in the file>"))
    model = cast(JanusFlowModel, loaded(place).model)
    size = json.loads((FLOW / "meta.json").read_text("utf-8"))["tokenizer_size"]
    assert model.tokenizer.id("<not in the file>") == size
    *_, last = model.chat(ChatRequest((Turn("user", "Hello"),), temperature=0, max_new_tokens=2))
    assert isinstance(last, Finished)
    del model, last
    change_json(place / "processor_config.json", lambda c: c.update(image_tag=7))
    refused(place, "processor_config.json")


@pytest.mark.parametrize("instructions", [True, False])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_and_the_autoencoder_s_own(
    precision: str, instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in float32 on a CPU without bfloat16 instructions, and in fp16, whose range its activations leave."""
    monkeypatch.setattr("janus_app.runtime.quantization.has_bfloat16_instructions", lambda: instructions)
    full, half = (cast(JanusFlowModel, loaded(FLOW / "checkpoint", p).model) for p in ("fp32", precision))
    kinds = {name.split(".")[0]: tensor.dtype for name, tensor in half.network.named_parameters()}
    vae = kinds.pop("vae")
    assert vae == (torch.bfloat16 if instructions and precision == "bf16" else torch.float32)
    on_card = tensor_dtype(get_family("janusflow"), "vae.decoder.conv_in.weight", precision, torch.device("cuda"))
    assert on_card == {"bf16": torch.bfloat16, "fp16": torch.float32}[precision]
    assert set(kinds.values()) == {{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    z = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    ids = full.prompt_ids("a red house")
    exact, close = (PromptVelocity(m.network, ids)(z, 0.3, 2.0) for m in (full, half))
    assert close.dtype == torch.float32
    assert (exact - close).norm() < 0.05 * exact.norm()
    assert len(pixels(half)) == 96 * 96 * 3


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_bitsandbytes_quantises_the_decoder_linears_alone(precision: str) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed here")
    model = cast(JanusFlowModel, loaded(FLOW / "checkpoint", precision).model)
    kinds = {n: type(m).__name__ for n, m in model.network.named_modules() if isinstance(m, torch.nn.Linear)}
    quantised = {name for name, kind in kinds.items() if kind in ("Int8Linear", "Linear4bit")}
    assert quantised == {name for name in kinds if name.startswith("language_model.model.layers.")} != set()
    assert len(pixels(model)) == 96 * 96 * 3
