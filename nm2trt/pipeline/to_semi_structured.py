"""Finalised 2:4 layers run by torch's own sparse kernels, without TensorRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nm2trt.extras import names_the_extra

if TYPE_CHECKING:
    import torch


@names_the_extra()
def to_semi_structured(model: torch.nn.Module) -> tuple[str, ...]:
    """Compress the weight of every linear layer that holds 2:4, so that torch runs it by cuSPARSELt on a GPU.

    For inference in torch; export and engines take the model as `finalize` leaves it. Convolutions and layers
    of other shapes, dtypes or patterns stay as they are.

    Args:
        model: A finalised model on a CUDA device, in float16, bfloat16 or int8; changed in place.

    Returns:
        Names of the weights that are compressed now.

    Raises:
        SparsifyError: A method is attached, or no linear layer holds 2:4 in a dtype that the kernels take.
        BackendMissingError: The model is not on a CUDA device.
        BackendError: torch refused a weight.
    """
    from nm2trt.sparsity.semi_structured import to_semi_structured as compress

    return compress(model)
