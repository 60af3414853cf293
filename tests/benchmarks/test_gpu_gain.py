"""benchmarks/gpu_gain.py without a GPU: its products, operands and numerics, and that it says what is missing."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from nm2trt.backends.cuda import Gpu

torch = pytest.importorskip("torch")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_gain.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_gain", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_gain"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_gain"]


def macs(script, network):
    return sum(x.m * x.n * x.k for x in script.layers() if x.network == network)


def test_resnet50_is_the_whole_network(script):
    # Published count of multiply-accumulates of torchvision's ResNet-50: 4.09 G.
    assert macs(script, "resnet50") == 4_089_184_256


def test_mobilenet_v2_is_the_network_without_its_depthwise_layers(script):
    # Published: 300.8 M with the depthwise convolutions, which are counted here by hand.
    depthwise, size, inputs = 0, 112, 32
    for expand, outputs, repeats, stride in script.MOBILENET_V2:
        for repeat in range(repeats):
            size //= stride if repeat == 0 else 1
            depthwise += size * size * inputs * expand * 9
            inputs = outputs
    assert macs(script, "mobilenetv2") + depthwise == pytest.approx(300.8e6, rel=1e-3)


@pytest.mark.parametrize(
    ("network", "width", "tokens"), [("vit-s", 384, 197), ("vit-b", 768, 197), ("minilm", 384, 128)]
)
def test_a_transformer_block_is_twelve_squares_of_its_width_a_token(script, network, width, tokens):
    block = [x for x in script.layers() if x.network == network and x.m == tokens]
    factor = 12 if network.startswith("vit") else 10  # one of MiniLM's query, key and value
    assert sum(x.m * x.n * x.k for x in block) == factor * width * width * tokens


def test_products_are_distinct_and_scale_with_the_batch(script):
    one, eight = script.products([1]), script.products([8])
    assert {(8 * m, n, k) for m, n, k in one} == set(eight)
    assert all(k % 4 == 0 for _, _, k in one)
    assert "resnet50/layer1.1.conv2@1" in one[56 * 56, 64, 576]
    assert set(script.products([1, 8])) == set(one) | set(eight)


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "int8"])
def test_operands_are_two_of_four_and_padding_adds_zeros_alone(script, dtype):
    weight, x = script.operands(5, 10, 36, dtype)
    assert (weight.shape, x.shape) == ((10, 36), (5, 36))
    assert weight.dtype == x.dtype == script.DTYPES[dtype]
    assert weight.reshape(10, 9, 4).ne(0).sum(-1).max() <= 2
    big, rows = script.grown(weight, x, dtype)
    assert (rows.shape[0], big.shape[0], big.shape[1]) == script.padded(5, 10, 36, dtype)
    assert torch.equal(big[:10, :36], weight)
    assert big.ne(0).sum() == weight.ne(0).sum()


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_numerics_are_judged_against_fp64(script, dtype):
    weight, x = script.operands(16, 32, 64, dtype)
    result = weight @ x.t()
    assert script.off_from_fp64(result, weight, x) <= script.TOLERANCE[dtype]
    wrong = result.clone()
    wrong[3, 3] += 1.0
    assert script.off_from_fp64(wrong, weight, x) > script.TOLERANCE[dtype]


def test_int8_is_exact(script):
    weight, x = script.operands(32, 32, 64, "int8")
    exact = weight.int() @ x.int().t()
    assert script.off_from_fp64(exact, weight, x) == 0.0
    assert script.off_from_fp64(exact + 1, weight, x) > script.TOLERANCE["int8"]


def test_median_and_spread(script):
    timing = script.summarise([1.0] * 50 + [2.0] * 49)
    assert (timing.ms, timing.spread) == (1.0, 1.0)


def test_without_a_gpu_it_says_so_and_writes_nothing(script, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert script.main(["-o", str(tmp_path / "t.json")]) == script.NO_GPU
    assert "nothing was measured" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_a_small_table_on_a_gpu(script, tmp_path):
    from nm2trt.nm.gain_table import parse_gain_table

    out = tmp_path / "t.json"
    assert script.main(["-o", str(out), "--batches", "1", "--runs", "3", "--warmup", "1"]) == 0
    assert json.loads(out.read_text())["failed"] == []
    assert set(parse_gain_table(out.read_bytes(), where="t").dtypes()) == {"float16", "bfloat16", "int8"}


@pytest.mark.parametrize("wrong", [float("nan"), 0.5])
def test_a_product_that_is_wrong_or_no_number_is_refused(script, wrong):
    script.check_numerics({"dense": 0.0, "sparse": 1e-4}, "fp16")
    with pytest.raises(ArithmeticError, match="the sparse product is off by"):
        script.check_numerics({"dense": 0.0, "sparse": wrong}, "fp16")


def test_what_the_search_finds_is_what_is_run(script, monkeypatch):
    # No search runs without a GPU: this one stands for that of PyTorch, called as its own tests call it.
    class Search:
        @staticmethod
        def mm_search(packed, columns, bias, alpha, out_dtype, transpose_result):
            return (7, 4, 1, 20)

    monkeypatch.setattr(torch._C, "_cusparselt", Search, raising=False)
    chosen = script.fastest(torch.zeros(1), torch.zeros(1))
    assert chosen == {"alg_id": 7, "split_k": 4, "split_k_mode": 1}
    schema = str(torch.ops.aten._cslt_sparse_mm.default._schema)
    assert all(f" {name}=" in schema for name in chosen)


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "int8"])
def test_weights_are_compressed_without_the_class_that_warns(script, monkeypatch, dtype):
    monkeypatch.setattr(torch, "_cslt_compress", lambda weight: weight)
    monkeypatch.setattr(script, "fastest", lambda *_: {})
    weight, x = script.operands(32, 64, 64, dtype)
    dense = script.calls(weight, x, dtype)["dense"]()
    assert script.off_from_fp64(dense, weight, x) <= script.TOLERANCE[dtype]


def test_a_time_is_that_of_one_call_in_a_graph_of_several(script, monkeypatch):
    class Event:
        def record(self):
            pass

        def elapsed_time(self, other):
            return 30.0

    captured = []
    monkeypatch.setattr(script, "graphed", lambda run: captured.append(run) or (lambda: None))
    monkeypatch.setattr(script, "_event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    runs = {"dense": lambda: pytest.fail("not replayed"), "sparse": lambda: pytest.fail("not replayed")}
    assert script.timed(runs, rounds=2, warmup=1)["sparse"] == script.Timing(30.0 / script.CALLS, 0.0)
    assert captured == list(runs.values())


def test_clocks_are_those_of_cuda_s_first_gpu(script, tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\ncase "$*" in *--id=GPU-b*) echo "1980, 2619, 60, 500.0, 0x0";; *) echo "1, 1, 1, 1, 1";; esac\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(script.machine_state, "probe_gpus", lambda: ((Gpu("B", "sm90", True, "GPU-b"),), ""))
    assert script.clocks().startswith("gpu clocks.sm 1980 MHz, gpu clocks.mem 2619 MHz")


@pytest.fixture
def pretended(script, monkeypatch):
    """A GPU whose products take no time; returns what was measured."""
    measured = []

    def measure(m, n, k, dtype, **options):
        measured.append((m, n, k, dtype))
        return {"m": m, "n": n, "k": k, "dtype": script.NAMES[dtype], "dense_ms": 2.0, "sparse_ms": 1.0}

    monkeypatch.setattr(script, "measure", measure)
    monkeypatch.setattr(script, "device_record", lambda: {"name": "Test GPU", "target": "sm90"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cusparselt, "version", lambda: 700)
    return measured


def test_a_table_that_is_killed_keeps_its_rows_and_goes_on(script, pretended, monkeypatch, tmp_path):
    from nm2trt.nm.gain_table import parse_gain_table

    words = ["-o", str(tmp_path / "t.json"), "--batches", "1", "--dtypes", "fp16"]
    measure, total = script.measure, len(script.products([1]))

    def killed(*arguments, **options):
        if len(pretended) == 25:
            raise KeyboardInterrupt
        return measure(*arguments, **options)

    monkeypatch.setattr(script, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        script.main(words)
    kept = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert len(kept) == 20
    monkeypatch.setattr(script, "measure", measure)
    assert script.main(words) == 0
    assert len(pretended) == 25 + total - 20
    assert len(parse_gain_table((tmp_path / "t.json").read_bytes(), where="t").rows) == total


def test_rows_of_another_gpu_are_not_gone_on_with(script, pretended, monkeypatch, tmp_path, capsys):
    words = ["-o", str(tmp_path / "t.json"), "--batches", "1", "--dtypes", "int8"]
    script.main(words)
    monkeypatch.setattr(script, "device_record", lambda: {"name": "Other GPU", "target": "sm86"})
    script.main(words)
    assert len(pretended) == 2 * len(script.products([1]))
    assert "of another GPU" in capsys.readouterr().err


def test_no_product_begins_after_its_minutes(script, pretended, tmp_path, capsys):
    assert script.main(["-o", str(tmp_path / "t.json"), "--batches", "1", "--minutes", "0"]) == 1
    assert pretended == []
    assert "products are left; run it again" in capsys.readouterr().err
