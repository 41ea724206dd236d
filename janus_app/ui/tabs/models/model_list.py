"""The list of models in groups: those ready to use, those to download, and those whose files the user must bring."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Literal

from janus_app.errors import AppError
from janus_app.formatting import estimate, size_text
from janus_app.registry.types import Variant
from janus_app.ui.context import PageContext

Place = Literal["ready", "download", "resume", "own"]

# Runs in the browser: a click on a row, or on its button, chooses that row's model.
ON_CLICK = """element.addEventListener("click", (event) => {
  const row = event.target.closest("[data-model]");
  if (row && !row.disabled) { window.janus.model = row.dataset.model; trigger("click"); }
})"""
CHOSEN = "(model, ...rest) => [window.janus.model ?? model, ...rest]"


def place_of(page: PageContext, row: Variant) -> Place:
    """Where the files of a variant are: what the disk says, not what its row promises."""
    variant = as_loaded(page, row)
    status = page.session.hub.status(variant)
    if status.complete:
        return "ready"
    if variant.is_local and "config.json" in status.missing:  # its weights cannot be downloaded
        return "own"
    return "resume" if (status.unfinished if variant.is_local else status.on_disk) else "download"


def cached(page: PageContext, variant: Variant) -> bool:
    """Whether loading needs no download."""
    return place_of(page, variant) == "ready"


def as_loaded(page: PageContext, variant: Variant) -> Variant:
    """The row with the components that its folder's config.json names; the row itself where that is unreadable."""
    with contextlib.suppress(AppError):
        return page.resolve(page.catalog.name_of(variant))
    return variant


@dataclass(frozen=True)
class Fit:
    """The fit advisor's word on a model that is not here yet.

    best: the precision it recommends, "" for none. seconds: about how long a picture then takes, None = not known.
    """

    best: str
    first: bool
    need: int
    free: int
    seconds: float | None = None


def fits(page: PageContext, variants: Iterable[Variant]) -> Iterator[tuple[str, Fit]]:
    """The fit advisor's word on those that can be downloaded, with their ids. The first of a family takes seconds."""
    for variant in variants:
        if not page.shared and place_of(page, variant) in ("download", "resume"):
            with contextlib.suppress(AppError):
                yield variant.id, _fit(page, variant)


def starters(page: PageContext) -> list[Variant]:
    """The models that draw, as a beginner may want them: the smallest first, of near equals the newest.

    A model in several layouts, which are in brackets behind its title, comes once.
    """
    able: dict[str, Variant] = {}
    for variant in page.catalog.values():
        if "generate" in variant.verbs and not variant.is_local:
            able.setdefault(variant.title.split(" (")[0], variant)
    newest_first = reversed(able.values())
    return sorted(newest_first, key=lambda variant: round(variant.download_bytes, -8))


def _fit(page: PageContext, variant: Variant) -> Fit:
    options = page.session.plan_load(as_loaded(page, variant))
    best = options.best
    plan = best or min(options.plans, key=lambda plan: plan.need.total)
    first, seconds = best is options.plans[0], plan.known_seconds  # measuring would keep the page waiting
    return Fit(best.precision if best else "", first, plan.need.total, plan.free, seconds)


def fit_line(page: PageContext, fit: Fit | None, language: str) -> str:
    """Whether a model fits this machine, in a few words; empty before that is known."""
    if fit is None:
        return ""
    if not fit.best:
        need, free = size_text(fit.need), size_text(max(0, fit.free))
        return page.texts.say("models_too_large", language, need=need, free=free)
    said = page.texts.say("models_fit" if fit.first else "models_fit_as", language, precision=fit.best)
    if fit.seconds is None:
        return said
    return said + page.texts.say("models_time", language, time=estimate(fit.seconds).text(language))


def licence_line(page: PageContext, variant: Variant, language: str) -> str:
    """Under which licences a model is downloaded."""
    weights = page.texts.variant_text(variant.id, "weights_licence", variant.weights_licence, language)
    named = "; ".join(filter(None, (weights, variant.component_licences)))
    return page.texts.say("models_licence", language, named=named if language == "en" else named.replace("; ", "；"))


def list_html(page: PageContext, language: str, judged: Mapping[str, Fit]) -> str:
    """The groups that can be chosen from. A shared page has no downloads."""
    groups: dict[str, list[str]] = {"ready": [], "download": []}
    rows, loaded = list(page.catalog.values()), page.loaded_variant()
    if loaded is not None and loaded.id not in page.catalog:  # a folder that was typed, or named at the start
        rows.insert(0, loaded)
    for variant in rows:
        place = "ready" if variant is loaded else place_of(page, variant)
        if place == "ready":
            groups["ready"].append(_row(page, variant, place, language, judged.get(variant.id)))
        elif place != "own" and not page.shared:
            groups["download"].append(_row(page, variant, place, language, judged.get(variant.id)))
    return "".join(_group(page, f"models_{name}", rows, language) for name, rows in groups.items() if rows)


def own_html(page: PageContext, language: str) -> str:
    """The models whose files the user must bring, each with the folder they belong in."""

    def item(variant: Variant) -> str:
        hint = page.texts.say("models_bring", language, folder=_short(variant))
        return f"<li><div><b>{escape(variant.title)}</b><span>{escape(hint)}</span></div></li>"

    items = "".join(item(variant) for variant in page.catalog.values() if place_of(page, variant) == "own")
    return f'<ul class="models">{items}</ul>' if items else ""


def _short(variant: Variant) -> str:
    return "/".join(variant.folder.parts[-2:]) if variant.folder else ""


def _group(page: PageContext, key: str, rows: list[str], language: str) -> str:
    return f'<h3>{escape(page.texts.say(key, language))}</h3><ul class="models">{"".join(rows)}</ul>'


def _row(page: PageContext, variant: Variant, place: Place, language: str, fit: Fit | None) -> str:
    """A variant: its title and what it can do, and a button that says what choosing it does."""
    say, loaded = page.texts.say, page.loaded_variant()
    now = loaded is not None and loaded.id == variant.id
    does = " · ".join(say(f"does_{verb}", language) for verb in variant.verbs)
    about = f"{does} · {variant.size[0]}\u00a0×\u00a0{variant.size[1]}"
    tagline = page.texts.variant_text(variant.id, "tagline", variant.tagline, language)
    known_for = f"<span>{escape(tagline)}</span> " if tagline else ""
    text = f"<b>{escape(variant.title)}</b> {known_for}<small>{escape(about)}</small>"
    model = escape(variant.id, quote=True)
    if now:
        return (
            f'<li class="now" aria-current="true"><div>{text}</div><em>{escape(say("model_now", language))}</em></li>'
        )
    if place == "ready":
        use = escape(say("model_use", language))
        return f'<li><button type="button" data-model="{model}"><span>{text}</span><em>{use}</em></button></li>'
    text += f" <span>{escape(fit_line(page, fit, language))}</span>"
    text += f" <span>{escape(licence_line(page, variant, language))}</span>"
    if fit is not None and not fit.best:
        return f'<li class="large"><div>{text}</div></li>'
    size = size_text(as_loaded(page, variant).download_bytes)
    act = escape(say("model_resume" if place == "resume" else "model_download", language, size=size))
    return f'<li><div>{text}</div> <button type="button" class="get" data-model="{model}">{act}</button></li>'
