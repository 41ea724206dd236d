"""The ways of editing of Janus, and instructions as Janus-4o takes them (Chen et al. 2025, arXiv 2506.18095).

Janus-4o is Janus-Pro fine-tuned on pictures and instructions: it reads the picture to change in both of Janus' ways, as
SigLIP features and as the embeddings of its image tokens. In training the image tokens were left out half of the
time, so both readings, with and without them, can be weighed against each other when drawing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from janus_app.errors import Message
from janus_app.models.common import prompts
from janus_app.models.common.prompts import PromptStyle
from janus_app.models.common.tokenizer import IMAGE_BEGIN, IMAGE_END, PAD, Piece, Special
from janus_app.models.janus.modeling import JanusNetwork

EDIT_METHODS = {
    "instruct": Message("edit_method_instruct"),
    "region": Message("edit_method_region"),
    "variation": Message("edit_method_variation"),
}
USUAL_METHODS = ("region", "variation")  # any checkpoint can; following instructions takes training


def instruction(text: str, features: int, cells: int, style: PromptStyle) -> list[Piece]:
    """The prompt of an edit: the picture's places (`features` for SigLIP, `cells` for image tokens), then the text.

    The padding in the places of the image tokens stays as it is in the plainer reading.
    """
    seen = [*prompts.picture_pieces(features), Special(IMAGE_BEGIN), Special(PAD, cells), Special(IMAGE_END)]
    return [*prompts.conversation([[*seen, text.strip()]], style, system=""), Special(IMAGE_BEGIN)]


@torch.inference_mode()
def readings(network: JanusNetwork, plain: Tensor, places: Tensor, tokens: Tensor) -> list[Tensor]:
    """The embedded prompt [T, hidden] with the picture's image tokens [cells] at `places` (bool [T]), and without."""
    whole = plain.clone()
    whole[places] = network.token_embeds(tokens.to(network.device))
    return [whole, plain]
