"""The README is checked against the program: its commands run, its table is the manifest's, its links exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from janus_app.cli import main
from janus_app.registry.catalog import Variant, load_catalog
from janus_app.runtime.fit import running_peak, usual_job, weight_bytes

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
LANGUAGES = pytest.mark.parametrize("readme", READMES, ids=lambda p: p.name)


DRAWING = ("generate", "edit", "inspect", "grid", "chat")  # run in this process: a new one loads everything anew


def commands(readme: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", readme.read_text("utf-8"), flags=re.S)
    return [line for block in blocks for line in block.strip().splitlines()]


@LANGUAGES
def test_the_commands_run_in_order(readme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `python -m janus_app` line, one after the other, in an empty folder, with the embedded model."""
    lines = [line for line in commands(readme) if line.startswith("python -m janus_app")]
    assert len(lines) == 12
    monkeypatch.chdir(tmp_path)
    for name, value in (("PYTHONPATH", ROOT), ("JANUS_APP_DATA", tmp_path / "data"), ("HF_HUB_OFFLINE", 1)):
        monkeypatch.setenv(name, str(value))
    for line in lines:
        words = shlex.split(line)[1:]
        if words[2] in DRAWING:
            assert main(words[2:]) == 0, line
            continue
        if readme != READMES[0] and line in commands(READMES[0]):
            continue  # nothing of it is translated, and it was run there
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300)
        too_small = " fit " in line and done.returncode == 1  # what it says of this machine
        assert done.returncode == 0 or too_small, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr


def test_ci_calls_the_test_command_of_the_readme() -> None:
    (command,) = (line for line in commands(READMES[0]) if "pytest" in line)
    install, test = command.split(" && ")
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    assert f"{install.replace('pip install', 'pip install -q')} && {test}" in ci


def test_both_languages_show_the_same_commands() -> None:
    plain = [[re.sub(r'"[^"]*"', '""', line) for line in commands(readme)] for readme in READMES]
    assert plain[0] == plain[1]


def on_a_card(variant: Variant, precision: str) -> float:
    """Bytes the fit advisor counts for one picture on a CUDA card, with what it keeps free."""
    peak = running_peak(variant, precision, torch.device("cuda"), usual_job(variant))
    return weight_bytes(variant, precision, device="cuda") + peak.cache + peak.work + 1.25e9


@LANGUAGES
def test_the_table_is_the_manifests(readme: Path) -> None:
    text = readme.read_text("utf-8")
    for variant in load_catalog().values():
        title = variant.title.split(" (")[0]
        (row,) = re.findall(rf"^\| {re.escape(title)}[^|]*\|.*$", text, flags=re.M)
        assert f"{variant.size[0]} x {variant.size[1]}" in row
        if variant.repo:
            needs = " / ".join(f"{on_a_card(variant, p) / 1e9:.1f}" for p in ("bf16", "int8", "nf4"))
            assert f"| {needs} GB |" in row
            assert f"{variant.download_bytes / 1e9:.1f} GB" in row


FEATURE = re.compile(r"^\| ([^|]+) \| \[(\w+)\]\((tests/[\w/]+\.py)\) \|$", re.MULTILINE)
GROUP = re.compile(r"^\| \*\*[^|]+\*\* \| \|$", re.MULTILINE)


@LANGUAGES
def test_every_feature_has_a_test(readme: Path) -> None:
    text = readme.read_text("utf-8")
    (table,) = (part for part in text.split("\n\n") if FEATURE.search(part))
    rows = FEATURE.findall(table)
    assert len(rows) + len(GROUP.findall(table)) + 2 == len(table.strip().splitlines()), "a row without its test"
    assert len(rows) >= 45 and len({what for what, _, _ in rows}) == len(rows)
    for what, name, file in rows:
        assert f"def {name}(" in (ROOT / file).read_text("utf-8"), what


def test_both_languages_prove_the_same() -> None:
    tables = [FEATURE.findall(readme.read_text("utf-8")) for readme in READMES]
    assert [row[1:] for row in tables[0]] == [row[1:] for row in tables[1]]


@LANGUAGES
def test_links_and_pictures_exist(readme: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", readme.read_text("utf-8")):
        assert target.startswith("http") or (ROOT / target).exists(), target
