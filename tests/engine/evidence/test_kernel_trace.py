"""Traces of profilers: which kernels ran, and in which layer."""

import json

import pytest

from nm2trt.engine.evidence.evidence import is_sparse_kernel
from nm2trt.engine.evidence.kernel_trace import parse_kernel_trace
from nm2trt.errors import InputError

SPARSE = "sm80_xmma_sparse_gemm_f16f16_f16f32_f32_tt_t_tilesize128x128x64_stage3_warpsize2x2x1_sptensor16x8x32_execute_kernel"
DENSE = "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x32_stage4_warpsize2x2x1_tensor16x8x16_execute_kernel"

# Columns of `nsys stats --report cuda_gpu_kern_sum --format csv`.
KERN_SUM = f"""\
Processing [trace.sqlite] with [reports/cuda_gpu_kern_sum.py]...

Time (%),Total Time (ns),Instances,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),Name
60.0,600000,10,60000.0,60000.0,59000,61000,500.0,{SPARSE}
40.0,400000,20,20000.0,20000.0,19000,21000,500.0,"void at::native::elementwise<4, float>(int, float)"
"""
# Columns of `nvtx_kern_sum`: TensorRT's layers are NVTX ranges.
NVTX_SUM = f"""\
NVTX Range,Style,PID,TID,NVTX Inst,Kern Inst,Total Time (ns),Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),Kernel Name
:Conv_1 + Relu_2,PushPop,1,1,10,10,600000,60000.0,60000.0,1,2,3.0,{SPARSE}
:Conv_3,PushPop,1,1,10,10,500000,50000.0,50000.0,1,2,3.0,{DENSE}
"""


def test_summary_of_nsys():
    sparse, other = parse_kernel_trace(KERN_SUM).kernels
    assert (sparse.name, sparse.launches, sparse.total_us, sparse.nodes) == (SPARSE, 10, 600.0, ())
    assert other.name == "void at::native::elementwise<4, float>(int, float)"


def test_ranges_of_nsys_name_the_layer():
    kernels = parse_kernel_trace(NVTX_SUM).kernels
    assert [(kernel.nodes, is_sparse_kernel(kernel.name)) for kernel in kernels] == [
        (("Conv_1", "Relu_2"), True),
        (("Conv_3",), False),
    ]


def test_trace_of_torch_profiler_is_added_up():
    events = [
        {"cat": "kernel", "name": SPARSE, "dur": 7.5, "ph": "X"},
        {"cat": "kernel", "name": SPARSE, "dur": 2.5, "ph": "X"},
        {"cat": "cpu_op", "name": "aten::mm", "dur": 99.0},
        {"ph": "M", "name": "process_name"},
    ]
    (kernel,) = parse_kernel_trace(json.dumps({"traceEvents": events})).kernels
    assert (kernel.launches, kernel.total_us) == (2, 10.0)


@pytest.mark.parametrize(
    ("name", "sparse"),
    [
        # TensorRT for RTX 1.7.1.116, names in its library.
        ("sm80_xmma_fprop_sparse_conv_i8i8_i8i32_f32_nhwckrsc_nhwc_tilesize64x64x128", True),
        ("sm80_xmma_fprop_sparse_conv_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32", True),
        ("sm90_xmma_sparse_fprop_implicit_gemm_i8i8_i8i32_f32_nhwckrsc_nhwc", True),
        ("sm80_xmma_fprop_avdt_sparse_int8int8_tilesize", True),
        (SPARSE, True),
        # NVIDIA/cutlass issue 103.
        ("cutlass_tensorop_i16864spgemm_s8_256x128_128x3_nn_align16", True),
        (DENSE, False),
        ("sm80_xmma_fprop_avdt_dense_int8int8_tilesize", False),
        ("void cusparse::csrmv_v3_kernel<float>(int)", False),
        ("void at::native::embedding_sparse_backward(float*)", False),
        ("sm86_xmma_fprop_implicit_gemm_indexed_f16f16", False),
    ],
)
def test_names_of_sparse_kernels(name, sparse):
    assert is_sparse_kernel(name) is sparse


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no CSV report of nsys stats"),
        ('{"traceEvents": [', "damaged or cut short"),
        ('{"traceEvents": []}', "lists no kernel"),
        ("Total Time (ns),Name\n", "lists no kernel"),
        ("Total Time (ns),Name\nnot a number,k\n", "lists no kernel"),
        ("Total Time (ns),Name\ninf,k\n", "lists no kernel"),
        ('{"traceEvents": [{"cat": "kernel", "name": "k", "dur": NaN}]}', "lists no kernel"),
        ('{"traceEvents": [{"cat": "kernel", "name": "k", "dur": 1' + "0" * 400 + "}]}", "lists no kernel"),
    ],
    ids=["other-csv", "cut-short", "no-events", "header-alone", "no-number", "inf", "nan", "huge"],
)
def test_what_is_no_trace(text, message):
    with pytest.raises(InputError, match=message):
        parse_kernel_trace(text)


def test_launches_that_are_no_count_are_one():
    (kernel,) = parse_kernel_trace("Total Time (ns),Instances,Name\n1000,inf,k\n").kernels
    assert (kernel.launches, kernel.total_us) == (1, 1.0)
