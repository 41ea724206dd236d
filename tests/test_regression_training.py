"""The trainers of the embedded MetaMorph and Pisces: what they train is what the exported folder computes."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from janus_app.models.regression.config import PLACE
from janus_app.paths import ASSETS
from janus_app.types import Turn
from tests.conftest import loaded
from tests.test_metamorph_parity import picture
from training import regression, regression_convert
from training.optim import fit
from training.pictures import painter as artist
from training.regression import Trainer, Writer, begin_with, codes_of
from training.regression_data import SYSTEMS, Conversations, Format, drawings, talks, tokenizer_of
from training.regression_export import BASES, export
from training.regression_paint import Visualizer
from training.regression_restore import visualizer_state, writer_state
from training.scenes import seen_scene
from training.trainer import load_state
from training.world import N_TILES, grid


def off(ours: torch.Tensor, trained: torch.Tensor) -> float:
    """The largest difference, as a share of the largest number; exported weights are rounded to bfloat16."""
    return float((ours - trained).abs().max() / trained.abs().max())


def trained(system: str, folder: Path) -> tuple[Format, Writer, Visualizer]:
    """States of both trainings in a folder, with weights of their own in every layer."""
    torch.manual_seed(0)
    form = Format(SYSTEMS[system], tokenizer_of(SYSTEMS[system], ASSETS / "janus_embedded", folder))
    writer, painter = Writer(form.system, form.vocabulary), Visualizer(system)
    for name, tensor in writer.state_dict().items():
        tensor.fill_(1.0) if "norm" in name and name.endswith("weight") else tensor.normal_(std=0.1)
    for name, module in (("writer", writer), ("visualizer", painter)):
        torch.save({"model": module.state_dict()}, folder / f"{name}.pt")
    return form, writer, painter


def scenes_as_tiles(count: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(np.stack([grid(seen_scene(rng)) for _ in range(count)]))


@pytest.mark.parametrize(
    ("system", "verbs"), [("metamorph", {"chat", "generate", "edit"}), ("pisces", {"chat", "generate"})]
)
def test_an_exported_training_state_computes_what_was_trained(system: str, verbs: set[str], tmp_path: Path) -> None:
    form, writer, painter = trained(system, tmp_path)
    export(system, tmp_path, ASSETS / "janusflow_embedded", tmp_path / "out")
    assert (tmp_path / "components" / BASES[system] / "vae").is_dir()
    ours = loaded(tmp_path / "out", "fp32").model
    assert ours.capabilities.verbs == verbs and ours.capabilities.size == (192, 192)
    network, trainer = ours.network, Trainer(writer, "cpu")
    tiles = scenes_as_tiles(1)
    pixels, targets = artist().seen(tiles), trainer.targets(tiles)
    states = torch.randn(3, 192)
    with torch.inference_mode():
        assert off(network.features(pixels), writer.read(pixels)) < 0.02
        assert off(network.write(states), writer.normal(writer.head(states))) < 0.02
        project = writer.projector if form.system.shared else writer.write_projector
        assert off(network.written_embeds(targets), project(targets)) < 0.02
        said = ours.painter.conditions(targets[0], None, 1.0).captions
        assert off(said, painter.adapter(targets)) < 0.02


@pytest.mark.parametrize("system", SYSTEMS)
def test_conversations_are_trained_in_the_prompt_format_of_the_app(system: str, tmp_path: Path) -> None:
    form, _, _ = trained(system, tmp_path)
    export(system, tmp_path, ASSETS / "janusflow_embedded", tmp_path / "out")
    prompts = loaded(tmp_path / "out", "fp32").model.prompts
    usual = form.system.prompt.drawing
    for caption in ("two green frogs", ""):
        asked = [*form.begin, *form.question(usual.format(caption).strip(), 0)]
        assert prompts.conversation([prompts.drawing(caption)]) == asked
    shown = [*form.begin, *form.question("What is this?", 2)]
    expected = [PLACE if id_ == form.place else id_ for id_ in shown]
    assert prompts.conversation([Turn("user", "What is this?", (picture("image"), picture("image2")))]) == expected


def batch_of(system: str, tmp_path: Path) -> tuple[Trainer, Conversations]:
    form, writer, _ = trained(system, tmp_path)
    return Trainer(writer, "cpu"), drawings(np.random.default_rng(1), form, 3)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_vector_of_a_picture_is_predicted_one_position_before_it_is_read(system: str, tmp_path: Path) -> None:
    _, batch = batch_of(system, tmp_path)
    assert torch.equal(batch.vector.roll(1, 1), batch.place) and int(batch.place.sum()) == 3 * 36


def test_a_model_that_writes_the_codes_exactly_has_no_error_and_any_other_has_one(tmp_path: Path) -> None:
    trainer, batch = batch_of("pisces", tmp_path)
    codes = codes_of(batch.tiles)
    assert float(trainer.model.apart(codes, trainer.targets(batch.tiles)).max()) == 0
    assert float(trainer.model.apart(codes + 1, codes).mean()) == pytest.approx(0.5)
    everything = codes_of(torch.arange(N_TILES)[: N_TILES // 36 * 36].view(-1, 36))
    assert len(everything.flatten(0, 1).unique(dim=0)) == N_TILES // 36 * 36


def test_a_picture_in_a_question_is_read_and_one_in_an_answer_is_not(tmp_path: Path) -> None:
    form, writer, _ = trained("pisces", tmp_path)
    trainer, rng = Trainer(writer, "cpu"), np.random.default_rng(1)
    asked, drawn = talks(rng, form, 2), drawings(rng, form, 2)
    assert not bool(asked.wanted.any()) and bool(drawn.wanted.all())
    with torch.no_grad():
        embeds = trainer.embeds(drawn, 0.0)
    assert torch.allclose(embeds, writer.write_projector(codes_of(drawn.tiles)), atol=1e-5)


@pytest.mark.parametrize("system", ["metamorph", "pisces"])
def test_training_continues_from_exported_weights(system: str, tmp_path: Path) -> None:
    _, writer, painter = trained(system, tmp_path)
    export(system, tmp_path, ASSETS / "janusflow_embedded", tmp_path / "out")
    auxiliary = ("named.", "kind.", "colour.", "ground.", "place.", "told.", "aim.")
    for module, state in ((writer, writer_state), (painter, visualizer_state)):
        restored = state(system, tmp_path / "out")
        assert restored.keys() == module.state_dict().keys()
        for name, tensor in module.state_dict().items():
            if not name.startswith(auxiliary):
                assert torch.equal(restored[name], tensor.to(torch.bfloat16).float()), name


def test_a_metamorph_begins_with_what_pisces_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Language model and U-Net are copied, and the head is fitted to what the new model's states say."""
    for module in (regression_convert, regression):
        monkeypatch.setattr(module, "fit", partial(fit, steps=100))
    monkeypatch.setattr(sys, "argv", ["convert", "--out", str(tmp_path)])
    regression_convert.main()
    old = load_file(ASSETS / "pisces_embedded" / "model.safetensors")
    states = {name: load_state(tmp_path / f"{name}.pt")["model"] for name in ("writer", "visualizer")}
    assert torch.equal(states["writer"]["language.lm_head.weight"], old["lm_head.weight"].float())
    unet = load_file(ASSETS / "pisces_embedded" / "visualizer" / "unet_checkpoint.safetensors")
    assert torch.equal(states["visualizer"]["unet.conv_in.weight"], unet["conv_in.weight"].float())
    form = Format(SYSTEMS["metamorph"], tokenizer_of(SYSTEMS["metamorph"], ASSETS / "janus_embedded", tmp_path))
    Visualizer("metamorph").load_state_dict(states["visualizer"])
    model = Writer(form.system, form.vocabulary)
    begin_with(model, ASSETS / "janus_embedded")
    batch, far = drawings(np.random.default_rng(7), form, 8), list[float]()
    for state in (model.state_dict(), states["writer"]):
        model.load_state_dict(state)
        with torch.no_grad():
            trainer = Trainer(model, "cpu")
            written = model.head(model.hidden(batch, trainer.embeds(batch, 0))[batch.vector])
            far.append(float(model.apart(written, trainer.targets(batch.tiles).flatten(0, 1)).mean()))
    assert far[1] < 0.7 * far[0], far
