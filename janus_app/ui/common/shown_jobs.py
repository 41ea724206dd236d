"""A job whose views are new values of components, shown in one place of a browser tab.

It goes on where the tab is closed or refreshed; the tab that is opened in its place shows it further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gradio as gr

from janus_app.errors import AppError
from janus_app.ui.common.running import Place, Stopped
from janus_app.ui.context import PageContext, Updates


def show_on(
    page: PageContext,
    place: Place,
    views: Callable[[Stopped], Iterator[Updates]],
    refused: Callable[[str], Updates],
    language: str,
) -> Iterator[Updates]:
    """Start a job in a place, where it takes the place of one that runs, and show its `views`.

    `refused` gives what to show for a sentence why it could not start or go on.
    """
    try:
        job = page.runs.begin(place, watched=page.shared)
    except AppError as error:
        yield refused(error.text(language))
        return

    def failed(error: Exception) -> Updates:
        return refused(page.texts.say("error_bug", language, kind=type(error).__name__))

    job.start(views, failed)
    for updates in job.follow():
        yield updates or gr.skip()


def rejoin(page: PageContext, place: Place) -> Iterator[Updates]:
    """What this browser tab showed in a place before it was opened anew, and the job that still runs there."""
    yield gr.skip()  # of a generator that yields nothing, Gradio empties all outputs
    job = page.runs.showing(place)
    for updates in job.follow() if job else ():
        yield updates or gr.skip()
