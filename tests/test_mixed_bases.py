"""LMFusion and LLaVAFusion around the language models that ship with the app, by reference, and around a Qwen2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from janus_app.errors import AppError
from janus_app.models.mixed_diffusion.config import CELL
from janus_app.models.mixed_diffusion.pipeline import MixedModel
from janus_app.paths import ASSETS
from janus_app.types import ChatRequest, EditRequest, Finished, GenerateRequest, Turn, finish
from tests import tiny_mixed
from tests.conftest import loaded
from tests.test_metamorph_parity import picture
from tests.tiny_mixed import LANGUAGE, LLAVAFUSION, LMFUSION, code_of, greedy, load
from training.objects import COLOURS, INDEX
from training.pictures import render
from training.world import Item, Scene

JANUS, METAQUERY = ASSETS / "janus_embedded", ASSETS / "metaquery_embedded"
OWN = {"prompt": "template", "context": 1024}  # in the base's own format, with its context


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints with small random picture halves around each base."""
    root = tmp_path_factory.mktemp("bases")
    tiny_mixed.write_checkpoint(root / "lmfusion", {**LMFUSION, **OWN, "base": str(JANUS)})
    tiny_mixed.write_checkpoint(root / "llavafusion", {**LLAVAFUSION, **OWN, "base": str(METAQUERY)})
    write_onevision(root / "components" / "onevision")
    tiny_mixed.write_checkpoint(root / "qwen", {**LLAVAFUSION, "base": "onevision"})
    return root


def write_onevision(folder: Path) -> None:
    """A real LLaVA-OneVision of transformers, whose Qwen2 has large random biases."""
    torch.manual_seed(4)
    tower = {"model_type": "siglip_vision_model", "hidden_size": 16, "image_size": 28, "patch_size": 14}
    tower |= {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vision_use_head": False}
    config = LlavaOnevisionConfig(
        text_config={**LANGUAGE, "model_type": "qwen2"},
        vision_config=tower,
        image_token_index=261,
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    tiny_mixed.randomize(model)
    for name, tensor in model.state_dict().items():
        if "_proj.bias" in name and "language_model" in name:
            tensor.normal_(std=2.0)
    model.save_pretrained(folder)
    tiny_mixed.write_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(tiny_mixed.TEMPLATE, "utf-8")
    processor = {"size": {"height": 28, "width": 28}, "image_grid_pinpoints": config.image_grid_pinpoints}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), "utf-8")


@pytest.fixture(scope="module")
def lmfusion(root: Path) -> MixedModel:
    return load(root / "lmfusion")


@pytest.fixture(scope="module")
def llavafusion(root: Path) -> MixedModel:
    return load(root / "llavafusion")


def scene(number: int) -> Image.Image:
    names = {colour.name: index for index, colour in enumerate(COLOURS)}
    items = [Item(INDEX["house"], names["red"], number, False), Item(INDEX["frog"], names["green"], 8 - number, False)]
    return render(Scene.of(number, items))


def conversations(*pictures: Image.Image) -> Iterator[ChatRequest]:
    for number, text in enumerate(("What do you see?", "这是什么？", "Where is the house?", "How are you?")):
        first = Turn("user", text, pictures)
        more = (Turn("assistant", "A red house."), Turn("user", "What colour is it?")) if number == 2 else ()
        yield ChatRequest((first, *more), temperature=0, max_new_tokens=24, seed=number)


def told(model: Any, request: ChatRequest) -> Finished:
    return finish(model.chat(request))


# ---- LMFusion around the embedded Janus


def test_lmfusion_around_janus_says_token_for_token_what_janus_says(root: Path, lmfusion: MixedModel) -> None:
    janus: Any = loaded(JANUS, context=lmfusion.capabilities.context).model
    answers = [told(janus, request) for request in conversations()]
    assert [told(lmfusion, request).token_ids for request in conversations()] == [one.token_ids for one in answers]
    assert len({one.text for one in answers}) > 2 and all(one.text for one in answers)
    drawn_by_chance = ChatRequest((Turn("user", "Hello"),), temperature=1.5, top_p=0.99, max_new_tokens=24, seed=3)
    assert told(lmfusion, drawn_by_chance).token_ids == told(janus, drawn_by_chance).token_ids
    usage = told(lmfusion, next(conversations())).usage
    assert usage == answers[0].usage


def test_an_answer_stays_in_the_language_of_the_question_as_with_janus(lmfusion: MixedModel) -> None:
    for seed in (2, 3):  # without the rule, some of these words are English
        request = ChatRequest((Turn("user", "你好"),), temperature=2.0, max_new_tokens=40, seed=seed)
        said = told(lmfusion, request).text
        assert len(said) > 4 and not any(one.isascii() and one.isalpha() for one in said)


def test_the_words_of_lmfusion_are_computed_with_the_same_bits_as_those_of_janus(lmfusion: MixedModel) -> None:
    stored = load_file(JANUS / "model.safetensors")
    half = lmfusion.network.language_model.state_dict()
    assert {f"language_model.{name}" for name in half} == {n for n in stored if n.startswith("language_model.")}
    assert all(torch.equal(tensor, stored[f"language_model.{name}"].float()) for name, tensor in half.items())


def test_lmfusion_around_janus_draws_edits_and_reads_pictures_with_its_own_half(lmfusion: MixedModel) -> None:
    shown = scene(1)
    assert finish(lmfusion.generate(GenerateRequest("a cat", steps=2))).pictures
    assert finish(lmfusion.edit(EditRequest("blue", shown, method="instruct", steps=2))).pictures
    ids = lmfusion.prompts.conversation([Turn("user", "What is this?", (shown, shown))])
    begin, end = lmfusion.prompts.picture_start, lmfusion.prompts.picture_end
    both = [begin, *[CELL] * lmfusion.cells, end, *lmfusion.tokenizer.encode(["\n"], begin=False)] * 2
    at = ids.index(begin)
    assert (begin, end) == (-1, -2) and ids[at : at + len(both)] == both
    words = told(lmfusion, next(conversations(shown))).token_ids
    assert words != told(lmfusion, next(conversations())).token_ids


def test_a_folder_with_nothing_but_a_base_talks_as_it(tmp_path: Path, lmfusion: MixedModel) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    shutil.copytree(JANUS, tmp_path / "janus", symlinks=True)
    config = {"model_type": "mixed_diffusion", "base": "../janus", **OWN}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    model = load(folder)
    assert model.capabilities.verbs == {"chat"}
    assert greedy(model, "What can you draw?").token_ids == greedy(lmfusion, "What can you draw?").token_ids


# ---- LLaVAFusion around the embedded MetaQuery


def test_llavafusion_around_metaquery_answers_about_pictures_as_it(llavafusion: MixedModel) -> None:
    metaquery: Any = loaded(METAQUERY, context=llavafusion.capabilities.context).model
    asked = [*conversations(scene(0)), *conversations(scene(3), scene(2)), *conversations()]
    answers = [told(metaquery, request) for request in asked]
    assert [told(llavafusion, request).text for request in asked] == [one.text for one in answers]
    assert len({one.text for one in answers}) > 6 and any("house" in one.text for one in answers)
    assert told(llavafusion, asked[0]).usage == answers[0].usage


def test_the_language_half_and_the_tower_of_llavafusion_have_the_bits_of_metaquery(llavafusion: MixedModel) -> None:
    metaquery: Any = loaded(METAQUERY).model
    theirs, ours = metaquery.network.mllm.state_dict(), llavafusion.network
    assert ours.reader is not None
    for name, tensor in ours.reader.state_dict().items():
        assert torch.equal(tensor, theirs.pop(name)), name
    for name, tensor in ours.language_model.model.state_dict().items():
        assert torch.equal(tensor, theirs.pop(f"language_model.{name}")), name
    assert not theirs and torch.equal(ours.language_model.lm_head.weight, metaquery.network.lm_head.weight)


def test_llavafusion_around_metaquery_draws_with_its_own_half(llavafusion: MixedModel) -> None:
    assert finish(llavafusion.generate(GenerateRequest("a cat", steps=2, guidance=2.0))).pictures
    assert "instruct" not in llavafusion.capabilities.edit_methods


# ---- a Qwen2, whose queries, keys and values have biases


def test_a_llava_onevision_is_a_base_with_the_biases_of_its_qwen2(root: Path) -> None:
    model, folder = load(root / "qwen"), root / "components" / "onevision"
    theirs = LlavaOnevisionForConditionalGeneration.from_pretrained(folder).eval()
    asked, shown = Turn("user", "what is it?", (picture("image"),)), picture("image")
    processor = LlavaOnevisionImageProcessorPil(**json.loads((folder / "preprocessor_config.json").read_text("utf-8")))
    batch = processor([shown.convert("RGB")], return_tensors="pt")
    assert model.reader is not None
    features = model.reader.encode(shown)
    ids = model.prompts.conversation([asked], [len(features)])
    row = torch.tensor([[261 if token == CELL else token for token in ids]])
    with torch.inference_mode():
        logits = theirs(row, **batch, attention_mask=torch.ones_like(row)).logits[0]
        written = theirs.generate(row, **batch, attention_mask=torch.ones_like(row), do_sample=False, max_new_tokens=8)
        states = model.network.read(model.network.new_cache(1, len(ids)), ids, features=[features])
        torch.testing.assert_close(model.network.language_model.lm_head(states), logits, atol=1e-4, rtol=1e-4)
    expected = [token for token in written[0, len(ids) :].tolist() if token not in model.prompts.ends]
    assert list(greedy(model, "what is it?", shown).token_ids) == expected and expected
    assert any("bias" in name for name in model.network.state_dict() if name.startswith("image_model."))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_biases_stay_where_linears_are_made_smaller(root: Path, precision: str) -> None:
    def states(precision: str) -> Tensor:
        model: Any = loaded(root / "qwen", precision).model
        return model.network.read(model.network.new_cache(1, len(tiny_mixed.IDS)), tiny_mixed.IDS).float()

    exact = states("fp32")
    assert float((states(precision) - exact).norm() / exact.norm()) < 0.1


# ---- refusals


@pytest.fixture
def copied(tmp_path: Path, root: Path) -> Path:
    """A copy of LMFusion beside copies of both bases, which a test may damage."""
    shutil.copytree(root / "lmfusion", tmp_path / "lmfusion")
    shutil.copytree(JANUS, tmp_path / "janus")
    shutil.copytree(METAQUERY, tmp_path / "metaquery")
    rewrite(tmp_path / "lmfusion" / "config.json", base="../janus")
    return tmp_path / "lmfusion"


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")


def test_models_that_cannot_be_a_base_are_refused_with_those_that_can(copied: Path) -> None:
    rewrite(copied / "config.json", base=str(ASSETS / "janusflow_embedded"))
    with pytest.raises(AppError, match=r"llava_onevision, Janus, MetaQuery") as refused:
        load(copied)
    assert refused.value.code == "language_half_unknown"
    rewrite(copied / "config.json", base="../metaquery")
    language = copied.parent / "metaquery" / "components" / "picture-world-llava-onevision"
    rewrite(language / "config.json", model_type="qwen2_5_vl")
    with pytest.raises(AppError, match=r"qwen2_5_vl") as refused:
        load(copied)
    assert refused.value.code == "language_half_unknown"
    shutil.rmtree(language)
    assert code_of(lambda: load(copied)) == "component_missing"


def test_a_base_of_another_size_than_the_picture_half_s_is_refused(copied: Path) -> None:
    rewrite(copied / "config.json", language={"num_hidden_layers": 4})
    assert code_of(lambda: load(copied)) == "language_half_differs"
    rewrite(copied / "config.json", language={"hidden_size": 192, "num_hidden_layers": 5})
    assert load(copied).capabilities.verbs == {"chat", "generate", "edit"}
    config = json.loads((copied.parent / "janus" / "config.json").read_text("utf-8"))
    rewrite(copied.parent / "janus" / "config.json", language_config={**config["language_config"], "vocab_size": 1200})
    assert code_of(lambda: load(copied)) == "weights_shape_differs"


def test_a_base_with_more_words_than_its_embedding_is_refused(copied: Path) -> None:
    (copied / "model.safetensors").unlink()  # the bases alone
    for base, file in (
        ("../janus", copied.parent / "janus" / "tokenizer.json"),
        ("../metaquery", copied.parent / "metaquery" / "components/picture-world-llava-onevision" / "tokenizer.json"),
    ):
        tokenizer = json.loads(file.read_text("utf-8"))
        last = tokenizer["added_tokens"][-1]
        tokenizer["added_tokens"] += [{**last, "id": 1152 + i, "content": f"<more {i}>"} for i in range(60)]
        file.write_text(json.dumps(tokenizer), "utf-8")
        rewrite(copied / "config.json", base=base)
        assert code_of(lambda: load(copied)) == "tokenizer_too_large"


def test_the_picture_half_of_one_base_does_not_fit_another(copied: Path) -> None:
    rewrite(copied / "config.json", base="../metaquery")
    with pytest.raises(AppError, match=r"bias") as refused:  # a Qwen2's picture half has biases
        load(copied)
    assert refused.value.code == "weights_tensors_missing"
    shutil.rmtree(copied / "vae")
    assert code_of(lambda: load(copied)) == "picture_autoencoder_missing"


def test_more_pictures_than_the_context_of_a_base_are_refused(lmfusion: MixedModel, llavafusion: MixedModel) -> None:
    shown = Image.fromarray(np.full((96, 96, 3), 200, np.uint8))
    for model, most in ((lmfusion, 60), (llavafusion, 14)):
        assert code_of(lambda: greedy(model, "what?", *[shown] * most)) == "question_too_long"  # noqa: B023
