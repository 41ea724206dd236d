"""The embedded JanusFlow: its latents, the trainer's way of computing against the app's, and the exported folder."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.judge import look
from benchmarks.running import finished, open_model
from janus_app.models.janusflow.config import parse_config
from janus_app.models.janusflow.modeling import JanusFlowNetwork
from janus_app.models.janusflow.velocity import PromptVelocity
from janus_app.registry.catalog import load_catalog
from janus_app.types import ChatRequest, EditRequest, GenerateRequest, Model, Turn
from training.batches import Words, drawings
from training.export import TOKENIZER_FILES
from training.flow import VISIBLE, Flow, by_length, training_state
from training.flow_codes import LATENT_CHANNELS, SCALE, SIDE_LATENTS, latent_table, latents_of
from training.flow_export import export, restore
from training.flow_vae import Trained
from training.objects import COLOURS, INDEX, THINGS
from training.pictures import SIDE, render
from training.scenes import seen_scene
from training.trainer import load_state
from training.world import N_TILES, Item, Scene, grid, tile_factors

EMBEDDED = Path(__file__).parent.parent / "assets" / "janus_embedded"


@lru_cache(maxsize=1)
def words() -> Words:
    return Words(Tokenizer.from_file(str(EMBEDDED / "tokenizer.json")))


@lru_cache(maxsize=1)
def flow() -> Flow:
    """An untrained model; beginning its weights from the shipped ones would make no difference to any test here."""
    torch.manual_seed(0)
    return Flow(1152, words().names())


def test_every_tile_has_latents_of_its_own() -> None:
    table = latent_table().flatten(1)
    near = torch.cdist(table[::53], table).topk(2, dim=1, largest=False)
    assert torch.equal(near.indices[:, 0], torch.arange(N_TILES)[::53])
    assert float(near.values[:, 1].min()) > 2


def test_latents_lie_where_their_tiles_lie() -> None:
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(np.stack([grid(seen_scene(rng)) for _ in range(3)]))
    latents = latents_of(tokens, latent_table())
    assert latents.shape == (3, LATENT_CHANNELS, SIDE_LATENTS, SIDE_LATENTS)
    row, column = 3, 4
    here = latents[1, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
    assert torch.equal(here, latent_table()[tokens[1, 6 * row + column]])


def test_a_batch_by_length_keeps_prompts_with_their_pictures() -> None:
    batch = drawings(np.random.default_rng(0), words(), 12, dropout=0)
    rows = {
        tuple(ids[: end + 1].tolist()): tiles
        for ids, end, tiles in zip(batch.ids, batch.ends, batch.tiles, strict=True)
    }
    seen = 0
    for part in by_length(batch, 3):
        assert part.ids.shape[1] == int(part.ends.max()) + 1
        for ids, end, tiles in zip(part.ids, part.ends, part.tiles, strict=True):
            assert torch.equal(rows[tuple(ids[: end + 1].tolist())], tiles)
            seen += 1
    assert seen == 12


def test_training_computes_what_the_app_computes() -> None:
    """Both velocities of guidance: of a prompt in a padded batch, and of begin-of-sentence alone."""
    model = flow().eval()
    batch = drawings(np.random.default_rng(1), words(), 4, dropout=0)
    recorded: list[tuple[Tensor, Tensor, Tensor]] = []

    def record(prompt: Tensor, ends: Tensor, z: Tensor, t: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        out = Flow.velocity(model, prompt, ends, z, t, positions)
        recorded.append((z, t, out[0]))
        return out

    model.velocity = record  # type: ignore[method-assign]
    try:
        with torch.no_grad():
            model.draw_loss(batch, latent_table(), torch.from_numpy(tile_factors()), free=2)
    finally:
        del model.velocity
    (z_told, t_told, told), (z_free, t_free, free) = recorded
    for row in range(4):
        alone = row < 2
        z, t, got = (z_free, t_free, free) if alone else (z_told, t_told, told)
        i = row if alone else row - 2
        ids = batch.ids[row, : batch.ends[row]].tolist()
        conditional, unconditional = PromptVelocity(model.net, ids).raw(z[i : i + 1], float(t[i]), both=True)
        wanted = unconditional if alone else conditional
        assert torch.allclose(got[i], wanted[0], atol=2e-5)
        assert not torch.allclose(conditional, unconditional, atol=1e-3)


def test_the_flow_loss_is_zero_for_the_true_velocity_only() -> None:
    model = flow()
    batch = drawings(np.random.default_rng(2), words(), 16, dropout=0)
    codes, factors = latent_table(), torch.from_numpy(tile_factors())
    usual, any_ = (SCALE * latents_of(tiles, codes) for tiles in (batch.usual, batch.tiles))
    assert not torch.equal(usual, any_)

    def exact(prompt: Tensor, ends: Tensor, z: Tensor, t: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        rows = slice(None, 1) if len(z) == 1 else slice(1, None)
        target = torch.where((t < VISIBLE)[:, None, None, None], usual[rows], any_[rows])
        hidden = torch.zeros(len(z), 36, prompt.shape[-1])
        return (target - z) / (1 - t[:, None, None, None]), hidden, hidden

    model.velocity = exact  # type: ignore[method-assign]
    try:
        _, seen = model.draw_loss(batch, codes, factors, free=1)
    finally:
        del model.velocity
    assert seen["flow"] < 1e-6
    with torch.no_grad():
        assert model.draw_loss(batch, codes, factors, free=1)[1]["flow"] > 0.1


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    torch.manual_seed(1)
    torch.save({"model": training_state(flow()), "step": 0}, folder / "flow.pt")
    torch.save({"model": Trained().state_dict()}, folder / "vae.pt")
    for name in TOKENIZER_FILES:
        (folder / name).write_bytes((EMBEDDED / name).read_bytes())
    export(folder, folder / "vae.pt", folder / "checkpoint")
    return folder / "checkpoint"


def test_the_exported_folder_is_a_janusflow_checkpoint(exported: Path) -> None:
    raw = json.loads((exported / "config.json").read_text("utf-8"))
    network = JanusFlowNetwork(parse_config(raw))
    weights = load_file(exported / "model.safetensors")
    network.load_state_dict(weights)  # every name and shape
    kept = flow().net.state_dict()
    assert all(torch.equal(t, kept[n].bfloat16()) for n, t in weights.items() if n != "beg_of_und_embed")
    row = kept["language_model.model.embed_tokens.weight"][words().boi]
    assert torch.equal(weights["beg_of_und_embed"][0], row.bfloat16())


def test_an_exported_folder_can_be_trained_on(exported: Path, tmp_path: Path) -> None:
    restore(exported, tmp_path)
    state, weights = load_state(tmp_path / "flow.pt")["model"], load_file(exported / "model.safetensors")
    assert state.keys() == training_state(flow()).keys()
    assert all(torch.equal(state[f"net.{name}"], tensor.float()) for name, tensor in weights.items())
    strange = copytree(exported, tmp_path / "strange")
    save_file(weights | {"another": torch.zeros(1)}, strange / "model.safetensors")
    with pytest.raises(SystemExit, match=r"it holds net\.another"):
        restore(strange, tmp_path / "more")


def test_exported_autoencoder_equals_that_of_diffusers(exported: Path) -> None:
    vae = AutoencoderKL.from_pretrained(exported / "vae")
    assert vae.config.scaling_factor == SCALE
    with torch.no_grad():
        moments = vae.encode(torch.zeros(1, 3, SIDE, SIDE)).latent_dist
        assert moments.mean.shape == (1, LATENT_CHANNELS, SIDE_LATENTS, SIDE_LATENTS)
        assert float(moments.std.max()) < 0.01  # encoding is as good as certain
        assert vae.decode(moments.mean).sample.shape == (1, 3, SIDE, SIDE)


def test_resumed_training_state_is_the_same_model() -> None:
    torch.manual_seed(5)
    other = Flow(1152, words().names())
    other.load_state_dict(training_state(flow()), strict=False)
    mine, theirs = flow().state_dict(), other.state_dict()
    assert all(torch.equal(t, theirs[n]) for n, t in mine.items())


@lru_cache(maxsize=1)
def shipped() -> Model:
    return open_model(load_catalog()["janusflow-embedded"], "fp32")


def test_shipped_weights_draw_the_prompt() -> None:
    """One named thing in a named colour, at ten steps; chance would be one in 250."""
    right = 0
    for seed, (colour, thing) in enumerate([("red", "house"), ("green", "frog"), ("yellow", "star"), ("blue", "car")]):
        request = GenerateRequest(f"a {colour} {thing}", steps=10, guidance=1.5, seed=seed, count=2)
        for picture in finished(shipped().generate(request)).pictures:
            items = look(picture.image).scene.items
            right += any((THINGS[i.thing].name, COLOURS[i.colour].name) == (thing, colour) for i in items)
    assert right >= 6, f"{right} of 8"


def test_shipped_weights_describe_pictures() -> None:
    scene = Scene.of(3, [Item(INDEX["cat"], 1, 4)])
    asked = (
        ("What colour is the background?", "dark"),
        ("Is the cat big or small?", "big"),
        ("describe it", "red cat"),
    )
    for question, wanted in asked:
        request = ChatRequest((Turn("user", question, (render(scene),)),), temperature=0, max_new_tokens=40)
        assert wanted in finished(shipped().chat(request)).text


def test_shipped_autoencoder_reconstructs_pictures() -> None:
    """What every edit is bounded by: a masked edit that asks for nothing new keeps the object next to the mask."""
    scene = Scene.of(0, [Item(INDEX["star"], 3, 0)])
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (128, 128, SIDE, SIDE))
    request = EditRequest("a yellow star in the top left corner", render(scene), mask, "masked", steps=10, guidance=1.5)
    assert Item(INDEX["star"], 3, 0) in look(finished(shipped().edit(request)).pictures[0].image).scene.items
