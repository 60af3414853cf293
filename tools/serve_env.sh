#!/usr/bin/env bash
# Make an environment with a real tritonserver whose Python models run ONNX Runtime on the CPU.
# usage: tools/serve_env.sh FOLDER      (PYTHON names an interpreter of 3.10 to 3.12)
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1

suits() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null
}

python=
for candidate in "${PYTHON:-}" python3.11 python3.12 python3.10 python3; do
  if [ -n "$candidate" ] && suits "$candidate"; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "serve-env: needs Python 3.10, 3.11 or 3.12, for which the server has a stub and numpy 1.26 wheels" >&2
  exit 1
fi
if [ "$(uname -sm)" != "Linux x86_64" ]; then
  echo "serve-env: the tritonserver wheel is for Linux on x86-64 only" >&2
  exit 1
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

if [ -e "$folder" ] && [ ! -f "$folder/pyvenv.cfg" ]; then
  echo "serve-env: $folder is there and is no virtual environment; choose another folder" >&2
  exit 1
fi
rm -rf "$folder"
"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints-serve.txt)
"${pip[@]}" numpy onnxruntime
# Without its dependencies: they are for its own client and server classes, and some would bring numpy 2.
"${pip[@]}" --no-deps nvidia-pytriton
server=$(echo "$folder"/lib/python3*/site-packages/pytriton/tritonserver)
cp "$server/python_backend_stubs/$version/triton_python_backend_stub" "$server/backends/python/"

home=$(sed -n 's/^home = //p' "$folder/pyvenv.cfg")
missing() {
  LD_LIBRARY_PATH="$home/../lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" \
    ldd "$server/backends/python/triton_python_backend_stub" "$server/bin/tritonserver" | grep 'not found' || true
}
if [ -n "$(missing)" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get install --yes --quiet "libpython$version" >/dev/null ||
    { apt-get update --quiet >/dev/null && apt-get install --yes --quiet "libpython$version" >/dev/null; }
fi
if [ -n "$(missing)" ]; then
  echo "serve-env: the server cannot start, these libraries are missing:" >&2
  missing >&2
  echo "serve-env: install libpython$version, e.g. apt-get install libpython$version" >&2
  exit 1
fi
touch "$folder/.ready"
