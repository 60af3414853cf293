"""nm_mask and check: one contract in numpy and torch, against sorting every group by hand."""

import contextlib
import itertools

import ml_dtypes
import numpy as np
import pytest
import torch

from nm2trt.errors import PatternError
from nm2trt.nm import block_ranks, torch_mask
from nm2trt.nm import mask as numpy_mask
from nm2trt.nm.mask import GroupChecker, check
from nm2trt.nm.pattern import NMPattern

TWO_FOUR = NMPattern(2, 4)


def in_numpy(score, pattern, *, axis):
    return numpy_mask.nm_mask(score, pattern, axis=axis)


def in_torch(score, pattern, *, axis):
    return torch_mask.nm_mask(torch.from_numpy(np.array(score)), pattern, axis=axis).numpy()


def in_eager_torch(score, pattern, *, axis):
    """Return the mask that a trace or a tensor subclass gets, whose memory numpy may not write to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_mask, "is_in_torch_dispatch_mode", lambda: True)
        patch.setattr(torch_mask, "set_mask", None)
        return in_torch(score, pattern, axis=axis)


ALL = pytest.mark.parametrize(
    "nm_mask", [in_numpy, in_torch, in_eager_torch], ids=["numpy", "torch", "eager"]
)

SHAPES = pytest.mark.parametrize(
    ("shape", "axis"),
    [
        pytest.param((16,), 0, id="vector"),
        pytest.param((8, 32), 1, id="linear"),
        pytest.param((32, 8), 0, id="matmul-right"),
        pytest.param((8, 16, 3, 3), 1, id="conv2d"),
        pytest.param((8, 16, 1, 5), 1, id="conv2d-non-square"),
        pytest.param((4, 16, 2, 3, 2), 1, id="conv3d"),
        pytest.param((16, 8, 3), 0, id="conv-transpose1d"),
        pytest.param((2, 16, 6), -2, id="batched-matmul"),
    ],
)


def groups_of(array, m, axis):
    """Return (group count, m): every group of m consecutive elements on axis, sliced out by hand."""
    lines = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
    return [line[i : i + m] for line in lines for i in range(0, len(line), m)]


def sorted_mask(score, pattern, axis):
    """Sort every group on its own, stably: the slow and certain way."""
    moved = np.moveaxis(score, axis, -1)
    groups = moved.reshape(-1, pattern.m).astype(np.float64)
    mask = np.zeros(groups.shape, bool)
    for row, group in zip(mask, groups, strict=True):
        best_first = sorted(range(pattern.m), key=lambda i: (-group[i], i))
        row[best_first[: pattern.n]] = True
    return np.moveaxis(mask.reshape(moved.shape), -1, axis)


@ALL
@SHAPES
@pytest.mark.parametrize("pattern", ["1:4", "2:4", "3:4", "4:8", "1:16", "2:16", "1:1", "4:4"])
def test_equals_sorting_every_group(nm_mask, shape, axis, pattern):
    pattern = NMPattern.parse(pattern)
    rng = np.random.default_rng(0)
    smooth = rng.standard_normal(shape)
    tied = rng.integers(0, 3, shape).astype(np.float64)  # nearly every group has equal scores
    for score in (smooth, tied):
        assert (nm_mask(score, pattern, axis=axis) == sorted_mask(score, pattern, axis)).all()


@ALL
@pytest.mark.parametrize("pattern", ["2:4", "1:3", "2:6"])
def test_keeps_the_best_choice_of_every_group(nm_mask, pattern):
    pattern = NMPattern.parse(pattern)
    score = np.random.default_rng(1).random((4, 12, 2, 3))
    mask = nm_mask(score, pattern, axis=1)
    for kept, group in zip(groups_of(mask, pattern.m, 1), groups_of(score, pattern.m, 1), strict=True):
        best = max(itertools.combinations(group, pattern.n), key=sum)
        assert sorted(group[kept]) == sorted(best)


@ALL
def test_equal_scores_keep_lower_index(nm_mask):
    assert nm_mask(np.ones((1, 8)), TWO_FOUR, axis=1).tolist() == [[True, True, False, False] * 2]


@ALL
def test_groups_may_not_straddle_rows(nm_mask):
    # 4 x 6 = 24 elements: divisible by 4 in total, but not along the row.
    with pytest.raises(PatternError, match=r"\(4, 6\) has 6 elements.*leave this layer dense"):
        nm_mask(np.ones((4, 6)), TWO_FOUR, axis=1)


@ALL
def test_axis_that_is_not_there(nm_mask):
    with pytest.raises(PatternError, match=r"\(4, 8\) has no axis 2"):
        nm_mask(np.ones((4, 8)), TWO_FOUR, axis=2)


@ALL
def test_not_a_number_ranks_lowest_and_exactly_n_stay(nm_mask):
    score = np.array([[np.nan, 1.0, np.nan, 0.5], [np.nan] * 4, [np.inf, np.nan, -np.inf, 0.0]])
    assert nm_mask(score, TWO_FOUR, axis=1).tolist() == [
        [False, True, False, True],
        [True, True, False, False],
        [True, False, False, True],
    ]


@ALL
def test_tensors_larger_than_one_block(nm_mask):
    rng = np.random.default_rng(2)
    for shape, axis in [((1000, 600), 1), ((8, 100_003), 0), ((16, 3, 21_011), 0)]:
        score = rng.standard_normal(shape).astype(np.float32)
        runs = np.moveaxis(score, axis, -1).reshape(-1, 4)
        best = np.argsort(-runs, axis=1, kind="stable")[:, :2]
        expected = np.zeros(runs.shape, bool)
        np.put_along_axis(expected, best, True, axis=1)
        expected = np.moveaxis(expected.reshape(np.moveaxis(score, axis, -1).shape), -1, axis)
        assert (nm_mask(score, TWO_FOUR, axis=axis) == expected).all()


@pytest.mark.parametrize("inner", [1, 9, 130])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_threads_and_changes_of_a_mask_that_is_there(monkeypatch, inner, dtype):
    monkeypatch.setattr(block_ranks, "_THREAD_ELEMENTS", 1 << 10)
    monkeypatch.setattr(block_ranks, "_BLOCK_ELEMENTS", 1 << 12)
    rng = np.random.default_rng(8)
    weight = rng.standard_normal(((1 << 14) // inner + 1, 4, inner), dtype=np.float32).astype(dtype)
    weight[::100, 1] = np.nan
    ranked = np.where(np.isnan(weight), -1, np.abs(weight).astype(np.float32))
    expected = np.argsort(np.argsort(-ranked, axis=1, kind="stable"), axis=1) < 2
    mask = rng.random(weight.shape) < 0.5
    before = mask.copy()
    options = {"inner": inner, "magnitude": True, "threads": 3, "changes": True}
    changed = block_ranks.set_mask(weight, mask, TWO_FOUR, **options)
    assert (mask == expected).all()
    assert changed == np.count_nonzero(before != expected)
    assert block_ranks.set_mask(weight, mask, TWO_FOUR, **options) == 0


@ALL
def test_groups_too_large_for_a_count_in_one_byte(nm_mask):
    score, pattern = np.random.default_rng(7).random((3, 1024)), NMPattern(300, 512)
    assert (nm_mask(score, pattern, axis=1) == sorted_mask(score, pattern, 1)).all()
    assert check(score * sorted_mask(score, pattern, 1), pattern, axis=1).worst == 300


@ALL
def test_empty_tensor(nm_mask):
    assert nm_mask(np.ones((0, 8)), TWO_FOUR, axis=1).shape == (0, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_dtypes_and_magnitude(dtype):
    weight = torch.randn(16, 32, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = sorted_mask(weight.abs().double().numpy(), TWO_FOUR, 1)
    assert (torch_mask.nm_mask(weight.abs(), TWO_FOUR, axis=1).numpy() == expected).all()
    assert (torch_mask.magnitude_mask(weight, TWO_FOUR, axis=1).numpy() == expected).all()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int8])
def test_numpy_dtypes(dtype):
    score = (np.random.default_rng(3).standard_normal((16, 32)) * 10).astype(dtype)
    assert (
        numpy_mask.nm_mask(score, TWO_FOUR, axis=1) == sorted_mask(score.astype(np.float64), TWO_FOUR, 1)
    ).all()


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(lambda w: w.to(memory_format=torch.channels_last), id="channels-last"),
        pytest.param(lambda w: w.transpose(0, 1).contiguous().transpose(0, 1), id="transposed"),
        pytest.param(lambda w: torch.cat([w, w], dim=3)[..., ::2], id="strided-view"),
        pytest.param(lambda w: w[:1].expand(8, -1, -1, -1), id="expanded"),
    ],
)
def test_any_memory_format(layout):
    weight = layout(torch.randn(8, 16, 4, 2, generator=torch.Generator().manual_seed(0)))
    mask = torch_mask.nm_mask(weight, TWO_FOUR, axis=1)
    assert (mask.numpy() == sorted_mask(weight.numpy(), TWO_FOUR, 1)).all()
    if weight.is_contiguous(memory_format=torch.channels_last):
        assert mask.is_contiguous(memory_format=torch.channels_last)


def test_gradients_are_left_alone():
    weight = torch.randn(4, 8, requires_grad=True)
    assert not torch_mask.nm_mask(weight, TWO_FOUR, axis=1).requires_grad


@pytest.mark.gpu
def test_gpu_gives_the_cpu_mask_ties_included():
    score = torch.randint(0, 3, (64, 128, 3, 3), generator=torch.Generator().manual_seed(0)).float()
    score[0, 0, 0, 0] = torch.nan
    assert (
        torch_mask.nm_mask(score.cuda(), TWO_FOUR, axis=1).cpu()
        == torch_mask.nm_mask(score, TWO_FOUR, axis=1)
    ).all()


@SHAPES
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8", "3:16", "1:1"])
def test_check_counts_groups_as_slicing_does(shape, axis, pattern):
    pattern = NMPattern.parse(pattern)
    rng = np.random.default_rng(4)
    weight = rng.standard_normal(shape) * rng.integers(0, 2, shape)
    groups = groups_of(weight, pattern.m, axis)
    counts = [np.count_nonzero(group) for group in groups]
    found = check(weight, pattern, axis=axis)
    assert (found.groups, found.broken, found.worst) == (
        len(groups),
        sum(count > pattern.n for count in counts),
        max(counts),
    )
    assert (found.zeros, found.size) == (np.count_nonzero(weight == 0), weight.size)


def test_check_names_the_first_broken_group():
    weight = np.zeros((4, 8, 3, 3), np.float32)
    weight[2, 4:7, 1, 2] = 1.0
    weight[3, 0:3, 0, 0] = 1.0
    assert check(weight, TWO_FOUR, axis=1).first_broken == (2, 4, 1, 2)


def test_check_takes_minus_zero_for_zero_and_nan_for_a_number():
    assert check(np.array([[-0.0, -0.0, 1.0, 2.0]]), TWO_FOUR, axis=1).holds
    assert not check(np.array([[np.nan, np.inf, 1.0, 0.0]]), TWO_FOUR, axis=1).holds


def test_masked_weights_pass_and_one_more_element_fails():
    weight = np.random.default_rng(5).standard_normal((64, 128, 3, 3)).astype(np.float32)
    mask = numpy_mask.nm_mask(np.abs(weight), TWO_FOUR, axis=1)
    sparse = weight * mask
    assert check(sparse, TWO_FOUR, axis=1).holds
    place = tuple(np.argwhere(~mask)[12345])
    sparse[place] = 1.0
    found = check(sparse, TWO_FOUR, axis=1)
    assert found.broken == 1
    assert found.first_broken == (place[0], place[1] // 4 * 4, *place[2:])


def test_check_groups_may_not_straddle_rows():
    with pytest.raises(PatternError, match=r"\(4, 6\) has 6 elements"):
        check(np.zeros((4, 6)), TWO_FOUR, axis=1)


def test_checker_in_pieces_equals_check_at_once():
    rng = np.random.default_rng(6)
    weight = rng.standard_normal((16, 8, 3)) * (rng.random((16, 8, 3)) < 0.4)
    checker = GroupChecker(TWO_FOUR, inner=3)
    flat = (weight != 0).reshape(-1)
    for start in range(0, flat.size, 36):
        checker.update(flat[start : start + 36])
    whole = check(weight, TWO_FOUR, axis=1)
    assert (checker.groups, checker.broken, checker.worst) == (whole.groups, whole.broken, whole.worst)
    assert np.unravel_index(checker.first_broken, weight.shape) == whole.first_broken


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float16", "bfloat16"])
def test_small_floats_are_ranked_as_the_numbers_they_hold(dtype):
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    assert torch.equal(
        torch_mask.nm_mask(weight, NMPattern(2, 4), axis=1),
        torch_mask.nm_mask(weight.float(), NMPattern(2, 4), axis=1),
    )
    assert torch.equal(
        torch_mask.magnitude_mask(weight, NMPattern(2, 4), axis=1),
        torch_mask.magnitude_mask(weight.float(), NMPattern(2, 4), axis=1),
    )


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_the_lowest_integer_has_the_largest_magnitude(bits):
    """Its absolute value is beyond the type, and wraps around to itself."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    weight = torch.tensor([[1, 2, low, 3, high - 1, low, 2, 1]], dtype=getattr(torch, f"int{bits}"))
    kept = torch_mask.magnitude_mask(weight, NMPattern(1, 4), axis=1)
    assert kept.nonzero()[:, 1].tolist() == [2, 5]


@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "other-mask"])
def test_a_mask_updated_in_place_is_the_new_one_and_its_changes_are_counted(layout):
    weight = torch.randn(8, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    before = torch_mask.magnitude_mask(torch.randn(8, 16, 3, 3), TWO_FOUR, axis=1)
    if layout != "contiguous":
        weight = weight.to(memory_format=torch.channels_last)
    mask = before.to(memory_format=torch.channels_last) if layout == "channels-last" else before.clone()
    flips = torch_mask.update_magnitude_mask(mask, weight, TWO_FOUR, axis=1)
    expected = sorted_mask(weight.abs().numpy(), TWO_FOUR, 1)
    assert (mask.numpy() == expected).all()
    assert int(flips) == int((before.numpy() != expected).sum())


@pytest.mark.parametrize("factor", [2e-4, torch.tensor(2e-4)], ids=["number", "tensor"])
@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "mixed"])
def test_the_decay_is_added_to_pruned_entries_alone(layout, factor):
    target, values, mask = torch.randn(4, 8, 3, 3), torch.randn(4, 8, 3, 3), torch.rand(4, 8, 3, 3) > 0.5
    expected = torch.where(mask, target, target + 2e-4 * values)
    if layout != "contiguous":
        target = target.to(memory_format=torch.channels_last)
    if layout == "channels-last":
        values, mask = (t.to(memory_format=torch.channels_last) for t in (values, mask))
    torch_mask.add_pruned(target, values, mask, factor)
    torch.testing.assert_close(target, expected)


def test_a_kernel_that_cannot_be_compiled_is_told_once_and_eager_torch_goes_on(monkeypatch):
    class Broken:
        @staticmethod
        def set_mask(*_tensors, **_given):
            raise RuntimeError("Failed to find C compiler.\nsee the log")

    monkeypatch.setattr(torch_mask, "_FAILED", [])
    monkeypatch.setattr(torch_mask, "_imported", lambda: Broken)
    monkeypatch.setattr(torch_mask, "_is_fused", lambda _tensor, _m: torch_mask.fused_kernels() is not None)
    monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
    weight = torch.randn(8, 16)
    with pytest.warns(
        UserWarning, match=r"eager torch, which is slower \(RuntimeError: Failed to find C compiler"
    ):
        mask = torch_mask.magnitude_mask(weight, TWO_FOUR, axis=1)
    assert (mask.numpy() == sorted_mask(weight.abs().numpy(), TWO_FOUR, 1)).all()
    torch_mask.magnitude_mask(weight, TWO_FOUR, axis=1)  # not told again


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int8, np.uint8])
@pytest.mark.parametrize(("m", "inner"), [(16, 1), (16, 3), (32, 130), (64, 1), (128, 7), (256, 1)])
def test_a_tournament_finds_what_all_pairs_find(monkeypatch, dtype, m, inner):
    random = np.random.default_rng(m + inner)
    # Few values, so that many groups hold ties at the second place; some groups are all one number.
    score = (random.integers(-5, 6, size=(40, m, inner)) * random.integers(0, 2, size=(40, 1, 1))).astype(
        dtype
    )
    if score.dtype.kind == "f":
        score[3, 2, 0], score[4, 1:4, 0], score[5, :, 0] = np.nan, np.inf, np.nan
    for magnitude in (False, True):
        found = np.empty(score.shape, np.bool_)
        block_ranks.set_mask(score, found, NMPattern(2, m), inner=inner, magnitude=magnitude)
        with monkeypatch.context() as patch:
            patch.setattr(block_ranks, "_TOURNAMENTS", ())
            wanted = np.empty(score.shape, np.bool_)
            block_ranks.set_mask(score, wanted, NMPattern(2, m), inner=inner, magnitude=magnitude)
        np.testing.assert_array_equal(found, wanted)
        assert (found.sum(axis=1) == 2).all()


@SHAPES
@pytest.mark.parametrize("pattern", ["1:2", "2:4", "4:8"])
def test_check_tells_a_mask_from_one_with_a_single_element_more(shape, axis, pattern):
    pattern = NMPattern.parse(pattern)
    mask = numpy_mask.nm_mask(np.random.default_rng(7).random(shape), pattern, axis=axis)
    assert numpy_mask.check(mask, pattern, axis=axis).holds
    mask[tuple(np.argwhere(~mask)[mask.size // 3])] = True
    assert not numpy_mask.check(mask, pattern, axis=axis).holds


def test_check_takes_a_large_weight_by_pieces():
    present = np.zeros((1 << 17, 4), np.bool_)
    present[:, :2] = True
    assert numpy_mask.check(present, TWO_FOUR, axis=1).holds
    present[-1] = True
    assert not numpy_mask.check(present, TWO_FOUR, axis=1).holds
