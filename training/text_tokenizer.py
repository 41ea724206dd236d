"""The text tokenizer: a byte-level BPE trained on sentences of the picture world, with the special tokens of Janus.

Every word of the world is one token and every Chinese character is one; other text is split into bytes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from janus_app.models.common.prompts import SYSTEM
from training.captions import caption
from training.scenes import plan, seen_scene
from training.small_talk import small_talk
from training.talk import ask, compare

SPECIALS = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<begin_of_image>",
    "<image_placeholder>",
    "<patch_placeholder>",
    "<|User|>",
    "<|Assistant|>",
    "<end_of_image>",
)
MERGED = 1100  # learned entries including bytes; special tokens follow them


def sentences(rng: np.random.Generator, count: int) -> list[str]:
    lines = [SYSTEM] * 2000  # often enough that each of its words becomes one token
    for _ in range(count):
        scene = seen_scene(rng)
        chat = ask(scene, rng, bool(rng.random() < 0.35))
        both = compare(scene, seen_scene(rng), rng, bool(rng.random() < 0.35))
        lines += [" " + caption(plan(rng), rng), " " + chat.answer, chat.question]
        lines += [both.question, " " + both.answer, *(" " + t for t in small_talk(rng))]
    return lines


def train(folder: Path, seed: int) -> Tokenizer:
    """Write tokenizer.json and its two companion files into `folder`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [  # type: ignore[assignment]
            pre_tokenizers.Split(Regex(r"[\r\n]"), "isolated"),
            pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
            pre_tokenizers.Split(Regex(r"\s?\p{L}+"), "isolated"),
            pre_tokenizers.Split(Regex(r"\s?\p{P}+"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=MERGED, min_frequency=2, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(sentences(np.random.default_rng(seed), 6000), trainer)
    tokenizer.add_special_tokens(list(SPECIALS))
    # The system sentence opens every conversation; as one token it takes 1 position instead of 33.
    tokenizer.add_tokens([AddedToken(SYSTEM, normalized=False)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    bos, eos, pad = SPECIALS[:3]
    named = {"bos_token": bos, "eos_token": eos, "pad_token": pad, "additional_special_tokens": list(SPECIALS[4:])}
    config = {
        **named,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": True,
        "model_max_length": 1024,
        "processor_class": "VLChatProcessor",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizerFast",
        "unk_token": None,
        "use_default_system_prompt": False,
    }
    for name, value in (("special_tokens_map.json", named), ("tokenizer_config.json", config)):
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return tokenizer
