"""A served model as a Session, against the real server: names, types, batches, refusals, absence."""

import pathlib
import socket
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import pytest

from nm2trt.backends.address import is_url, parse_url
from nm2trt.errors import BackendError, DataError, InputError, ServerError

pytest.importorskip("tritonclient")

# Answers with its inputs, through the path that knows every type.
ECHO = """
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb.InferenceResponse([
                pb.Tensor.from_dlpack("out_" + tensor.name(), tensor.to_dlpack()) for tensor in request.inputs()
            ])
            for request in requests
        ]
"""
# Slow, with an output of free size and one of a known size.
FREE_ECHO = """
import time

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.02)
        given = [pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [
            pb.InferenceResponse([pb.Tensor("out_x", x), pb.Tensor("length", np.array([x.size]))]) for x in given
        ]
"""
PROTOCOLS = ["http", "grpc", "http+shm", "grpc+shm"]
TYPES = {
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}


@pytest.fixture(scope="module")
def echo(tritonserver):
    """A model that gives each of its inputs back, one of each type."""
    from nm2trt.backends.triton import TritonServer

    model = tritonserver.repository / "echo"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text(ECHO)
    ports = [
        f'{side} {{ name: "{prefix}{name}" data_type: {kind} dims: [ 3 ] }}'
        for name, kind in TYPES.items()
        for side, prefix in (("input", ""), ("output", "out_"))
    ]
    head = 'name: "echo"\nbackend: "python"\nmax_batch_size: 4\ninstance_group { kind: KIND_CPU }\n'
    (model / "config.pbtxt").write_text(head + "\n".join(ports))
    free = tritonserver.repository / "echo_free"
    (free / "1").mkdir(parents=True)
    (free / "1" / "model.py").write_text(FREE_ECHO)
    (free / "config.pbtxt").write_text(
        'name: "echo_free"\nbackend: "python"\ninstance_group { kind: KIND_CPU }\n'
        'input { name: "x" data_type: TYPE_FP32 dims: [ -1 ] }\n'
        'output { name: "out_x" data_type: TYPE_FP32 dims: [ -1 ] }\n'
        'output { name: "length" data_type: TYPE_INT64 dims: [ 1 ] }\n'
    )
    with TritonServer(f"http://{tritonserver.http}") as server:
        server.load("echo")
        server.load("echo_free")
    return tritonserver


def opened(server, protocol, model="echo"):
    from nm2trt.backends.triton import open_triton

    return open_triton(f"{protocol}://{getattr(server, protocol.removesuffix('+shm'))}/{model}")


def blocks():
    return {path.name for path in pathlib.Path("/dev/shm").glob("psm_*")}


def feeds(batch):
    rng = np.random.default_rng(0)
    extended = {"bfloat16": ml_dtypes.bfloat16}
    return {name: rng.integers(0, 100, (batch, 3)).astype(extended.get(name, name)) for name in TYPES}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_type_comes_back_as_it_went(echo, protocol):
    with opened(echo, protocol) as session:
        assert {spec.name: (spec.dtype, spec.shape) for spec in session.inputs} == {
            name: (name, (None, 3)) for name in TYPES
        }
        assert [spec.name for spec in session.outputs] == [f"out_{name}" for name in TYPES]
        assert session.max_batch == 4
        sent = feeds(3)
        got = session.run(sent)
    for name, array in sent.items():
        assert got[f"out_{name}"].dtype == array.dtype
        np.testing.assert_array_equal(got[f"out_{name}"].astype(np.float64), array.astype(np.float64))


def test_a_session_is_one_in_the_protocol_sense(echo):
    from nm2trt.backends.protocol import Session

    with opened(echo, "http") as session:
        assert isinstance(session, Session)
        session.close()
        session.close()
        with pytest.raises(BackendError, match="is closed"):
            session.run(feeds(1))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_batch_above_the_configured_one_is_refused(echo, protocol):
    with (
        opened(echo, protocol) as session,
        pytest.raises(DataError, match=r"batch of 5.*'echo' is configured for at most 4"),
    ):
        session.run(feeds(5))


def test_feeds_that_do_not_fit(echo):
    with opened(echo, "http") as session, pytest.raises(DataError, match="the model's inputs are"):
        session.run({"x": np.zeros((1, 3), np.float32)})


@pytest.mark.parametrize("protocol", ["http+shm", "grpc+shm"])
def test_shared_memory_grows_with_the_batch_and_is_gone_afterwards(echo, protocol):
    before = blocks()
    with opened(echo, protocol) as session:
        for batch in (1, 4, 2):
            sent = feeds(batch)
            sent["float32"] = np.asfortranarray(sent["float32"])
            got = session.run(sent)
            later = session.run({name: np.zeros_like(array) for name, array in sent.items()})
            assert all((got[f"out_{name}"] == array).all() for name, array in sent.items())
            assert not any(array.any() for array in later.values())
        assert session._server._memory.name in blocks() - before
        block = session._server._memory.name
    assert block not in blocks()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_output_of_free_size_travels_in_the_answer(echo, protocol):
    with opened(echo, protocol, "echo_free") as session:
        for size in (3, 70, 0, 5):
            sent = np.arange(size, dtype=np.float32)
            got = session.run({"x": sent})
            np.testing.assert_array_equal(got["out_x"], sent)
            assert got["length"].tolist() == [size]


def test_the_block_of_a_client_that_is_killed_is_removed(echo):
    code = (
        "import os, signal, sys, numpy as np\n"
        "from nm2trt.backends.triton import open_triton\n"
        "session = open_triton(sys.argv[1])\n"
        "session.run({'x': np.ones(3, np.float32)})\n"
        "print(session._server._memory.name, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    address = f"http+shm://{echo.http}/echo_free"
    done = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, check=False)
    assert done.returncode == -9
    assert done.stdout.startswith("psm_")
    limit = time.monotonic() + 60
    while done.stdout.strip() in blocks():
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.mark.parametrize("protocol", ["http+shm", "grpc+shm"])
def test_a_server_that_cannot_see_the_shared_memory(echo, protocol, monkeypatch):
    from nm2trt.backends.served import tensors

    make = tensors._reserved

    def unlinked(size):
        block = make(size)
        pathlib.Path("/dev/shm", block.name).rename(f"/dev/shm/moved_{block.name}")
        return block

    monkeypatch.setattr(tensors, "_reserved", unlinked)
    monkeypatch.setattr(tensors.SharedMemory, "unlink", lambda block: pathlib.Path(f"/dev/shm/moved_{block.name}").unlink(), raising=True)  # fmt: skip
    with opened(echo, protocol) as session:
        with pytest.raises(
            BackendError, match=r"refused: .*on this machine, with the same /dev/shm.*ipc=host"
        ):
            session.run(feeds(1))
        assert not list(pathlib.Path("/dev/shm").glob("moved_psm_*"))


def test_no_room_for_shared_memory(echo):
    with opened(echo, "http+shm", "echo_free") as session:
        with pytest.raises(
            BackendError, match=r"/dev/shm has no room for the .* bytes of a request.*shm-size"
        ):
            session.run({"x": np.broadcast_to(np.float32(1), (1 << 46,))})
        assert session.run({"x": np.ones(2, np.float32)})["out_x"].tolist() == [1, 1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_servers_own_time(echo, protocol):
    with opened(echo, protocol, "echo_free") as session:
        sent = {"x": np.ones(3, np.float32)}
        session.run(sent)

        def ask():
            for _ in range(3):
                session.run(sent)

        own = session.server_time(ask, 3)
    assert own.requests >= 3  # the one before may be counted late
    assert 20 <= own.infer_ms <= own.mean_ms  # the model sleeps for 20 ms
    assert own.queue_ms + own.input_ms + own.infer_ms + own.output_ms <= own.mean_ms


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_unknown_model(echo, protocol):
    with pytest.raises(BackendError, match=r"refused: .*nowhere.*not found"):
        opened(echo, protocol, "nowhere")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_what_the_server_says_of_itself(echo, protocol):
    from nm2trt.backends.triton import TritonServer

    with TritonServer(f"{protocol}://{getattr(echo, protocol)}") as server:
        assert server.is_model_ready("echo")
        assert not server.is_model_ready("nowhere")
        assert server.metadata()["name"].startswith("nm2trt-")  # the id that its starter gave it
        assert {"name": "echo", "version": "1", "state": "READY"} in server.index()
        assert [row["version"] for row in server.statistics("echo")] == ["1"]
        with pytest.raises(BackendError, match=r"refused: failed to load 'nowhere'"):
            server.load("nowhere")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_nobody_there(protocol):
    from nm2trt.backends.triton import open_triton

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ServerError, match=f"no Triton server answers {protocol.upper()} at 127.0.0.1:{port}"):
        open_triton(f"{protocol}://127.0.0.1:{port}/m")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_somebody_who_never_answers(protocol):
    from nm2trt.backends.triton import TritonServer

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with TritonServer(f"{protocol}://{address}", timeout_s=0.2, load_timeout_s=0.2) as server:
            for ask in (
                lambda: server.is_model_ready("m"),
                server.metadata,
                lambda: server.load("m"),
                lambda: server.model_config("m"),
            ):
                with pytest.raises(ServerError, match=f"at {address}"):
                    ask()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("localhost:8000", ("http", "localhost:8000", False, "", ""), id="bare"),
        pytest.param("http://h:1/m", ("http", "h:1", False, "m", ""), id="http"),
        pytest.param("grpc://h:1/m/3", ("grpc", "h:1", False, "m", "3"), id="version"),
        pytest.param("HTTPS://h:1/", ("http", "h:1", True, "", ""), id="tls"),
        pytest.param("grpcs://[::1]:8001/m", ("grpc", "[::1]:8001", True, "m", ""), id="ipv6"),
        pytest.param("GRPC+SHM://h:1/m", ("grpc", "h:1", False, "m", ""), id="shared memory"),
        pytest.param("https+shm://h:1/m/2", ("http", "h:1", True, "m", "2"), id="shared memory, tls"),
    ],
)
def test_addresses(text, expected):
    address = parse_url(text)
    assert is_url(text) == ("://" in text)
    assert address.shared_memory == ("+shm" in text.lower())
    parts = (address.protocol, address.host, address.secure, address.model, address.version)
    assert parts == expected
    assert parse_url(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h",
        "h:0",
        "h:70000",
        "ftp://h:1/m",
        "shm://h:1/m",
        "http+udp://h:1/m",
        "http://h:1/m/latest",
        "http://a:b@h:1",
        "h:1/m/1/x",
    ],
)
def test_what_is_no_address(text):
    with pytest.raises(InputError, match="is not the address of a server"):
        parse_url(text)


def test_the_address_of_a_model_in_place_of_a_server():
    """It would ask another model than the one that is named beside it."""
    from nm2trt.backends.triton import TritonServer

    with pytest.raises(InputError, match="is the address of a model; write grpc://h:1 only"):
        TritonServer("grpc://h:1/m")


def test_an_address_without_a_model():
    from nm2trt.backends.triton import open_triton

    with pytest.raises(InputError, match="http://h:1 names no model; write http://h:1/MODEL"):
        open_triton("h:1")
