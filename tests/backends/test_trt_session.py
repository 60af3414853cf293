"""What an engine's profiles say of its batch; engines run only on a GPU, so its answers are written down here."""

import pytest

from nm2trt.backends._trt_session import most_samples
from nm2trt.backends.protocol import TensorSpec


class Profiles:
    """The two calls of TensorRT's engine that tell profiles, with the shapes of each by input."""

    def __init__(self, *profiles):
        self.profiles = profiles
        self.num_optimization_profiles = len(profiles)

    def get_tensor_profile_shape(self, name, index):
        return self.profiles[index][name]


X, Y = TensorSpec("x", "float32", (None, 3)), TensorSpec("y", "int64", (None,))
FIXED = TensorSpec("w", "float32", (4, None))


@pytest.mark.parametrize(
    ("profiles", "inputs", "most"),
    [
        pytest.param([{"x": [(1, 3), (8, 3), (32, 3)]}], [X], 32, id="one"),
        pytest.param([{"x": [(1, 3)] * 3}, {"x": [(8, 3), (8, 3), (64, 3)]}], [X], 64, id="largest-of-two"),
        pytest.param(
            [{"x": [(1, 3), (1, 3), (16, 3)], "y": [(1,), (1,), (8,)]}], [X, Y], 8, id="smallest-input"
        ),
        pytest.param([{"w": [(4, 1), (4, 2), (4, 9)]}], [FIXED], 0, id="batch-is-fixed"),
        pytest.param([], [TensorSpec("s", "float32", ())], 0, id="no-batch"),
    ],
)
def test_most_samples(profiles, inputs, most):
    assert most_samples(Profiles(*profiles), inputs) == most
