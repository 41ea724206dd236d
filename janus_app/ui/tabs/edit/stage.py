"""What the stage of the edit tab shows. The buttons beneath it act on that picture and on no other."""

from __future__ import annotations

import gradio as gr

from janus_app.errors import AppError
from janus_app.ui.common.actions import PictureSource
from janus_app.ui.common.pictures import PictureWall
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import Values
from janus_app.ui.tabs.edit.undo import Tree

CANVAS, COMPARISON = "canvas", "comparison"  # what the stage shows while nothing is drawn


def shown_picture(view: gr.Radio, tree: gr.State, wall: PictureWall) -> PictureSource:
    """The picture on the stage: the chosen result while it is compared, else the one in the editor.

    To pick it raises AppError where it is no saved picture; assets/style/edit.css hides the buttons then.
    """

    def pick(values: Values) -> SavedImage:
        if values[view] == COMPARISON and values[wall.items]:
            return wall.chosen_picture(values)
        edited: Tree = values[tree]
        step = edited.current
        if step is None or step.saved is None:
            raise AppError("picture_not_drawn_here")
        return step.saved

    return PictureSource({view, tree, wall.items, wall.chosen}, pick)
