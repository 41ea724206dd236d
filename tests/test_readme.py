"""The README and docs are checked against the program: commands run, tables match the manifest, links exist."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from janus_app.cli import main
from janus_app.registry.catalog import load_catalog

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
LANGUAGES = pytest.mark.parametrize("readme", READMES, ids=lambda p: p.name)


IN_PROCESS = ("generate", "edit", "inspect", "grid", "chat")  # a new process would load the model each time


def commands(readme: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", readme.read_text("utf-8"), flags=re.S)
    return [line for block in blocks for line in block.strip().splitlines()]


@LANGUAGES
def test_commands_of_the_readme_run_in_order(readme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `python -m janus_app` line, one after the other, in an empty folder, with the embedded model."""
    lines = [line for line in commands(readme) if line.startswith("python -m janus_app")]
    assert len(lines) == 12
    monkeypatch.chdir(tmp_path)
    for name, value in (("PYTHONPATH", ROOT), ("JANUS_APP_DATA", tmp_path / "data"), ("HF_HUB_OFFLINE", 1)):
        monkeypatch.setenv(name, str(value))
    for line in lines:
        words = shlex.split(line)[1:]
        if words[2] in IN_PROCESS:
            assert main(words[2:]) == 0, line
            continue
        if readme != READMES[0] and line in commands(READMES[0]):
            continue  # the same line of the other README was run already
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300)
        too_small = " fit " in line and done.returncode == 1  # the model does not fit this machine
        assert done.returncode == 0 or too_small, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr


@LANGUAGES
def test_python_example_of_the_readme_saves_pictures(
    readme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", readme.read_text("utf-8"), flags=re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, readme.name, "exec"), {})
    files = capsys.readouterr().out.split()
    assert len(files) == 2 and all(Path(file).is_file() for file in files)


def test_ci_calls_the_test_command_of_the_readme() -> None:
    (command,) = (line for line in commands(READMES[0]) if "pytest" in line)
    install, test = command.split(" && ")
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    assert f"{install.replace('pip install', 'pip install -q')} && {test}" in ci


def test_both_languages_show_the_same_commands() -> None:
    plain = [[re.sub(r'"[^"]*"', '""', line) for line in commands(readme)] for readme in READMES]
    assert plain[0] == plain[1]


@LANGUAGES
def test_the_model_table_is_the_one_that_its_command_writes(readme: Path) -> None:
    program = runpy.run_path(str(ROOT / "docs" / "make_model_table.py"))
    (language,) = (tongue for tongue, file in program["READMES"].items() if file == readme)
    text = readme.read_text("utf-8")
    assert program["with_table"](text, language) == text, "run python docs/make_model_table.py"
    assert all(program["row"](variant, language) in text for variant in load_catalog().values())


FEATURES = [ROOT / "docs" / "features.md", ROOT / "docs" / "features.zh-CN.md"]
FEATURE = re.compile(r"^\| ([^|]+) \| \[(\w+)\]\(\.\./(tests/[\w/]+\.py)\) \|$", re.MULTILINE)
GROUP = re.compile(r"^\| \*\*[^|]+\*\* \| \|$", re.MULTILINE)


@LANGUAGES
def test_the_figures_of_the_demo_models_are_those_of_their_cards(readme: Path) -> None:
    text = readme.read_text("utf-8")
    models = [row for row in load_catalog().values() if row.id.endswith("-embedded")]
    assert len(models) == 8
    for row in models:
        assert row.folder is not None
        card = (row.folder / "README.md").read_text("utf-8")
        name = re.escape(row.title.removesuffix(" embedded"))
        (line,) = re.findall(rf"^\| \[?{name}\b[^|\d]*\|([^|]*%.*) \|$", text, flags=re.M)
        rows = (r"\*\*everything right at once\*\*", "questions, all types")
        drawn, asked = (re.search(rf"\| {row_title} \|(.*)\|", card) for row_title in rows)
        edited = re.search(r"\| edits by instruction .*?\*\*(\d+ %)\*\*", card, flags=re.S)
        assert drawn and asked
        shares = [re.findall(r"\d+ %", found[1]) for found in (drawn, asked)]
        assert [part.strip() for part in line.split("|")] == [*shares[0], edited[1] if edited else "-", *shares[1]], (
            row.id
        )


@pytest.mark.parametrize("page", FEATURES, ids=lambda p: p.name)
def test_every_feature_names_a_test_that_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    (table,) = (part for part in text.split("\n\n") if FEATURE.search(part))
    rows = FEATURE.findall(table)
    assert len(rows) + len(GROUP.findall(table)) + 2 == len(table.strip().splitlines()), "a row names no test"
    assert len(rows) >= 45 and len({what for what, _, _ in rows}) == len(rows)
    for what, name, file in rows:
        assert f"def {name}(" in (ROOT / file).read_text("utf-8"), what


def test_both_languages_list_the_same_tests() -> None:
    tables = [FEATURE.findall(page.read_text("utf-8")) for page in FEATURES]
    assert [row[1:] for row in tables[0]] == [row[1:] for row in tables[1]]


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")], ids=lambda p: p.name)
def test_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target
