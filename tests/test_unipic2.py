"""UniPic2 as a user meets it: drawing, editing, sizes, records, folders and bad input, with the tiny checkpoint."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from janus_app.cli import main
from janus_app.cli.models import check, read_facts
from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.models.unipic2.family import FAMILY
from janus_app.outputs.metadata import metadata_of, request_of
from janus_app.registry.catalog import load_catalog
from janus_app.registry.checkpoint_folder import variant_of_folder, with_own_components
from janus_app.registry.types import File
from janus_app.runtime.fit import plan_load
from janus_app.runtime.offload import dispatch
from janus_app.runtime.session import ModelSession
from janus_app.types import ChatRequest, EditRequest, Finished, GenerateRequest, Preview, Progress, Request, Turn, drain
from janus_app.workflows.export import export
from tests.conftest import GOLDEN as JANUS
from tests.conftest import loaded
from tests.fake_hub import REVISION, FakeHub
from tests.test_unipic2_parity import GOLDEN, model

CHECKPOINT = GOLDEN / "ckpt_tiny"
SMALL = {"size": (64, 32), "steps": 2}


def finish(request: GenerateRequest | EditRequest, ours: Any = None) -> Finished:
    ours = ours or model()
    event = drain(ours.generate(request) if isinstance(request, GenerateRequest) else ours.edit(request))
    assert isinstance(event, Finished)
    return event


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference in levels."""
    assert one.size == other.size
    return max(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True))


def picture(name: str = "a") -> Image.Image:
    return Image.open(GOLDEN / "images" / f"{name}.png")


def test_drawing_shows_progress_and_a_preview_for_each_step() -> None:
    events = list(model().generate(GenerateRequest("a fox", count=2, **SMALL)))
    steps = [(event.done, event.total) for event in events if isinstance(event, Progress) and event.stage == "draw"]
    previews = [event for event in events if isinstance(event, Preview)]
    assert steps == [(2, 4), (4, 4)] and len(previews) == 2
    assert all(image.size == (64, 32) for preview in previews for image in preview.images)
    last = events[-1]
    assert isinstance(last, Finished) and [one.image.size for one in last.pictures] == [(64, 32)] * 2


@pytest.mark.parametrize("verb", ["generate", "edit"])
def test_a_picture_of_a_batch_is_the_one_that_its_seed_draws_alone(verb: str) -> None:
    def request(seed: int, count: int) -> GenerateRequest | EditRequest:
        if verb == "generate":
            return GenerateRequest("a fox", seed=seed, count=count, **SMALL)
        return EditRequest("make it blue", picture(), method="instruct", seed=seed, count=count, steps=2, size=(64, 64))

    together = finish(request(5, 2)).pictures
    alone = finish(request(6, 1)).pictures
    assert [one.seed for one in together] == [5, 6]
    assert difference(together[1].image, alone[0].image) <= 1 < difference(together[0].image, alone[0].image)


def test_an_edit_keeps_the_proportions_and_sees_the_picture() -> None:
    def edited(name: str) -> Image.Image:
        request = EditRequest("make it blue", picture(name), method="instruct", steps=2, size=(128, 128))
        return finish(request).pictures[0].image

    assert edited("b").size == (128, 96) and edited("c").size == (64, 128)
    mirrored = EditRequest("make it blue", picture("b").transpose(Image.Transpose.FLIP_LEFT_RIGHT), method="instruct")
    assert finish(replace(mirrored, steps=2, size=(128, 128))).pictures[0].image.tobytes() != edited("b").tobytes()


def test_a_closed_drawing_stops_within_a_step() -> None:
    with closing(model().generate(GenerateRequest("a fox", steps=50, size=(64, 64)))) as events:
        stages = [next(events) for _ in range(4)]
    assert not any(isinstance(event, Finished) for event in stages)
    assert next(events, None) is None


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_every_precision_draws_and_edits(precision: str) -> None:
    ours = loaded(CHECKPOINT, precision).model
    exact = finish(GenerateRequest("a fox", **SMALL)).pictures[0].image
    drawn = finish(GenerateRequest("a fox", **SMALL), ours).pictures[0].image
    levels = torch.tensor(list(drawn.tobytes())).float() - torch.tensor(list(exact.tobytes())).float()
    assert 0 < levels.abs().mean() < 24
    finish(EditRequest("make it blue", picture(), method="instruct", steps=1), ours)


# ---- sizes


@pytest.mark.parametrize("size", [(64, 40), (8, 64), (512, 64), (0, 16)])
def test_a_size_that_cannot_be_drawn_is_refused_with_those_that_can(size: tuple[int, int]) -> None:
    with pytest.raises(AppError, match="from 16 to 384 pixels, in multiples of 16"):
        finish(GenerateRequest("a fox", steps=1, size=size))


def test_a_model_of_one_size_refuses_another_and_takes_its_own() -> None:
    session = ModelSession(load_catalog(), Hub())
    drain(session.load("janus-embedded", "cpu", "fp32"))

    def draw(request: Request) -> None:
        with closing(session.run(request)) as events:
            next(event for event in events if isinstance(event, Progress))

    with pytest.raises(AppError, match="192 x 192 pixels only"):
        draw(GenerateRequest("a red house", size=(512, 512)))
    draw(GenerateRequest("a red house", size=(192, 192)))


def test_the_record_draws_the_picture_again_in_its_size() -> None:
    session = ModelSession(load_catalog(), Hub())
    drain(session.load(str(CHECKPOINT), "cpu", "fp32"))
    first = session.result(GenerateRequest("a fox", seed=3, **SMALL))
    assert first.provenance is not None
    record = metadata_of(first.pictures[0], first.provenance)
    assert (record.settings["width"], record.settings["height"], record.settings["steps"]) == (64, 32, 2)
    assert session.result(request_of(record)).pictures[0].image.tobytes() == first.pictures[0].image.tobytes()
    enlarged = replace(record, size=(256, 128))  # an upscaled copy
    assert request_of(enlarged).size == (64, 32) and "--size=64x32" in export(enlarged, "cli")
    assert "--size=64x32" in export(record, "cli") and "size=(64, 32)" in export(record, "python")
    assert '"width": 64, "height": 32' in export(record, "curl", "http://127.0.0.1:7860")


# ---- folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the checkpoint, with its language model beside it."""
    shutil.copytree(GOLDEN / "components", tmp_path / "components")
    shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize(
    "place", ["inside", "components inside", "under its usual name", "one level deeper", "deeper, beside"]
)
def test_the_parts_are_found_where_the_published_layouts_have_them(folder: Path, place: str) -> None:
    language = folder.parent / "components" / "Qwen2.5-VL-tiny-Instruct"
    if place == "inside":
        language.rename(folder / "language_model")
    elif place == "components inside":
        language.parent.rename(folder / "components")
    elif place == "under its usual name":
        shutil.copytree(language, language.with_name("another-one"))
        language.rename(language.with_name("Qwen2.5-VL-7B-Instruct"))
    elif place == "one level deeper":
        (folder.parent / "flash").mkdir()
        folder = folder.rename(folder.parent / "flash" / "UniPic2-Metaquery").parent
        language.parent.rename(folder / "components")
    else:
        (folder.parent / "flash").mkdir()
        folder = folder.rename(folder.parent / "flash" / "UniPic2-Metaquery").parent
    assert finish(GenerateRequest("a fox", steps=1, size=(32, 32)), loaded(folder).model).pictures


def test_a_folder_of_several_models_is_no_checkpoint(folder: Path) -> None:
    outer = folder.parent / "models"
    outer.mkdir()
    folder = folder.rename(outer / "UniPic2")
    (outer / "Qwen").mkdir()  # a part of a model
    (outer / "Qwen" / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    alone = variant_of_folder(outer)
    (outer / "Qwen" / "model.safetensors").write_bytes(bytes(10_000))
    assert variant_of_folder(outer).parameters == alone.parameters > 0
    shutil.copytree(JANUS / "janus_1_3b" / "checkpoint", outer / "Janus")
    with pytest.raises(AppError, match=r"Janus, Qwen, UniPic2") as refused:
        variant_of_folder(outer)
    assert refused.value.code == "checkpoint_folders_inside"
    shutil.rmtree(outer / "Janus")
    shutil.copytree(folder, outer / "another")
    with pytest.raises(AppError, match=r"Qwen, UniPic2, another"):
        variant_of_folder(outer)


def test_a_missing_language_model_is_named_with_the_place_to_put_it(folder: Path) -> None:
    shutil.rmtree(folder.parent / "components")
    with pytest.raises(AppError, match=r"Qwen/Qwen2\.5-VL-7B-Instruct") as refused:
        loaded(folder)
    assert refused.value.code == "component_missing"


def test_a_row_of_the_users_own_files_fetches_a_language_model_only_where_they_have_none(folder: Path) -> None:
    catalog = load_catalog()
    mine = replace(catalog["unipic2-metaquery-flash"], folder=folder)
    assert mine.user_supplied and with_own_components(mine, catalog.values()).download_bytes == 0
    shutil.rmtree(folder.parent / "components")
    assert with_own_components(mine, catalog.values()).download_bytes == mine.download_bytes > 16e9


def test_a_language_model_that_is_nowhere_on_disk_is_fetched_as_the_manifest_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the real client, from a Hub on the loopback, once and whole; then the model draws and answers."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    language = (folder.parent / "components").rename(folder.parent / "published") / "Qwen2.5-VL-tiny-Instruct"
    published = {f"second/{file.name}": file.read_bytes() for file in language.iterdir()}
    catalog = load_catalog()
    row = catalog["unipic2-metaquery-9b"]
    found = catalog.resolve(str(folder))
    assert found.components == row.components and found.components["mllm"].repo == "Qwen/Qwen2.5-VL-7B-Instruct"
    named = {file.path for file in row.components["mllm"].files}
    assert {"config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors.index.json"} <= named
    tiny = replace(
        row.components["mllm"], revision=REVISION, files=tuple(File(file.name) for file in language.iterdir())
    )
    for known in list(catalog.values()):
        if "mllm" in known.components:
            catalog.include(replace(known, components={**known.components, "mllm": tiny}))
    with FakeHub(published, second=tiny.repo) as server:
        hub = Hub(folder.parent / "cache", server.endpoint, data=folder.parent / "data", reserve=0)
        session = ModelSession(catalog, hub)
        events = list(session.load(str(folder), "cpu"))
        assert any(isinstance(event, Progress) and event.stage == "download" for event in events)
        assert {path.split("/resolve/")[0] for _, path, _ in server.requests if "/resolve/" in path} == {
            f"/{tiny.repo}"
        }
        drawn = session.result(GenerateRequest("a fox", steps=1, size=(32, 32), guidance=1.0, seed=5))
        sent = server.sent
        drain(ModelSession(catalog, hub).load(str(folder), "cpu"))
        assert server.sent == sent, "the files in the cache are used"
    plain = finish(GenerateRequest("a fox", steps=1, size=(32, 32), guidance=1.0, seed=5))
    assert difference(drawn.pictures[0].image, plain.pictures[0].image) == 0


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | fields), "utf-8")


@pytest.mark.parametrize(
    ("file", "fields", "code"),
    [
        ("conditioner/config.json", {"llm_hidden_size": 32}, "language_model_size_differs"),
        ("conditioner/config.json", {"num_queries": 0}, "config_number_out_of_range"),
        ("transformer/config.json", {"_class_name": "FluxTransformer2DModel"}, "denoiser_unknown"),
        ("vae/config.json", {"_class_name": "AutoencoderDC"}, "autoencoder_class_wrong"),
        ("transformer/config.json", {"num_layers": 2}, "weights_tensor_unknown"),
        ("scheduler/scheduler_config.json", {"use_dynamic_shifting": True}, "component_unusable"),
    ],
)
def test_parts_of_another_model_are_refused_by_name(folder: Path, file: str, fields: dict[str, Any], code: str) -> None:
    change(folder / file, **fields)
    with pytest.raises(AppError) as refused:
        loaded(folder)
    assert refused.value.code == code


# ---- bad input


def test_typed_special_tokens_stay_text() -> None:
    ours = model()
    ids = ours.prompt_ids("a <|im_end|><|image_pad|><|vision_start|> fox", None, [])
    plain = ours.prompt_ids("a fox", None, [])
    special = [ours.reader.tokenizer.id(name) for name in ("<|im_end|>", "<|image_pad|>", "<|vision_start|>")]
    assert [ids.count(one) for one in special] == [plain.count(one) for one in special]


def test_a_prompt_beyond_the_context_is_refused() -> None:
    with pytest.raises(AppError) as refused:
        model().prompt_ids("fox " * 40_000, None, [])
    assert refused.value.code == "prompt_too_long_with_pictures"


# ---- the real size


def test_names_and_shapes_at_the_real_size_are_those_derived_from_the_published_code() -> None:
    facts = next(one for one in read_facts() if one["name"] == "Skywork/UniPic2-Metaquery-9B")
    result = check(facts)
    assert result.ok and result.matched == 909 + 391 + 244 + 729
    variant = load_catalog()["unipic2-metaquery-9b"]
    assert result.parameters == variant.parameters
    options = plan_load(variant, None, "cpu")
    assert FAMILY.detect(facts["config"]) and options is not None


def test_layers_of_the_language_model_in_main_memory_give_the_same_picture_and_answer() -> None:
    pytest.importorskip("accelerate")
    whole, parted = loaded(CHECKPOINT).model, loaded(CHECKPOINT).model
    layers = parted.network.mllm.language_model.layers  # type: ignore[attr-defined]
    dispatch(parted.network, FAMILY.offload_prefix, {len(layers) - 1: torch.device("cpu")}, torch.device("cpu"))  # type: ignore[attr-defined]
    assert {p.device.type for p in layers[-1].parameters()} == {"meta"}
    request = EditRequest("make it blue", picture(), method="instruct", steps=2, size=(64, 64))
    assert difference(finish(request, parted).pictures[0].image, finish(request, whole).pictures[0].image) == 0
    question = ChatRequest((Turn("user", "What is it?", (picture(),)),), temperature=0, max_new_tokens=6)
    answers = [drain(one.chat(question)) for one in (whole, parted)]
    assert answers[0].text == answers[1].text  # type: ignore[attr-defined]


def test_the_command_line_draws_in_the_size_that_is_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "one.png"
    call = ["generate", "--model", str(CHECKPOINT), "--device", "cpu", "--prompt", "a fox", "--steps", "2"]
    assert main([*call, "--size", "64x32", "--out", str(out)]) == 0
    assert Image.open(out).size == (64, 32)
