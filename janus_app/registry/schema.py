"""A row of a model list as a pydantic model, with a sentence for each way in which a row can be wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError, core_schema

from janus_app.errors import Message
from janus_app.models.registry import FAMILIES, get_family
from janus_app.registry.types import Component, File, Variant
from janus_app.types import MAX_NEW_TOKENS, SOLVERS, EditMethod, Precision, Setting, Thinking, Verb

# vae: an autoencoder. mllm: a language model that reads pictures. diffusion: a diffusion model.
ComponentName = Literal["vae", "mllm", "diffusion"]
SettingName = Literal[
    "guidance",
    "image_guidance",
    "temperature",
    "steps",
    "guidance_start",
    "guidance_end",
    "count",
    "strength",
    "chat_temperature",
    "top_p",
    "max_new_tokens",
    "width",  # of a drawing, for models that draw in several sizes
    "height",
]
Verified = Literal["measured", "reference", "prompts", "layout", "paper"]
# Defaults that the file itself cannot say, so the fields' types do not allow them.
ABSENT: Any = None
NONE_LISTED: Any = ()
NO_TEXT: Any = ""


class Must:
    """Metadata of a field's type: replaces pydantic's message by the code of what the value must be."""

    def __init__(self, code: str, choices: Any = None) -> None:
        values = {} if choices is None else {"names": ", ".join(get_args(choices) or choices)}
        self._rule = Message(code, **values)

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> core_schema.CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._check, handler(source))

    def _check(self, value: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            if any(part["loc"] for part in error.errors()):
                raise  # something inside the value is wrong and says so itself
            raise _unfit(Message("row_value_wrong", rule=self._rule, given=_shortened(value))) from None


def _unfit(reason: Message, field: str = "") -> PydanticCustomError:
    """An error for the field that is being checked, or for the field of the row called `field`."""
    return PydanticCustomError("unfit", "unfit", {"reason": reason, "field": field})


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _number(value: Any) -> Any:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError
    return value


def _above_zero(value: float) -> float:
    if value <= 0:
        raise ValueError
    return value


def _tuple_of_different(values: list[Any]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError
    return tuple(values)


def _solver(name: str) -> str:
    if name not in SOLVERS:
        raise ValueError
    return name


def _family(name: str) -> str:
    if name not in FAMILIES:
        raise ValueError
    return name


Text = Annotated[str, Field(min_length=1), Must("row_must_be_text")]
Bytes = Annotated[int | None, Field(ge=1), Must("row_must_be_bytes_or_null")]
Number = Annotated[Any, AfterValidator(_number), Must("row_must_be_number")]
Step = Annotated[Any, AfterValidator(_number), AfterValidator(_above_zero), Must("row_must_be_number_above_zero")]
Repo = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"), Must("row_must_be_repo")
]
Revision = Annotated[str, Field(pattern="^[0-9a-f]{40}$"), Must("row_must_be_commit")]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class FileRow(_Part):
    path: Text
    size: Bytes
    sha256: Annotated[str | None, Field(pattern="^[0-9a-f]{64}$"), Must("row_must_be_sha256")]
    about: Bytes = None


def _files(rows: list[FileRow]) -> tuple[File, ...]:
    """Their paths stay inside the folder that the files are put into, and none is listed twice."""
    paths = [row.path for row in rows]
    for path in paths:
        if any(part in ("", ".", "..") for part in path.split("/")) or re.search(r"[\\:\x00-\x1f]", path):
            raise _unfit(Message("row_path_leaves_folder", path=path))
        if paths.count(path) > 1:
            raise _unfit(Message("row_path_listed_twice", path=path))
    return tuple(File(**dict(row)) for row in rows)


def _setting(row: SettingRow) -> Setting:
    if not row.low <= row.default <= row.high:
        raise _unfit(Message("row_default_out_of_range"))
    return Setting(**dict(row))


Files = Annotated[list[FileRow], Field(min_length=1), Must("row_must_be_files"), AfterValidator(_files)]


class SettingRow(_Part):
    default: Number
    low: Number
    high: Number
    step: Step


class ComponentRow(_Part):
    repo: Repo
    revision: Revision
    files: Files
    licence: Text = ""


def _component(row: ComponentRow) -> Component:
    return Component(**dict(row))


class ThinkingRow(_Part):
    """A plan (`ask`) or a judgement (`judge` and `again`)."""

    ask: Text = NO_TEXT
    system: Text = NO_TEXT
    draw: Text = NO_TEXT
    judge: Text = NO_TEXT
    again: Text = NO_TEXT
    temperature: Annotated[float, Field(ge=0, le=2), Must("row_must_be_temperature")] = 1.0
    tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS), Must("row_must_be_tokens")] = 512


def _thinking(row: ThinkingRow) -> Thinking:
    plans = "{prompt}" in row.ask and not row.judge and ("{plan}" in row.draw or not row.draw)
    if not (plans or (row.judge and row.again and not row.ask)):
        raise ValueError
    return Thinking(**dict(row))


def _prompts(rows: list[str]) -> tuple[str, ...]:
    return tuple(rows)


AVerb = Annotated[Verb, Must("row_must_be_one_of", Verb)]
APrecision = Annotated[Precision, Must("row_must_be_one_of", Precision)]
ASettingName = Annotated[SettingName, Must("row_must_be_one_of", SettingName)]
AComponentName = Annotated[ComponentName, Must("row_must_be_one_of", ComponentName)]
AnEditMethod = Annotated[EditMethod, Must("row_must_be_one_of", EditMethod)]
ASolver = Annotated[str, AfterValidator(_solver), Must("row_must_be_one_of", SOLVERS)]
ASetting = Annotated[SettingRow, Must("row_must_be_setting"), AfterValidator(_setting)]
AComponent = Annotated[ComponentRow, Must("row_must_be_component"), AfterValidator(_component)]
AThinking = Annotated[ThinkingRow, AfterValidator(_thinking), Must("row_must_be_thinking")]
Pixels = Annotated[int, Field(ge=8, le=8192), Must("row_must_be_pixels")]
Prompts = Annotated[list[Text], Must("row_must_be_prompts"), AfterValidator(_prompts)]
PromptsOfVerbs = Annotated[dict[AVerb, Prompts], Must("row_must_map_verbs")]


class Row(_Part):
    """The fields as the file has them; checked, they are those of `Variant`."""

    id: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9._-]{0,63}$"), Must("row_must_be_id")]
    title: Text
    tagline: Text = ""
    family: Annotated[str, AfterValidator(_family), Must("row_must_be_one_of", FAMILIES)]
    repo: Repo = ABSENT
    revision: Revision = ABSENT
    folder: Text = ABSENT
    files: Files = NONE_LISTED
    components: Annotated[dict[AComponentName, AComponent], Must("row_must_map_components", ComponentName)] = {}
    code_licence: Text
    weights_licence: Text
    licence_note: Text = ""
    verbs: Annotated[
        list[AVerb], Field(min_length=1), AfterValidator(_tuple_of_different), Must("row_must_be_verbs", Verb)
    ]
    size: Annotated[list[Pixels], Field(min_length=2, max_length=2), Must("row_must_be_size"), AfterValidator(tuple)]
    context: Annotated[int, Field(ge=1), Must("row_must_be_tokens")]
    parameters: Annotated[int, Field(ge=0), Must("row_must_be_parameters")] = 0
    memory: Annotated[
        dict[APrecision, Annotated[int, Field(ge=1), Must("row_must_be_bytes")]], Must("row_must_map_precisions")
    ] = {}
    settings: Annotated[dict[ASettingName, ASetting], Must("row_must_map_settings")]
    solvers: Annotated[
        list[ASolver], Field(min_length=1), AfterValidator(_tuple_of_different), Must("row_must_be_solvers", SOLVERS)
    ] = NONE_LISTED
    edit_methods: Annotated[
        list[AnEditMethod],
        Field(min_length=1),
        AfterValidator(_tuple_of_different),
        Must("row_must_be_edit_methods", EditMethod),
    ] = NONE_LISTED
    examples: Annotated[dict[str, PromptsOfVerbs], Must("row_must_map_languages")] = {}
    thinking: AThinking = ABSENT
    roles: Annotated[Literal["words", "tokens"], Must("row_must_be_one_of", ("words", "tokens"))] = NO_TEXT
    yours: Annotated[bool, Must("row_must_be_yours")] = False
    verified: Annotated[Verified, Must("row_must_be_one_of", Verified)] = NO_TEXT
    status: Text = ""
    notes: Text = ""

    @model_validator(mode="before")
    @classmethod
    def _is_a_mapping(cls, row: Any) -> Any:
        if not isinstance(row, dict):
            raise _unfit(Message("row_value_wrong", rule=Message("row_must_be_mapping"), given=_shortened(row)))
        return row

    @model_validator(mode="after")
    def _has_one_source(self) -> Row:
        fields = self.model_fields_set
        if ("repo" in fields) == ("folder" in fields):
            raise _unfit(Message("row_needs_repo_or_folder"), "repo")
        for needed in ("revision", "files"):
            if "repo" in fields and needed not in fields:
                raise _unfit(Message("row_field_missing_for_repo"), needed)
        return self

    @model_validator(mode="after")
    def _thinks_only_where_it_can(self) -> Row:
        if self.thinking is not None and not get_family(self.family).thinks:
            raise _unfit(Message("row_family_cannot_think", family=self.family), "thinking")
        return self

    def variant(self, base: Path) -> Variant:
        """The row as a Variant. A relative `folder` is relative to `base`, the folder of the list."""
        fields = dict(self)
        fields["folder"] = base / Path(self.folder).expanduser() if self.folder else None
        fields["user_supplied"] = fields.pop("yours")
        for name in ("tagline", "licence_note", "status", "notes"):
            fields[name] = fields[name].strip()
        return Variant(**fields)


def first_problem(error: ValidationError) -> tuple[str, Message]:
    """The dotted name of the first field that is wrong, and the reason."""
    problem = error.errors()[0]
    place = [str(part) for part in problem["loc"]]
    if place and place[-1] == "[key]":
        del place[-2:]  # a key of a mapping: the mapping is the field
    found = problem.get("ctx", {})
    if problem["type"] == "unfit":
        place, reason = [found["field"]] if found["field"] else place, found["reason"]
    else:  # the rules above replace all errors of values: what is left concerns names
        reason = Message("row_field_missing" if problem["type"] == "missing" else "row_field_unknown")
    return ".".join(place) or "row", reason
