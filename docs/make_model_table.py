"""Write the model tables of README.md and README.zh-CN.md from weights_manifest.yaml.

python docs/make_model_table.py
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from janus_app.registry.catalog import load_catalog  # noqa: E402
from janus_app.registry.types import Variant  # noqa: E402
from janus_app.runtime.fit import running_peak, usual_job, weight_bytes  # noqa: E402

READMES = {"en": ROOT / "README.md", "zh-CN": ROOT / "README.zh-CN.md"}
PRECISIONS = ("bf16", "int8", "nf4")
# The ways of editing of families.
EDITS = {
    "janus": "region",
    "janusflow": "three",
    "metaquery": "instruct",
    "unipic2": "instruct",
    "regression": "meaning",
    "mixed_diffusion": "sequence",
}
DETAILS = {"metaquery": "docs/metaquery.md", "unipic2": "docs/unipic2.md", "regression": "docs/metamorph.md"}
DETAILS["mixed_diffusion"] = "docs/mixed_diffusion.md"
DETAILS["pisces-8b"] = "docs/pisces.md"  # not of its family
WORDS = {
    "en": {
        "chat": "chat",
        "generate": "draw",
        "region": "edit a region",
        "three": "edit in three ways",
        "instruct": "edit by instruction",
        "both": "edit by instruction or a region",
        "meaning": "edit by instruction, keeping what a picture shows but not its pixels",
        "sequence": "edit by instruction, a mask or a noised picture",
        "noised": "edit by a mask or a noised picture",
        "default": " (default)",
        "and": ", ",
        "sides": "{size}; {low} to {high} a side",
        "ships": "ships with the app",
        "yours": "your own files",
        "small": "0.6–0.8 GB, the whole program",
        "alone": "{needs} GB, weights alone",
        "unknown": "not measured",
        "measured": "trained here, [measured]({card})",
        "reference": "same numbers as the published code{details}; not yet run with the real weights",
        "unpublished": "same numbers as the published code{details}",
        "prompts": "prompts and guidance compared with a reference implementation",
        "layout": "never loaded here; layout as its publisher's code",
        "paper": "from the paper: no reference code, no weights{details}",
        "details": " ([details]({page}))",
    },
    "zh-CN": {
        "chat": "对话",
        "generate": "绘画",
        "region": "区域重画",
        "three": "三种编辑",
        "instruct": "按指令编辑",
        "both": "按指令或区域编辑",
        "meaning": "按指令编辑（保留画面内容，不保留像素）",
        "sequence": "按指令、蒙版或加噪图片编辑",
        "noised": "按蒙版或加噪图片编辑",
        "default": "（默认）",
        "and": "、",
        "sides": "{size}；边长 {low} 到 {high}",
        "ships": "随应用附带",
        "yours": "自备文件",
        "small": "整个程序 0.6–0.8 GB",
        "alone": "{needs} GB，仅权重",
        "unknown": "未测量",
        "measured": "在本仓库训练，[测量结果]({card})",
        "reference": "与公开代码数值一致{details}；尚未用真实权重运行",
        "unpublished": "与公开代码数值一致{details}",
        "prompts": "提示词与引导已和参考实现对照",
        "layout": "从未在此加载；格式依据发布者的代码",
        "paper": "依据论文：没有参考代码，也没有权重{details}",
        "details": "（[详情]({page})）",
    },
}


def memory_on_a_gpu(variant: Variant, precision: str) -> float:
    """Bytes for one picture on a CUDA GPU as the fit advisor counts them, with its reserve."""
    peak = running_peak(variant, precision, torch.device("cuda"), usual_job(variant))
    return weight_bytes(variant, precision, device="cuda") + peak.cache + peak.work + 1.25e9


def row(variant: Variant, language: str) -> str:
    """The line of a model in the table."""
    words = WORDS[language]
    texts = json.loads((ROOT / "assets" / "i18n" / "zh-CN.json").read_text("utf-8"))["variants"]
    own = texts.get(variant.id, {}) if language != "en" else {}
    licence = own.get("weights_licence", variant.weights_licence)
    title = own.get("title", variant.title) + (words["default"] if variant == load_catalog().default() else "")
    cells = (title, _size(variant, words), *_disk_and_memory(variant, words))
    return f"| {' | '.join((*cells, _can(variant, words), licence, _verified(variant, words)))} |"


def _size(variant: Variant, words: dict[str, str]) -> str:
    size = "{} x {}".format(*variant.size)
    side = variant.settings.get("width")
    return words["sides"].format(size=size, low=int(side.low), high=int(side.high)) if side else size


def _disk_and_memory(variant: Variant, words: dict[str, str]) -> tuple[str, str]:
    if variant.repo:
        needs = " / ".join(f"{memory_on_a_gpu(variant, precision) / 1e9:.1f}" for precision in PRECISIONS)
        return f"{variant.download_bytes / 1e9:.1f} GB", f"{needs} GB"
    if not variant.user_supplied:
        return words["ships"], words["small"]
    needs = " / ".join(f"{variant.memory[precision] / 1e9:.1f}" for precision in PRECISIONS if variant.memory)
    return words["yours"], words["alone"].format(needs=needs) if needs else words["unknown"]


def _can(variant: Variant, words: dict[str, str]) -> str:
    edit = "both" if {"instruct", "region"} <= set(variant.edit_methods) else EDITS[variant.family]
    edit = "noised" if variant.edit_methods == ("masked", "image to image") else edit
    return words["and"].join(words[edit if verb == "edit" else verb] for verb in variant.verbs)


def _verified(variant: Variant, words: dict[str, str]) -> str:
    page = DETAILS.get(variant.id) or DETAILS.get(variant.family)
    card = f"{variant.folder.relative_to(ROOT).as_posix()}/README.md" if variant.folder else ""
    unpublished = variant.verified == "reference" and variant.weights_licence == "not published"
    word = "unpublished" if unpublished else variant.verified
    return words[word].format(card=card, details=words["details"].format(page=page) if page else "")


def with_table(text: str, language: str) -> str:
    """A README with the rows of its model table written anew; the head of the table stays."""
    lines = [row(variant, language) for variant in load_catalog().values() if variant.verified]  # ours
    return re.sub(
        r"(\| [^\n]*bf16 / int8 / nf4[^\n]*\n\|[-|]+\|\n)(?:\|[^\n]*\n)+",
        lambda match: match[1] + "\n".join(lines) + "\n",
        text,
    )


if __name__ == "__main__":
    for tongue, file in READMES.items():
        file.write_text(with_table(file.read_text("utf-8"), tongue), "utf-8")
