"""Every error and notice has a code, and every code a sentence with the same placeholders in every language."""

from __future__ import annotations

import ast
import copy
import json
import pickle
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from janus_app.errors import LANGUAGES, AppError, LoadOutOfMemory, Message, message_table

ROOT = Path(__file__).parent.parent
FILES = [ROOT / "app.py", *sorted((ROOT / "janus_app").rglob("*.py"))]
TABLE = message_table()
OPTIONS = {"smaller_precision"}  # keywords of an exception that are no placeholder of its sentence


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def carriers() -> set[str]:
    """Message, AppError and every class of the package that derives from it."""
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for file in FILES
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.ClassDef)
    }
    found = {"Message", "AppError"}
    while more := {name for name, own in bases.items() if own & found} - found:
        found |= more
    return found


CARRIERS = carriers()


def calls(file: Path) -> Iterator[ast.Call]:
    """Calls that make a message or an error from a code."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CARRIERS:
            yield node


def placeholders(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_each_call_names_a_known_code_and_fills_its_placeholders(file: Path) -> None:
    for call in calls(file):
        where = f"{file.name}:{call.lineno}"
        assert call.args, f"{where} has no code"
        code = call.args[0]
        assert not isinstance(code, ast.JoinedStr | ast.BinOp), f"{where} builds its sentence where it is raised"
        if not isinstance(code, ast.Constant):
            continue  # passes a Message on
        assert code.value in TABLE, f"{where} says {code.value!r}, which is not in errors_and_notices.json"
        given = {keyword.arg for keyword in call.keywords}
        if None not in given:  # a ** argument: what it holds is known only when it runs
            assert given - OPTIONS == placeholders(TABLE[code.value]["en"]), f"{where} fills {given}"


@pytest.mark.parametrize("code", TABLE)
def test_each_code_has_a_sentence_with_the_same_placeholders_in_every_language(code: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", code)
    entry = TABLE[code]
    assert entry.keys() - {"status"} == set(LANGUAGES)
    for language in LANGUAGES:
        assert entry[language].strip()
        assert placeholders(entry[language]) == placeholders(entry["en"]), language
    assert re.search(r"[\u4e00-\u9fff]", entry["zh-CN"])
    assert entry.get("status", 400) in range(400, 600)


def test_every_code_is_used() -> None:
    used = {
        node.value
        for file in FILES
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert TABLE.keys() - used == set()


# Words for which users read another one everywhere, by the language they are written in.
STRAY = {
    "en": r"\b(this|your|the) (computer|PC)\b|quantis|visualis|likeliest",
    "zh-CN": "您|电脑|计算机|本应用|(?<!/)变化$",
}


@pytest.mark.parametrize(("language", "readme"), [("en", "README.md"), ("zh-CN", "README.zh-CN.md")])
def test_one_thing_has_one_name_wherever_users_read_it(language: str, readme: str) -> None:
    page = json.loads((ROOT / "assets" / "i18n" / f"{language}.json").read_text("utf-8"))
    texts = {key: text for key, text in page.items() if isinstance(text, str)}
    texts |= {code: entry[language] for code, entry in TABLE.items()} | {readme: (ROOT / readme).read_text("utf-8")}
    for name, entries in page.get("variants", {}).items():
        texts |= {f"{name}.{field}": text for field, text in entries.items()}
    assert {where: text for where, text in texts.items() if re.search(STRAY[language], text)} == {}


def test_the_table_is_sorted() -> None:
    text = (ROOT / "assets" / "i18n" / "errors_and_notices.json").read_text("utf-8")
    assert text == json.dumps(TABLE, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def test_a_value_may_be_a_message_and_is_said_in_the_same_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLE, "outer", {"status": 507, "en": "Not saved: {reason}.", "zh-CN": "没有保存：{reason}。"})
    monkeypatch.setitem(TABLE, "inner", {"en": "{free:,} bytes free", "zh-CN": "剩余 {free:,} 字节"})
    error = AppError("outer", reason=Message("inner", free=1234))
    assert str(error) == error.text("en") == "Not saved: 1,234 bytes free."
    assert error.text("zh-CN") == "没有保存：剩余 1,234 字节。"
    assert (error.code, error.status) == ("outer", 507)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_messages_and_errors_can_be_copied_and_pickled(duplicate: Callable[[Any], Any]) -> None:
    message = Message("fit_yes", title="A", precision=Message("precision_on_all_cards", precision="bf16"), need="1 GB")
    assert duplicate(message) == message
    error = duplicate(LoadOutOfMemory("load_out_of_memory", "int8", title="A", precision="bf16"))
    assert (error.code, error.smaller_precision, error.message.values["title"]) == ("load_out_of_memory", "int8", "A")
