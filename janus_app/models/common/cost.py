"""What drawing costs: the weights that a pass of the network reads, how often, and for how many vectors at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DrawingCost:
    """The passes that draw the pictures of one job.

    passes: tokens of a picture, or steps. weights: prefixes of the tensors that every pass reads. vectors: how many
    vectors each of their matrices is multiplied with in a pass, all pictures together. cache: bytes of keys and values
    that a pass reads on average. The prompt, previews and the picture decoder are left out.
    """

    passes: int
    weights: tuple[str, ...]
    vectors: int
    cache: int
