"""to_semi_structured: torch's 2:4 kernels give what the dense product gives; refused where they cannot run."""

import copy

import pytest
import torch
from torch import nn

import nm2trt
from nm2trt.errors import BackendMissingError, SparsifyError


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def finalised():
    return nm2trt.sparsify(net(), method="magnitude").finalize()


def test_a_cpu_is_refused_before_anything_is_changed():
    model = finalised().half()
    with pytest.raises(
        BackendMissingError, match=r"need a CUDA device, and the model is on cpu.*nm2trt build"
    ):
        nm2trt.to_semi_structured(model)
    assert type(model[0].weight.data) is torch.Tensor


def test_mistakes_are_told_without_a_gpu():
    model = net()
    nm2trt.sparsify(model)
    with pytest.raises(SparsifyError, match="a method is attached to the model"):
        nm2trt.to_semi_structured(model)
    with pytest.raises(SparsifyError, match="no linear layer can take torch's 2:4 kernels"):
        nm2trt.to_semi_structured(nn.Conv2d(4, 4, 1))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor is in prototype")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_kernels_give_what_the_dense_product_gives(dtype):
    model = finalised().to("cuda", dtype).eval()
    dense = copy.deepcopy(model)
    assert nm2trt.to_semi_structured(model) == ("0.weight",)  # 10 is not a multiple of 32
    assert type(model[0].weight.data) is not torch.Tensor
    x = torch.randn(64, 128, device="cuda", dtype=dtype)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), dense(x), rtol=2e-2, atol=2e-2)
    with pytest.raises(SparsifyError, match="compressed already"):
        nm2trt.to_semi_structured(model)


@pytest.mark.gpu
def test_a_dense_or_float32_model_is_refused():
    with pytest.raises(SparsifyError, match="dtype float32 is not float16"):
        nm2trt.to_semi_structured(finalised().cuda())
    with pytest.raises(SparsifyError, match=r"0: it does not hold 2:4"):
        nm2trt.to_semi_structured(net().cuda().half())
