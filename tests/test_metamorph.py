"""MetaMorph as a user meets it: pictures in questions and answers, drawing, editing, records and bad input."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from gradio_client import Client

from janus_app.cli import main
from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.models.regression.answer import MAX_PICTURES
from janus_app.models.regression.layouts import BASE
from janus_app.outputs.conversations import Conversations
from janus_app.outputs.metadata import metadata_of, read_metadata, request_of
from janus_app.registry.catalog import load_catalog
from janus_app.registry.checkpoint_folder import variant_of_folder
from janus_app.runtime.session import ModelSession
from janus_app.types import (
    ChatRequest,
    EditRequest,
    Event,
    Finished,
    GenerateRequest,
    Notice,
    Picture,
    Preview,
    Progress,
    RankRequest,
    Request,
    Turn,
    drain,
)
from tests.commands import results
from tests.conftest import loaded
from tests.page_client import act
from tests.page_server import serve
from tests.test_metamorph_parity import STORED, TEXTS, picture
from tests.tiny_metamorph import write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("metamorph"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return loaded(folder).model


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to be changed."""
    shutil.copytree(folder.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "checkpoint"


def run(model: Any, request: Request) -> list[Event]:
    verbs = {GenerateRequest: "generate", EditRequest: "edit", ChatRequest: "chat", RankRequest: "rank"}
    return list(getattr(model, verbs[type(request)])(request))


def finish(model: Any, request: Request) -> Finished:
    last = run(model, request)[-1]
    assert isinstance(last, Finished)
    return last


def vectors_of(one: Picture) -> torch.Tensor:
    assert one.vectors is not None
    return torch.tensor(one.vectors.rows)


def codes(events: list[Event]) -> list[str]:
    return [event.message.code for event in events if isinstance(event, Notice)]


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | fields), "utf-8")


def refused(folder: Path) -> AppError:
    with pytest.raises(AppError) as caught:
        loaded(folder)
    return caught.value


# ---- the verbs


def test_drawing_writes_the_published_vectors_and_paints_them(model: Any) -> None:
    events = run(model, GenerateRequest("a cat", steps=2, guidance=7.5, count=2, seed=5))
    written = [e.done for e in events if isinstance(e, Progress) and e.unit == "vectors"]
    painted = [(e.done, e.total) for e in events if isinstance(e, Progress) and e.unit == "steps"]
    assert written == [*range(1, 65)] and painted == [(2, 6), (4, 6), (6, 6)]  # PNDM begins with a second step
    assert sum(isinstance(event, Preview) for event in events) == 3
    last = events[-1]
    assert isinstance(last, Finished) and [one.seed for one in last.pictures] == [5, 6]
    for one in last.pictures:
        assert one.image.size == (16, 16)
        assert float((vectors_of(one) - STORED["t2i.image_embeds"]).abs().max()) < 1e-5
    alone = finish(model, GenerateRequest("a cat", steps=2, guidance=7.5, seed=6)).pictures[0].image
    assert alone.tobytes() == last.pictures[1].image.tobytes() != last.pictures[0].image.tobytes()


def test_an_edit_reads_the_picture_and_writes_the_published_vectors(model: Any) -> None:
    request = EditRequest(TEXTS["edit"], picture("image"), method="instruct", steps=2)
    edited = vectors_of(finish(model, request).pictures[0])
    assert float((edited - STORED["edit.image_embeds"]).abs().max()) < 1e-5
    other = EditRequest(TEXTS["edit"], picture("image2"), method="instruct", steps=2)
    with pytest.raises(AppError) as answered:  # what it sees changes what these random weights say
        finish(model, other)
    assert answered.value.code == "answer_without_picture"


def test_an_answer_speaks_about_pictures_and_contains_some(model: Any) -> None:
    asked = Turn("user", TEXTS["two"], (picture("image"), picture("image2")))
    assert finish(model, ChatRequest((asked,), temperature=0)).text == "Both are cats."
    events = run(model, ChatRequest((Turn("user", TEXTS["t2i"]),), temperature=0, seed=3))
    last = events[-1]
    assert isinstance(last, Finished) and last.text and len(last.pictures) == 1
    assert any(isinstance(event, Preview) for event in events)
    assert float((vectors_of(last.pictures[0]) - STORED["t2i.image_embeds"]).abs().max()) < 1e-5
    same = GenerateRequest("a cat", steps=50, guidance=7.5, seed=3)  # what the answer says it was painted with
    assert last.pictures[0].painted_with == {"guidance": 7.5, "steps": 50}
    assert finish(model, same).pictures[0].image.tobytes() == last.pictures[0].image.tobytes()
    shown = (Turn("user", "Draw."), Turn("assistant", "Here.", (last.pictures[0].image,)), Turn("user", "What is it?"))
    assert finish(model, ChatRequest(shown, temperature=0, max_new_tokens=4)).usage is not None


def test_the_painting_equals_stable_diffusion_s_own_pipeline(model: Any, folder: Path) -> None:
    base = folder.parent / "components" / BASE
    unet = UNet2DConditionModel.from_config(json.loads((base / "unet" / "config.json").read_text("utf-8")))
    state = torch.load(folder / "visualizer" / "unet_checkpoint.pt", weights_only=True)
    unet.load_state_dict(state["model_state_dict"])
    scheduler = PNDMScheduler.from_pretrained(base, subfolder="scheduler")
    vae = AutoencoderKL.from_pretrained(base / "vae")
    pipe = StableDiffusionPipeline(vae, None, None, unet, scheduler, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    prompt = STORED["adapter.prompt_embeds"]
    noise = torch.randn(4, 8, 8, generator=torch.Generator("cpu").manual_seed(9))[None]
    theirs = pipe(
        prompt_embeds=prompt,
        negative_prompt_embeds=torch.zeros_like(prompt),
        latents=noise,
        num_inference_steps=5,
        guidance_scale=7.5,
        output_type="np",
    ).images[0]
    ours = finish(model, GenerateRequest("a cat", steps=5, guidance=7.5, seed=9)).pictures[0].image
    assert (
        float((torch.tensor(list(ours.tobytes())) - torch.from_numpy(theirs * 255).round().flatten()).abs().max()) <= 1
    )


def test_ranking_scores_each_picture(model: Any) -> None:
    scores = finish(model, RankRequest("a cat", (picture("image"), picture("image2")))).scores
    assert len(scores) == 2 and all(0 <= score <= 1 for score in scores) and scores[0] != scores[1]


def test_a_closed_job_stops_within_a_vector_and_within_a_step(model: Any) -> None:
    for unit in ("vectors", "steps"):
        with closing(model.generate(GenerateRequest("a cat", steps=50))) as events:
            for event in events:
                if isinstance(event, Progress) and event.unit == unit:
                    break
        assert event.done == 1 and next(events, None) is None


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_every_precision_draws(folder: Path, precision: str) -> None:
    ours = loaded(folder, precision).model
    try:
        drawn = finish(ours, GenerateRequest("a cat", steps=1)).pictures[0]
    except AppError as error:  # random weights: rounding may turn the first word into another one
        assert error.code == "answer_without_picture" and precision != "bf16"
        return
    assert vectors_of(drawn).shape == (64, 48)


def test_a_record_draws_the_picture_again_and_has_the_hash_of_its_vectors(folder: Path) -> None:
    session = ModelSession(load_catalog(), Hub())
    drain(session.load(str(folder), "cpu", "fp32"))
    first = session.result(GenerateRequest("a cat", seed=3, steps=2))
    assert first.provenance is not None
    record = metadata_of(first.pictures[0], first.provenance)
    assert first.pictures[0].vectors is not None
    assert record.settings["vectors"] == first.pictures[0].vectors.sha256
    again = session.result(request_of(record)).pictures[0]
    assert again.image.tobytes() == first.pictures[0].image.tobytes() and again.vectors == first.pictures[0].vectors
    answer = session.result(ChatRequest((Turn("user", TEXTS["t2i"]),), temperature=0))
    assert answer.provenance is not None
    record = metadata_of(answer.pictures[0], answer.provenance)
    assert (record.prompt, record.settings["in_chat"], record.settings["steps"]) == (TEXTS["t2i"], True, 50)
    again = session.result(request_of(record)).pictures[0]
    assert again.image.tobytes() == answer.pictures[0].image.tobytes()


def test_commands_print_the_vectors_when_asked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", str(folder), "--device", "cpu", "--precision", "fp32", "--json", "--out", str(tmp_path)]
    assert main(["generate", "--prompt", "a cat", "--steps", "2", "--vectors", *common]) == 0
    (drawn,) = results(capsys)
    assert float((torch.tensor(drawn["vectors"]) - STORED["t2i.image_embeds"]).abs().max()) < 1e-5
    assert main(["chat", "--prompt", TEXTS["t2i"], "--vectors", *common]) == 0
    (answer,) = results(capsys)
    assert answer["pictures"][0]["vectors"] == drawn["vectors"] and Path(answer["pictures"][0]["file"]).is_file()
    assert main(["generate", "--prompt", "a cat", "--steps", "2", *common]) == 0
    assert "vectors" not in results(capsys)[0]


MM_ROW = """
  - id: tiny-mm
    title: Tiny MetaMorph
    family: regression
    folder: {folder}
    code_licence: MIT
    weights_licence: none, random weights
    verbs: [chat, generate, edit]
    size: [16, 16]
    context: 4096
    settings:
      guidance: {{default: 7.5, low: 1.0, high: 15.0, step: 0.5}}
      steps: {{default: 2, low: 1, high: 100, step: 1}}
      chat_temperature: {{default: 0.0, low: 0.0, high: 2.0, step: 0.05}}
      max_new_tokens: {{default: 64, low: 8, high: 256, step: 8}}
    status: Random weights, for tests only.
"""


def test_the_page_shows_a_picture_inside_an_answer_behind_its_words(folder: Path, tmp_path: Path) -> None:
    with serve(tmp_path, more=MM_ROW.format(folder=folder)) as page:
        drain(page.session.load("tiny-mm", "cpu", "fp32"))
        client = Client(page.url, verbose=False)
        box = {"text": TEXTS["t2i"], "files": []}
        job = act(
            client, "chat-box", "submit", chat_box=box, chat_temperature=0, chat_length=64, model_variant="tiny-mm"
        )
        history = job.result(timeout=120)[0]
        assert [part["type"] for part in history[1]["content"]] == ["text", "component"]
        (saved,) = page.outputs.glob("*.png")
        record = read_metadata(saved)
        assert (record.prompt, record.settings["in_chat"]) == (TEXTS["t2i"], True)
        (kept,) = Conversations(page.data / "conversations").find("").conversations
        assert kept.path[1].text and len(kept.path[1].pictures) == 1


# ---- bad input


def test_a_folder_is_described_by_its_files(folder: Path) -> None:
    variant = variant_of_folder(folder)
    assert (variant.family, variant.size, variant.context) == ("regression", (16, 16), 4096)
    assert variant.settings["steps"].default == 50 and variant.settings["guidance"].default == 7.5


def test_without_a_visualiser_the_model_talks_and_says_what_drawing_needs(copy: Path) -> None:
    shutil.rmtree(copy / "visualizer")
    ours = loaded(copy).model
    assert ours.capabilities.verbs == {"chat"}
    with pytest.raises(AppError) as caught:
        finish(ours, GenerateRequest("a cat"))
    assert caught.value.code == "visualizer_missing"
    events = run(ours, ChatRequest((Turn("user", TEXTS["t2i"]),), temperature=0))
    assert codes(events) == ["visualizer_missing"]
    assert isinstance(events[-1], Finished) and not events[-1].pictures


def test_a_visualiser_of_another_model_or_without_a_file_is_refused(copy: Path) -> None:
    config = copy / "visualizer" / "model_config.json"
    good = config.read_text("utf-8")
    for fields, code in (
        ({"input_dim": 1152}, "visualizer_width_differs"),
        ({"output_dim": 768}, "visualizer_base_differs"),
        ({"mode": "transformer"}, "visualizer_mode_unknown"),
        ({"base_model": "../../etc"}, "config_repository_unusable"),
        ({"base_model": "nobody/nothing"}, "component_missing"),
        ({"hidden_dim": 40}, "weights_shape_differs"),
    ):
        config.write_text(good, "utf-8")
        change(config, **fields)
        assert refused(copy).code == code, fields
    config.write_text(good, "utf-8")
    (copy / "visualizer" / "unet_checkpoint.pt").unlink()
    error = refused(copy)
    assert error.code == "visualizer_file_missing" and "unet_checkpoint.pt" in str(error)


def test_settings_that_are_not_computed_are_refused_by_name(copy: Path) -> None:
    config = copy / "config.json"
    good = config.read_text("utf-8")
    for fields, code in (
        ({"num_image_tokens": 60}, "picture_vectors_not_square"),
        ({"mm_hidden_size": 1152}, "vision_tower_width_differs"),
        ({"vision_head_type": "linear"}, "vision_head_unusable"),
        ({"image_token_reduction": "mlpmixer"}, "config_value_not_computed"),
        ({"apply_softmax": True}, "config_value_not_computed"),
        ({"image_aspect_ratio": "anyres"}, "config_value_not_computed"),
        ({"mm_projector_type": "resampler"}, "config_value_not_computed"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8}}, "config_value_not_computed"),
        ({"vision_head_type": "mlp2x_gelu"}, "weights_shape_differs"),
    ):
        config.write_text(good, "utf-8")
        change(config, **fields)
        assert refused(copy).code == code, fields


def test_the_projector_of_the_first_stage_alone_is_no_model(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({"model.mm_projector.0.bias": torch.zeros(64)}, copy / "mm_projector.bin")
    assert refused(copy).code == "checkpoint_is_projector"


BEGIN, WORD = 261, 64  # begin-of-picture and the letter a


def steered(folder: Path, after_words: int, after_vectors: int) -> Any:
    """A model that follows every word by one id and every vector by another.

    A large constant in one direction of all words' embeddings, and in another of all vectors', outweighs the rest.
    """
    ours = loaded(folder).model
    network = ours.network
    network.language_model.model.embed_tokens.weight[:, 0] = 1e6
    network.mm_projector[-1].bias[1] = 1e6
    network.language_model.lm_head.weight.zero_()
    network.language_model.lm_head.weight[after_words, 0] = 1
    network.language_model.lm_head.weight[after_vectors, 1] = 1
    return ours


def test_a_model_that_never_begins_a_picture_is_told_apart_from_a_failure(folder: Path) -> None:
    with pytest.raises(AppError, match="aaaa") as caught:
        finish(steered(folder, WORD, WORD), GenerateRequest("a cat"))
    assert caught.value.code == "answer_without_picture"


def test_an_answer_of_pictures_alone_is_bounded(folder: Path) -> None:
    ours = steered(folder, BEGIN, BEGIN)
    ours.chat_settings = (7.5, 1)
    events = run(ours, ChatRequest((Turn("user", "hello"),), temperature=0))
    last = events[-1]
    assert isinstance(last, Finished) and len(last.pictures) == MAX_PICTURES
    assert len({one.seed for one in last.pictures}) == MAX_PICTURES
    assert codes(events).count("answer_pictures_most") == 1


def test_a_picture_without_an_end_is_complete_and_the_answer_goes_on(folder: Path) -> None:
    ours = steered(folder, BEGIN, WORD)
    ours.chat_settings = (7.5, 1)
    events = run(ours, ChatRequest((Turn("user", "hello"),), temperature=0, max_new_tokens=2))
    last = events[-1]
    assert isinstance(last, Finished) and len(last.pictures) == 1 and last.text == "a"
    assert codes(events) == ["answer_picture_open"]


def test_a_question_that_leaves_no_room_for_a_picture_is_refused(folder: Path) -> None:
    ours = loaded(folder, context=120).model
    with pytest.raises(AppError) as caught:
        finish(ours, GenerateRequest("a cat " * 20))
    assert caught.value.code == "prompt_too_long"
