"""The edit methods of Janus, and the prompt of an instruction to Janus-4o (Chen et al. 2025, arXiv 2506.18095).

Janus-4o is Janus-Pro fine-tuned on pictures and instructions. It reads the picture to change both as SigLIP features
and as the embeddings of its image tokens. In training the image tokens were left out half of the time, so guidance can
weigh the prompts with and without them against each other.
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
UNTRAINED_METHODS = ("region", "variation")  # following instructions takes training


def instruction(text: str, features: int, cells: int, style: PromptStyle) -> list[Piece]:
    """The prompt of an edit: placeholders of the picture (`features` for SigLIP, `cells` for image tokens), the text.

    The placeholders of the image tokens are padding, which the prompt without image tokens keeps.
    """
    picture_tokens = [*prompts.picture_pieces(features), Special(IMAGE_BEGIN), Special(PAD, cells), Special(IMAGE_END)]
    return [*prompts.conversation([[*picture_tokens, text.strip()]], style, system=""), Special(IMAGE_BEGIN)]


@torch.inference_mode()
def instruction_rows(network: JanusNetwork, embeds: Tensor, places: Tensor, tokens: Tensor) -> list[Tensor]:
    """The embedded prompt [T, hidden] with the picture's image tokens [cells] at `places` (bool [T]), and without."""
    with_tokens = embeds.clone()
    with_tokens[places] = network.token_embeds(tokens.to(network.device))
    return [with_tokens, embeds]
