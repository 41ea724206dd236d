"""The card that welcomes a new user: what this is, and a model for real pictures that fits the machine."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from janus_app.formatting import size_text
from janus_app.ui.context import PageContext
from janus_app.ui.tabs.models.model_list import Fit, fit_line, licence_line, place_of, starters


def welcome_html(page: PageContext, language: str, judged: Mapping[str, Fit]) -> str:
    """The card. assets/page/ hides it for good once it is closed. A shared page offers no download."""

    def say(key: str, **values: object) -> str:
        return escape(page.texts.say(key, language, **values))

    offer = ""
    model = next((v for v in starters(page) if v.id in judged and judged[v.id].best), None)
    if page.shared:
        how = say("welcome_start")
    elif model is None:
        how = say("welcome_demo")
    else:
        fit = fit_line(page, judged[model.id], language)
        how = say("welcome_get", title=model.title, size=size_text(model.download_bytes), fit=fit)
        how += ("" if how.endswith("。") else " ") + escape(licence_line(page, model, language))
        act = "model_resume" if place_of(page, model) == "resume" else "model_download"
        label = say(act, size=size_text(model.download_bytes))
        offer = f'<button type="button" class="get" data-model="{escape(model.id, quote=True)}">{label}</button>'
    return (
        f'<section id="welcome-card" aria-label="{say("welcome_title")}"><div><p><b>{say("tagline")}</b></p> '
        f'<p>{how}</p></div>{offer}<button type="button" class="icon" data-janus="welcomed" '
        f'aria-label="{say("close")}">✕</button></section>'
    )
