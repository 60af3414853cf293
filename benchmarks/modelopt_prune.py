"""Prune an ONNX file with NVIDIA ModelOpt, as a module of its layers; run by `peers.py` where ModelOpt is.

    MODELOPT/bin/python benchmarks/modelopt_prune.py MODEL.onnx SAMPLES.npz OUTPUT.onnx sparsegpt

Prints the number of layers, and how far the module was from the file before it was pruned.
"""

from __future__ import annotations

import sys
from pathlib import Path

import modelopt.torch.sparsity as mts
import numpy as np
import onnxruntime
import torch
from onnx_module import OnnxModule

BATCH = 8


def main() -> None:
    source, samples, target, mode = sys.argv[1:]
    torch.set_num_threads(1)
    arrays = dict(np.load(samples))
    count = len(next(iter(arrays.values())))
    batches = [{k: v[at : at + BATCH] for k, v in arrays.items()} for at in range(0, count, BATCH)]
    module = OnnxModule(Path(source)).eval()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    wanted = session.run(None, batches[0])[0]
    away = float(np.abs(module(batches[0]).numpy() - wanted).max() / np.abs(wanted).max())
    if away > 1e-3:
        raise SystemExit(f"the module of {source} does not compute what the file does: {away:.1e} apart")
    config = {"data_loader": batches, "collect_func": lambda batch: (batch, {})}
    pruned = mts.export(mts.sparsify(module, mode, config=config if mode == "sparsegpt" else None))
    pruned.save(Path(target))
    print(f"{len(module.layers)} layers, {away:.1e} apart before pruning")


if __name__ == "__main__":
    main()
