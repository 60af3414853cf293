"""Compile the mask's kernels for sm90, which needs no GPU, and print their memory instructions per thread as JSON."""

import json
import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nm2trt.nm import gpu_kernels


def memory_instructions(kernel, types, constants, aligned):
    """Return how many loads and stores of global memory a thread issues; 16 elements fall to each."""
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    text = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    return [len(re.findall(rf"\b{name}\.global", text)) for name in ("ld", "st")]


def main():
    """Print the counts of both kernels."""
    common = {"n": 2, "magnitude": True, "count": False, "block": gpu_kernels._BLOCK}
    loop = {"score": "*bf16", "mask": "*u8", "flips": "*u8", "columns": "i32", "inner": "i32"}
    packed = {"words": "*i64", "packs": "*i32", "flips": "*u8", "columns": "i32"}
    found = {
        "strided": memory_instructions(
            gpu_kernels._mask_kernel, loop, {**common, "m": 4, "kind": "half"}, ("score", "mask", "columns")
        ),
        "packed": memory_instructions(
            gpu_kernels._packed_kernel, packed, {**common, "infinity": 0x7F80}, ("words", "packs", "columns")
        ),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
