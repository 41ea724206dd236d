"""The velocity of latents under a prompt, which runs through the language model once, whatever is drawn from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from janus_app.models.janusflow.modeling import JanusFlowNetwork
from janus_app.nn import sampling
from janus_app.nn.fast.cuda_graphs import replaying
from janus_app.nn.fast.decode_step import recordable
from janus_app.nn.prefix_cache import Prefix, SharedPrefixes


class PromptVelocity:
    """v(z, t, guidance) of one prompt, for any number of pictures; z and v are float32 [n, C, h, w].

    `ids` is the prompt up to the role of the assistant, begin-of-sentence first; the time embedding takes the place
    of the begin-of-image behind it. The unconditional row is begin-of-sentence alone, at position 0, with everything
    after it where it stands in the conditional row: what a prompt of masked padding comes to. `negative` ids take its
    place with positions of their own.
    """

    def __init__(self, network: JanusFlowNetwork, ids: Sequence[int], negative: Sequence[int] = ()) -> None:
        self._network = network
        conditional = self._read(ids, len(ids))
        unconditional = self._read(negative, len(negative)) if negative else self._read(ids[:1], len(ids))
        alone, both = (SharedPrefixes(rows) for rows in ([conditional], [conditional, unconditional]))
        self._step: dict[bool, Callable[..., Tensor]] = {
            False: partial(_rows, network, alone),
            True: partial(_rows, network, both),
        }
        if recordable(network, network.device):
            self._step = {rows: replaying(step) for rows, step in self._step.items()}
        self._times: dict[float, Tensor] = {}

    @torch.inference_mode()
    def prepare(self, times: Iterable[float]) -> None:
        """Make the time embeddings of a whole schedule in one go."""
        fresh = sorted(set(times) - self._times.keys())
        if fresh:
            embeds = self._network.time_embeds(torch.tensor(fresh, dtype=torch.float64))
            self._times |= {t: row[None] for t, row in zip(fresh, embeds, strict=True)}

    @torch.inference_mode()
    def __call__(self, z: Tensor, t: float, guidance: float) -> Tensor:
        """The guided velocity at time t in 0..1; with guidance 1 the unconditional row is not computed.

        c + (w - 1)(c - u) as in JanusFlow's sampler, mixed in float32.
        """
        conditional, unconditional = self.raw(z, t, both=guidance != 1)
        if unconditional is None:
            return conditional
        return sampling.mix_guidance(conditional, unconditional, guidance)

    @torch.inference_mode()
    def raw(self, z: Tensor, t: float, *, both: bool) -> tuple[Tensor, Tensor | None]:
        """The conditional velocity and, where `both` are wanted, the unconditional one, before guidance."""
        self.prepare([t])
        velocity = self._step[both](z.to(self._network.device, self._network.dtype), self._times[t])
        return (velocity[: len(z)], velocity[len(z) :]) if both else (velocity, None)

    @torch.inference_mode()
    def _read(self, ids: Sequence[int], next_position: int) -> Prefix:
        network = self._network
        cache = network.new_cache(1, len(ids))
        network(network.text_embeds(torch.tensor([list(ids)], device=network.device)), None, cache)
        return Prefix.of(cache, next_position)


def _rows(network: JanusFlowNetwork, shared: SharedPrefixes, z: Tensor, time: Tensor) -> Tensor:
    """The velocities of every prompt of `shared` in turn, for latents z [n, C, h, w] and a time's embedding."""
    groups, count = len(shared.prefixes), len(z)
    # All rows of a picture see the same latent at the same time, so the encoder runs once for them.
    tokens, skip = network.encode(z, time.expand(count, -1))
    inputs = torch.cat([time.expand(count, 1, -1), tokens], dim=1).repeat(groups, 1, 1)
    positions = shared.positions(groups * count, inputs.shape[1], inputs.device)
    hidden = network(inputs, positions, shared)[:, 1:]
    return network.decode(hidden, skip.repeat(groups, 1, 1, 1), time.expand(groups * count, -1)).float()
