"""Steps of the flow families as a card would record them: nothing waits, every step is the same, fallback included."""

from __future__ import annotations

from functools import partial
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from janus_app.models.janusflow import velocity as velocities
from janus_app.models.janusflow.pipeline import JanusFlowModel
from janus_app.models.janusflow.velocity import PromptVelocity
from janus_app.models.metaquery.denoise import Denoiser
from janus_app.nn.fast import cuda_graphs
from janus_app.nn.fast.cuda_graphs import CudaGraphFunction
from janus_app.types import GenerateRequest
from tests.conftest import GOLDEN, loaded
from tests.models.test_engine import Calls

no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="recording works there")


@pytest.fixture(scope="module")
def model() -> JanusFlowModel:
    return cast(JanusFlowModel, loaded(GOLDEN / "janusflow_1_3b" / "checkpoint").model)


def latents(model: JanusFlowModel, count: int, seed: int) -> Tensor:
    shape = (count, model.autoencoder.channels, model.latent_side, model.latent_side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("both", [False, True])
@torch.inference_mode()
def test_a_step_of_the_flow_never_waits_and_all_are_the_same(model: JanusFlowModel, both: bool) -> None:
    """Behind the first, which lays out positions: a recording begins with a rehearsal."""
    velocity = PromptVelocity(model.network, model._prompt_ids("A small red house."))
    velocity.prepare([0.0, 0.25, 0.5])
    velocity.raw(latents(model, 2, 0), 0.0, both=both)
    seen = []
    for t in (0.25, 0.5):
        z = latents(model, 2, 1)
        with Calls() as calls:
            velocity.raw(z, t, both=both)
        seen.append(calls.seen)
    assert seen[0] == seen[1] and len(seen[0]) > 50


@no_card
@torch.inference_mode()
def test_replayed_functions_keep_places_by_shape_and_give_results_away(caplog: pytest.LogCaptureFixture) -> None:
    """Recording fails here, so that it is the plain way behind the same places that is seen."""
    places = set()

    def twice(x: Tensor, y: Tensor) -> Tensor:
        places.add((x.data_ptr(), y.data_ptr()))
        return 2 * x + y

    call = CudaGraphFunction(twice)
    first = call(torch.ones(3), torch.zeros(3))
    second = call(torch.full((3,), 4.0), torch.ones(3))
    assert first.tolist() == [2, 2, 2] and second.tolist() == [9, 9, 9]
    assert len(places) == 1
    assert call(torch.ones(2), torch.ones(2)).tolist() == [3, 3] and len(places) == 2
    assert {r.levelname for r in caplog.records} == {"WARNING"}


@no_card
def test_a_flow_drawn_by_replayed_steps_is_the_same_picture(
    model: JanusFlowModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guided and plain steps in turns, and a solver that keeps the velocity of the step before."""
    request = GenerateRequest("A small red house.", steps=4, solver="ab2", guidance_interval=(0.2, 1.0))

    def drawn() -> bytes:
        *_, last = model.generate(request)
        return cast(bytes, last.pictures[0].image.tobytes())  # type: ignore[union-attr]

    plain, used = drawn(), []
    monkeypatch.setattr(velocities, "can_capture", lambda *_: True)
    monkeypatch.setattr(cuda_graphs, "warm_up", lambda *_: used.append(1) or 1 / 0)
    assert drawn() == plain and len(used) == 2  # one place for guided steps and one for plain ones


class Network(nn.Module):
    """The least that looks like a denoiser: outputs tell captions apart."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor, encoder_hidden_states: Tensor, timestep: Tensor, return_dict: bool) -> tuple[Tensor]:
        return (self.scale * x + timestep[:, None, None, None] + encoder_hidden_states.mean(),)


@no_card
@torch.inference_mode()
def test_new_captions_make_new_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    from janus_app.models.metaquery import denoise

    plain, replayed = Denoiser(Network()), Denoiser(Network())
    for value in (1.0, 2.0):
        captions = torch.full((2, 4, 8), value)
        plain.set_conditioning(captions)
        with monkeypatch.context() as patch:
            patch.setattr(denoise, "can_capture", lambda *_: True)
            replayed.set_conditioning(captions)
        assert replayed._replay is not None and plain._replay is None
        for time in (5, 7):
            x = torch.randn(3, 4, 2, 2)
            both = [one(x, torch.tensor(time)) for one in (plain, replayed)]
            assert both[0].shape == (2, 3, 4, 2, 2) and torch.equal(*both)


@torch.inference_mode()
def test_a_step_of_sana_never_waits() -> None:
    diffusers = pytest.importorskip("diffusers")
    small = {"num_attention_heads": 2, "attention_head_dim": 8, "num_cross_attention_heads": 2, "num_layers": 2}
    small |= {"cross_attention_head_dim": 8, "cross_attention_dim": 16, "caption_channels": 24, "sample_size": 8}
    denoiser = Denoiser(diffusers.SanaTransformer2DModel(**small).eval().requires_grad_(False))
    denoiser.set_conditioning(torch.randn(2, 5, 24))
    step = partial(denoiser, torch.randn(2, 32, 8, 8))
    step(torch.tensor(900))
    seen = []
    for time in (700, 300):
        moment = torch.tensor(time)
        with Calls() as calls:
            step(moment)
        seen.append(calls.seen)
    assert seen[0] == seen[1] and len(seen[0]) > 50
