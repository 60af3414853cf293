"""The table of versions: which row a version gets, and that TensorRT for RTX is as its row says."""

import configparser
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from nm2trt.backends import _trt_shared, trt, trt_rtx
from nm2trt.backends._trt_versions import ROWS, network_flags, row_of
from nm2trt.backends.options import BuildOptions
from nm2trt.errors import BackendError, BackendMissingError


@pytest.mark.parametrize(
    ("version", "since"),
    [
        ("8.6.0", (8, 6)),
        ("8.6.1.6", (8, 6)),
        ("10.0.1", (10, 0)),
        ("10.13.3", (10, 0)),
        ("11.1.0", (11, 0)),
        ("12.0.0", (11, 0)),
    ],
)
def test_a_version_gets_the_last_row_below_it(version, since):
    assert row_of("trt", version).since == since


@pytest.mark.parametrize("version", ["8.5.3.1", "7.2.3", "9.3.0", "unknown"])
def test_other_versions_are_refused(version):
    with pytest.raises(
        BackendMissingError, match=rf"TensorRT {version} is not supported; install 8\.6, or 10"
    ):
        row_of("trt", version)


@pytest.mark.parametrize("version", ["1.0.0.21", "1.6.1.120", "unknown"])
def test_a_tensorrt_for_rtx_older_than_what_the_extra_installs_is_refused(version):
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    (wanted,) = re.findall(r">=([\d.]+)", config["options.extras_require"]["rtx"])
    told = rf"TensorRT for RTX {version} is not supported; install {wanted} or newer: pip install .*\[rtx\]"
    with pytest.raises(BackendMissingError, match=told):
        trt_rtx.RtxBackend(SimpleNamespace(__version__=version))
    assert row_of("trt-rtx", f"{wanted}.0.1").since == row_of("trt-rtx", "2.0").since == (1, 7)


def test_only_eight_is_weakly_typed():
    for row in ROWS:
        assert bool(row.type_flags) == (row.since == (8, 6)) == ("STRONGLY_TYPED" not in row.network_flags)


def test_tensorrt_for_rtx_is_as_its_row_says():
    rtx = pytest.importorskip("tensorrt_rtx")
    row = row_of("trt-rtx", rtx.__version__)
    for name in row.network_flags:
        assert hasattr(rtx.NetworkDefinitionCreationFlag, name)
    for name in ("SPARSE_WEIGHTS", "TF32", "STRICT_NANS"):
        assert hasattr(rtx.BuilderFlag, name)
    for name in row_of("trt", "8.6.0").type_flags.values():
        assert not hasattr(rtx.BuilderFlag, name), "precision would not come from the network alone"
    assert row.progress == hasattr(rtx, "IProgressMonitor")


class Flag:
    """An enumeration of NVIDIA's bindings: members that turn to numbers."""

    def __init__(self, *names):
        for number, name in enumerate(names):
            setattr(self, name, number)


@pytest.mark.parametrize(
    ("version", "members", "bits"),
    [
        ("8.6.0", ("EXPLICIT_BATCH",), 1),
        ("10.0.1", ("EXPLICIT_BATCH", "STRONGLY_TYPED"), 2),
        ("11.1.0", ("EXPLICIT_BATCH", "STRONGLY_TYPED"), 2),
        ("12.0.0", ("EXPLICIT_BATCH",), 0),
    ],
)
def test_a_network_flag_that_a_later_version_has_dropped_is_left_out(version, members, bits):
    module = SimpleNamespace(NetworkDefinitionCreationFlag=Flag(*members))
    assert network_flags(module, row_of("trt", version)) == bits


@pytest.mark.parametrize(
    ("members", "left"),
    [
        (("CUBLAS", "CUBLAS_LT", "CUDNN", "EDGE_MASK_CONVOLUTIONS"), 0b1000),
        (("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"), 0b1111),
    ],
    ids=["8.6-to-10", "11"],
)
def test_library_tactics_are_left_out_where_there_are_such(members, left):
    set_to = []
    config = SimpleNamespace(get_tactic_sources=lambda: 0b1111, set_tactic_sources=set_to.append)
    trt._set_tactics(
        SimpleNamespace(TacticSource=Flag(*members)), config, BuildOptions(library_tactics=False)
    )
    assert set_to == [left]


@pytest.mark.parametrize("version", ["10.0.1", "10.5.0"])
def test_strict_nans_are_refused_before_the_release_that_has_them(version):
    module = SimpleNamespace(BuilderFlag=Flag("SPARSE_WEIGHTS", "TF32"))
    library = _trt_shared.Library(module, f"TensorRT {version}", row_of("trt", version), lambda *_: None)
    with pytest.raises(BackendError, match=rf"TensorRT {version} has no strict NaNs"):
        _trt_shared.check(library, BuildOptions(strict_nans=True))
