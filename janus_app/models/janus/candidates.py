"""Several drawings of a region, and the one that the kept rest of the picture fits best.

A token is drawn after those before it and cannot see the kept ones behind it: whether the bird of the prompt stands in
this place or in a later one is left to chance, though the rest of the picture has decided it. So a region is drawn
several times, and the drawing is taken after which the kept tokens are the most likely. That is importance resampling
(Rubin 1987) with the largest weight: the drawings come from p(region | before), and p(kept | region) weighs them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from janus_app.models.janus.modeling import JanusNetwork
from janus_app.nn.prefill import prefill

MOST, LEAST = 16, 4  # candidates
CELLS = 4608  # to be drawn for all candidates together, about: eight for the 576 of the published models
CELLS_PER_STEP = 96  # float32 logits of all cells would be large


def candidates_for(known: Tensor, temperature: float) -> int:
    """How often to draw the unknown (-1) of the tokens `known` [cells]: once where nothing can choose between drawings.

    That is where no kept token is behind a drawn one, and without chance.
    """
    return min(max(CELLS // len(known), LEAST), MOST) if temperature > 0 and len(_judges(known)) else 1


def varied(noise: Tensor, own: int, temperature: float) -> Tensor:
    """Exp(1) noise [cells, rows, codes] for sampling with `temperature`, as if all rows but the first `own` had 1 at
    least.

    Drawn at a low temperature, all candidates would be the same. argmax(p^(1/t) / noise) is argmax(p / noise^t).
    """
    if 0 < temperature < 1:
        noise[:, own:] **= 1 / temperature
    return noise


@torch.inference_mode()
def kept_log_likelihood(network: JanusNetwork, prompt: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
    """The log-likelihood (a scalar in float32) of the kept tokens behind the first drawn one.

    prompt [T, hidden]: embedded; tokens [cells]: a whole picture; known [cells]: -1 where it was drawn.
    """
    embeds = torch.cat([prompt, network.token_embeds(tokens[:-1])])
    hidden, _ = prefill(network, [embeds], 0)
    total = torch.zeros((), device=hidden.device)
    for cells in _judges(known).to(hidden.device).split(CELLS_PER_STEP):
        logits = network.gen_head(hidden[0, len(prompt) - 1 + cells]).float()
        total += logits.log_softmax(-1).gather(1, tokens[cells, None]).sum()
    return total


def _judges(known: Tensor) -> Tensor:
    """The kept cells behind the first drawn one."""
    kept = known >= 0
    return (kept & (~kept).cummax(0).values).nonzero().flatten()
