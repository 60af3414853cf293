"""Servers that answer anything: slowly, without end, compressed, or with JSON of another form."""

import gzip
import itertools
import json
import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from nm2trt.backends.triton import TritonServer, open_triton
from nm2trt.errors import BackendError, Nm2trtError, ServerError
from nm2trt.limits import bounds
from nm2trt.pipeline.served_artefact import describe_artefact
from nm2trt.serving.options import ProbeOptions
from nm2trt.serving.probe import probe_model
from nm2trt.validation.latency.bench import bench_sessions
from tests.hostile.files import strange
from tests.serving.served_nets import linear

pytest.importorskip("tritonclient.http")

TENSORS = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
}
ANSWERS = {
    "/v2": {"name": "triton", "version": "2", "extensions": []},
    "/v2/models/m": {"name": "m", "versions": ["1"], "platform": "x", **TENSORS},
    "/v2/models/m/config": {"name": "m", "max_batch_size": 8, "parameters": {"a": {"string_value": "b"}}},
    "/v2/models/m/stats": {
        "model_stats": [
            {
                "inference_count": 1,
                "execution_count": 1,
                "inference_stats": {"fail": {"count": 0, "ns": 0}, "queue": {"count": 1, "ns": 5}},
                "batch_stats": [{"batch_size": 1, "compute_infer": {"count": 1, "ns": 3}}],
            }
        ]
    },
}


class Handler(BaseHTTPRequestHandler):
    """Answers as Triton does, changed by the server's `change`."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # one packet an answer, so that no acknowledgement is waited for

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        if "health" in self.path or self.path.endswith("/ready"):
            return self.send_answer(b"")
        return self.send_answer(
            json.dumps(self.server.change(self.path, ANSWERS.get(self.path, {}))).encode()
        )

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "systemsharedmemory" in self.path:
            return self.send_answer(b"")
        head = int(self.headers.get("Inference-Header-Content-Length", len(body)))
        x = np.frombuffer(body[head:], "f4").reshape(-1, 4)
        y = (x @ self.server.weight).astype("f4")
        output = {"name": "y", "datatype": "FP32", "shape": list(y.shape)}
        answer = {"model_name": "m", "outputs": [{**output, "parameters": {"binary_data_size": y.nbytes}}]}
        text = json.dumps(self.server.change(self.path, answer)).encode()
        return self.send_answer(text + y.tobytes(), {"Inference-Header-Content-Length": str(len(text))})

    def send_answer(self, data, headers=None):
        form = self.server.form
        self.send_response(200)
        for name, value in {**(headers or {}), **form.get("headers", {})}.items():
            self.send_header(name, value)
        if "endless" in form:
            self.end_headers()
            try:
                while not self.server.over.wait(form["endless"]):
                    self.wfile.write(b" " * form["piece"])
                    self.wfile.flush()
            except OSError:
                pass
            self.close_connection = True
            return
        data = form.get("pack", bytes)(data)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """Says nothing of a client that hangs up on it, as clients here do."""

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@pytest.fixture
def server(tmp_path):
    model = linear(tmp_path / "m.onnx")
    started = Server(("127.0.0.1", 0), Handler)
    started.daemon_threads = True
    started.form, started.change, started.over = {}, lambda _path, answer: answer, threading.Event()
    started.weight = np.random.default_rng(0).standard_normal((4, 3)).astype("f4")
    started.artefact = describe_artefact(model)
    started.url = f"http://127.0.0.1:{started.server_port}"
    threading.Thread(target=started.serve_forever, args=(0.05,), daemon=True).start()
    yield started
    started.over.set()
    started.shutdown()
    started.server_close()
    bounds.use()


def probe(server):
    options = ProbeOptions(concurrency=(), timeout_s=5)
    return probe_model(server.url, "m", server.artefact, options=options)


def test_the_server_is_one_that_passes_a_probe(server):
    assert probe(server).problems == ()


@pytest.mark.parametrize("piece", [0, 1], ids=["silent", "a byte now and then"])
def test_a_slow_answer_ends_at_the_timeout(server, piece):
    server.form = {"endless": 0.05, "piece": piece}
    with TritonServer(server.url, timeout_s=0.5) as client, pytest.raises(ServerError, match="in time"):
        client.metadata()


def test_an_endless_answer_ends_at_the_bound(server):
    server.form = {"endless": 0, "piece": 1 << 16}
    bounds.use(answer_gb=0.01)
    with (
        TritonServer(server.url) as client,
        pytest.raises(BackendError, match=r"larger than 0.01 GB.*--answer-memory"),
    ):
        client.metadata()


def test_json_that_would_take_many_times_its_size(server, monkeypatch):
    monkeypatch.setattr("nm2trt.backends.served.answer_limits.MOST_JSON_BYTES", 1 << 20)
    server.change = lambda path, answer: {**answer, "more": [[]] * (1 << 19)} if path == "/v2" else answer
    with (
        TritonServer(server.url) as client,
        pytest.raises(BackendError, match="more than 1 MB of JSON, and reading"),
    ):
        client.metadata()


def test_tensors_behind_more_json_than_an_answer_has(server):
    with open_triton(server.url, "m") as session:
        server.form = {"headers": {"Inference-Header-Content-Length": str(1 << 27)}}
        with pytest.raises(BackendError, match="states 134217728 bytes of JSON"):
            session.run({"x": np.zeros((1, 4), "f4")})


def test_a_packed_answer_is_not_unpacked(server):
    with open_triton(server.url, "m") as session:
        server.form = {
            "headers": {"Content-Encoding": "gzip"},
            "pack": lambda _: gzip.compress(bytes(1 << 20)),
        }
        with pytest.raises(BackendError, match="compressed its answer"):
            session.run({"x": np.zeros((1, 4), "f4")})


def test_a_batch_that_no_memory_holds_is_refused(server):
    server.change = lambda path, answer: {**answer, "max_batch_size": 2**40} if "config" in path else answer
    with pytest.raises(BackendError, match="states a batch of 1099511627776"):
        probe(server)


def test_a_server_that_does_not_write_to_shared_memory_is_refused(server):
    def change(path, answer):
        if "infer" in path:
            answer["outputs"][0]["shape"] = [2, 3]
            answer["outputs"][0]["parameters"] = {}
        return answer

    with open_triton(server.url.replace("http:", "http+shm:"), "m") as session:
        with pytest.raises(BackendError, match=r"did not write output 'y' to shared memory in the shape 1x3"):
            session.run({"x": np.ones((1, 4), "f4")})
        server.change = change
        with pytest.raises(BackendError, match="did not write output 'y'"):
            session.run({"x": np.ones((1, 4), "f4")})


def test_shared_memory_answers_or_refuses_whatever_a_server_says(server):
    refused = 0
    for number in range(RUNS):
        draw = random.Random(number)
        server.change = lambda path, answer, d=draw: strange(answer, d) if "infer" in path else answer
        try:
            with open_triton(server.url.replace("http:", "http+shm:"), "m") as session:
                session.run({"x": np.ones((1, 4), "f4")})
        except Nm2trtError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"answer {number}: {type(error).__name__}: {error}") from error
    assert refused > RUNS // 2


@pytest.mark.parametrize(
    "statistics", [{"error": "no such request"}, {"model_stats": 3}], ids=["missing", "unsound"]
)
def test_a_server_without_statistics_is_timed_all_the_same(server, statistics):
    server.change = lambda path, answer: statistics if path.endswith("stats") else answer
    with open_triton(server.url, "m") as session:
        found = bench_sessions({"m": session}, lambda *_: {"x": np.ones((1, 4), "f4")}, runs=2, warmup=0)
    (timing,) = found.timings
    assert (timing.latency.runs, timing.server, found.stopped) == (2, None, "")
    assert "server ms" not in str(found)


def test_counts_that_begin_anew_give_no_time(server, monkeypatch):
    """As when the model is loaded again meanwhile."""
    monkeypatch.setattr("nm2trt.backends.served.statistics._WAIT_S", 0.0)
    looks = itertools.count()

    def change(path, answer):
        spent = {"count": 9, "ns": 900} if next(looks) == 0 else {"count": 1, "ns": 5}
        return (
            {"model_stats": [{"inference_stats": {"success": spent}}]} if path.endswith("stats") else answer
        )

    with open_triton(server.url, "m") as session:
        server.change = change
        assert session.server_time(lambda: None, 1) is None


RUNS = 50


def test_a_probe_answers_or_refuses_whatever_a_server_says(server, monkeypatch):
    monkeypatch.setattr("nm2trt.backends.served.statistics._WAIT_S", 0.0)
    paths = [*ANSWERS, "/v2/models/m/infer"]
    passed = 0
    for number in range(RUNS):
        draw = random.Random(number)
        spoil = draw.choice(paths)
        server.change = lambda path, answer, s=spoil, d=draw: strange(answer, d) if path == s else answer
        try:
            passed += probe(server).problems == ()
        except Nm2trtError:
            pass
        except Exception as error:
            raise AssertionError(f"answer {number} of {spoil}: {type(error).__name__}: {error}") from error
    assert 0 < passed < RUNS
