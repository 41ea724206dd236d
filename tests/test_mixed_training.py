"""The trainer of the embedded Transfusion: what it computes on padded batches is what the app computes."""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from janus_app.models.mixed_diffusion.config import CELL
from janus_app.models.mixed_diffusion.modeling import NoisePredictor
from janus_app.paths import ASSETS
from janus_app.types import ChatRequest, EditRequest, GenerateRequest, Turn, finish
from tests.conftest import loaded
from training.batches import CELLS, Words
from training.export import TOKENIZER_FILES
from training.mixed_diffusion import NO_WORD, Mixed, Sequences, Trainer, begin_with, changes, config, drawings, talks
from training.mixed_export import export, restore
from training.trainer import load_state

JANUS, AUTOENCODER = ASSETS / "janus_embedded", ASSETS / "janusflow_embedded" / "vae"


@lru_cache(maxsize=1)
def trainer() -> Trainer:
    """With the language model of the embedded Janus, and a random way in and out."""
    torch.manual_seed(0)
    words = Words(Tokenizer.from_file(str(JANUS / "tokenizer.json")))
    model = Mixed(config(JANUS, AUTOENCODER))
    begin_with(model, JANUS)
    return Trainer(model.eval().requires_grad_(False), words, "cpu")


def ids_of(batch: Sequences, row: int) -> list[int]:
    """A row's ids as the app writes them, up to its last word."""
    words = trainer().words
    picture = [words.boi, *[CELL] * CELLS, words.eoi]
    return [words.bos, *picture * batch.read.shape[1], *batch.ids[row, : batch.ends[row]].tolist()]


@pytest.mark.parametrize("make", [drawings, changes])
def test_noise_is_predicted_as_in_the_app_whatever_else_is_in_the_batch(make: type) -> None:
    ours, rng = trainer(), np.random.default_rng(3)
    batch = make(rng, ours.words, 3, 0.3)
    assert len(set(batch.ends.tolist())) > 1  # the shorter ones are padded
    torch.manual_seed(1)
    noised = torch.randn(3, 16, 12, 12)
    passes, _ = ours.read(batch)
    found, _ = ours.model.cells(passes, noised, torch.full((3,), 700))
    for row in range(3):
        clean = [latent[None] for latent in ours.latents(batch.read[row])]
        prefix = ours.model.net.prefix(ids_of(batch, row), clean)
        expected = NoisePredictor(ours.model.net, [prefix])(noised[row : row + 1], torch.tensor(700))[0]
        assert float((found[row] - expected).abs().max()) < 1e-3 * float(expected.abs().max())


def test_words_behind_pictures_are_predicted_as_in_the_app() -> None:
    ours, rng = trainer(), np.random.default_rng(4)
    batches = talks(rng, ours.words, 80)
    assert {batch.read.shape[1] for batch in batches} == {0, 1, 2}
    for batch in batches:
        _, states = ours.read(batch)
        row = len(batch.ids) - 1
        ids, clean = ids_of(batch, row), [latent[None] for latent in ours.latents(batch.read[row])]
        expected = ours.model.net.read(ours.model.net.new_cache(1, len(ids)), ids, clean)
        found = states[row, : int(batch.ends[row]) + 1]
        assert float((found[-3:] - expected[-3:]).abs().max()) < 1e-3 * float(expected.abs().max())


def test_every_answer_is_learned_with_its_end() -> None:
    ours = trainer()
    for batch in talks(np.random.default_rng(5), ours.words, 12):
        for row in range(len(batch.ids)):
            learned = [one for one in batch.wanted[row].tolist() if one != NO_WORD]
            last = int(batch.ends[row]) - 1
            assert learned[-1] == ours.words.eos == int(batch.wanted[row, last])
            assert "\n" in ours.words.tokenizer.decode(learned, skip_special_tokens=False)


def test_early_decisions_count_most() -> None:
    """An error of the noise near the noise is a larger error of the picture."""
    ours = trainer()
    signal = ours.model.signal
    weights = ((1 - signal).sqrt() / signal).clamp(0.1, 10)
    assert bool((weights.diff() >= 0).all()) and float(weights[0]) == pytest.approx(0.1) and float(weights[-1]) == 10


def test_exported_state_is_a_checkpoint_that_draws_edits_and_answers_and_can_be_trained_on(tmp_path: Path) -> None:
    state = {name: tensor.to(torch.bfloat16).float() for name, tensor in trainer().model.state_dict().items()}
    (run := tmp_path / "run").mkdir()
    for name in TOKENIZER_FILES:
        shutil.copy(JANUS / name, run / name)
    torch.save({"model": state, "step": 1}, run / "mixed.pt")
    export(run, JANUS, AUTOENCODER, out := tmp_path / "out")
    model = loaded(out, "fp32").model
    assert model.capabilities.size == (96, 96) and "instruct" in model.capabilities.edit_methods
    for name, tensor in model.network.state_dict().items():
        if not name.startswith("vae."):
            assert torch.equal(tensor, state[f"net.{name}"]), name
    shown = Image.new("RGB", (96, 96), (200, 40, 40))
    drawn = finish(model.generate(GenerateRequest("a red house", steps=2, guidance=1.5)))
    edited = finish(model.edit(EditRequest("make it blue", shown, method="instruct", steps=2)))
    assert [p.image.size for p in (*drawn.pictures, *edited.pictures)] == [(96, 96)] * 2
    answer = finish(model.chat(ChatRequest((Turn("user", "What is this?", (shown,)),), max_new_tokens=3)))
    assert answer.text
    restore(out, JANUS, AUTOENCODER, tmp_path / "more")
    restored = load_state(tmp_path / "more" / "mixed.pt")["model"]
    assert all(torch.equal(restored[n], t) for n, t in state.items() if n.startswith("net."))
    assert restored.keys() == state.keys()
