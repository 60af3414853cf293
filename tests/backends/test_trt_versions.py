"""The table of versions: which row a version gets, and that TensorRT for RTX is as its row says."""

import pytest

from nm2trt.backends._trt_versions import ROWS, row_of
from nm2trt.errors import BackendMissingError


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


def test_only_eight_is_weakly_typed():
    for row in ROWS:
        assert bool(row.type_flags) == (row.since == (8, 6)) == ("STRONGLY_TYPED" not in row.network_flags)


def test_tensorrt_for_rtx_is_as_its_row_says():
    trt = pytest.importorskip("tensorrt_rtx")
    row = row_of("trt-rtx", trt.__version__)
    for name in row.network_flags:
        assert hasattr(trt.NetworkDefinitionCreationFlag, name)
    for name in row.flags.values():
        assert hasattr(trt.BuilderFlag, name)
    for name in row_of("trt", "8.6.0").type_flags.values():
        assert not hasattr(trt.BuilderFlag, name), "precision would not come from the network alone"
    assert row.progress == hasattr(trt, "IProgressMonitor")
