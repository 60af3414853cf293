"""`nm2trt build` as it is typed: what is printed, written and returned, on the real library."""

import contextlib
import ctypes
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import onnx
import pytest

import nm2trt
from nm2trt.backends.ort import open_onnx
from nm2trt.cli import main
from nm2trt.extras import install_line
from nm2trt.manifest import read_manifest
from tests import forked
from tests.engine.nets import conv_net, elementwise_net
from tests.graph.qdq_nets import residual_net, samples

pytest.importorskip("tensorrt_rtx")
CLONE_NEWUSER = 0x10000000


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def net(folder):
    return conv_net(folder / "net.onnx")


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def refuse(capsys, status, *words):
    """Run a command that must fail; return its one sentence."""
    assert main([str(word) for word in words]) == status
    captured = capsys.readouterr()
    assert captured.err.startswith("nm2trt: ")
    assert captured.err.count("\n") == 1, "one sentence on one line"
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    "words",
    [["net.onnx", "--sparsity"], ["--sparsity", "net.onnx"], ["--sparsity=enable", "net.onnx"]],
    ids=["after", "before", "value"],
)
def test_what_everyone_types_first(net, capsys, words):
    assert main(["build", *words]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split() == ["weight", "op", "shape", "pattern", "dtype", "why"]
    assert lines[1].split() == ["w0", "+1", "Conv", "16x16x3x3", "2:4", "float16:", "?", "1"]
    assert lines[2:4] == ["groups: fits", "builder lists it, sparse tactic, gain: not measured"]
    assert "TensorRT for RTX plan: runs only in the TensorRT-RTX runtime" in captured.out
    assert "built for batches 1/8/32" in captured.err
    assert files(net.parent) == ["net.onnx", "net.rtx", "net.rtx.json"]
    assert read_manifest(net.with_suffix(".rtx")).manifest.options["sparsity"] == "enable"


def test_without_the_option_the_build_is_dense(net, capsys):
    assert main(["build", "net.onnx"]) == 0
    out = capsys.readouterr().out
    assert "sparsity off" in out
    assert read_manifest(net.with_suffix(".rtx")).manifest.options["sparsity"] == "disable"
    verdict, following = out.splitlines()[-2:]
    assert verdict == "verdict: a dense engine: no sparse kernel was considered"
    assert following == "next:    nm2trt explain net.onnx"


def test_without_the_option_the_verdict_says_what_it_would_do(folder, capsys):
    onnx.save(residual_net(), "r.onnx")
    np.savez("x.npz", x=samples())
    nm2trt.prune("r.onnx", output="p.onnx", min_channels=4)
    nm2trt.quantize("p.onnx", output="q.onnx", calib="x.npz")
    assert main(["build", "q.onnx"]) == 0
    *_, verdict, following = capsys.readouterr().out.partition("verdict: ")[2].splitlines()
    assert "of the work could run sparse" in verdict
    assert following == "next:    nm2trt build q.onnx --sparsity=enable"
    assert main(following.split()[2:]) == 0
    assert read_manifest(folder / "q.rtx").manifest.options["sparsity"] == "enable"


def test_every_option_reaches_the_manifest(net, capsys):
    words = ["--target", "sm86,sm89", "--profile", "x:2,4,6", "--workspace", "1GiB", "-o", "out.rtx"]
    assert main(["build", "net.onnx", "--sparsity", *words]) == 0
    manifest = read_manifest(net.parent / "out.rtx").manifest
    assert manifest.targets == ("sm86", "sm89")
    assert manifest.options["workspace_bytes"] == 1 << 30
    assert manifest.options["profiles"] == [
        [{"input": "x", "min": [2, 16, 8, 8], "opt": [4, 16, 8, 8], "max": [6, 16, 8, 8]}]
    ]
    assert "built for batches" not in capsys.readouterr().err


def test_json_is_the_whole_stdout(net, capsys):
    assert main(["build", "net.onnx", "--sparsity", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["engine"] == "net.rtx"
    assert [row["weight"] for row in result["ladder"]] == ["w0", "w1"]
    assert result["ladder"][0]["gain"] == {"answer": "not measured", "detail": "not measured"}


def test_a_dry_run_says_what_would_be_built_and_writes_nothing(net, capsys):
    assert main(["build", "net.onnx", "--sparsity", "--dry-run"]) == 0
    assert "dry run: net.rtx would be built" in capsys.readouterr().out
    assert files(net.parent) == ["net.onnx"]


def test_fp32_is_told(folder, capsys):
    conv_net(folder / "net.onnx", dtype="float32")
    assert main(["build", "net.onnx", "--sparsity"]) == 0
    captured = capsys.readouterr()
    assert "float32: no" in captured.out
    assert "no float32 sparse kernel is known" in captured.out
    assert "2 of 2 weights that hold 2:4 are float32, for which no sparse kernel is known" in captured.err


def test_group_convolutions_stop_at_their_rung(folder, capsys):
    conv_net(folder / "net.onnx", group=2)
    assert main(["build", "net.onnx", "--sparsity"]) == 0
    out = capsys.readouterr().out
    assert "groups: group-conv" in out
    assert "a convolution with 2 groups is never given a sparse kernel" in out


def test_nothing_that_holds_the_pattern_is_exit_3_with_the_table(folder, capsys):
    conv_net(folder / "net.onnx", sparse=False, dtype="float32")
    assert main(["build", "net.onnx", "--sparsity"]) == 3
    captured = capsys.readouterr()
    assert captured.out.count("broken") == 1, "two equal rows are one"
    assert "576 of 576 groups" in captured.out
    assert captured.out.endswith("next:    nm2trt prune net.onnx --calib SAMPLES.npz\n")
    assert "none of its weights holds 2:4" in captured.err
    assert "train it sparse (nm2trt.sparsify), prune it (nm2trt prune), or build dense" in captured.err
    assert files(folder) == ["net.onnx"]


def test_nothing_that_holds_the_pattern_as_json(folder, capsys):
    conv_net(folder / "net.onnx", sparse=False)
    assert main(["build", "net.onnx", "--sparsity", "--json"]) == 3
    result = json.loads(capsys.readouterr().out)
    assert "none of its weights holds 2:4" in result["error"]
    assert (result["kind"], result["exit_status"]) == ("SparsityError", 3)
    assert {row["pattern"]["answer"] for row in result["ladder"]} == {"no"}


def test_force_makes_the_weights_two_of_four_first(folder, capsys):
    pytest.importorskip("nm2trt.graph.prune.prune_model")
    model = conv_net(folder / "net.onnx", sparse=False)
    before = model.read_bytes()
    assert main(["build", "net.onnx", "--sparsity=force", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {row["pattern"]["answer"] for row in result["ladder"]} == {"yes"}
    assert any("forced to 2:4 by magnitude, 2 of 2 hold it" in note for note in result["notes"])
    assert result["model"] == "net.onnx"
    assert model.read_bytes() == before
    assert files(folder) == ["net.onnx", "net.rtx", "net.rtx.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "model.onnx does not exist; give the path of an ONNX model file", id="missing"),
        pytest.param(b"", "model.onnx is empty; it should be an ONNX model file", id="empty"),
        pytest.param(b"\x89PNG nothing of the kind" * 9, "model.onnx is not an ONNX model", id="not-onnx"),
        pytest.param("half", "model.onnx is not an ONNX model, or it is truncated", id="truncated"),
        pytest.param(
            b"vtrt" + bytes(60), "model.onnx is an engine, not an ONNX model; nm2trt info", id="rtx"
        ),
        pytest.param(
            b"ftrt" + bytes(60), "model.onnx is an engine, not an ONNX model; nm2trt info", id="trt"
        ),
        pytest.param("folder", "model.onnx is a folder; give the path of an ONNX model file", id="folder"),
    ],
)
def test_a_model_that_is_none_is_exit_2(folder, capsys, content, message):
    path = folder / "model.onnx"
    if content == "folder":
        path.mkdir()
    elif content == "half":
        conv_net(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif content is not None:
        path.write_bytes(content)
    before = files(folder)
    assert message in refuse(capsys, 2, "build", "model.onnx", "--sparsity")
    assert files(folder) == before


def test_a_refused_operator_is_exit_4_and_names_the_node(folder, capsys):
    elementwise_net(folder / "odd.onnx", {"x": (4, 4)}, "Det")
    message = refuse(capsys, 4, "build", "odd.onnx")
    assert "refuses node 'odd_one', operator Det, of odd.onnx" in message
    assert files(folder) == ["odd.onnx"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(
            ["--target", "sm90"], "cannot build for sm90; it builds for sm75, sm80, sm86", id="target"
        ),
        pytest.param(["--target", "ampere"], "'ampere' is not a target", id="no-target"),
        pytest.param(
            ["--profile", "data:1,2,3"], "names input 'data'; the model's inputs are 'x'", id="name"
        ),
        pytest.param(
            ["--profile", "x:1x16,2x16,3x16"], "has rank 2 (1x16,2x16,3x16), the input has rank 4", id="rank"
        ),
        pytest.param(["--profile", "x:8,4,32"], "is not in the order MIN <= OPT <= MAX", id="order"),
        pytest.param(["--profile", "x"], "is not a profile; write NAME:MIN,OPT,MAX", id="form"),
        pytest.param(["--workspace", "lots"], "'lots' is not a size", id="size"),
        pytest.param(["-o", "gone/net.rtx"], "the folder gone does not exist", id="folder-missing"),
        pytest.param(["-o", "net.onnx/net.rtx"], "net.onnx", id="file-as-folder"),
        pytest.param(["-o", "."], "is a folder; give the path of a file to write", id="output-is-folder"),
        pytest.param(["-o", "net.onnx"], "is the model itself", id="output-is-model"),
        pytest.param(["--sparsity=sometimes"], "invalid choice: 'sometimes'", id="sparsity"),
    ],
)
def test_wrong_arguments_are_exit_2(net, capsys, words, message):
    before = net.read_bytes()
    assert main(["build", "net.onnx", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert files(net.parent) == ["net.onnx"]
    assert net.read_bytes() == before


def test_the_other_options_reach_the_manifest(net, capsys):
    words = ["--shape", "x:4", "--effort", "1", "--no-tf32", "--strict-nans", "--no-library-tactics"]
    assert main(["build", "net.onnx", "--sparsity", "--backend", "trt-rtx", *words]) == 0
    manifest = read_manifest(net.with_suffix(".rtx")).manifest
    assert manifest.options["static_shapes"] == [{"input": "x", "shape": [4, 16, 8, 8]}]
    assert manifest.options["profiles"] == []
    assert manifest.inputs[0]["shape"] == manifest.outputs[0]["shape"] == [4, 16, 8, 8]
    asked = ("effort", "tf32", "strict_nans", "library_tactics")
    assert [manifest.options[name] for name in asked] == [1, False, True, False]
    assert "strict NaNs limit sparse kernels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(
            ["--shape", "data:1"], "the shape names input 'data'; the model's inputs are 'x'", id="name"
        ),
        pytest.param(["--shape", "x:1x16"], "the shape of input 'x' has rank 2 (1x16)", id="rank"),
        pytest.param(
            ["--shape", "x:1x3x8x8"], "changes dimension 1, which the model fixes at 16", id="static"
        ),
        pytest.param(["--shape", "x"], "is not a shape; write NAME:SHAPE", id="form"),
        pytest.param(["--shape", "x:4", "--profile", "x:1,2,3"], "input 'x' is given twice", id="twice"),
        pytest.param(["--effort", "9"], "--effort 9 is out of range; give 0 to 5", id="effort"),
        pytest.param(["--plugin", "gone.so"], "gone.so does not exist", id="plugin"),
        pytest.param(["--backend", "tvm"], "invalid choice: 'tvm'", id="backend"),
    ],
)
def test_other_wrong_arguments_are_exit_2(net, capsys, words, message):
    assert message in refuse_any(capsys, 2, "build", "net.onnx", *words)
    assert files(net.parent) == ["net.onnx"]


def refuse_any(capsys, status, *words):
    assert main(list(words)) == status
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(
            ["--timing-cache", "t.cache"], "TensorRT for RTX 1.7.1.116 has no timing cache", id="cache"
        ),
        pytest.param(
            ["--backend", "ort", "--sparsity"], "ONNX Runtime has no sparse kernels", id="ort-sparsity"
        ),
        pytest.param(
            ["--backend", "ort", "--effort", "3"], "ONNX Runtime has no effort to set", id="ort-effort"
        ),
    ],
)
def test_what_a_backend_cannot_do_is_exit_4_before_the_build(net, capsys, words, message):
    assert message in refuse(capsys, 4, "build", "net.onnx", *words)
    assert files(net.parent) == ["net.onnx"]


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is here")
def test_tensorrt_that_is_not_here_is_exit_4(net, capsys):
    assert install_line("trt") in refuse(capsys, 4, "build", "net.onnx", "--backend", "trt")


def test_onnx_runtime_builds_a_file_of_its_own(net, capsys):
    pytest.importorskip("onnxruntime")
    assert main(["build", "net.onnx", "--backend", "ort"]) == 0
    assert "runs in ONNX Runtime, where zeros bring no speed" in capsys.readouterr().out
    manifest = read_manifest(net.with_suffix(".ort")).manifest
    assert (manifest.backend, manifest.targets, manifest.options["profiles"]) == ("ort", (), [])
    assert files(net.parent) == ["net.onnx", "net.ort", "net.ort.json"]


def test_other_dynamic_dimensions_ask_for_a_profile(folder, capsys):
    conv_net(folder / "net.onnx", shape=("n", 16, "h", "w"))
    message = refuse(capsys, 2, "build", "net.onnx")
    assert "input 'x' of shape nx16xhxw has dynamic dimensions 0 (n), 2 (h), 3 (w)" in message
    assert main(["build", "net.onnx", "--profile", message.split("--profile ")[1].strip()]) == 0


def test_a_missing_library_is_exit_4(net, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert install_line("rtx") in refuse(capsys, 4, "build", "net.onnx", "--sparsity")


def run_python(code, *words, **options):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_progress_goes_to_a_terminal_s_stderr_and_never_to_stdout(net, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    reader, terminal = os.openpty()
    command = [sys.executable, "-m", "nm2trt", "build", "net.onnx", "--sparsity", "--json"]
    with subprocess.Popen(command, cwd=net.parent, stdout=subprocess.PIPE, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        # The terminal's other end reports an error, not an end, once the process has closed it.
        with contextlib.suppress(OSError):
            while piece := os.read(reader, 65536):
                shown += piece
        printed = process.stdout.read()
    os.close(reader)
    assert process.returncode == 0
    assert b"parse net.onnx" in shown
    assert b"100%" in shown
    assert json.loads(printed)["written"] is True


def test_help_imports_no_library():
    code = """
        import sys
        from nm2trt.cli import main
        main(["build", "--help"])
        heavy = {"onnx", "numpy", "rich", "tensorrt_rtx"} & set(sys.modules)
        print(sorted(heavy), file=sys.stderr)
    """
    ran = run_python(code)
    assert ran.stderr.strip() == "[]"
    assert "--sparsity" in ran.stdout


@pytest.mark.parametrize("old", [False, True], ids=["first-build", "rebuild"])
def test_ctrl_c_in_mid_build_leaves_nothing(net, old):
    """A real process gets a real SIGINT from the builder's first progress step, and waits for its effect."""
    if old:
        assert main(["build", "net.onnx"]) == 0
    before = {path.name: path.read_bytes() for path in net.parent.iterdir()}
    code = """
        import contextlib, os, signal, sys, time
        from nm2trt.backends import _trt_shared
        from nm2trt.cli import main

        class Bar:
            sent = False

            def update(self, done, total=None, description=None):
                if not self.sent:
                    self.sent = True
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(0.3)

        bar = Bar()
        _trt_shared.bar = lambda *_: contextlib.nullcontext(bar)
        sys.exit(main(["build", "net.onnx", "--sparsity"]))
    """
    ran = run_python(code, cwd=net.parent)
    assert ran.returncode == 130
    assert ran.stderr == "nm2trt: stopped while an engine was built from net.onnx; nothing was written\n"
    assert {path.name: path.read_bytes() for path in net.parent.iterdir()} == before


@pytest.mark.slow
def test_ctrl_c_at_any_time_leaves_a_whole_pair_or_none(folder):
    conv_net(folder / "net.onnx", layers=40, channels=128, shape=("n", 128, 16, 16))
    for step in range(24):
        process = subprocess.Popen(
            [sys.executable, "-m", "nm2trt", "build", "net.onnx", "--sparsity"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        time.sleep(0.1 + step / 16)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        process.communicate()
        present = files(folder)
        assert present in (["net.onnx"], ["net.onnx", "net.rtx", "net.rtx.json"])
        if len(present) == 3:
            assert read_manifest(folder / "net.rtx").status == "fits"


def test_a_file_size_limit_is_one_sentence_and_leaves_nothing(net):
    """The engine's write fails half-way, as on a full disk, but without the right to mount one."""
    code = """
        import resource, signal, sys
        from nm2trt.cli import main
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        sys.exit(main(["build", "net.onnx"]))
    """
    ran = run_python(code, cwd=net.parent)
    assert ran.returncode == 2
    assert "net.rtx cannot be written: File too large; nothing was changed" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert files(net.parent) == ["net.onnx"]


def in_mounted(folder, options, script):
    """Run a shell script with a tmpfs on ./small, in a mount namespace of its own."""
    unshare = shutil.which("unshare")
    probe = [str(unshare), "-Urm", "mount", "-t", "tmpfs", "none", str(folder)]
    if not unshare or subprocess.run(probe, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let a test mount a file system")
    (folder / "small").mkdir()
    command = f"mount -t tmpfs -o size=128k none small; cp net.onnx small/; {options}; {script}"
    environment = {**os.environ, "NM": f"{sys.executable} -m nm2trt"}
    return subprocess.run(
        [unshare, "-Urm", "sh", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("old", ["", "echo old > small/net.rtx; "], ids=["first-build", "rebuild"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(folder, old):
    conv_net(folder / "net.onnx", layers=4, channels=32, shape=("n", 32, 8, 8))
    ran = in_mounted(
        folder, f"{old}true", "$NM build small/net.onnx; echo $? $(ls -A small) $(cat small/net.rtx)"
    )
    after = "2 net.onnx net.rtx old" if old else "2 net.onnx"
    assert ran.stdout.strip() == after
    assert "nm2trt: small/net.rtx cannot be written: the disk is full; nothing was changed" in ran.stderr


def test_a_read_only_folder_is_refused_before_the_build(net):
    ran = in_mounted(
        net.parent, "mount -o remount,ro small", "$NM build small/net.onnx; echo $? $(ls -A small)"
    )
    assert ran.stdout.strip() == "2 net.onnx"
    assert (
        ran.stderr
        == "nm2trt: small/net.rtx cannot be written: the file system is read-only; choose another output path\n"
    )


def test_a_folder_without_write_permission_is_refused(net):
    """Root may write anywhere, but not from a user namespace that maps no user."""

    def build():
        if os.geteuid() == 0 and ctypes.CDLL(None).unshare(CLONE_NEWUSER):
            return 99
        return main(["build", "net.onnx"])

    net.parent.chmod(0o555)
    try:
        ran = forked.run(build, net.parent)
    finally:
        net.parent.chmod(0o755)
    if ran.returncode == 99:
        pytest.skip("root may not make a user namespace here")
    told = "nm2trt: net.rtx cannot be written: permission denied; choose another output path\n"
    assert (ran.returncode, ran.stderr) == (2, told)
    assert files(net.parent) == ["net.onnx"]


def test_an_abbreviated_option_is_refused_not_guessed(folder, capsys):
    assert main(["build", str(folder / "a.onnx"), "--spars"]) == 2
    assert "--spars" in capsys.readouterr().err


def test_a_file_that_the_manifest_would_replace_is_refused_before_the_build(net, capsys):
    (net.parent / "net.json").write_text('{"learning_rate": 0.1}')
    told = refuse(capsys, 2, "build", "net.onnx", "-o", "net")
    assert "net.json is not a manifest of nm2trt, and would be replaced" in told
    assert (net.parent / "net.json").read_text() == '{"learning_rate": 0.1}'
    assert files(net.parent) == ["net.json", "net.onnx"]


def test_an_input_that_shares_a_fixed_batch_takes_it(folder, capsys):
    elementwise_net(folder / "add.onnx", {"a": ("n", 4), "b": ("n", 4)}, dtype="float16")
    assert main(["build", "add.onnx", "--shape", "a:8", "--json"]) == 0
    profiles = json.loads(capsys.readouterr().out)["options"]["profiles"]
    assert profiles == [[{"input": "b", "min": [8, 4], "opt": [8, 4], "max": [8, 4]}]]


# Every command prints in one place: the builder, which takes seconds to load, is asked once.
@pytest.mark.parametrize(
    ("command", "streams", "status", "told"),
    [
        ("info net.onnx", ">&-", 0, ""),
        (
            "build net.onnx --profile x:1,2,3",
            ">/dev/full",
            2,
            "nm2trt: output could not be written: the disk is full\n",
        ),
        ("info net.onnx", ">/dev/full 2>/dev/full", 2, ""),
        ("info net.onnx", ">&- 2>&-", 0, ""),
        ("--version", ">/dev/full", 2, "nm2trt: output could not be written: the disk is full\n"),
        ("--help", ">/dev/full", 2, "nm2trt: output could not be written: the disk is full\n"),
        ("info --help", ">/dev/full 2>/dev/full", 2, ""),
        ("", ">/dev/full", 2, "nm2trt: output could not be written: the disk is full\n"),
    ],
    ids=["closed", "full", "both-full", "both-closed", "version", "help", "help-of-one", "no-command"],
)
def test_a_result_that_cannot_be_printed_is_no_bug_of_ours(net, command, streams, status, told):
    words = f"{sys.executable} -m nm2trt {command} {streams}"
    ran = subprocess.run(words, shell=True, cwd=net.parent, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (status, told)
    if command.startswith("build"):
        assert read_manifest(net.with_suffix(".rtx")).status == "fits"


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full"])
def test_a_failure_keeps_its_status_where_nothing_can_be_said(folder, streams):
    command = f"{sys.executable} -m nm2trt info none.onnx {streams}"
    assert subprocess.run(command, shell=True, check=False).returncode == 2


def test_ctrl_c_in_mid_import_of_the_library_is_an_interruption(net):
    """What the bindings make of it: an ImportError, caused by the KeyboardInterrupt."""
    code = """
        import sys
        from nm2trt.cli import main

        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name == "tensorrt_rtx":
                    raise ImportError("initialization failed") from KeyboardInterrupt()

        sys.meta_path.insert(0, Finder())
        sys.exit(main(["build", "net.onnx", "--backend", "trt-rtx"]))
    """
    ran = run_python(code, cwd=net.parent)
    assert (ran.returncode, ran.stderr) == (130, "nm2trt: interrupted; nothing was left half-written\n")


def test_a_second_ctrl_c_ends_the_process_while_the_builder_works(net):
    """A builder that hears nothing for a minute; Python alone would wait for its thread."""
    code = """
        import os, signal, sys, time
        from nm2trt.backends import _trt_shared
        from nm2trt.cli import main

        def deaf(*_):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.5)
            time.sleep(60)

        _trt_shared._build = deaf
        sys.exit(main(["build", "net.onnx"]))
    """
    ran = run_python(code, cwd=net.parent, timeout=30)
    assert (ran.returncode, ran.stderr) == (130, "nm2trt: interrupted; nothing was left half-written\n")
    assert files(net.parent) == ["net.onnx"]


def test_force_with_samples_rebuilds_the_weights(folder, capsys):
    conv_net(folder / "net.onnx", sparse=False)
    shape = next(iter(open_onnx("net.onnx").inputs)).shape
    x = np.random.default_rng(0).normal(size=(32, *shape[1:]))
    np.savez("samples.npz", **{open_onnx("net.onnx").inputs[0].name: x.astype(np.float32)})
    assert main(["build", "net.onnx", "--sparsity=force", "--calib", "samples.npz", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {row["pattern"]["answer"] for row in result["ladder"]} == {"yes"}
    assert any("rebuilt to 2:4 from 32 samples, 2 of 2 hold it" in note for note in result["notes"])
    lowered = ["--sparsity=force", "--precision=int8", "--calib", "samples.npz", "--json"]
    assert refuse(capsys, 2, "build", "net.onnx", *lowered).startswith("nm2trt: net.onnx has no Conv")
    conv_net(folder / "float32.onnx", sparse=False, dtype="float32")
    assert main(["build", "float32.onnx", *lowered]) == 0
    assert "rebuilt to 2:4 from 32 samples, 2 of 2 hold it" in capsys.readouterr().out
    (folder / "elsewhere").mkdir()
    (folder / "samples.npz").replace(folder / "elsewhere" / "samples.npz")
    (folder / "samples.yaml").write_text("source: {kind: npz, path: samples.npz}\ncount: 32\n")
    words = ["build", "net.onnx", "--sparsity=force", "--calib", "samples.yaml", "--data-root", "elsewhere"]
    assert main([*words, "--json"]) == 0
    assert "rebuilt to 2:4 from 32 samples" in capsys.readouterr().out
    (folder / "elsewhere" / "samples.npz").replace(folder / "samples.npz")
    words = ["build", "net.onnx", "--sparsity=force", "--calib", "samples.npz", "--prune-method=magnitude"]
    assert main([*words, "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any("forced to 2:4 by magnitude" in note for note in notes)
    assert "set sparsity to force" in refuse(capsys, 2, "build", "net.onnx", "--prune-method", "magnitude")
    refused = refuse(capsys, 2, "build", "net.onnx", "--sparsity=force", "--prune-method=reconstruct")
    assert "give them with --calib" in refused
