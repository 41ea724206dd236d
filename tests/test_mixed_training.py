"""The trainer of the embedded Transfusion, LMFusion and LLaVAFusion: what it computes on padded batches is what the app
computes, and what it does not train stays as it is."""

from __future__ import annotations

import argparse
import json
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from janus_app.models.family import LanguageHalf, WeightSource
from janus_app.models.mixed_diffusion.config import CELL, SCHEDULE, parse_config
from janus_app.models.mixed_diffusion.modeling import NoisePredictor
from janus_app.models.mixed_diffusion.prompts import Prompts
from janus_app.paths import ASSETS
from janus_app.types import ChatRequest, EditRequest, GenerateRequest, Turn, finish
from tests.conftest import loaded
from training import mixed_data
from training.batches import CELLS
from training.export import TOKENIZER_FILES
from training.flow_codes import weights
from training.mixed_data import NO_WORD, Sequences, changes, chats, drawings
from training.mixed_diffusion import VARIANCE, VISIBLE, Trainer, begun, make_optimisers
from training.mixed_export import export, restore
from training.mixed_model import DIFFUSION, SYSTEMS, Frame, begin_to_see, config, tensors_of, trained_state
from training.pictures import painter
from training.talk import Exchange
from training.trainer import load_state
from training.world import Item, Scene, grid

JANUS, FLOW = ASSETS / "janus_embedded", ASSETS / "janusflow_embedded"
AUTOENCODER = FLOW / "vae"


def new_trainer(system: str) -> Trainer:
    """At the beginning: a random way in and out around the models that ship with the app."""
    torch.manual_seed(0)
    args = argparse.Namespace(janus=JANUS if system == "transfusion" else FLOW, vae=AUTOENCODER)
    return Trainer(*begun(args, SYSTEMS[system], {}), "cpu")


@lru_cache(maxsize=3)
def trainer(system: str = "transfusion") -> Trainer:
    ours = new_trainer(system)
    ours.model.eval().requires_grad_(False)
    return ours


def ids_of(ours: Trainer, batch: Sequences, row: int, frame: Frame) -> list[int]:
    """A row's ids as the app writes them, up to its last word."""
    picture = [frame.start, *[CELL] * CELLS, frame.stop]
    shown = list[int]()
    for number in range(batch.read.shape[1]):
        shown += [*(frame.between if number else []), *picture]
    return [*frame.opening, *shown, *batch.ids[row, : batch.ends[row]].tolist()]


@pytest.mark.parametrize(
    ("system", "make"),
    [
        ("transfusion", drawings),
        ("transfusion", changes),
        ("lmfusion", drawings),
        ("lmfusion", changes),
        ("llavafusion", drawings),
    ],
)
def test_noise_is_predicted_as_in_the_app_whatever_else_is_in_the_batch(system: str, make: type) -> None:
    ours, rng = trainer(system), np.random.default_rng(3)
    batch = make(rng, ours.words, 3, 0.3)
    assert len(set(batch.ends.tolist())) > 1  # the shorter ones are padded
    torch.manual_seed(1)
    noised = torch.randn(3, 16, 12, 12)
    passes = ours.read(batch).passes
    found, _ = ours.model.cells(passes, noised, torch.full((3,), 700))
    for row in range(3):
        clean = [latent[None] for latent in ours.latents(batch.read[row])]
        prefix = ours.model.net.prefix(ids_of(ours, batch, row, ours.plain), clean)
        expected = NoisePredictor(ours.model.net, [prefix])(noised[row : row + 1], torch.tensor(700))[0]
        assert float((found[row] - expected).abs().max()) < 1e-3 * float(expected.abs().max())


@pytest.mark.parametrize(("system", "pictures"), [("transfusion", {0, 1, 2}), ("lmfusion", {1, 2})])
def test_words_behind_pictures_are_predicted_as_in_the_app(system: str, pictures: set[int]) -> None:
    ours, rng = trainer(system), np.random.default_rng(4)
    batches = ours.talks(rng, ours.words, 80)
    assert {batch.read.shape[1] for batch in batches} == pictures
    for batch in batches:
        states = ours.read(batch, ours.frame).words
        row = len(batch.ids) - 1
        ids = ids_of(ours, batch, row, ours.frame)
        clean = [latent[None] for latent in ours.latents(batch.read[row])]
        expected = ours.model.net.read(ours.model.net.new_cache(1, len(ids)), ids, clean)
        found = states[row, : int(batch.ends[row])]
        assert float((found[-3:] - expected[-3:]).abs().max()) < 1e-3 * float(expected.abs().max())


def test_lmfusion_s_conversations_are_those_that_the_app_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, scene = trainer("lmfusion"), Scene.of(0, [Item(0, 0, 4, False)])
    said = [Exchange("", "What is this?", "A house.", ""), Exchange("", "那这个呢?", "一只青蛙。", "")]
    monkeypatch.setattr(mixed_data, "talk", lambda rng, turns: (said, [scene, scene]))
    monkeypatch.setattr(mixed_data, "as_typed", lambda text, rng: text)
    (batch,) = chats(np.random.default_rng(0), ours.words, 1)
    half = SYSTEMS["lmfusion"].half
    assert half is not None
    prompts = Prompts(half, parse_config(config(FLOW, AUTOENCODER, SYSTEMS["lmfusion"])), cells=CELLS, tower=False)
    blank = Image.new("RGB", (192, 192))
    turns = [Turn("user", said[0].question, (blank, blank)), Turn("assistant", said[0].answer)]
    asked = prompts.conversation([*turns, Turn("user", said[1].question)])
    learned = ids_of(ours, batch, 0, ours.frame)
    assert learned[: len(asked)] == asked
    assert ours.words.tokenizer.decode(learned[len(asked) :]).strip() == said[1].answer
    wanted = [one for one in batch.wanted[0].tolist() if one != NO_WORD]
    assert wanted.count(ours.words.eos) == 2 and wanted[-1] == ours.words.eos


@pytest.mark.parametrize("system", ["lmfusion", "llavafusion"])
def test_a_step_of_training_changes_the_picture_half_and_no_bit_of_the_words(system: str) -> None:
    ours, rng = new_trainer(system), np.random.default_rng(6)
    model, half = ours.model, SYSTEMS[system].half
    assert half is not None
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = [ours.draw(drawings(rng, ours.words, 2), "draw")[0]]
    if SYSTEMS[system].reads:
        losses.append(ours.draw(changes(rng, ours.words, 2), "edit")[0])
        losses += [ours.talk(batch)[0] for batch in ours.talks(rng, ours.words, 4)]
    sum(losses[1:], losses[0]).backward()
    for optimiser in make_optimisers(model, 1e-3):
        optimiser.step()
    words, after = tensors_of(half), model.state_dict()
    assert words.keys() == model.net.language_model.state_dict().keys()
    assert all(torch.equal(after[f"net.language_model.{name}"], tensor) for name, tensor in words.items())
    changed = {name for name, tensor in trained_state(model).items() if not torch.equal(tensor, before[name])}
    still = {name for name in trained_state(model) if name not in changed}
    assert not any(name.startswith("net.language_model.") for name in trained_state(model))
    assert not still, sorted(still)


def test_pictures_of_an_untied_half_begin_with_the_blocks_of_janusflow() -> None:
    flow = tensors_of(LanguageHalf({}, FLOW, [WeightSource(FLOW)]))
    blocks = trainer("llavafusion").model.net.image_model
    assert blocks is not None
    for name, tensor in blocks.state_dict().items():
        assert torch.equal(tensor, flow[f"model.{name}"]) if f"model.{name}" in flow else not tensor.any(), name


def test_every_answer_is_learned_with_its_end() -> None:
    ours = trainer()
    for batch in ours.talks(np.random.default_rng(5), ours.words, 12):
        for row in range(len(batch.ids)):
            learned = [one for one in batch.wanted[row].tolist() if one != NO_WORD]
            last = int(batch.ends[row]) - 1
            assert learned[-1] == ours.words.eos == int(batch.wanted[row, last])
            assert "\n" in ours.words.tokenizer.decode(learned, skip_special_tokens=False)


def test_an_error_counts_by_what_it_does_to_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is the error of the picture that a solver of the app's would be told of, at every amount of noise."""
    ours = trainer()
    model, count = ours.model, 8
    torch.manual_seed(7)
    output, told = torch.randn(count, 16, 12, 12), dict[str, torch.Tensor]()

    def cells(passes: object, latents: torch.Tensor, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        told.update(latents=latents, times=times)
        return output, torch.zeros(count, CELLS, 192)

    monkeypatch.setattr(model, "cells", cells)
    batch = drawings(np.random.default_rng(7), ours.words, count)
    _, values = ours.draw(batch, "draw")
    fields = {**SCHEDULE, **DIFFUSION}
    solver = DDIMScheduler(**{name: fields[name] for name in SCHEDULE if name != "_class_name"})
    solver.set_timesteps(1000)
    early = solver.alphas_cumprod[told["times"]] < VISIBLE
    assert early.any() and not early.all() and (batch.usual != batch.tiles)[early].any()
    scenes = torch.where(early[:, None], batch.usual, batch.tiles)
    errors, shares = [], weights(ours.factors[scenes], 12)
    for row, (latent, time) in enumerate(zip(told["latents"], told["times"], strict=True)):
        drawn = solver.step(output[row], int(time), latent).pred_original_sample
        error = (drawn - ours.latents(scenes[row : row + 1])[0]).square()
        errors.append(float((error * shares[row]).mean()))
    assert int(told["times"].min()) > 100  # below, an error has a least weight
    assert values["draw velocity"] == pytest.approx(np.mean(errors) / VARIANCE, rel=1e-3)


def test_errors_count_most_where_a_small_thing_is() -> None:
    ours, scene = trainer(), Scene.of(0, [Item(0, 0, 0, True), Item(1, 0, 8, False)])
    counts = weights(ours.factors[torch.from_numpy(grid(scene))[None]], 12)[0, 0]
    assert float(counts.mean()) == pytest.approx(1)
    values = counts.unique().tolist()
    assert [value / values[0] for value in values] == pytest.approx([1, 4, 17, 20])
    numbers = [int((counts == value).sum()) for value in values[1:]]
    assert numbers == [16, 12, 4]  # a cell is 2 x 2 latents; three more belong to the place of the small thing


def test_latents_have_the_variance_that_errors_are_compared_with() -> None:
    ours = trainer()
    latents = ours.latents(drawings(np.random.default_rng(8), ours.words, 100).tiles)
    assert float(latents.var()) == pytest.approx(VARIANCE, rel=0.2)


def test_clean_pictures_are_fitted_to_what_the_language_model_is_used_to() -> None:
    ours, janus = new_trainer("lmfusion"), loaded(JANUS, "fp32").model.network
    tiles = drawings(np.random.default_rng(9), ours.words, 4).tiles
    wanted = janus.picture_embeds(painter().seen(tiles))

    @torch.no_grad()
    def apart() -> float:
        inputs, _ = ours.model.net.codec.encode(ours.latents(tiles), torch.zeros(4, dtype=torch.long))
        return float((inputs - wanted).square().mean() / wanted.var())

    before = apart()
    begin_to_see(ours.model, "janus-embedded", JANUS, pictures=60, steps=40)
    assert apart() < 0.7 * before


@pytest.mark.parametrize("system", SYSTEMS)
def test_exported_state_is_a_checkpoint_that_draws_edits_and_answers_and_can_be_trained_on(
    system: str, tmp_path: Path
) -> None:
    ours, facts = trainer(system), SYSTEMS[system]
    state = {name: tensor.to(torch.bfloat16).float() for name, tensor in trained_state(ours.model).items()}
    (run := tmp_path / "run").mkdir()
    for name in TOKENIZER_FILES:
        shutil.copy(JANUS / name, run / name)
    torch.save({"model": state, "step": 1, "system": system}, run / "mixed.pt")
    if facts.base:
        (tmp_path / facts.base).symlink_to(ASSETS / facts.base)
    export(run, JANUS, AUTOENCODER, out := tmp_path / "out")
    model = loaded(out, "fp32").model
    assert model.capabilities.size == (192, 192) and ("instruct" in model.capabilities.edit_methods) == facts.reads
    stored = model.network.state_dict()
    for name, tensor in state.items():
        if name.startswith("net."):
            assert torch.equal(stored[name.removeprefix("net.")], tensor), name
    if facts.base:
        assert not (out / "tokenizer.json").exists()
        assert (out / "model.safetensors").stat().st_size < 8e6
        other = json.loads((out / "config.json").read_text("utf-8"))["language"]
        assert other["num_hidden_layers"] == 5 and "rope_theta" not in other
    noised = torch.randn(1, 16, 12, 12, generator=torch.Generator().manual_seed(1))
    ids = model.prompts.drawing("a red house")
    said, asked = model.network, ours.model.net
    found, trained = (NoisePredictor(net, [net.prefix(ids)])(noised, torch.tensor(500)) for net in (said, asked))
    assert float((found - trained).abs().max()) < 0.05 * float(trained.abs().max())  # it was rounded to bfloat16
    shown = Image.new("RGB", (192, 192), (200, 40, 40))
    drawn = finish(model.generate(GenerateRequest("a red house", steps=2, guidance=1.5)))
    method = "instruct" if facts.reads else "image to image"
    edited = finish(model.edit(EditRequest("make it blue", shown, method=method, steps=2)))
    assert [p.image.size for p in (*drawn.pictures, *edited.pictures)] == [(192, 192)] * 2
    answer = finish(model.chat(ChatRequest((Turn("user", "What is this?", (shown,)),), max_new_tokens=3)))
    assert answer.text
    restore(out, JANUS, AUTOENCODER, tmp_path / "more")
    more = load_state(tmp_path / "more" / "mixed.pt")
    assert more["system"] == system and more["model"].keys() == state.keys()
    assert all(torch.equal(more["model"][n], t) for n, t in state.items() if n.startswith("net."))


def test_the_state_of_another_system_is_refused() -> None:
    args = argparse.Namespace(janus=FLOW, vae=AUTOENCODER, out=Path("runs/mixed"), system="lmfusion")
    with pytest.raises(SystemExit, match="runs/mixed is not one of lmfusion"):
        begun(args, SYSTEMS["lmfusion"], {"model": trained_state(trainer().model)})
