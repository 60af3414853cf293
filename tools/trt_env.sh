#!/usr/bin/env bash
# Make an environment with TensorRT 8.6 for CUDA 12, where the tests marked `trt` run; without a GPU too.
# usage: tools/trt_env.sh FOLDER      (PYTHON310 names a Python 3.10; about 1 GB is downloaded, 3.5 GB are filled)
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1

python=
for candidate in "${PYTHON310:-}" python3.10 "$HOME"/.pyenv/versions/3.10.*/bin/python3.10; do
  if [ -n "$candidate" ] && "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 10))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "trt-env: needs Python 3.10, the last that TensorRT 8.6 has a wheel for; name one with PYTHON310" >&2
  exit 1
fi
if [ "$(uname -sm)" != "Linux x86_64" ]; then
  echo "trt-env: the wheel of TensorRT 8.6 is for Linux on x86-64 only" >&2
  exit 1
fi
if [ -e "$folder" ] && [ ! -f "$folder/pyvenv.cfg" ]; then
  echo "trt-env: $folder is there and is no virtual environment; choose another folder" >&2
  exit 1
fi
rm -rf "$folder"
"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints-trt86.txt \
  tensorrt nvidia-cuda-runtime-cu12 nvidia-cublas-cu12 nvidia-cudnn-cu12 onnxruntime pytest
# The package itself with its few dependencies: numpy 1.23 and onnx, no torch.
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints-trt86.txt --editable .
touch "$folder/.ready"
