"""What the rest of the program may ask about a family of models: plain values, and functions that import torch late.

A family is one folder, models/<family>/, whose family.py exports a `FAMILY`, and one line of models/registry.py.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from janus_app.errors import Message
from janus_app.types import EditMethod, Event, Model, Setting, Thinking, Turn

if TYPE_CHECKING:
    from torch import Tensor, nn

    from janus_app.models.common.cost import DrawingCost
    from janus_app.models.common.memory import BytesPerElement, Job, Peak
    from janus_app.models.common.tokenizer import Piece

# tokens: image tokens one after the other, row by row. flow, diffusion: the whole picture at once, in steps from noise.
Drawing = Literal["tokens", "flow", "diffusion"]
Parts = Mapping[str, Path]  # folders of a variant's components by role ("vae"), where the downloader put them


@dataclass(frozen=True)
class CheckpointFacts:
    """What the files of a folder say about the checkpoint in it.

    size: (width, height) in pixels of the pictures it draws. context: tokens it was trained to hold. edit_methods:
    empty for those that every checkpoint of the family has. roles: "words" or "tokens", "" as processor_config.json has
    it.
    components: repositories that it needs, by role, "" for one that is in the folder. weights_elsewhere: whether the
    folder may be without weights, because it names another one that has them.
    """

    size: tuple[int, int]
    context: int
    settings: Mapping[str, Setting]
    edit_methods: tuple[str, ...] = ()
    roles: str = ""
    components: Mapping[str, str] = field(default_factory=dict)
    weights_elsewhere: bool = False


@dataclass(frozen=True)
class WeightSource:
    """Weight files, and how their tensors are called in the network.

    path: one file, or a folder with files called `stem` ("" = the usual names of a checkpoint's weights). only: the one
    tensor to read, "" for all. table: the table of a pickle that has the tensors in this layout, "" for none.
    """

    path: Path
    stem: str = ""
    remap_key: Callable[[str], str] = str
    only: str = ""
    table: str = ""


@dataclass(frozen=True)
class LanguageHalf:
    """The language model of a checkpoint, for a model of another family that is built around it.

    config: as transformers would have it in the config.json of the language model alone, or of the model with which it
    reads pictures. folder: where its tokenizer and the files around it are. sources: the weights, by the names that
    transformers gives them in such a model; tensors of other names belong to other parts of the checkpoint.
    extra_rows: rows of the embedding behind those of words. pieces: from a conversation, with the pieces that stand for
    each picture in it, to its whole prompt; None where the folder has a chat template. keeps_language: whether an
    answer is written in the language of the question alone.
    """

    config: Mapping[str, Any]
    folder: Path
    sources: Sequence[WeightSource]
    extra_rows: int = 0
    pieces: Callable[[Sequence[Turn], Sequence[Piece]], list[Piece]] | None = None
    keeps_language: bool = False


@dataclass(frozen=True)
class Layout:
    """A layout that a checkpoint can be saved in.

    tensors: from tensors by their names in the network to those of a file, in any order. files: from the folder of the
    checkpoint to what the JSON files of the copy contain, by name; the folder's other small files are copied. Raises
    AppError for a checkpoint that the layout cannot describe.
    """

    tensors: Callable[[Iterable[tuple[str, Tensor]]], Iterator[tuple[str, Tensor]]]
    files: Callable[[Path], Mapping[str, Mapping[str, Any]]]


class Pipeline(Protocol):
    """Makes the model around a network whose weights are in place, with the other files of its folder.

    context: tokens to hold at most. roles and edit_methods as in CheckpointFacts. thinking: how the weights were taught
    to think, None where they were not; only for a family that `thinks`.
    """

    def __call__(
        self,
        network: nn.Module,
        folder: Path,
        *,
        context: int,
        roles: str = "",
        edit_methods: Sequence[str] = (),
        parts: Parts | None = None,
        thinking: Thinking | None = None,
    ) -> Model: ...


def _own_weights(
    network: nn.Module, config: Mapping[str, Any], folder: Path, parts: Parts | None
) -> list[WeightSource]:
    return [WeightSource(folder)]


def _same_name(config: Mapping[str, Any], name: str) -> str:
    return name


def _adapted_tensors(layer: str) -> Sequence[str]:
    return (f"{layer}.weight", f"language_model.{layer}.weight")


def _nothing_tied(config: Mapping[str, Any]) -> Mapping[str, str]:
    return {}


def _no_explanation(network: nn.Module, name: str, found: bool) -> Message | None:
    return None


def _check_picture(model: Any) -> Generator[Event, None, Message | None]:
    from janus_app.models.common.weight_check import check_picture

    return (yield from check_picture(model))


@dataclass(frozen=True)
class Family:
    """One family of models.

    config_file: the JSON file in a checkpoint's folder that says what it is; "config.json" below stands for it.
    detect: whether a config.json is of this family. describe: the facts of the checkpoint in a folder; raises AppError
    where the config.json is of a layout that cannot be read, or absurd. read_config: config.json with the configs of
    all components under keys of their own; raises AppError where a file is missing or broken. build: the network on the
    current default device, from what `read_config` returned; raises AppError for a config of another family.

    network_name: from a config, how a tensor of such a checkpoint is called in the network; several layouts differ.
    weight_sources: where the network's tensors are read from, in order. marks: parts of tensor names that together
    only this family has. unused_prefixes: tensors that checkpoints hold and inference does not use, by their names in
    the network. tied: tensor that a checkpoint may leave out -> the one that it equals. explain_mismatch: what a person
    can do about the tensor `name` of the network that was found in another shape, or (not `found`) is missing; None
    where nothing is known.

    quantized_prefix: where the linears are that int8 and nf4 quantize. picture_decoder_prefix: the picture decoder,
    which stays in float32 where the rest is in float16 or on a CPU. offload_prefix: decoder layers that may be placed
    on several devices, "" where none may.

    edit_methods: those of a checkpoint that names none, its usual one first. thinks: whether checkpoints that were
    taught to think in words do so here.

    adapted_tensors: the tensors of the network that a layer may mean that an adapter names, as trained on the whole
    model or on its language model alone.

    layouts: those that a checkpoint can be saved in, by name. copied_parts: of a family without layouts, the folders
    whose small files a quantized copy needs, by their places in the copy; None where copies cannot be made.

    job_peak: cache and work of a job beside the weights, for pictures of a side in pixels. drawing_cost: what drawing
    its pictures costs, None where that was not worked out. check_drawing: draw a little
    with a loaded model and return what looks wrong with it, as of weights that are damaged; None where nothing does.

    language_half: the language model of the checkpoint in a folder; None where no other family can be built around it.
    It raises AppError where a file is missing or broken.
    """

    id: str
    title: str
    drawing: Drawing
    detect: Callable[[Mapping[str, Any]], bool]
    describe: Callable[[Path, Mapping[str, Any]], CheckpointFacts]
    read_config: Callable[[Path, Parts | None], dict[str, Any]]
    build: Callable[[Mapping[str, Any]], nn.Module]
    job_peak: Callable[[Mapping[str, Any], int, Job, BytesPerElement], Peak]
    pipeline: Pipeline
    quantized_prefix: str | tuple[str, ...]
    picture_decoder_prefix: str
    config_file: str = "config.json"
    marks: tuple[str, ...] = ()
    unused_prefixes: tuple[str, ...] = ()
    offload_prefix: str = ""
    solvers: tuple[str, ...] = ()
    edit_methods: tuple[EditMethod, ...] = ()
    thinks: bool = False
    network_name: Callable[[Mapping[str, Any], str], str] = _same_name
    weight_sources: Callable[[Any, Mapping[str, Any], Path, Parts | None], Sequence[WeightSource]] = _own_weights
    explain_mismatch: Callable[[Any, str, bool], Message | None] = _no_explanation
    tied: Callable[[Mapping[str, Any]], Mapping[str, str]] = _nothing_tied
    adapted_tensors: Callable[[str], Sequence[str]] = _adapted_tensors
    layouts: Callable[[], Mapping[str, Layout]] = dict
    copied_parts: Callable[[Path, Parts | None], Mapping[str, Path]] | None = None
    drawing_cost: Callable[[Mapping[str, Any], int, Job, BytesPerElement], DrawingCost] | None = None
    check_drawing: Callable[[Any], Generator[Event, None, Message | None]] = _check_picture
    language_half: Callable[[Path], LanguageHalf] | None = None

    def meta_network(self, config: Mapping[str, Any]) -> nn.Module:
        """The network without memory behind its tensors, for inference."""
        import torch

        with torch.device("meta"):
            return self.build(config).eval().requires_grad_(False)
