"""SAD: counts, aggregates and the levels that patterns are compared by (invariant 11 of SR-STE)."""

import pytest
import torch
from torch import nn

from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.torch_mask import nm_mask
from nm2trt.sparsity.core.mask_divergence import Sad, largest_fraction, sad_count, total
from nm2trt.sparsity.sparsify import sparsify


def random_mask(pattern, seed, shape=(64, 64)):
    generator = torch.Generator().manual_seed(seed)
    return nm_mask(torch.rand(shape, generator=generator), pattern, axis=1)


def test_equal_masks_have_none():
    mask = random_mask(NMPattern(2, 4), 0)
    assert int(sad_count(mask, mask.clone())) == 0


def test_one_swap_in_one_group_is_two():
    model = nn.Linear(16, 2)
    model.weight.data.copy_(torch.arange(16.0).repeat(2, 1) + 1)
    sparse = sparsify(model)
    with torch.no_grad():
        model.parametrizations.weight.original[0, 0] = 100
    sparse.refresh()
    assert sparse.report()["sad_step"]["count"] == 2
    assert sparse.report()["sad_anchored"]["count"] == 2


def test_is_symmetric_and_counts_differing_entries():
    a, b = random_mask(NMPattern(2, 4), 0), random_mask(NMPattern(2, 4), 1)
    assert int(sad_count(a, b)) == int(sad_count(b, a)) == int((a ^ b).sum()) > 0


def test_model_level_is_that_of_the_layers_as_one_tensor_not_the_mean_of_shares():
    large, small = Sad(8, 100, 100), Sad(1, 2, 2)
    assert total([large, small]).fraction == 9 / 102
    assert total([]).fraction == 0.0


@pytest.mark.parametrize("pattern", ["2:4", "4:8", "1:4", "2:8", "1:16"])
def test_random_masks_differ_by_the_expected_share(pattern):
    pattern = NMPattern.parse(pattern)
    a, b = (random_mask(pattern, seed, (256, 256)) for seed in (0, 1))
    share = int(sad_count(a, b)) / a.numel()
    # Two independent masks: 2 (N/M) (1 - N/M). Of 65,536 entries the share's standard error is below 0.002.
    assert share == pytest.approx(2 * pattern.density * pattern.sparsity, abs=0.01)


@pytest.mark.parametrize(
    ("pattern", "largest"), [("2:4", 1.0), ("4:8", 1.0), ("1:4", 0.5), ("2:8", 0.5), ("1:16", 0.125)]
)
def test_normalised_by_the_largest_that_a_pattern_allows(pattern, largest):
    assert largest_fraction(NMPattern.parse(pattern)) == largest


def test_normalised_is_one_when_every_group_changes_as_far_as_it_can():
    model = nn.Linear(16, 2)
    model.weight.data.copy_(torch.tensor([4.0, 3, 1, 2]).repeat(2, 4))
    sparse = sparsify(model)
    with torch.no_grad():
        model.parametrizations.weight.original.copy_(torch.tensor([1.0, 2, 4, 3]).repeat(2, 4))
    sparse.refresh()
    assert sparse.report()["layers"]["weight"]["sad_step"]["normalised"] == 1.0
