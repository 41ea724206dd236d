"""The words of the picture world, as `vocabulary.json` beside each embedded model: it tells people what is not in them.

    python -m training.vocabulary assets/{janus,janusflow,pisces,llavafusion}_embedded
    python -m training.vocabulary assets/{metaquery,metamorph,transfusion,lmfusion}_embedded --edits

`--edits` adds the words of editing instructions.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.captions import caption
from training.edits import edit
from training.objects import BACKGROUNDS, COLOURS, NUMBERS_ZH, PLACES_ZH, THINGS
from training.scenes import plan, seen_scene
from training.talk import TYPES, ask, compare

SAMPLES = 6_000  # captions; the rarest word is in one of some hundred
GROUND_ONLY = {"black", "white"}  # backgrounds have these colours, objects do not
# Words without a picture of their own: the models were not trained with all of them and are not led astray by them.
FUNCTION_WORDS = (
    "a an the and or of to in on at with is are there be it its this that these those some my me i you your can could "
    "would please make paint draw show create generate give image picture photo drawing want see like let both each "
    "one i'd nothing else"
)
FUNCTION_TERMS = (
    "的 了 有 在 和 与 跟 是 里 我 你 请 个 着 张 图 画 上 下 并 大的 小的 一张 一幅 图片 图中 旁边 一些 给我 帮我 "
    "生成 想要"
)


def sentences(edits: bool, seed: int = 0, count: int = SAMPLES) -> Iterator[str]:
    """Captions in both languages or, with `edits`, instructions, too."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        yield caption(plan(rng, held_out=number % 4 == 3), rng)
        if edits:
            yield edit(rng, zh=bool(number % 2)).instruction


def questions(seed: int = 0, count: int = 6000) -> dict[str, list[str]]:
    """The questions about pictures that the models are trained on, one for each form, the most general first."""
    rng = np.random.default_rng(seed)
    nouns = sorted({n for t in THINGS for n in (t.name, t.zh)}, key=len, reverse=True)
    many = sorted({t.plural for t in THINGS if t.plural != t.name}, key=len, reverse=True)
    measures = "|".join(sorted({t.measure for t in THINGS}))
    hues = "|".join(c.name for c in COLOURS if c.name)
    hues_zh = "|".join(c.zh for c in COLOURS if c.zh)
    found: dict[str, dict[str, str]] = {"en": {}, "zh-CN": {}}
    for number in range(count):
        zh, scene = bool(number % 2), seen_scene(rng)
        kind = TYPES[number // 2 % len(TYPES)]
        exchange = ask(scene, rng, zh, kind) if number % 10 else compare(scene, seen_scene(rng), rng, zh)
        text = re.sub(rf"\b(?:{'|'.join(many)})\b", "{s}", exchange.question)
        text = re.sub(rf"\ban? (?:(?:{hues}) )?(?:{'|'.join(nouns)})\b", "{a}", text)
        text = re.sub(rf"(?:(?:{hues_zh})色的)?(?:{'|'.join(nouns)})", "{}", text)
        text = re.sub(rf"(?<=[几少])(?:{measures})\{{\}}", "{s}", text)
        text = text.replace("?", "？") if zh else text[0].upper() + text[1:]
        same = found["zh-CN" if zh else "en"]
        plain = text.rstrip("?？.。").lower()
        same[plain] = max(same.get(plain, ""), text, key=len)  # with its mark at the end
    general = {"en": "Describe the picture", "zh-CN": "描述这张图"}
    made = {}
    for language, forms in found.items():
        # "How many fish?" reads like a form for one thing, though it is that for several.
        texts = [form for form in forms.values() if "{}" not in form or form.replace("{}", "{s}") not in forms.values()]
        made[language] = sorted(texts, key=lambda form: (not form.startswith(general[language]), "{" in form, form))
    return made


def vocabulary(edits: bool = False) -> dict[str, object]:
    """What janus_app/models/common/vocabulary.py reads."""
    words, han = set(FUNCTION_WORDS.split()), set()
    for text in sentences(edits):
        words.update(re.findall(r"[a-z]+|\d+", text.lower()))
        han.update(re.findall(r"[一-鿿]+", text))
    hues = {f"{c.zh}{end}" for c in COLOURS if c.zh for end in ("", "色", "色的")}
    grounds = {p for b in BACKGROUNDS for p in b.zh_phrases + b.zh_scenes} | {"背景"}
    grounds |= {f"{b.zh}{end}" for b in BACKGROUNDS for end in ("", "的")} if edits else set()
    nouns = {name for t in THINGS for name in (t.zh, *(a for a in t.aliases if not a.isascii()))}
    counts = {f"{n}{t.measure}" for n in (*NUMBERS_ZH[1:], "") for t in THINGS}
    terms = nouns | hues | grounds | counts | {p for names in PLACES_ZH for p in names} | set(FUNCTION_TERMS.split())
    # What is left of the sentences without these: verbs, openings and sizes.
    known = re.compile("|".join(sorted(terms, key=len, reverse=True)))
    terms |= {rest for run in han for rest in known.split(run) if rest}
    return {
        "phrases": sorted({p for b in BACKGROUNDS for p in b.phrases if GROUND_ONLY & set(p.split())}),
        "words": sorted(words - (set() if edits else GROUND_ONLY)),
        "terms": sorted(terms),
        "questions": questions(),
        "things": {"en": [t.name for t in THINGS], "zh-CN": [t.zh for t in THINGS]},
        "scenes": {"en": [b.scenes[0] for b in BACKGROUNDS], "zh-CN": [b.zh_scenes[0] for b in BACKGROUNDS]},
    }


def write(folder: Path, edits: bool = False) -> None:
    """Write `folder`/vocabulary.json."""
    text = json.dumps(vocabulary(edits), ensure_ascii=False, indent=None, separators=(",", ":"))
    (folder / "vocabulary.json").write_text(text + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--edits", action="store_true")
    args = parser.parse_args()
    for folder in args.folders:
        write(folder, args.edits)


if __name__ == "__main__":
    main()
