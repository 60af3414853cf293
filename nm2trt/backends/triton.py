"""A model served by Triton, over HTTP or gRPC, optionally with shared memory, as a `Session`.

A connection belongs to the thread that made it: whoever sends from several threads opens one in each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from nm2trt.arrays import Array, Arrays
from nm2trt.backends._triton_server import TritonServer
from nm2trt.backends.address import Address, parse_url
from nm2trt.backends.feeds import check_feeds
from nm2trt.backends.protocol import Closing, TensorSpec
from nm2trt.backends.served.statistics import server_time
from nm2trt.errors import BackendError, DataError, InputError
from nm2trt.measure import ServerTime

# Triton's names of element types; a type that is not here has no array in numpy.
TRITON_DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BF16": "bfloat16",
}


class TritonSession(Closing):
    """A served model; a `Session`, to be used in the thread that opened it.

    Args:
        server: The connection, which is closed with the session.
        model: The model's name.
        version: Its version; "" leaves the choice to the server, request by request.

    Raises:
        BackendError: The model is not loaded, or has a type that numpy has not.
        ServerError: The server cannot be reached.
    """

    def __init__(self, server: TritonServer, model: str, version: str = "") -> None:
        self._server, self._model, self._version = server, model, version
        metadata = server.model_metadata(model, version)
        try:
            tensors = {
                key: [_spec(tensor, model) for tensor in metadata[key]] for key in ("inputs", "outputs")
            }
            self._dtypes = {
                tensor["name"]: str(tensor["datatype"]) for key in tensors for tensor in metadata[key]
            }
            self.max_batch = int(server.model_config(model, version).get("max_batch_size", 0))
            if self.max_batch < 0:
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BackendError(
                f"the server describes {model!r} without sound names, types and shapes; it is not a Triton "
                "server"
            ) from error
        self.inputs, self.outputs = tuple(tensors["inputs"]), tuple(tensors["outputs"])

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run one batch; see `Session.run`.

        Raises:
            DataError: A feed does not fit, or holds more samples than the model's configuration takes.
            BackendError: The server refuses the request.
            ServerError: The server cannot be reached.
        """
        check_feeds(self.inputs, feeds)
        if self.max_batch:
            for name, feed in feeds.items():
                if len(feed) > self.max_batch:
                    raise DataError(
                        f"input {name!r} has a batch of {len(feed)}; {self._model!r} is configured for at "
                        f"most {self.max_batch}"
                    )
        return self._server.infer(
            self._model,
            self._version,
            {spec.name: (self._dtypes[spec.name], feeds[spec.name]) for spec in self.inputs},
            {spec.name: self._dtypes[spec.name] for spec in self.outputs},
            self._known_outputs(feeds),
        )

    def server_time(self, work: Callable[[], object], requests: int) -> ServerTime | None:
        """Run work that sends requests to the model; return the server's own time per request meanwhile.

        It is None if the server counted nothing, or begins anew, as when the model is loaded again meanwhile.

        Requests of other clients count too, and so may one that was answered just before.

        Args:
            work: Sends the requests, through this session or others, and waits for the answers.
            requests: How many.

        Raises:
            BackendError: The server's statistics are not sound, or what `work` raises.
            ServerError: The server cannot be reached.
        """
        return server_time(self._server, self._model, work, requests, self._version)

    def _known_outputs(self, feeds: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
        """Return the outputs whose whole shape follows from the feeds: only the batch is free."""
        batch = len(next(iter(feeds.values()))) if self.max_batch and feeds else None
        whole = (replace(spec, shape=(batch, *spec.shape[1:])) if batch else spec for spec in self.outputs)
        return tuple(spec for spec in whole if all(isinstance(size, int) for size in spec.shape))

    def close(self) -> None:
        """Close the connection."""
        self._server.close()


def open_triton(url: str | Address, model: str = "", *, timeout_s: float = 30.0) -> TritonSession:
    """Open a served model.

    Args:
        url: `http://HOST:PORT/MODEL` or `grpc://HOST:PORT/MODEL`, optionally followed by `/VERSION`; `+shm`
            after the protocol, as in `grpc+shm://`, sends tensors through system shared memory.
        model: The model, if the address does not name one.
        timeout_s: Longest wait for an answer.

    Raises:
        InputError: The address cannot be read, or no model is named.
        BackendMissingError: tritonclient is not installed.
        BackendError: The model is not loaded.
        ServerError: The server cannot be reached.
    """
    address = parse_url(url) if isinstance(url, str) else url
    address = replace(address, model=model or address.model)
    if not address.model:
        raise InputError(f"{address} names no model; write {address}/MODEL")
    server = TritonServer(address, timeout_s=timeout_s)
    try:
        return TritonSession(server, address.model, address.version)
    except BaseException:
        server.close()
        raise


def _spec(tensor: Mapping[str, Any], model: str) -> TensorSpec:
    dtype = TRITON_DTYPES.get(str(tensor["datatype"]))
    if dtype is None:
        raise BackendError(
            f"tensor {tensor['name']!r} of the served model {model!r} has type {tensor['datatype']}, which "
            "numpy has not"
        )
    shape = tuple(None if int(size) < 0 else int(size) for size in tensor["shape"])
    return TensorSpec(str(tensor["name"]), dtype, shape)
