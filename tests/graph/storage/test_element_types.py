"""Zeros, NaN and infinities of element types, against each element converted to float64 by itself."""

import math

import ml_dtypes
import numpy as np
import pytest

from nm2trt.graph.storage.element_types import nonfinite_count, present

FLOATS = [
    np.float32,
    np.float64,
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e4m3fnuz,
]


def special(dtype):
    """Return zeros of both signs, the smallest and largest numbers, NaN of both signs and infinities."""
    limits = ml_dtypes.finfo(dtype)
    finite = [0.0, -0.0, 1.0, -1.0, limits.smallest_subnormal, -limits.smallest_subnormal]
    finite += [limits.max, limits.min, limits.max]
    with np.errstate(invalid="ignore", over="ignore"):
        return np.array([*finite, math.nan, -math.nan, math.inf, -math.inf]).astype(dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: np.dtype(dtype).name)
def test_each_special_number_is_counted_wherever_it_stands(dtype):
    for size in (1, 3, 8, 37, 128, 1001):
        for number in special(dtype):
            for place in {0, size // 2, size - 1}:
                elements = np.zeros(size, dtype)
                elements[place] = number
                alone = float(elements[place])
                assert nonfinite_count(elements) == int(math.isnan(alone) or math.isinf(alone)), (
                    number,
                    size,
                    place,
                )
                assert np.flatnonzero(present(elements)).tolist() == ([place] if alone != 0 else [])


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: np.dtype(dtype).name)
def test_mixed_numbers_are_counted_one_by_one(dtype):
    rng = np.random.default_rng(0)
    for _ in range(20):
        elements = rng.choice(special(dtype), size=int(rng.integers(1, 500)))
        alone = [float(number) for number in elements]
        assert nonfinite_count(elements) == sum(math.isnan(number) or math.isinf(number) for number in alone)
        assert present(elements).tolist() == [number != 0 for number in alone]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_finite_numbers_whose_sum_overflows_are_finite(dtype):
    largest = np.full(1000, np.finfo(dtype).max, dtype)
    assert nonfinite_count(largest) == 0
    assert nonfinite_count(-largest) == 0
    largest[500] = math.nan
    assert nonfinite_count(largest) == 1


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.bool_])
def test_integers_are_finite(dtype):
    elements = np.array([0, 1, 0, 1], dtype)
    assert nonfinite_count(elements) == 0
    assert present(elements).tolist() == [False, True, False, True]
