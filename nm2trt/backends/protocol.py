"""Protocols of a backend and an open session; stages are written against these, not against libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.options import BuildOptions

if TYPE_CHECKING:
    from typing_extensions import Self  # newer than Python 3.10

    from nm2trt.measure import ServerTime


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output.

    Args:
        name: Its name.
        dtype: numpy's name of its element type, e.g. "float16".
        shape: Its dimensions; a name or None if the size is free.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@runtime_checkable
class Session(Protocol):
    """A loaded model that can be run; use it as a context manager."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs in the model's order."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs in the model's order."""

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run one batch.

        Args:
            feeds: Every input by name, in the input's dtype and a shape that fits it.

        Returns:
            Every output by name.

        Raises:
            DataError: A feed is missing, unknown, or of the wrong dtype or shape.
            BackendError: The library failed.
        """

    def close(self) -> None:
        """Free what the session holds; a second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Closing:
    """What has a `close`, which the end of a `with` statement calls."""

    def close(self) -> None:
        """Free what is held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DeviceRuns(Protocol):
    """One batch that lies on the GPU, inferred again and again; each clock returns seconds per inference."""

    @property
    def no_graph(self) -> str:
        """Why no CUDA graph of the inference could be made; "" if there is one."""

    def device_seconds(self) -> float:
        """Return the GPU's own time, by events around a burst of inferences: no copies, no waits between."""

    def graph_seconds(self) -> float:
        """Return the same for a burst of replays of a CUDA graph.

        Raises:
            BackendError: The graph could not be captured; `no_graph` says why.
        """

    def host_seconds(self) -> float:
        """Return the wall time from inputs to outputs in pinned host memory, copies and waits included."""


@runtime_checkable
class DeviceTimed(Protocol):
    """A `Session` on a GPU that can be timed by the GPU's own clock."""

    def on_device(self, feeds: Arrays) -> DeviceRuns:
        """Put a batch on the GPU, run it once, and return what times it until the session's next run.

        Raises:
            DataError: The feeds do not fit; see `Session.run`.
            BackendError: The library failed.
        """


@runtime_checkable
class ServerTimed(Protocol):
    """A `Session` on a server that tells how long its own work took."""

    def server_time(self, work: Callable[[], object], requests: int) -> ServerTime | None:
        """Run work that sends requests; return the server's own time per request meanwhile, if it tells.

        Raises:
            BackendError: The server's statistics are not sound.
            ServerError: The server cannot be reached.
        """


class Network(Protocol):
    """A model as a builder has read it."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs in the model's order; a free dimension is its name, or None."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs in the model's order."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What a builder made, still in memory.

    Args:
        data: The serialized engine's bytes.
        log: The builder's messages, one line each, most detailed level.
        build_ms: Wall time of the build, without parsing.
        layers: The engine inspector's JSON, with the tactic of every layer; "" if the library cannot load on
            this machine what it built.
    """

    data: memoryview
    log: tuple[str, ...]
    build_ms: float
    layers: str = ""


@runtime_checkable
class Backend(Protocol):
    """An engine library that builds; it is handed to whoever needs it, nothing process-wide chooses."""

    @property
    def name(self) -> str:
        """Short name, e.g. "trt-rtx"."""

    @property
    def kind(self) -> str:
        """One sentence: what its engines are, and where they run."""

    @property
    def suffix(self) -> str:
        """File suffix of its engines, e.g. ".rtx"."""

    @property
    def version(self) -> str:
        """Version of the library."""

    @property
    def device(self) -> str:
        """Name of the GPU that it builds on; "" if it builds without."""

    @property
    def max_opset(self) -> int | None:
        """Highest ONNX opset that it reads; None leaves that to its parser."""

    @property
    def has_profiles(self) -> bool:
        """Whether dynamic inputs need optimisation profiles."""

    @property
    def has_timing_cache(self) -> bool:
        """Whether builds can share their kernel timings through a file."""

    def choose_targets(self, targets: tuple[str, ...]) -> tuple[str, ...]:
        """Return the compute capabilities to build for: `targets`, or the backend's own choice for ().

        Raises:
            InputError: The library cannot build for one of them.
        """

    def check(self, options: BuildOptions, network: Network | None = None) -> None:
        """Raise if the backend cannot do what is asked, before any work.

        Args:
            options: What is asked, with the targets chosen.
            network: The model, once it is parsed; without it, only the options are judged.

        Raises:
            BackendError: It cannot; the message says why.
        """

    def parse(self, model: Path, plugins: Sequence[Path] = ()) -> Network:
        """Read an ONNX file, its external data too.

        Args:
            model: The file.
            plugins: Shared libraries of operators that it needs; their code is run.

        Raises:
            ModelError: It is not a valid ONNX file.
            BackendError: The library refuses a node.
            Interrupted: The user stopped it.
        """

    def fix(self, network: Network, shapes: Mapping[str, tuple[int, ...]]) -> Network:
        """Return the network with inputs fixed to full-rank shapes; the one given is not used any more.

        Raises:
            BackendError: The backend cannot.
        """

    def build(self, network: Network, options: BuildOptions) -> Engine:
        """Build an engine from what `parse` returned, with complete profiles and targets in `options`.

        Raises:
            BackendError: The library failed or refused.
            Interrupted: The user stopped it.
        """

    def open(self, path: Path, plugins: Sequence[Path] = ()) -> Session:
        """Load an engine of this backend's kind for running.

        Args:
            path: The engine.
            plugins: Shared libraries of operators that it needs; their code is run.

        Raises:
            InputError: The file is another kind of engine, or is damaged or cut short.
            BackendMissingError: There is no GPU, and the library needs one.
            BackendError: The library refuses it: another version built it, or for another architecture.
        """
