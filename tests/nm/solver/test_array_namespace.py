"""Numpy's OpenBLAS on one thread: same bits for any thread count, and as many threads as before afterwards."""

import threading

import numpy as np
import pytest

from nm2trt.errors import SparsityError
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.solver import array_namespace
from nm2trt.nm.solver.array_namespace import each, each_block, one_blas_thread, product
from nm2trt.nm.solver.kept_rows import KeptRows
from nm2trt.nm.solver.layer_moments import moments_of
from nm2trt.nm.solver.layer_solver import fit_layer

CALLS = array_namespace._openblas()
needs_openblas = pytest.mark.skipif(CALLS is None, reason="numpy is built with another library than OpenBLAS")


@pytest.fixture
def threads():
    """Set OpenBLAS's thread count; it is put back."""
    read, write = CALLS
    before = read()
    yield write
    write(before)


@needs_openblas
@pytest.mark.parametrize("form", [moments_of, KeptRows])
def test_a_layer_is_the_same_bits_with_one_thread_and_with_three(threads, form):
    random = np.random.default_rng(0)
    weight = random.normal(size=(100, 240))
    x = random.normal(size=(1500, 240)).astype(np.float32) @ random.normal(size=(240, 240)).astype(np.float32)
    y = x @ weight.T.astype(np.float32)
    moments = form(x[:1300], y[:1300]), form(x[1300:], y[1300:])
    found = []
    for count in (1, 3):
        threads(count)
        fit = fit_layer(*moments, weight, NMPattern(2, 4), bias=True)
        found.append((fit.weight.tobytes(), fit.bias_change.tobytes(), fit.mask.tobytes()))
    assert found[0] == found[1]


@needs_openblas
@pytest.mark.parametrize(("width", "size"), [(16_384, 256), (16_388, 64)])
def test_blocks_of_wide_rows_are_smaller_and_all_rows_are_in_one(monkeypatch, width, size):
    monkeypatch.setattr(array_namespace, "_LARGE", 0)
    given, seen = np.broadcast_to(np.float32(0), (600, width)), []
    each_block(lambda rows: seen.append(range(600)[rows]), given, 1)
    assert max(map(len, seen)) == size
    assert sorted(number for block in seen for number in block) == list(range(600))


@needs_openblas
def test_without_it_decompositions_depend_on_the_thread_count(threads):
    rows = np.random.default_rng(0).normal(size=(900, 256))  # 192 are too few for threads
    found = []
    for count in (1, 3):
        threads(count)
        found.append(np.linalg.eigh(rows.T @ rows)[1])
    if np.array_equal(*found):
        pytest.skip("this OpenBLAS gives the same bits by itself")
    threads(3)
    with one_blas_thread():
        held = np.linalg.eigh(rows.T @ rows)[1]
    assert np.array_equal(held, found[0])


@needs_openblas
def test_the_thread_count_comes_back_after_nested_blocks_errors_and_other_threads(threads):
    threads(3)
    read = CALLS[0]
    inside, leave = threading.Event(), threading.Event()

    def other():
        with one_blas_thread():
            inside.set()
            leave.wait(30)

    running = threading.Thread(target=other)
    with one_blas_thread() as outer:
        running.start()
        assert inside.wait(30)
        with one_blas_thread() as inner:
            assert (outer, inner, read()) == (3, 3, 1)
    assert read() == 1  # the other thread's block is open
    leave.set()
    running.join()
    assert read() == 3
    with pytest.raises(SparsityError), one_blas_thread():
        raise SparsityError("it failed")
    assert read() == 3


def test_without_openblas_nothing_is_set_and_one_thread_is_allowed(monkeypatch):
    monkeypatch.setattr(array_namespace, "_openblas", lambda: None)
    with one_blas_thread() as allowed:
        assert allowed == 1


@pytest.mark.parametrize("count", [1, 3])
def test_each_number_is_worked_on_once_and_an_error_is_raised(count):
    done = []
    each(done.append, range(7), count)
    assert sorted(done) == list(range(7))

    def fail(number):
        if number == 5:
            raise ValueError("5")
        done.append(number)

    with pytest.raises(ValueError, match="5"):
        each(fail, range(7), count)


def test_a_large_product_in_blocks_is_the_product(monkeypatch):
    monkeypatch.setattr(array_namespace, "_LARGE", 0)
    random = np.random.default_rng(0)
    for rows in (1, 256, 600):
        a, b = random.normal(size=(rows, 12)).astype(np.float32), random.normal(size=(12, 9))
        whole = product(a, b)
        assert whole.dtype == np.float64
        np.testing.assert_allclose(whole, a.astype(np.float64) @ b, rtol=1e-12)
