"""A connection to a Triton server, over HTTP or gRPC: what it serves, model control, and requests."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from nm2trt.arrays import Array
from nm2trt.backends.address import Address, parse_server
from nm2trt.backends.protocol import Closing, TensorSpec
from nm2trt.backends.served.answer_limits import MOST_JSON_BYTES, AnswerLimits
from nm2trt.backends.served.tensors import ServerMemory, received, sent
from nm2trt.errors import BackendError, InputError, ServerError
from nm2trt.extras import names_the_extra
from nm2trt.limits.bounds import bounds

T = TypeVar("T")

_LOOPBACK = re.compile(r"localhost:|127\.|\[::1\]:", re.IGNORECASE)
_GATEWAY_ERRORS = frozenset({"502", "503", "504"})
_LONGEST_WAIT_S = 86_400


class TritonServer(Closing):
    """A connection to a server; nothing is sent before it is asked something.

    Args:
        address: Where it is, e.g. `"http://localhost:8000"`.
        timeout_s: Longest wait for an answer, loading a model excepted.
        load_timeout_s: Longest wait for a model to load.

    Raises:
        InputError: The address cannot be read, or names a model.
        BackendMissingError: tritonclient is not installed.
    """

    def __init__(
        self, address: str | Address, *, timeout_s: float = 30.0, load_timeout_s: float = 120.0
    ) -> None:
        self.address = parse_server(address) if isinstance(address, str) else address
        if not 0 < load_timeout_s <= _LONGEST_WAIT_S:
            raise InputError(
                f"a wait of {load_timeout_s:g} s is out of range; give up to {_LONGEST_WAIT_S:,}"
            )
        self._load_timeout_s = load_timeout_s
        self._timeout_s = timeout_s
        self._library = _library(self.address.protocol)
        self._client = self._connect(timeout_s)
        # gRPC bounds the answers of a channel, HTTP each answer by its kind.
        grpc = self.address.protocol == "grpc"
        self._facts = self._connect(timeout_s, MOST_JSON_BYTES) if grpc else self._client
        self._memory: ServerMemory | None = None
        if self.address.shared_memory:
            self._memory = ServerMemory(
                lambda name, key, size: self._ask(
                    lambda client: client.register_system_shared_memory(name, key, size, **self._limit)
                ),
                lambda name: self._ask(
                    lambda client: client.unregister_system_shared_memory(name, **self._limit)
                ),
            )

    def is_model_ready(self, model: str, version: str = "") -> bool:
        """Tell whether a model is loaded.

        Raises:
            ServerError: The server cannot be reached.
        """
        return bool(self._ask(lambda client: client.is_model_ready(model, version, **self._limit)))

    def metadata(self) -> dict[str, Any]:
        """Return the server's `name`, `version` and `extensions`."""
        return _mapping(self._tell(lambda client: client.get_server_metadata(**self._json)))

    def model_metadata(self, model: str, version: str = "") -> dict[str, Any]:
        """Return a loaded model's name, versions, inputs and outputs as the server states them.

        Raises:
            BackendError: The model is not loaded.
            ServerError: The server cannot be reached.
        """
        return _mapping(self._tell(lambda client: client.get_model_metadata(model, version, **self._json)))

    def model_config(self, model: str, version: str = "") -> dict[str, Any]:
        """Return a loaded model's configuration, completed by the server; see `model_metadata`."""
        answer = self._tell(lambda client: client.get_model_config(model, version, **self._json))
        return _mapping(_mapping(answer).get("config") if self.address.protocol == "grpc" else answer)

    def statistics(self, model: str, version: str = "") -> list[dict[str, Any]]:
        """Return one record per loaded version: inferences, executions, times; see `model_metadata`."""
        answer = self._tell(lambda client: client.get_inference_statistics(model, version, **self._json))
        return _records(_mapping(answer).get("model_stats", []))

    def index(self) -> list[dict[str, Any]]:
        """Return what the repository holds: `name`, and if known `version`, `state` and `reason`."""
        answer = self._tell(lambda client: client.get_model_repository_index(**self._json))
        return _records(answer.get("models", []) if isinstance(answer, dict) else answer)

    def load(self, model: str) -> None:
        """Load a model, or load it again after its files changed; requests meanwhile get the old one.

        Raises:
            BackendError: The server refuses it, with its reason.
            ServerError: The server cannot be reached, or does not answer in time.
        """
        self._steer(lambda client, limit: client.load_model(model, **limit))

    def unload(self, model: str) -> None:
        """Unload a model; see `load`."""
        self._steer(lambda client, limit: client.unload_model(model, **limit))

    def infer(
        self,
        model: str,
        version: str,
        feeds: Mapping[str, tuple[str, Array]],
        outputs: Mapping[str, str],
        shapes: Sequence[TensorSpec] = (),
    ) -> dict[str, Array]:
        """Run one request.

        Args:
            model: The model.
            version: Its version, or "".
            feeds: Triton's dtype and the array, by input name.
            outputs: Triton's dtype by output name.
            shapes: Outputs whose whole shape is known before; only these can travel in shared memory.

        Raises:
            BackendError: The server refuses the request, or there is no shared memory for it.
            ServerError: The server cannot be reached.
        """
        library, memory = self._library, self._memory
        known = [spec for spec in shapes if spec.name in outputs]
        places = {} if memory is None else memory.places(feeds, known)

        def send(client: Any) -> Any:
            if memory is None:
                inputs = [sent(library, name, dtype, array) for name, (dtype, array) in feeds.items()]
                wanted = [library.InferRequestedOutput(name) for name in outputs]
            else:
                inputs, wanted = memory.request(library, feeds, outputs, places)
            return client.infer(model, inputs, model_version=version, outputs=wanted, **self._limit)

        try:
            result = self._ask(send)
            return {
                name: memory.answer(result, places[name])
                if memory is not None and name in places
                else received(result, name, dtype)
                for name, dtype in outputs.items()
            }
        except BaseException:
            if memory is not None:
                # A request that is still under way could write into the block of the next one.
                memory.release()
            raise

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        if self._memory is not None:
            self._memory.release()
        for client in {id(client): client for client in (self._client, self._facts) if client}.values():
            client.close()
        self._client = self._facts = None

    @property
    def _json(self) -> dict[str, Any]:
        return {"as_json": True, **self._limit} if self.address.protocol == "grpc" else {}

    @property
    def _limit(self) -> dict[str, float]:
        """Over gRPC a timeout belongs to each call; over HTTP, to the connection."""
        return {"client_timeout": self._timeout_s} if self.address.protocol == "grpc" else {}

    def _connect(self, timeout_s: float, most_bytes: int = (1 << 31) - 1) -> Any:
        options: dict[str, Any] = {"ssl": self.address.secure}
        if self.address.protocol == "http":
            options |= {"connection_timeout": min(timeout_s, 10.0), "network_timeout": timeout_s}
        else:
            most = min(bounds().answer_bytes, most_bytes)
            options["channel_args"] = [
                ("grpc.max_receive_message_length", most),
                ("grpc.max_send_message_length", -1),
                # gRPC asks the environment's proxy for every host, this machine's own too; HTTP asks none.
                ("grpc.enable_http_proxy", int(_LOOPBACK.match(self.address.host) is None)),
            ]
        client = self._library.InferenceServerClient(self.address.host, **options)
        if self.address.protocol == "http":
            client.nm2trt_limits = AnswerLimits(timeout_s)
            client.nm2trt_limits.watch(client)
        return client

    def _steer(self, call: Callable[[Any, dict[str, float]], object]) -> None:
        # A connection of its own, as loading takes longer than answering.
        limit = {"client_timeout": self._load_timeout_s} if self.address.protocol == "grpc" else {}
        client = self._connect(self._load_timeout_s)
        try:
            self._ask(lambda client: call(client, limit), client)
        finally:
            client.close()

    def _tell(self, call: Callable[[Any], T]) -> T:
        """Ask for something that is told in JSON."""
        return self._ask(call, self._facts)

    def _ask(self, call: Callable[[Any], T], client: Any = None) -> T:
        client = client or self._client
        if client is None:
            raise BackendError(f"the connection to {self.address.host} is closed; open a new one")
        if self.address.protocol == "http":
            client.nm2trt_limits.begin()
        try:
            return call(client)
        except Exception as error:
            raise _translated(error, self.address) from error


def _library(protocol: str) -> Any:
    with names_the_extra("tritonclient"):
        return importlib.import_module(f"tritonclient.{protocol}")


def _mapping(answer: Any) -> dict[str, Any]:
    """Return an answer that should be a JSON object.

    Raises:
        BackendError: It is something else.
    """
    if not isinstance(answer, dict):
        raise BackendError(
            f"the server's answer is {type(answer).__name__} and not a JSON object; it is not a Triton server"
        )
    return answer


def _records(answer: Any) -> list[dict[str, Any]]:
    """Return an answer that should be a list of JSON objects; see `_mapping`."""
    if not isinstance(answer, list):
        raise BackendError(
            f"the server's answer is {type(answer).__name__} and not a list; it is not a Triton server"
        )
    return [_mapping(one) for one in answer]


def _translated(error: Exception, address: Address) -> BackendError | ServerError:
    """Return our own error for one of the client's: the server was not reached, or it refused."""
    from tritonclient.utils import InferenceServerException

    if isinstance(error, BackendError):
        return error
    status, text = "", " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, InferenceServerException):
        status = str(error.status() or "").removeprefix("StatusCode.")
        text = " ".join(str(error.message() or text).split())
        if status not in {"UNAVAILABLE", "DEADLINE_EXCEEDED", *_GATEWAY_ERRORS}:
            return BackendError(f"the server at {address.host} refused: {text.rstrip('; ')}")
        if status == "DEADLINE_EXCEEDED" or "Deadline" in text:
            return ServerError(f"the server at {address.host} did not answer in time")
    if isinstance(error, TimeoutError):
        return ServerError(f"the server at {address.host} did not answer in time")
    return ServerError(
        f"no Triton server answers {address.protocol.upper()} at {address.host} ({text}); start one, e.g. "
        "with nm2trt serve, or check the address"
    )
