"""A probe against the real server: what agrees, what differs, what is mixed up, what has gone."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from nm2trt.cli import main
from nm2trt.errors import BackendError, DataError, DifferenceError, InputError, ServerError
from nm2trt.pipeline.deploy import deploy
from nm2trt.pipeline.probe import probe
from nm2trt.pipeline.rollback import rollback
from nm2trt.pipeline.serve import serve
from nm2trt.serving.history import history
from nm2trt.serving.options import DeployOptions, ProbeOptions, ServerOptions
from tests.serving import served_nets as nets

pytest.importorskip("tritonclient")
pytest.importorskip("onnxruntime")

from nm2trt.serving.probe import _alike, _Reference
from nm2trt.serving.samples import repeated

PYTHON = DeployOptions(backend="python", max_batch=8, queue_delay_us=2000)
QUICK = ProbeOptions(concurrency=(4,), requests=40)


def served(server, artefact, name, options=PYTHON, **extras):
    """Deploy into the running server's repository and load it."""
    from nm2trt.backends.triton import TritonServer

    placed = deploy(artefact, server.repository, name, options, **extras)
    with TritonServer(f"http://{server.http}") as client:
        client.load(name)
    return placed


def url(server, protocol="http"):
    return f"{protocol}://{getattr(server, protocol.removesuffix('+shm'))}"


@pytest.mark.parametrize("protocol", ["http", "grpc", "http+shm", "grpc+shm"])
def test_what_is_served_right(tmp_path, tritonserver, protocol):
    model = nets.linear(tmp_path / "m.onnx", mask="ab" * 32)
    name = f"right-{protocol.replace('+', '-')}"
    served(tritonserver, model, name)
    report = probe(
        url(tritonserver, protocol),
        name,
        model,
        repository=tritonserver.repository,
        options=QUICK,
    )
    report.require_passed()
    assert report.problems == ()
    assert (report.config, report.lineage, report.versions) == ("same", "same", ("1",))
    assert [check.batch for check in report.batches] == [1, 3, 5, 7, 8]
    (load,) = report.loads
    assert (load.requests, load.wrong, load.latency.runs) == (40, 0, 40)
    assert load.samples >= 40
    assert load.requests_per_s > 0
    assert load.server.requests >= 40  # one that was answered just before may be counted late
    assert 0 < load.server.infer_ms <= load.server.mean_ms
    sent = sum(check.batch for check in report.batches) + load.samples
    assert report.statistics["inferences"] == sent
    assert report.statistics["failures"] == 0
    assert sum(int(size) * n for size, n in report.statistics["executions_by_batch"].items()) == sent
    assert report.to_json()["passed"] is True


def test_real_data_and_scalars(tmp_path, tritonserver):
    model = nets.two_inputs(tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    arrays = {"x": rng.standard_normal((5, 4)), "s": rng.standard_normal(5).astype(np.float32)}
    np.savez(tmp_path / "data.npz", **arrays, labels=np.arange(5))
    served(tritonserver, model, "scalars", sample=tmp_path / "data.npz")
    report = probe(url(tritonserver), "scalars", model, data=tmp_path / "data.npz", options=QUICK)
    report.require_passed()
    assert "samples have identical answers" in report.notes[0]  # five, repeated
    np.savez(tmp_path / "other.npz", x=arrays["x"])
    with pytest.raises(
        DataError, match=r"the model's inputs are \['x', 's'\], the data has \['x'\]; add 's'"
    ):
        probe(url(tritonserver), "scalars", model, data=tmp_path / "other.npz")


def test_a_fixed_batch(tmp_path, tritonserver):
    model = nets.linear(tmp_path / "m.onnx", batch=2)
    served(tritonserver, model, "fixed", DeployOptions(backend="python"))
    report = probe(url(tritonserver), "fixed", model, options=QUICK)
    report.require_passed()
    assert [check.batch for check in report.batches] == [2]
    assert report.loads[0].samples == 80


def test_other_weights_differ(tmp_path, tritonserver):
    reference = nets.linear(tmp_path / "m.onnx")
    served(tritonserver, nets.linear(tmp_path / "other.onnx", scale=1.01), "other")
    report = probe(url(tritonserver), "other", reference, options=QUICK)
    assert len(report.batches) == 5
    assert all("differs by 0.01 of its largest value" in check.problem for check in report.batches)
    assert report.loads[0].wrong == 40
    with pytest.raises(
        DifferenceError, match=r"other at http://.* is not what .*m.onnx is: batch 1:.*\(and 5 more\)"
    ):
        report.require_passed()
    assert probe(url(tritonserver), "other", reference, options=ProbeOptions(concurrency=(), precision="float16")).problems == ()  # fmt: skip


def test_another_lineage_is_said_and_compared_all_the_same(tmp_path, tritonserver):
    served(tritonserver, nets.linear(tmp_path / "a.onnx", mask="aa" * 32), "lineage")
    same_numbers = nets.linear(tmp_path / "b.onnx", mask="bb" * 32)
    report = probe(url(tritonserver), "lineage", same_numbers, options=QUICK)
    report.require_passed()
    assert report.lineage == "other"
    assert "other masks (aaaaaaaaaaaa) than the reference (bbbbbbbbbbbb): another lineage" in report.notes[0]


def test_answers_handed_to_the_wrong_clients(tmp_path, tritonserver):
    """The fault that batching could have: right numbers, other people's."""
    from nm2trt.backends.triton import TritonServer

    model = nets.linear(tmp_path / "m.onnx")
    placed = deploy(model, tritonserver.repository, "mixed", PYTHON)
    code = placed.folder / "model.py"
    text = code.read_text()
    assert text.count("zip(group, answers)") == 1
    code.write_text(text.replace("zip(group, answers)", "zip(group, answers[::-1])"))
    with TritonServer(url(tritonserver)) as client:
        client.load("mixed")
    report = probe(url(tritonserver), "mixed", model, options=ProbeOptions(concurrency=(1, 8), requests=80))
    assert not any(check.problem for check in report.batches)
    alone, together = report.loads
    assert alone.wrong == 0
    assert together.wrong > 0
    with pytest.raises(DifferenceError, match=r"of 80 answers to 8 clients are wrong"):
        report.require_passed()


@pytest.mark.parametrize(("count", "dtype"), [(1, "float32"), (3, "float32"), (2, "int64")])
def test_repeats_of_few_samples_do_not_hide_a_mix_up(count, dtype, tmp_path, tritonserver):
    """Fewer samples than clients need are repeated with a change each, so that swapped answers still differ."""
    from nm2trt.backends.triton import TritonServer

    name = f"few-{count}-{dtype}"
    whole = dtype == "int64"
    path = tmp_path / "m.onnx"
    model = nets.identity(path, dtype, ("n", 32)) if whole else nets.linear(path, features=32)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 30000, (count, 32)) if whole else rng.standard_normal((count, 32))
    np.savez(tmp_path / "few.npz", x=rows.astype(dtype))
    placed = deploy(model, tritonserver.repository, name, PYTHON)
    code = placed.folder / "model.py"
    code.write_text(code.read_text().replace("zip(group, answers)", "zip(group, answers[::-1])"))
    with TritonServer(url(tritonserver)) as client:
        client.load(name)
    mixed = ProbeOptions(concurrency=(1, 8), requests=80)
    report = probe(url(tritonserver), name, model, data=tmp_path / "few.npz", options=mixed)
    alone, together = report.loads
    assert (alone.wrong, together.wrong > 0) == (0, True)


def test_a_configuration_that_was_not_loaded(tmp_path, tritonserver):
    model = nets.linear(tmp_path / "m.onnx")
    served(tritonserver, model, "stale")
    deploy(model, tritonserver.repository, "stale", DeployOptions(backend="python", max_batch=4))
    report = probe(url(tritonserver), "stale", model, repository=tritonserver.repository, options=QUICK)
    assert report.config == "other"
    assert "configuration: max_batch_size is 4 as deployed, and 8 on the server" in report.notes
    with pytest.raises(DifferenceError, match="configuration is not the deployed one: load the model again"):
        report.require_passed()


def test_other_inputs_and_outputs(tmp_path, tritonserver):
    served(tritonserver, nets.linear(tmp_path / "m.onnx"), "tensors")
    with pytest.raises(DifferenceError, match=r"the served model's inputs are \{'x': 'float32'\}, those of"):
        probe(url(tritonserver), "tensors", nets.two_inputs(tmp_path / "two.onnx"))


def test_a_size_of_an_input_that_was_changed_by_hand(tmp_path, tritonserver):
    placed = served(tritonserver, nets.linear(tmp_path / "m.onnx"), "resized")
    config = placed.folder.parent / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: 4", "dims: 5", 1))
    from nm2trt.backends.triton import TritonServer

    with TritonServer(url(tritonserver)) as client:
        client.load("resized")
    with pytest.raises(DifferenceError, match=r"the served model's input 'x' has shape \?x5, that of .* nx4"):
        probe(url(tritonserver), "resized", tmp_path / "m.onnx", options=QUICK)


def test_a_model_that_fails_on_requests(tmp_path, tritonserver):
    """An operator that no optimiser sees fail: an index that runs off its table."""
    placed = served(tritonserver, nets.linear(tmp_path / "m.onnx"), "failing")
    code = placed.folder / "model.py"
    code.write_text(code.read_text().replace("return self._run_group(", "return self._gone("))
    from nm2trt.backends.triton import TritonServer

    with TritonServer(url(tritonserver)) as client:
        client.load("failing")
    with pytest.raises(BackendError, match=r"refused: .*AttributeError: .*_gone"):
        probe(url(tritonserver), "failing", tmp_path / "m.onnx", options=QUICK)


def test_what_cannot_be_probed(tmp_path, tritonserver):
    model = nets.linear(tmp_path / "m.onnx")
    with pytest.raises(BackendError, match="has no model 'nowhere' loaded"):
        probe(url(tritonserver), "nowhere", model)
    with pytest.raises(InputError, match="is an engine; the reference is the ONNX model"):
        probe(url(tritonserver), "m", nets.plan(tmp_path / "m.engine"))
    with pytest.raises(ServerError, match=r"no Triton server answers HTTP at 127.0.0.1:9"):
        probe("127.0.0.1:9", "m", model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": (0,)}, "batches 0 is out of range"),
        ({"concurrency": (1, -1)}, "concurrency 1, -1 is out of range"),
        ({"requests": 0}, "requests 0 is out of range"),
        ({"timeout_s": 0}, "a wait of 0 s is out of range"),
        ({"precision": "fp16"}, "precision 'fp16' is unknown; choose float64, float32, float16, bfloat16"),
    ],
)
def test_options_that_make_no_sense(changes, message):
    with pytest.raises(InputError, match=message):
        ProbeOptions(**changes)


def test_labels_are_served(tmp_path, tritonserver):
    tritonclient = pytest.importorskip("tritonclient.http")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    served(tritonserver, nets.linear(tmp_path / "m.onnx"), "labelled", labels=[tmp_path / "names.txt"])
    client = tritonclient.InferenceServerClient(tritonserver.http)
    feed = tritonclient.InferInput("x", [1, 4], "FP32")
    feed.set_data_from_numpy(np.ones((1, 4), np.float32))
    answer = client.infer("labelled", [feed], outputs=[tritonclient.InferRequestedOutput("y", class_count=3)])
    names = {text.decode().split(":")[2] for text in answer.as_numpy("y").ravel()}
    client.close()
    assert names == {"ant", "bee", "cat"}


class Load:
    """Checked requests from many clients in the background, for as long as the block lasts."""

    class Done(Exception):
        pass

    def __init__(self, server, model, name, clients):
        import onnxruntime

        self.url, self.name, self.clients = url(server), name, clients
        self.inputs = {"x": np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)}
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        self.expected = session.run(None, self.inputs)[0]
        self.answered = self.wrong = 0
        self.changed = threading.Condition()
        self.over = threading.Event()
        self.error = None
        self.thread = threading.Thread(target=self.run)

    def run(self):
        from nm2trt.backends.triton import open_triton
        from nm2trt.serving.load import run_level

        def connect():
            return Counted(self, open_triton(self.url, self.name))

        try:
            run_level(connect, self.inputs, clients=self.clients, seconds=3600, check=lambda *_: None)
        except Exception as error:
            self.error = error
        with self.changed:
            self.changed.notify_all()

    def count(self, feeds, answer):
        rows = (feeds["x"][:, None] == self.inputs["x"]).all(-1).argmax(1)
        right = np.allclose(answer["y"], self.expected[rows], rtol=1e-4, atol=1e-5)
        with self.changed:
            self.answered += 1
            self.wrong += not right
            self.changed.notify_all()

    def wait_for_more(self):
        """Wait until some answers have come that were not there before."""
        with self.changed:
            goal = self.answered + 5 * self.clients
            self.changed.wait_for(lambda: self.answered >= goal or self.error, timeout=120)
            assert self.answered >= goal, self.error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Counted:
    """A session that counts and checks its answers, and ends the load when it is over."""

    def __init__(self, load, session):
        self.load, self.session = load, session
        self.inputs, self.max_batch = session.inputs, session.max_batch

    def run(self, feeds):
        if self.load.over.is_set():
            raise Load.Done
        answer = self.session.run(feeds)
        self.load.count(feeds, answer)
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.session.close()


def reload_under_load(server, tmp_path, *, clients, pause=0):
    """Serve one function by two files, and change from one to the other and back under load."""
    a = nets.linear(tmp_path / "a.onnx", mask="aa" * 32)
    b = nets.linear(tmp_path / "b.onnx", mask="bb" * 32)
    served(server, a, "live")
    with Load(server, a, "live", clients) as load:
        load.wait_for_more()
        time.sleep(pause)
        deploy(b, server.repository, "live", PYTHON, canary=url(server), reference=a, probe_options=QUICK)
        load.wait_for_more()
        time.sleep(pause)
        rollback(server.repository, "live", url=url(server))
        load.wait_for_more()
        time.sleep(pause)
    assert isinstance(load.error, Load.Done), load.error
    assert load.wrong == 0
    return load.answered


def test_a_reload_under_load_loses_no_request(tmp_path, tritonserver):
    reload_under_load(tritonserver, tmp_path, clients=8)


@pytest.mark.slow
def test_50_clients_for_60_seconds_with_a_reload(tmp_path, tritonserver):
    assert reload_under_load(tritonserver, tmp_path, clients=50, pause=20) > 5000


def test_a_server_that_is_killed_under_load(tmp_path, tritonserver):
    model = nets.linear(tmp_path / "m.onnx")
    deploy(model, tmp_path / "models", "m", PYTHON)
    deploy(model, tmp_path / "models", "m", PYTHON)
    options = ServerOptions(log=tmp_path / "log.txt")
    with serve(tmp_path / "models", options) as server, Load(server, model, "m", 4) as load:
        load.wait_for_more()
        server.kill()
        load.thread.join(120)
    assert isinstance(load.error, ServerError), load.error
    assert "no Triton server answers HTTP at" in str(load.error)
    with serve(tmp_path / "models", options) as again:
        report = probe(url(again), "m", model, repository=tmp_path / "models", options=QUICK)
        report.require_passed()
        assert report.versions == ("2",)
        again.kill()


def ask_at_once(server, name, requests):
    """Send requests at one time, to be joined by a server that waits for them; return answers and errors."""
    from nm2trt.backends.triton import open_triton

    def ask(feeds):
        try:
            with open_triton(url(server), name) as session:
                return session.run(feeds)["y"].tolist()
        except BackendError as error:
            return error

    with ThreadPoolExecutor(len(requests)) as clients:
        return list(clients.map(ask, requests))


PATIENT = DeployOptions(backend="python", queue_delay_us=500_000)


def test_outputs_whose_rows_are_no_batch_are_not_cut(tmp_path, tritonserver):
    """As many rows as were found in all samples: cut by samples, clients would get one another's."""
    served(tritonserver, nets.found(tmp_path / "m.onnx"), "found", PATIENT)
    requests = [{"x": np.array([[number], [0]], np.float32)} for number in range(1, 5)]
    assert ask_at_once(tritonserver, "found", requests) == [[[1]], [[2]], [[3]], [[4]]]


def test_a_request_that_fails_fails_alone(tmp_path, tritonserver):
    """Also where it was joined with others; with an error object in common, the server crashed."""
    served(tritonserver, nets.lookup(tmp_path / "m.onnx"), "lookup", PATIENT)
    numbers = [0, 99, 1, 98, 2, 97]
    answers = ask_at_once(tritonserver, "lookup", [{"x": np.array([[number]])} for number in numbers])
    assert answers[::2] == [[[0]], [[10]], [[20]]]
    assert all("out of data bounds" in str(error) for error in answers[1::2]), answers
    assert tritonserver.is_running()


def test_answers_that_are_all_nan_are_said_to_be_alike():
    known = _Reference({}, {"y": np.full((8, 3), np.nan, np.float32)}, 8)
    assert _alike(known) == 8


def test_a_reference_that_answers_nan(tmp_path, tritonserver):
    model = nets.linear(tmp_path / "m.onnx", scale=np.nan)
    served(tritonserver, model, "nan")
    report = probe(url(tritonserver), "nan", model, options=QUICK)
    assert (
        "output 'y' of the reference is not finite for any sample, so its numbers say nothing" in report.notes
    )


def test_inputs_of_different_fixed_sizes_cannot_be_probed(tmp_path, tritonserver):
    served(tritonserver, nets.product(tmp_path / "m.onnx"), "product", DeployOptions(backend="python"))
    with pytest.raises(
        DataError, match=r"have different first dimensions, \[2, 4\]: only models whose inputs"
    ):
        probe(url(tritonserver), "product", tmp_path / "m.onnx")


@pytest.mark.parametrize("url", ["nowhere", "localhost:8000/other"])
def test_a_rollback_with_a_wrong_address_changes_nothing(tmp_path, url):
    model = nets.linear(tmp_path / "m.onnx")
    for _ in range(2):
        deploy(model, tmp_path / "models", "m", PYTHON)
    with pytest.raises(InputError, match="the address of a"):
        rollback(tmp_path / "models", "m", url=url)
    assert history(tmp_path / "models" / "m") == [2, 1]


def test_a_rollback_that_the_server_is_not_told(tmp_path):
    model = nets.linear(tmp_path / "m.onnx")
    for _ in range(2):
        deploy(model, tmp_path / "models", "m", PYTHON)
    with pytest.raises(ServerError, match="the repository is rolled back to version 1, the server is not"):
        rollback(tmp_path / "models", "m", url="127.0.0.1:9")


class Slow(BaseHTTPRequestHandler):
    """A server that is loading until it is told to stop."""

    def do_GET(self):
        body = b'{"name": "triton", "version": "2.51.0", "extensions": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.server.over.wait(60)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def slow_server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.over = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.over.set()
    server.shutdown()
    server.server_close()


def test_how_long_a_version_may_take_to_load_can_be_said(tmp_path, slow_server, capsys):
    model, store = nets.linear(tmp_path / "m.onnx"), tmp_path / "models"
    words = ["deploy", str(model), "--repository", str(store), "--name", "m", "--backend", "python"]
    assert main(words) == 0
    assert main([*words, "--load", slow_server, "--timeout", "0.3"]) == 7
    assert "rolled back to version 1 in the repository, but the server was not" in capsys.readouterr().err
    assert history(store / "m") == [1]
    assert main(words) == 0
    again = ["rollback", "--repository", str(store), "--name", "m", "--url", slow_server]
    assert main([*again, "--timeout", "0.3"]) == 7
    assert main([*again, "--timeout", "0"]) == 2


def test_loading_without_a_probe(tmp_path, tritonserver):
    from nm2trt.backends.triton import TritonServer

    models = [nets.linear(tmp_path / f"{scale}.onnx", scale=scale) for scale in (1, 2)]
    for model in models:
        deploy(model, tritonserver.repository, "loaded", PYTHON, load=url(tritonserver))
        probe(url(tritonserver), "loaded", model, options=QUICK).require_passed()
    with pytest.raises(BackendError, match=r"unable to find backend library.*; rolled back to version 2"):
        deploy(models[0], tritonserver.repository, "loaded", load=url(tritonserver))
    probe(url(tritonserver), "loaded", models[1], options=QUICK).require_passed()
    with TritonServer(url(tritonserver)) as client:
        client.unload("loaded")
    with pytest.raises(BackendError, match="has no model 'loaded' loaded"):
        probe(url(tritonserver), "loaded", models[1])


class TestCanary:
    def test_that_passes(self, tmp_path, tritonserver):
        models = [nets.linear(tmp_path / f"{name}.onnx", mask=name * 32) for name in ("aa", "bb")]
        for number, model in enumerate(models, start=1):
            placed = deploy(
                model,
                tritonserver.repository,
                "canary",
                PYTHON,
                canary=url(tritonserver),
                probe_options=QUICK,
            )
            assert placed.version == number
        assert probe(url(tritonserver), "canary", models[1], options=QUICK).versions == ("2",)

    def test_that_answers_wrongly(self, tmp_path, tritonserver):
        good = nets.linear(tmp_path / "good.onnx")
        served(tritonserver, good, "wrong")
        with pytest.raises(DifferenceError, match=r"batch 1: .* differs by .*; rolled back to version 1"):
            deploy(
                nets.linear(tmp_path / "bad.onnx", scale=2),
                tritonserver.repository,
                "wrong",
                PYTHON,
                canary=url(tritonserver),
                reference=good,
                probe_options=QUICK,
            )
        report = probe(url(tritonserver), "wrong", good, repository=tritonserver.repository, options=QUICK)
        report.require_passed()
        assert report.versions == ("1",)

    def test_that_does_not_load(self, tmp_path, tritonserver):
        good = nets.linear(tmp_path / "good.onnx")
        served(tritonserver, good, "unloadable")
        with pytest.raises(BackendError, match=r"unable to find backend library.*; rolled back to version 1"):
            deploy(
                good,
                tritonserver.repository,
                "unloadable",
                DeployOptions(backend="onnxruntime"),
                canary=url(tritonserver),
            )
        probe(url(tritonserver), "unloadable", good, options=QUICK).require_passed()

    def test_that_was_the_first(self, tmp_path, tritonserver):
        with pytest.raises(
            BackendError, match=r"unable to find backend.*version 1 was the first and was removed"
        ):
            deploy(
                nets.linear(tmp_path / "m.onnx"), tritonserver.repository, "first", canary=url(tritonserver)
            )
        assert not (tritonserver.repository / "first").exists()

    @pytest.mark.parametrize("check", ["canary", "load"])
    def test_that_fails_goes_back_where_only_one_version_is_kept(self, tmp_path, tritonserver, check):
        good, name = nets.linear(tmp_path / "good.onnx"), f"only-{check}"
        options = DeployOptions(backend="python", keep=1)
        folder = tritonserver.repository / name
        deploy(good, tritonserver.repository, name, options)
        with pytest.raises(BackendError, match=r"unable to find backend.*; rolled back to version 1"):
            deploy(good, tritonserver.repository, name, DeployOptions(keep=1), **{check: url(tritonserver)})
        assert (folder / "1" / "model.onnx").read_bytes() == good.read_bytes()
        placed = deploy(good, tritonserver.repository, name, options, **{check: url(tritonserver)})
        assert (placed.version, sorted(placed.removed)) == (3, [1, 2])
        assert [path.name for path in folder.iterdir() if path.is_dir()] == ["3"]

    def test_that_fails_after_another_was_placed(self, tmp_path, tritonserver, monkeypatch):
        """What another deployment placed meanwhile is not taken away with the canary."""
        from nm2trt.backends.triton import TritonServer

        good = nets.linear(tmp_path / "good.onnx")
        load = TritonServer.load

        def meanwhile(server, name):
            monkeypatch.setattr(TritonServer, "load", load)
            deploy(good, tritonserver.repository, name, PYTHON)
            raise BackendError("it does not load")

        monkeypatch.setattr(TritonServer, "load", meanwhile)
        with pytest.raises(
            BackendError, match="version 1 has been replaced by another since, so nothing was roll"
        ):
            deploy(good, tritonserver.repository, "rival", PYTHON, canary=url(tritonserver))
        config = (tritonserver.repository / "rival" / "config.pbtxt").read_text()
        assert "versions: 2" in config

    def test_options_of_a_canary_without_one(self, tmp_path):
        with pytest.raises(InputError, match="--reference and --precision need a canary"):
            deploy(nets.linear(tmp_path / "m.onnx"), tmp_path / "models", "m", precision="float16")
        assert not (tmp_path / "models").exists()

    def test_of_an_engine_needs_a_reference(self, tmp_path, tritonserver):
        with pytest.raises(InputError, match="compared with its ONNX model; give it with --reference"):
            deploy(nets.plan(tmp_path / "m.engine"), tmp_path / "models", "m", canary=url(tritonserver))
        assert not (tmp_path / "models").exists()

    def test_without_a_server_nothing_is_placed(self, tmp_path):
        with pytest.raises(ServerError, match="no Triton server answers"):
            deploy(nets.linear(tmp_path / "m.onnx"), tmp_path / "models", "m", canary="127.0.0.1:9")
        assert not (tmp_path / "models").exists()


def test_a_plan_is_held_against_the_servers_own_version(tmp_path, tritonserver):
    old = nets.plan(tmp_path / "m.engine", version="8.6.1.6")
    with pytest.raises(BackendError, match=r"built by TensorRT 8.6.1.6.*the server is Triton 24.10"):
        deploy(old, tmp_path / "models", "m", url=url(tritonserver))
    near = nets.plan(tmp_path / "n.engine", version="10.5.0.18")
    placed = deploy(near, tmp_path / "models", "m", url=url(tritonserver))
    assert any("does not say which image it is" in note for note in placed.notes)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
@pytest.mark.parametrize("given", [1, 3, 64])
def test_repeated_samples_are_told_apart(dtype, given):
    """Equal ones have equal answers, so that one client could get the other's unnoticed."""
    rows = np.arange(given * 128).reshape(given, 128).astype(dtype) % 97
    found = repeated({"x": rows}, 64, 0)["x"]
    assert (found.dtype, found.shape) == (rows.dtype, (64, 128))
    assert np.array_equal(found[:given], rows)
    assert len(np.unique(found, axis=0)) == 64
    if dtype == "int64":
        assert set(found.ravel()) <= set(rows.ravel())
