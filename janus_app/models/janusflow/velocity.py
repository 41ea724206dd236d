"""The velocity of latents under a prompt. The prompt runs through the language model once and serves all steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from janus_app.models.janusflow.modeling import JanusFlowNetwork
from janus_app.nn import sampling
from janus_app.nn.fast.cuda_graphs import CudaGraphFunction
from janus_app.nn.fast.decode_step import can_capture
from janus_app.nn.prefix_cache import Prefix, SharedPrefixCache


class PromptVelocity:
    """v(z, t, guidance) of one prompt, for any number of pictures; z and v are float32 [n, C, h, w].

    `ids` are the prompt's, from begin-of-sentence to the role of the assistant; the time embedding replaces the
    begin-of-image token behind them. The unconditional row is begin-of-sentence alone, at position 0, and the inputs
    after it have the same positions as in the conditional row, which equals a prompt of masked padding. `negative` ids
    replace that row, with positions that count on from their own length.
    """

    def __init__(self, network: JanusFlowNetwork, ids: Sequence[int], negative: Sequence[int] = ()) -> None:
        self._network = network
        conditional = self._prefill(ids, len(ids))
        unconditional = self._prefill(negative, len(negative)) if negative else self._prefill(ids[:1], len(ids))
        prefixes = {False: [conditional], True: [conditional, unconditional]}
        self._velocities: dict[bool, Callable[..., Tensor]] = {
            both: partial(_velocities, network, SharedPrefixCache(rows)) for both, rows in prefixes.items()
        }
        if can_capture(network, network.device):
            self._velocities = {both: CudaGraphFunction(step) for both, step in self._velocities.items()}
        self._time_embeds: dict[float, Tensor] = {}

    @torch.inference_mode()
    def prepare(self, times: Iterable[float]) -> None:
        """Compute the embeddings of all times of a schedule at once."""
        new = sorted(set(times) - self._time_embeds.keys())
        if new:
            embeds = self._network.time_embeds(torch.tensor(new, dtype=torch.float64))
            self._time_embeds |= {t: row[None] for t, row in zip(new, embeds, strict=True)}

    @torch.inference_mode()
    def __call__(self, z: Tensor, t: float, guidance: float) -> Tensor:
        """The guided velocity at time t in 0..1; with guidance 1 the unconditional row is not computed.

        u + w (c - u), which equals c + (w - 1)(c - u) in JanusFlow's sampler, in float32.
        """
        conditional, unconditional = self.raw(z, t, both=guidance != 1)
        if unconditional is None:
            return conditional
        return sampling.mix_guidance(conditional, unconditional, guidance)

    @torch.inference_mode()
    def raw(self, z: Tensor, t: float, *, both: bool) -> tuple[Tensor, Tensor | None]:
        """The conditional velocity and, if `both`, the unconditional one (else None), before guidance."""
        self.prepare([t])
        velocity = self._velocities[both](z.to(self._network.device, self._network.dtype), self._time_embeds[t])
        return (velocity[: len(z)], velocity[len(z) :]) if both else (velocity, None)

    @torch.inference_mode()
    def _prefill(self, ids: Sequence[int], next_position: int) -> Prefix:
        network = self._network
        cache = network.new_cache(1, len(ids))
        network(network.text_embeds(torch.tensor([list(ids)], device=network.device)), None, cache)
        return Prefix.from_cache(cache, next_position)


def _velocities(network: JanusFlowNetwork, cache: SharedPrefixCache, z: Tensor, time: Tensor) -> Tensor:
    """The velocities [prefixes * n, C, h, w] of latents z [n, C, h, w] under each prefix of the cache in turn.

    time [1, ...] is the embedding of one time.
    """
    groups, count = len(cache.prefixes), len(z)
    # All rows of a picture have the same latent at the same time, so the encoder runs once for them.
    tokens, skip = network.encode(z, time.expand(count, -1))
    inputs = torch.cat([time.expand(count, 1, -1), tokens], dim=1).repeat(groups, 1, 1)
    positions = cache.positions(groups * count, inputs.shape[1], inputs.device)
    hidden = network(inputs, positions, cache)[:, 1:]
    return network.decode(hidden, skip.repeat(groups, 1, 1, 1), time.expand(groups * count, -1)).float()
