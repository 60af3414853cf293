"""The TensorRT backend against TensorRT's own types; fetches the stubs, so it is slow."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tools import trt_typecheck  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("types")
    try:
        trt_typecheck.make_stubs(folder / "typings")
    except subprocess.CalledProcessError:
        pytest.skip("the stubs cannot be fetched here")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "right", "wrong", "message"),
    [
        pytest.param("trt.py", "", "", "", id="as-it-is"),
        pytest.param("_trt_shared.py", "config.clear_flag(", "config.unset_flag(", "unset_flag", id="method"),
        pytest.param(
            "_trt_shared.py",
            "trt.MemoryPoolType.WORKSPACE",
            "trt.MemoryPoolType.SCRATCH",
            "SCRATCH",
            id="enumeration",
        ),
        pytest.param(
            "_trt_session.py",
            "get_tensor_profile_shape(name, index)",
            "get_tensor_profile_shape(index, name)",
            'expected "str"',
            id="argument",
        ),
    ],
)
def test_the_backend_fits_tensorrt_s_types(folder, file, right, wrong, message):
    trt_typecheck.make_sources(folder)
    path = folder / "nm2trt" / "backends" / file
    source = path.read_text()
    assert right in source
    if right:
        path.write_text(source.replace(right, wrong))
    status, report = trt_typecheck.check(folder)
    assert (status == 0) == (not right), report
    assert message in report


def test_the_module_handed_in_becomes_an_import():
    source = (
        "def f(library):\n    trt = library.module\n    return trt.Builder\n\n\n"
        'def g(trt: Any) -> Any:\n    """Doc."""\n    return trt.Logger\n'
    )
    assert trt_typecheck.imported(source) == (
        "def f(library):\n    import tensorrt as trt\n    return trt.Builder\n\n\n"
        'def g(_trt: Any) -> Any:\n    """Doc."""\n    import tensorrt as trt\n    return trt.Logger\n'
    )
