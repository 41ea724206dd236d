"""Janus checkpoints in the layout of the transformers library: read as transformers reads them, and written for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from janus_app.cli import main
from janus_app.cli.models import check, read_facts
from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.models.common import prompts
from janus_app.models.janus.transformers_layout import our_name, their_name
from janus_app.registry.catalog import load_catalog
from janus_app.registry.checkpoint_folder import COPY_RECORD
from janus_app.runtime import save_copy as copies
from janus_app.types import ChatRequest, Finished, GenerateRequest, Turn, drain, result_of
from tests.conftest import GOLDEN, loaded

SIDE, PATCHES, CODES = 64, 16, 96


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of random weights that transformers saved, with the tokenizer of the golden checkpoints."""
    from transformers import JanusConfig, JanusForConditionalGeneration

    torch.manual_seed(0)
    text = {"vocab_size": 448, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512, "model_type": "llama"}
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE}
    vision |= {"projection_dim": 32, "num_image_tokens": PATCHES, "mlp_ratio": 2.0}
    vq = {"embed_dim": 8, "num_embeddings": CODES, "base_channels": 32, "channel_multiplier": [1, 1, 1, 1, 2]}
    vq |= {"num_res_blocks": 1, "latent_channels": 32, "projection_dim": 32, "image_token_embed_dim": 32}
    model = JanusForConditionalGeneration(
        JanusConfig(text_config=text, vision_config=vision, vq_config=vq, tie_word_embeddings=False)
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
        else:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
    folder = tmp_path_factory.mktemp("theirs") / "tiny-janus-hf"
    model.save_pretrained(folder)
    shutil.copy(GOLDEN / "janus_pro_1b" / "checkpoint" / "tokenizer.json", folder)
    pictures = {"image_processor_type": "JanusImageProcessor", "size": {"height": SIDE, "width": SIDE}, "min_size": 14}
    pictures |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_normalize": True, "do_pad": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures), "utf-8")
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "JanusProcessor"}), "utf-8")
    return folder


@pytest.fixture
def checkpoint(theirs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(theirs, tmp_path / "copy"))


def reference(folder: Path) -> Any:
    from transformers import JanusForConditionalGeneration

    return JanusForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def change_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    change(config)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def save(folder: Path, target: Path, layout: str = "original", **options: Any) -> Path:
    variant = load_catalog().resolve(str(folder))
    return result_of(copies.save_copy(Hub(), variant, target, copies.CopyOptions(layout), reserve=0, **options))


@torch.inference_mode()
def assert_same_results(folder: Path, exact: Any) -> None:
    """Logits of words, image tokens and pictures of both implementations, from the same inputs."""
    model: Any = loaded(folder).model
    network, ids = model.network, torch.arange(5, 25)
    embeds = network.text_embeds(ids)[None]
    words = network.language_model.lm_head(network(embeds))
    torch.testing.assert_close(words, exact(input_ids=ids[None]).logits, atol=1e-4, rtol=1e-4)
    hidden = exact.model(input_ids=ids[None]).last_hidden_state
    tokens = network.gen_head(network(embeds))
    torch.testing.assert_close(tokens, exact.model.generation_head(hidden), atol=1e-4, rtol=1e-4)
    image_tokens = torch.arange(PATCHES)[None] * 3 % CODES
    mine = network.token_embeds(image_tokens)
    torch.testing.assert_close(mine, exact.prepare_embeddings_for_image_generation(image_tokens), atol=1e-4, rtol=1e-4)
    pixels = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    features = exact.model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(network.picture_embeds(pixels), features, atol=1e-4, rtol=1e-4)
    picture = exact.decode_image_tokens(image_tokens).permute(0, 3, 1, 2)
    torch.testing.assert_close(network.gen_vision_model.decode(image_tokens), picture, atol=1e-4, rtol=1e-4)
    latents = exact.model.vqmodel.quant_conv(exact.model.vqmodel.encoder(pixels))
    torch.testing.assert_close(network.gen_vision_model.latents(pixels), latents, atol=1e-4, rtol=1e-4)


def test_checkpoint_of_transformers_gives_its_numbers(theirs: Path) -> None:
    assert_same_results(theirs, reference(theirs))


def test_checkpoint_of_transformers_chats_and_draws(theirs: Path) -> None:
    model: Any = loaded(theirs).model
    turn = Turn("user", "hello", (Image.new("RGB", (20, 30)),))
    answer = drain(model.chat(ChatRequest((turn,), max_new_tokens=16)))
    drawn = drain(model.generate(GenerateRequest("a cat", seed=1)))
    assert isinstance(answer, Finished) and answer.usage is not None and answer.usage.prompt_tokens > PATCHES
    assert isinstance(drawn, Finished) and drawn.pictures[0].image.size == (SIDE, SIDE)


def test_image_tokens_drawn_greedily_are_those_of_transformers(theirs: Path) -> None:
    """Without guidance both take the likeliest token after the same prompt."""
    model: Any = loaded(theirs).model
    drawn = drain(model.generate(GenerateRequest("a cat", guidance=1.0, temperature=0.0)))
    exact = reference(theirs)
    with torch.inference_mode():
        embeds = model.prompt_rows(GenerateRequest("a cat", guidance=1.0))[0][None]
        expected: list[int] = []
        for _ in range(PATCHES):
            hidden = exact.model.language_model(inputs_embeds=embeds).last_hidden_state[:, -1]
            expected.append(int(exact.model.generation_head(hidden).argmax()))
            step = exact.prepare_embeddings_for_image_generation(torch.tensor([expected[-1:]]))
            embeds = torch.cat([embeds, step], dim=1)
    assert list(drawn.pictures[0].image_tokens) == expected  # type: ignore[union-attr]
    assert len(set(expected)) > 2


def older_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    def old(name: str) -> str:
        name = name.removeprefix("model.")
        if name.startswith("lm_head."):
            return f"language_model.{name}"
        return name.replace("language_model.", "language_model.model.") if "language_model" in name else name

    return {old(name): tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    "renamed",
    [
        older_names,
        lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()},
        lambda weights: {f"_orig_mod.{name}": tensor for name, tensor in weights.items()},
    ],
)
def test_names_of_older_releases_and_of_wrappers_are_known(checkpoint: Path, renamed: Any) -> None:
    before: Any = loaded(checkpoint).model
    save_file(renamed(load_file(checkpoint / "model.safetensors")), checkpoint / "model.safetensors")
    after: Any = loaded(checkpoint).model
    expected = before.network.state_dict()
    assert after.network.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in after.network.state_dict().items())


def test_words_are_tied_as_transformers_ties_them(checkpoint: Path) -> None:
    """Its config ties them unless it says otherwise, but never where the file has two different tensors."""
    change_config(checkpoint, lambda config: config.pop("tie_word_embeddings", None))
    both: Any = loaded(checkpoint).model
    words = both.network.language_model
    assert not torch.equal(words.lm_head.weight, words.model.embed_tokens.weight)
    weights = load_file(checkpoint / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    assert_same_results(checkpoint, reference(checkpoint))
    change_config(checkpoint, lambda config: config.update(tie_word_embeddings=False))
    with pytest.raises(AppError) as caught:
        loaded(checkpoint)
    assert caught.value.code == "weights_tensors_missing"


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("vision_config", "use_qk_norm", True),
        ("vision_config", "hidden_act", "gelu_pytorch_tanh"),
        ("vision_config", "depth", 3),
        ("vision_config", "projection_dim", 48),
        ("vq_config", "double_latent", True),
        ("vq_config", "image_token_embed_dim", 48),
        ("text_config", "attention_bias", True),
    ],
)
def test_value_that_is_not_computed_is_refused_by_name(checkpoint: Path, section: str, field: str, value: Any) -> None:
    change_config(checkpoint, lambda config: config[section].update({field: value}))
    with pytest.raises(AppError) as caught:
        loaded(checkpoint)
    assert caught.value.code == "config_value_not_computed" and field in str(caught.value)


def test_absurd_channel_multiplier_is_refused(checkpoint: Path) -> None:
    change_config(checkpoint, lambda config: config["vq_config"].update(channel_multiplier=7))
    with pytest.raises(AppError) as caught:
        loaded(checkpoint)
    assert caught.value.code == "config_list_unusable"


@pytest.mark.parametrize("size", ["1B", "7B"])
def test_names_and_shapes_of_the_published_checkpoints_match_and_translate_both_ways(size: str) -> None:
    facts = next(facts for facts in read_facts() if facts["name"] == f"deepseek-community/Janus-Pro-{size}")
    found = check(facts)
    assert found.ok and found.matched == {"1B": 964, "7B": 1018}[size]
    assert all(their_name(our_name(name)) == name for name in facts["tensors"])


# ---- written


def test_copy_in_the_layout_of_transformers_is_loaded_by_it_again(theirs: Path, tmp_path: Path) -> None:
    """To the original layout and back gives the same tensors, which transformers loads as it did before."""
    original = save(theirs, tmp_path / "original", "original")
    assert any(".attn.qkv." in name for name in load_file(original / "model.safetensors"))
    assert_same_results(original, reference(theirs))
    back = save(original, tmp_path / "back", "transformers", part=200_000)
    assert (back / "model.safetensors.index.json").is_file()
    again, before = reference(back), reference(theirs)
    assert again.state_dict().keys() == before.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in before.state_dict().items())
    assert_same_results(back, again)


def test_processor_of_transformers_reads_the_copy(theirs: Path, tmp_path: Path) -> None:
    from transformers import JanusProcessor

    original = save(theirs, tmp_path / "original", "original")
    folder = save(original, tmp_path / "back", "transformers")
    processor = JanusProcessor.from_pretrained(folder)
    model: Any = loaded(folder).model
    text = "<|User|>: a red house\n\n<|Assistant|>:"
    ids = processor(text=text, generation_mode="image")["input_ids"]
    mine = model.tokenizer.encode(prompts.drawing("a red house", model.style))
    assert torch.as_tensor(ids).flatten().tolist()[-len(mine) + 1 :] == mine[1:]


def test_command_line_saves_a_copy_with_its_origin(theirs: Path, tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "copy"
    assert main(["convert", str(theirs), "--to", "original", "--out", str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    record = json.loads((target / COPY_RECORD).read_text("utf-8"))
    assert record["layout"] == "original" and record["from"]["model"] == load_catalog().resolve(str(theirs)).id
    assert record["files"]["model.safetensors"]["size"] == (target / "model.safetensors").stat().st_size
    assert main(["convert", str(theirs), "--to", "original", "--out", str(target)]) == 1
    assert "not an empty folder" in capsys.readouterr().err


def test_checkpoint_that_transformers_cannot_describe_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(AppError) as caught:
        save(GOLDEN / "janus_pro_1b" / "checkpoint", tmp_path / "copy", "transformers")
    assert caught.value.code == "layout_head_differs" and not any(tmp_path.iterdir())


def test_cancelled_copy_leaves_nothing(theirs: Path, tmp_path: Path) -> None:
    variant = load_catalog().resolve(str(theirs))
    work = copies.save_copy(Hub(), variant, tmp_path / "copy", copies.CopyOptions("original"), reserve=0)
    next(work)
    work.close()
    assert not any(tmp_path.iterdir())


def test_model_of_another_family_says_that_copies_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(AppError) as caught:
        save(GOLDEN / "janusflow_1_3b" / "checkpoint", tmp_path / "copy", "transformers")
    assert caught.value.code == "copy_layout_unknown"
