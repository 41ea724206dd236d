"""What programs call: `/load`, `/draw` and `/chat`. Each ends with one result; a refusal raises gr.Error.

The page's own events update its components, which says nothing to a program. These endpoints take the same inputs and
share the jobs, the queue and the limits. Until a job ends, its result holds only "text" (so far), "progress",
"previews" (JPEGs as data URIs, where there are new ones) and "notices".
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.data_classes import FileData

from janus_app.errors import AppError
from janus_app.outputs.conversations import ChatMessage, new_conversation, new_id
from janus_app.outputs.metadata import record_of
from janus_app.types import Event
from janus_app.ui.common.drawing import preview_quality
from janus_app.ui.common.html import data_uri
from janus_app.ui.common.jobs import Frame, watch
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import JOB, PageContext, Updates, Values, first_seed
from janus_app.ui.tabs.chat.reply import Replies
from janus_app.ui.tabs.chat.tab import ChatTab
from janus_app.ui.tabs.chat.transcript import question
from janus_app.ui.tabs.draw.tab import DrawTab
from janus_app.ui.tabs.models.machine_panel import Choice
from janus_app.ui.tabs.models.model_drawer import loading

Answers = Generator[Updates, None, None]


def build(page: PageContext, choice: Choice, chat: ChatTab, drawing: DrawTab) -> None:
    """Attach the endpoints. The names and the order of their parameters are a promise; defaults are the page's."""
    endpoints = Endpoints(page, choice, chat.replies, drawing, gr.JSON(label="result", visible=False))
    model, panel, controls, flow = choice.variant, chat.panel, drawing.panel.controls, drawing.panel.controls.flow
    drawn = ("prompt", "negative", "count", "guidance", "temperature", "new_seed", "seed")
    endpoints.attach("load", endpoints.load, {"model": model, "device": choice.device, "precision": choice.precision})
    endpoints.attach(
        "draw",
        endpoints.draw,
        {name: getattr(controls, name) for name in drawn}
        | {"model": model, "steps": flow.steps, "solver": flow.solver}
        | {"guidance_start": flow.start, "guidance_end": flow.end, "turbo": drawing.panel.turbo}
        | {"width": drawing.panel.size.width, "height": drawing.panel.size.height}
        | {"think": drawing.panel.think, "plan": drawing.panel.plan.text},
    )
    endpoints.attach(
        "chat",
        endpoints.chat,
        {"message": panel.box, "conversation": panel.conversation, **vars(panel.settings), "model": model},
        panel.conversation,
    )


@dataclass(frozen=True, eq=False)
class Endpoints:
    """`result` is the one output that programs see."""

    page: PageContext
    choice: Choice
    replies: Replies
    drawing: DrawTab
    result: gr.JSON

    def attach(
        self,
        name: str,
        handler: Callable[[Values, gr.Request], Answers],
        parameters: dict[str, Component],
        *states: gr.State,
    ) -> None:
        """Make `handler` the endpoint `/name`. `states` are what it keeps for each client."""

        def call(request: gr.Request, **values: Any) -> Iterator[Updates]:
            try:
                yield from handler({parameters[key]: value for key, value in values.items()}, request)
            except AppError as error:
                raise refusal(error.text(self.page.language(request))) from None

        outputs: list[Component] = [self.result, *states]
        # gr.JSON would hide the files in the result, and then Gradio gives them no URL.
        options = {**JOB, "api_visibility": "public", "api_name": name, "postprocess": False}
        gr.on([], call, inputs_kwargs=parameters, outputs=outputs, **options)

    def load(self, values: Values, request: gr.Request) -> Answers:
        name, device, precision = (values[part] for part in vars(self.choice).values())
        frame = yield from self._follow(lambda: loading(self.page, name, device, precision), request)
        state = self.page.session.state
        about = {"model": state.variant_id, "precision": state.precision, "device": state.device}
        yield {self.result: about | {"notices": frame.notices}}

    def draw(self, values: Values, request: gr.Request) -> Answers:
        controls, selected = self.drawing.panel.controls, values[self.choice.variant]
        first = first_seed(values[controls.new_seed], values[controls.seed])

        def job() -> Iterator[Event]:
            variant, plan = self.page.variant(selected), values[self.drawing.panel.plan.text] or ""
            return self.page.job(selected, self.drawing.request(values, first, variant, plan))

        frame = yield from self._follow(job, request)
        yield {self.result: {"pictures": list(map(as_result, self._keep(frame))), **_about(frame)}}

    def chat(self, values: Values, request: gr.Request) -> Answers:
        """An answer or, for /draw and /edit, a picture. A refused message leaves the conversation as it was."""
        page, panel, selected = self.page, self.replies.panel, values[self.choice.variant]
        before, message = values[panel.conversation], values[panel.box] or {}
        asked = question(before, message.get("text") or "", tuple(message.get("files") or ()))
        conversation = (before if before.id else new_conversation()).with_message(asked)
        frame = yield from self._follow(lambda: page.job(selected, self.replies.request(conversation, values)), request)
        pictures, loaded = self._keep(frame), page.loaded_variant()
        shown, model = tuple(picture.shown for picture in pictures), loaded.title if loaded else ""
        conversation = conversation.with_message(
            ChatMessage(new_id(), conversation.head, "assistant", frame.text, shown, model)
        )
        about = _about(frame)
        if page.library:
            try:
                page.library.conversations.save(conversation)
            except AppError as error:  # the answer is worth more than its record
                about["notices"] = [*about["notices"], error.text(page.language(request))]
        about |= {"usage": asdict(frame.finished.usage) if frame.finished and frame.finished.usage else None}
        found = {"text": frame.text, "pictures": list(map(as_result, pictures)), **about}
        yield {self.result: found, panel.conversation: conversation}

    def _follow(self, job: Callable[[], Iterator[Event]], request: gr.Request) -> Generator[Updates, None, Frame]:
        """Report the job until it ends. Returns its last frame, raises gr.Error where it has an error."""
        frame = Frame()
        quality = preview_quality(self.page)
        for frame in watch(job, self.page.texts, self.page.language(request)):
            if frame.error:
                raise refusal(frame.error)
            if not frame.finished:
                so_far: dict[str, Any] = {
                    "text": frame.text,
                    "progress": _progress(frame),
                    "previews": [data_uri(picture, quality) for picture in frame.previews],
                    "notices": frame.notices,
                }
                yield {self.result: so_far}
        return frame

    def _keep(self, frame: Frame) -> list[SavedImage]:
        """Save the pictures of a finished job. Raises AppError where that fails."""
        finished = frame.finished
        assert finished is not None
        if not finished.pictures:
            return []
        assert finished.provenance is not None
        return [self.page.images.keep(picture, finished.provenance) for picture in finished.pictures]


def refusal(sentence: str) -> gr.Error:
    """The error by which a program learns that nothing came of its call."""
    return gr.Error(sentence, print_exception=False)


def as_result(picture: SavedImage) -> dict[str, Any]:
    """A picture in a result: the file as Gradio's clients download it, its name on the server, and its metadata."""
    file = FileData(path=picture.shown, orig_name=picture.file.name, mime_type="image/png").model_dump()
    return {
        "file": file,
        "name": picture.file.name,
        "seed": picture.metadata.seed,
        "record": record_of(picture.metadata),
    }


def _about(frame: Frame) -> dict[str, Any]:
    assert frame.finished is not None
    return {"seconds": round(frame.finished.compute_seconds, 3), "notices": list(frame.notices)}


def _progress(frame: Frame) -> dict[str, Any] | None:
    now = frame.progress
    return {"stage": now.stage, "done": now.done, "total": now.total, "unit": now.unit} if now else None
