"""A drawing job as tabs show it: previews while it runs, and the saved pictures at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from janus_app.errors import AppError
from janus_app.types import EditRequest
from janus_app.ui.common.html import blank_preview_grid, message, messages, preview_grid
from janus_app.ui.common.jobs import watch
from janus_app.ui.common.running import Drawing, Place, Stopped, View, until
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import PageContext

PREVIEW_QUALITY = 82  # of a JPEG
SHARED_QUALITY = 60  # of a shared page, where the bandwidth of the tunnel is the limit


def preview_quality(page: PageContext) -> int:
    """The JPEG quality of previews."""
    return SHARED_QUALITY if page.shared else PREVIEW_QUALITY


def draw(
    page: PageContext, selected: str | None, make: Callable[[], Drawing], language: str, stopped: Stopped
) -> Iterator[View]:
    """Run the request that `make` builds: at most ten views a second, and the saved pictures at the end.

    Bad settings, full disks and bugs end in a view with a sentence, never in an exception.
    """
    try:
        request = make()
    except AppError as error:
        yield View(None, "", message(error.text(language), "error"))
        return
    yield from _views(page, selected, request, language, stopped)


def draw_on(
    page: PageContext, place: Place, selected: str | None, make: Callable[[], Drawing], language: str
) -> Iterator[View]:
    """Like `draw`, but the job goes on where the browser tab is closed or refreshed; it belongs to a `place` of it."""
    try:
        request = make()
        before = page.images.serve_picture(request.image) if isinstance(request, EditRequest) else ""
        run = page.runs.new(place, request.seed, before, watched=page.shared)
    except AppError as error:
        yield View(None, "", message(error.text(language), "error"))
        return

    def failed(error: Exception) -> View:
        return View("", "", message(page.texts.say("error_bug", language, kind=type(error).__name__), "error"))

    run.start(lambda stopped: _views(page, selected, request, language, stopped), failed)
    yield from run.follow()


def _views(
    page: PageContext, selected: str | None, request: Drawing, language: str, stopped: Stopped
) -> Iterator[View]:
    say = page.texts.say
    captions = [say("seed_is", language, seed=request.seed + i) for i in range(request.count)]
    alt = [say("alt_preview", language, number=i + 1) for i in range(request.count)]
    state = page.session.state
    size = state.capabilities.size if state.capabilities else page.variant(selected).size
    yield View(blank_preview_grid(request.count, size, captions), message(say("starting", language)))
    quality = preview_quality(page)
    notes = ""
    thinking = page.variant(selected).thinking
    plans = bool(thinking and thinking.ask)
    for frame in watch(lambda: until(stopped, page.job(selected, request)), page.texts, language):
        notes = messages(frame.notices)
        plan = frame.text.strip() if plans and frame.text else None
        if frame.text and not plans:
            notes += message(f"{say('judgement', language)}: {frame.text.strip()}")
        if frame.error:
            yield View("", "", notes + message(frame.error, "error"))
            return
        if frame.finished is None:
            sheet = preview_grid(frame.previews, captions, alt, quality) if frame.previews else None
            yield View(sheet, frame.status, notes, plan=plan)
            continue
        saved: list[SavedImage] = []
        try:
            for picture in frame.finished.pictures:
                assert frame.finished.provenance is not None
                saved.append(page.images.keep(picture, frame.finished.provenance))
        except AppError as error:  # the pictures stay in the preview grid, so a full disk does not lose them
            last = preview_grid([p.image for p in frame.finished.pictures], captions, alt, quality=95)
            yield View(last, "", notes + message(error.text(language), "error"), tuple(saved))
            return
        done = say("drawn_in", language, count=len(saved), seconds=f"{frame.finished.compute_seconds:.1f}")
        yield View("", message(done, "done"), notes, tuple(saved), plan)
        return
    yield View(None, message(say("draw_stopped", language)), notes)
