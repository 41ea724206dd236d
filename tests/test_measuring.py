"""A measurement in pieces is the whole one."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from benchmarks.quality import Row, Settings, measure
from benchmarks.running import default_settings
from janus_app.registry.catalog import load_catalog

VARIANT = load_catalog().resolve("janus-embedded")
CARDS = Path(__file__).parent.parent / "docs" / "make_cards.py"


def measured(first: int, n: int) -> list[Row]:
    return measure(VARIANT, ["fp32"], Settings(default_settings(VARIANT), n, first=first), ("drawing", "answers"))


def counts(rows: list[Row]) -> Counter[tuple[str, str]]:
    return Counter({(row.metric, what): one for row in rows for what, one in (("n", row.n), ("value", right(row)))})


def right(row: Row) -> int:
    return round(row.value * row.n / 100)


def test_pieces_ask_what_the_whole_asks_and_the_card_adds_them_up(tmp_path: Path) -> None:
    whole, pieces = measured(0, 3), [measured(0, 2), measured(2, 1)]
    assert counts(whole) == counts(pieces[0]) + counts(pieces[1])
    files = []
    for number, rows in enumerate(pieces):
        files.append(str(tmp_path / f"{number}.jsonl"))
        Path(files[-1]).write_text("\n".join(json.dumps(asdict(row)) for row in rows), "utf-8")
    spec = importlib.util.spec_from_file_location("make_cards", CARDS)
    assert spec and spec.loader
    cards = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cards)
    added = cards.added_up(files)[VARIANT.id]["fp32"]
    for row in whole:
        share, *rest = added[row.verb, row.metric]
        assert (round(share, 1), *rest) == (row.value, row.n, row.low, row.high), row.metric
