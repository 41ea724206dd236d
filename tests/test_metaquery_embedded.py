"""The embedded MetaQuery: its latents, the trainer's way of computing against the app's, and the shipped weights."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer

from benchmarks.judge import look
from benchmarks.running import finished, open_model
from janus_app.registry.catalog import load_catalog
from janus_app.types import ChatRequest, EditRequest, GenerateRequest, Turn
from tests.conftest import loaded
from tests.metaquery_golden import relative
from training.batches import Words, padded
from training.edits import edit
from training.export import TOKENIZER_FILES
from training.metaquery import Trainer, make_optimisers
from training.metaquery_data import BLACK, among_others, captions, instructions, prompt
from training.metaquery_export import export
from training.metaquery_model import QUERIES, MetaQuery, align
from training.metaquery_restore import restored, restored_decoder
from training.metaquery_vae import CHANNELS, WIDTHS, Trained, crowded, latent_table, latents_of
from training.objects import COLOURS, INDEX, THINGS
from training.pictures import render
from training.scenes import seen_scene
from training.world import GRID, N_TILES, Item, Scene, grid, read_grid, tile_factors

ASSETS = Path(__file__).parent.parent / "assets"


@lru_cache(maxsize=1)
def words() -> Words:
    return Words(Tokenizer.from_file(str(ASSETS / "janusflow_embedded" / "tokenizer.json")))


@lru_cache(maxsize=1)
def untrained() -> tuple[MetaQuery, Trained]:
    """Weights that bfloat16 can hold, so that nothing is rounded on the way through a checkpoint."""
    torch.manual_seed(0)
    model, decoder = MetaQuery(1152), Trained()
    with torch.no_grad():
        for p in (*model.reader.parameters(), model.reader.queries):
            torch.nn.init.normal_(p, mean=float(p.ndim == 1), std=p.shape[-1] ** -0.5 if p.ndim > 1 else 0.1)
        for p in (*model.parameters(), *decoder.parameters()):
            p.copy_(p.bfloat16())
    return model.eval(), decoder.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained model, exported."""
    folder = tmp_path_factory.mktemp("metaquery")
    model, vae = untrained()
    torch.save({"model": model.state_dict()}, folder / "metaquery.pt")
    torch.save({"model": vae.state_dict()}, folder / "vae.pt")
    for name in TOKENIZER_FILES:
        (folder / name).write_bytes((ASSETS / "janusflow_embedded" / name).read_bytes())
    export(folder, folder / "vae.pt", folder / "checkpoint")
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Any:
    """The untrained model as the app loads it."""
    return loaded(checkpoint).model


def test_training_goes_on_from_an_exported_folder(checkpoint: Path, tmp_path: Path) -> None:
    state, trained = restored(checkpoint), untrained()[0].state_dict()
    assert state.keys() == trained.keys()
    parts = ("reader.", "connector.", "sana.")
    apart = {n: relative(state[n], t) for n, t in trained.items() if n.startswith(parts)}
    assert len(apart) > 150 and {n for n, off in apart.items() if off > 0.01} <= {"reader.newline"}
    model, heads = MetaQuery(1152), ("named.", "kind.", "colour.", "ground.", "cell.", "aim.")
    held = {id(p) for p in model.exported()}
    assert held == {id(p) for name, p in model.named_parameters() if not name.startswith(heads)}
    torch.save({"model": state}, tmp_path / "metaquery.pt")
    torch.save({"model": restored_decoder(checkpoint)}, tmp_path / "vae.pt")
    for name in TOKENIZER_FILES:
        (tmp_path / name).write_bytes((ASSETS / "janusflow_embedded" / name).read_bytes())
    export(tmp_path, tmp_path / "vae.pt", tmp_path / "again")
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(t, after[name]) for name, t in before.items() if name.startswith("vae."))


def test_every_tile_has_a_latent_of_its_own_where_it_lies() -> None:
    table = latent_table()
    near = torch.cdist(table[::53], table).topk(2, dim=1, largest=False)
    assert torch.equal(near.indices[:, 0], torch.arange(N_TILES)[::53])
    assert float(near.values[:, 1].min()) > 1
    tokens = crowded(np.random.default_rng(0), 3)
    latents = latents_of(tokens, table)
    assert latents.shape == (3, CHANNELS, GRID, GRID)
    assert torch.equal(latents[1, :, 3, 4], table[tokens[1, 6 * 3 + 4]])


def test_crowded_pictures_hold_valid_scenes() -> None:
    scenes = [read_grid(tokens.numpy()) for tokens in crowded(np.random.default_rng(1), 40)]
    objects = [len(scene.items) for scene in scenes if scene is not None]
    assert len(objects) == 40 and min(objects) < 2 and max(objects) > 7
    sizes = {(scene.background, item.small) for scene in scenes if scene is not None for item in scene.items}
    assert len(sizes) == 8


def test_prompts_show_what_they_ask_about() -> None:
    rng = np.random.default_rng(3)
    batch = instructions(rng, words(), 60, dropout=0.2)
    assert len(batch.seen) == len(batch.tiles) == len(batch.ids)
    assert torch.equal(batch.picture.sum(1), torch.full((60,), 78))
    black, same = batch.seen[:, 0] == BLACK, (batch.seen == batch.tiles).all(1)
    assert 3 < int(black.sum()) < 25 and 3 < int(same.sum()) < 25 and not (black & same).any()
    for row, end in zip(batch.ids[black], batch.ends[black], strict=True):
        assert row[:end].tolist() == prompt(words(), "", 1)
    told = captions(rng, words(), 30, dropout=0.3)
    empty = [row[:end].tolist() == prompt(words(), "", 0) for row, end in zip(told.ids, told.ends, strict=True)]
    assert not len(told.seen) and 3 < sum(empty) < 20


def test_training_computes_what_the_app_computes(exported: Any) -> None:
    """Prompts, what the eye sees, the conditions of padded batches, SANA and the decoder."""
    model, decoder = untrained()
    trainer = Trainer(model, words(), "cpu")
    scene = seen_scene(np.random.default_rng(5))
    tiles = torch.from_numpy(grid(scene))[None]
    picture, pixels = trainer.painter.draw(tiles), trainer.painter.seen(tiles)
    framed = trainer.frame @ picture @ trainer.frame.T
    batch = captions(np.random.default_rng(6), words(), 3, dropout=0)
    with torch.inference_mode():
        seen = exported.reader.encode_image(render(scene), framed=False)
        assert relative(seen.features, model.reader.see(pixels)[0]) < 0.05  # pixels are rounded to 8 bits on their way
        seen = exported.reader.encode_image(render(scene), framed=True)
        assert relative(seen.features, model.reader.see(framed)[0]) < 0.05  # the frame is rounded to 8 bits on its way
        conditions = trainer.conditions(batch)
        text = "画一只红色的猫"
        for told, pictures, mine in (("two green frogs", [], []), (text, [render(scene)], [seen]), ("", [], [])):
            ids, own = exported.conditioner.prompt_ids(told, pictures, mine), prompt(words(), told, len(pictures))
            assert ids[: len(own)] == own and len(ids) == len(own) + QUERIES + 3
        row, end = batch.ids[0], int(batch.ends[0])
        said = words().tokenizer.decode(row[:end].tolist()[len(words().prefix) :])
        found = exported.conditioner.condition(said.removeprefix(": ").rsplit("\n\n:", 1)[0])
        assert relative(found, conditions[0]) < 1e-4
        ids = torch.tensor([prompt(words(), text, 1)])
        embeds = model.reader.embed(ids, ids == words().image, seen.features)
        mine = model.connector(model.reader.states(embeds, torch.tensor([ids.shape[1]]))[0])
        assert relative(exported.conditioner.condition(text, [render(scene)], [seen]), mine[0]) < 1e-4
        latents = latents_of(batch.tiles, trainer.codes)
        time = torch.tensor(700.0)
        exported.denoiser.set_conditioning(conditions[:1])
        theirs = exported.denoiser(latents[:1], time)[0]
        own = model.sana(latents[:1], encoder_hidden_states=conditions[:1], timestep=time[None], return_dict=False)[0]
        assert relative(theirs, own) < 1e-4
        drawn = decoder.draw(latents[:1], len(WIDTHS))[-1]
        assert relative(exported._decode(latents[:1]), drawn) < 1e-4


def test_edit_keeps_the_other_objects() -> None:
    rng, more = np.random.default_rng(4), 0
    for _ in range(60):
        made = edit(rng)
        scenes = among_others(made, rng)
        for scene, plain in zip(scenes, (made.before.scene, made.after.scene), strict=True):
            assert read_grid(grid(scene)) == scene and set(plain.items) <= set(scene.items)
        others = [
            set(scene.items) - set(side.scene.items)
            for scene, side in zip(scenes, (made.before, made.after), strict=True)
        ]
        assert others[0] == others[1] and not {i.slot for i in others[0]} & set(made.slots)
        more += bool(others[0])
    assert 15 < more < 45


def test_instruction_changes_its_object_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that say where the named things stand and what the edit changes have no loss; any other has."""
    rng, (model, _) = np.random.default_rng(8), untrained()
    trainer = Trainer(model, words(), "cpu")
    made = [edit(rng, kind) for kind in ("remove", "recolour", "replace", "move") for _ in range(3)]
    rows = [prompt(words(), one.instruction, 1) for one in made]
    before, after = (
        trainer.factors[torch.from_numpy(np.stack([grid(side) for side in sides]))]
        for sides in zip(*((one.before.scene, one.after.scene) for one in made), strict=True)
    )
    ids = padded(rows, words().pad)
    named = trainer.thing_of[ids]
    changed, stands = torch.full((len(made), 9), -30.0), []
    for number, (one, row) in enumerate(zip(made, named, strict=True)):
        changed[number, list(one.slots)] = 30
        for thing in row[row >= 0].tolist():
            stands.append(
                [
                    30.0 if any(i.slot == s and i.thing == thing for i in one.before.scene.items) else -30.0
                    for s in range(9)
                ]
            )
    assert len(stands) == len(made) + 3, "each names its object, a replacement the new one too"
    cells = 60 * (before != after).any(-1).float()[..., None] - 30
    for head, said in (("look", changed), ("seek", torch.tensor(stands)), ("touched", cells)):
        monkeypatch.setattr(getattr(model.aim, head), "forward", lambda _inputs, said=said: said)
    states = torch.zeros(*ids.shape, 192)
    assert float(model.aim(states, named, states[:, 0], states, before, after)) < 1e-6
    monkeypatch.setattr(model.aim.look, "forward", lambda _inputs: -changed)
    assert float(model.aim(states, named, states[:, 0], states, before, after)) > 1


def test_the_flow_loss_is_zero_for_the_true_velocity_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = untrained()
    tiles = crowded(np.random.default_rng(2), 4)
    latents, truth = latents_of(tiles, latent_table()), torch.from_numpy(tile_factors())[tiles]

    def exact(mixed: torch.Tensor, *, timestep: torch.Tensor, **unused: Any) -> tuple[torch.Tensor]:
        share = timestep[:, None, None, None] / 1000
        return ((mixed - latents.repeat(2, 1, 1, 1)) / share,)

    conditions = torch.zeros(4, QUERIES, 192)
    with torch.no_grad():
        assert float(model.flow_loss(conditions, latents, truth, 2)) > 0.05
        monkeypatch.setattr(model.sana, "forward", exact)
        assert float(model.flow_loss(conditions, latents, truth, 2)) < 1e-6


def test_cells_attend_to_their_own_condition_at_the_start_of_training() -> None:
    torch.manual_seed(2)
    model = MetaQuery(1152)
    names = torch.randn(QUERIES, 192)
    conditions = names + 0.5 * torch.randn(80, QUERIES, 192)
    latents = latents_of(crowded(np.random.default_rng(4), 80), latent_table())
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    crossing = model.sana.transformer_blocks[0].attn2
    for layer in (crossing.to_q, crossing.to_k):
        layer.register_forward_hook(lambda _m, _i, out: seen.append(out.unflatten(-1, (6, 32))[:, :, 0]))

    def found() -> float:
        seen.clear()
        with torch.no_grad():
            model.sana(latents, encoder_hidden_states=conditions, timestep=torch.full((80,), 500.0))
        query, key = seen
        return float(((query @ key.mT).argmax(-1) == torch.arange(QUERIES)).float().mean())

    assert found() < 0.2
    align(model.sana, conditions, latents)
    assert found() > 0.9


def test_drawing_loss_gives_the_language_model_no_gradient() -> None:
    """What "frozen" means: after steps of the second stage only queries, connector, SANA and helpers have moved."""
    torch.manual_seed(1)
    model = MetaQuery(1152)
    with torch.no_grad():
        for p in model.reader.parameters():
            torch.nn.init.normal_(p, std=0.1)
    before = {name: p.clone() for name, p in model.named_parameters()}
    trainer, made = Trainer(model, words(), "cpu"), make_optimisers(model, "draw", 1e-2, 1e-2)
    loss, _ = trainer.ask_loss(captions(np.random.default_rng(0), words(), 2, 0), "draw", True, 1)
    loss.backward()
    for optimiser in made:
        optimiser.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert "reader.queries" in moved and any(name.startswith("connector.") for name in moved)
    assert any(name.startswith("sana.") for name in moved)
    assert not [name for name in moved if name.startswith("reader.") and name != "reader.queries"]


@lru_cache(maxsize=1)
def shipped() -> Any:
    """By the way the app loads it: no special case."""
    return open_model(load_catalog()["metaquery-embedded"], "fp32")


def asked(verb: str, prompt: str, *pictures: Image.Image, seed: int = 0, count: int = 1) -> list[Scene]:
    """What the judge sees in the pictures drawn for a prompt, with the row's own settings."""
    numbers = {k: v.default for k, v in load_catalog()["metaquery-embedded"].settings.items()}
    common = {"guidance": numbers["guidance"], "steps": int(numbers["steps"]), "seed": seed, "count": count}
    if verb == "generate":
        events = shipped().generate(GenerateRequest(prompt, **common))
    else:
        request = EditRequest(prompt, *pictures, method="instruct", image_guidance=numbers["image_guidance"], **common)
        events = shipped().edit(request)
    return [look(picture.image).scene for picture in finished(events).pictures]


def test_shipped_weights_draw_the_prompt() -> None:
    """One named thing in a named colour; chance would be one in 250."""
    right = 0
    for seed, (colour, thing) in enumerate([("red", "house"), ("green", "frog"), ("yellow", "star"), ("blue", "car")]):
        for scene in asked("generate", f"a {colour} {thing}", seed=seed, count=2):
            right += any((THINGS[i.thing].name, COLOURS[i.colour].name) == (thing, colour) for i in scene.items)
    assert right >= 7, f"{right} of 8"


def test_shipped_weights_follow_instructions() -> None:
    """Each kind of edit, of two objects one, the other one to be left alone: what comes out is the whole scene."""
    cat, star = Item(INDEX["cat"], 1, 3), Item(INDEX["star"], 3, 5)
    wanted = {
        "make the cat blue": (0, [replace(cat, colour=5), star]),
        "把猫变成绿色": (0, [replace(cat, colour=4), star]),
        "remove the star": (0, [cat]),
        "replace the star with a green frog": (0, [cat, Item(INDEX["frog"], 4, 5)]),
        "add a house at the bottom": (0, [cat, star, Item(INDEX["house"], 0, 7)]),
        "make the background dark": (3, [cat, star]),
        "keep the picture as it is": (0, [cat, star]),
    }
    before = render(Scene.of(0, [cat, star]))
    wrong = [
        text for text, (ground, items) in wanted.items() if asked("edit", text, before) != [Scene.of(ground, items)]
    ]
    assert len(wrong) <= 1, wrong


def test_shipped_weights_describe_pictures() -> None:
    scene = Scene.of(3, [Item(INDEX["cat"], 1, 4)])
    questions = (
        ("What colour is the background?", "dark"),
        ("Is the cat big or small?", "big"),
        ("describe it", "red cat"),
    )
    for question, wanted in questions:
        request = ChatRequest((Turn("user", question, (render(scene),)),), temperature=0, max_new_tokens=40)
        assert wanted in finished(shipped().chat(request)).text


def test_card_and_row_state_the_model_s_size() -> None:
    row, model = load_catalog()["metaquery-embedded"], shipped()
    assert row.folder is not None
    assert sum(f.stat().st_size for f in row.folder.rglob("*") if f.is_file()) < 22e6
    files = row.folder.rglob("*.safetensors")
    assert row.parameters == sum(tensor.numel() for file in files for tensor in load_file(file).values())
    assert set(model.capabilities.edit_methods) == {"instruct"}
