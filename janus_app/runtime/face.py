"""What the page, the API and the command line use of a session, whoever holds the models."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from janus_app.hub import Hub
from janus_app.registry.catalog import Catalog
from janus_app.registry.types import Variant
from janus_app.runtime.session import ModelFacts, SessionState
from janus_app.types import Event, Events, Finished, Queued, Request

if TYPE_CHECKING:
    from janus_app.runtime.adapters import Adapter
    from janus_app.runtime.fit import LoadOptions

Item = TypeVar("Item")


class Session(Protocol):
    """`ModelSession` holds one model in this process, `ClusterSession` speaks for replicas in others.

    A method that does something returns a generator: it waits its turn (`Queued`), works step by step, and stops within
    a step when it is closed. `ModelSession` says what each method does and raises.
    """

    catalog: Catalog
    hub: Hub
    idle_minutes: float | None

    @property
    def state(self) -> SessionState: ...

    @property
    def variant(self) -> Variant | None: ...

    def device_names(self) -> list[str]: ...

    def plan_load(self, variant: Variant, device: str = "auto") -> LoadOptions: ...

    def load(
        self, name: str, device: str = "auto", precision: str = "auto", adapters: Sequence[Adapter] = ()
    ) -> Events: ...

    def unload(self) -> Events: ...

    def check_weights(self) -> Events: ...

    def run(self, request: Request) -> Events: ...

    def run_on(
        self,
        variant: Variant | None,
        make: Callable[[ModelFacts], Request],
        adapters: tuple[Adapter, ...] | None = None,
    ) -> Events: ...

    def result(self, request: Request, on_event: Callable[[Event], None] | None = None) -> Finished: ...

    def exclusively(self, work: Callable[[], Generator[Item, None, None]]) -> Generator[Item | Queued, None, None]: ...

    def run_idle_unload(self) -> None: ...
