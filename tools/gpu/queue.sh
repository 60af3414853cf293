#!/usr/bin/env bash
# The GPU machine's background work, one GPU job at a time, most telling first; every job writes as it goes and has its own limit.
set -u
W=${GPU_KIT_WORK:-/var/tmp/k}; O=$W/out; K=$W/kit; P=$W/nm2trt; PY=${GPU_KIT_PYTHON:-python3}; X=${GPU_KIT_DEVICE:-}
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONPATH=$P
end=$(($(cat "$W/begun") + $(cat "$W/seconds"))); left() { echo $((end - $(date +%s))); }
say() { echo "[$(($(date +%s) - $(cat "$W/begun"))) s] $*"; }
job() { # name, limit in seconds, command: less where the queue's time is shorter; its output ends in the log
  local name=$1 limit=$2 rest; shift 2; rest=$(left); [ "$rest" -lt "$limit" ] && limit=$rest
  [ "$limit" -lt 8 ] && { say "$name: no time"; return; }
  say "$name begins, at most $limit s"; timeout -k 5 "$limit" "$@" >"$O/$name.txt" 2>&1; say "$name ended with $?"; tail -n "${LINES_OF:-6}" "$O/$name.txt" | cut -c1-700
}
# On the CPU, beside the GPU's work: the twins' models, and the pieces as they come.
(nice -n 5 "$PY" "$K/models.py" "$W/models" --project "$P" ${X:+--tiny} >"$O/models.txt" 2>&1) &
(while [ ! -e "$W/pieces/rtx.here" ]; do sleep 1; done; mkdir -p "$W/rtx"; cat "$W"/pieces/rtx.p* | xz -dc -T0 | tar x -C "$W/rtx" && touch "$W/rtx.ready") &
(while [ ! -e "$W/pieces/trt.here" ]; do sleep 1; done; cd "$W/pieces" && sha256sum -c --quiet SHA256SUMS && mkdir -p "$W/b" && cat p[0-9]* | xz -dc -T0 | tar x -C "$W/b" && touch "$W/trt.ready" || touch "$W/trt.broken") &
trt() { LINES_OF=12 job trt-"$1" "$2" env NM2TRT_PYTHONPATH="$P" "$W/b/trt86/run" python3.10 "$K/twins.py" "$W/models" "$O/trt" "${@:3}" --project "$P" --deadline "$(($2 - 5))"; }

# The small table of test_gpu_gain.py is left to the gain jobs, which measure the same products.
job pytest-lbc 45 "$PY" -m pytest -p no:cacheprovider -q -m gpu --rootdir "$P" -c "$P/setup.cfg" "$P"/tests/sparsity/test_mixed_precision.py -k "a_step_on_a_gpu"
job mask 60 "$PY" "$K/mask_gpu.py" "$O/mask.json" ${X:+--device cpu --tiny --runs 2}
job pytest-gpu 120 "$PY" -m pytest -p no:cacheprovider -q -m "gpu and not trt" --continue-on-collection-errors --durations 5 --rootdir "$P" -c "$P/setup.cfg" \
  --deselect tests/benchmarks/test_gpu_gain.py::test_a_small_table_on_a_gpu --deselect tests/sparsity/test_mixed_precision.py::test_a_step_on_a_gpu_is_the_cpu_s \
  "$P"/tests/sparsity/reconstruct/test_session.py "$P"/tests/sparsity/core/test_recurrent.py "$P"/tests/sparsity/test_semi_structured.py "$P"/tests/sparsity/test_mixed_precision.py \
  "$P"/tests/nm/test_gpu_kernels.py "$P"/tests/nm/test_mask.py "$P"/tests/sparsity/fcpts/test_session.py "$P"/tests/engine/twin/test_compare.py "$P"/tests/backends/test_polygraphy.py "$P"/tests/benchmarks/test_gpu_gain.py
rtx() { # builds, loads, runs? then the project's own prove, whatever the probe found
  LINES_OF=10 job rtx 120 env PYTHONPATH="$P:$W/rtx/site" "$PY" "$K/rtx_probe.py" "$W/models" "$O/rtx.json" --project "$P" --timeout 40
  job rtx-prove 60 env PYTHONPATH="$P:$W/rtx/site" "$PY" -m nm2trt prove "$W/models/wide-fp16/sparse.onnx" --dense "$W/models/wide-fp16/dense.onnx" --backend trt-rtx --json
  touch "$W/rtx.done"
}
if [ -e "$W/rtx.ready" ]; then rtx; fi
[ -e "$W/trt.ready" ] || [ -e "$W/trt.broken" ] || job gain 240 "$PY" "$K/gain_boxed.py" "$O/gain.json" --minutes 3.8 --stop "$W/trt.ready" ${X:+--dry --most 30}
for _ in $(seq 60); do [ -e "$W/trt.ready" ] || [ -e "$W/trt.broken" ] || sleep 1; done
if [ -e "$W/trt.ready" ]; then
  # Three builds of ResNet-50 take 95 to 150 seconds on an H200.
  trt resnet-int8 180 resnet50-int8 --seconds 2
  # The commands, on a model of which a sparse kernel was chosen, if there is one.
  proved=$("$PY" "$K/twins.py" --proved "$O/trt") || proved=conv-int8
  LINES_OF=14 job trt-cli 110 env NM2TRT_PYTHONPATH="$P" "$W/b/trt86/run" python3.10 "$K/cli86.py" "$W/models" "$O" --model "$proved" --project "$P"
  trt wide-fp16 90 wide-fp16
  trt resnet 200 resnet50-fp16 --seconds 2
  trt small 120 conv-int8 wide-int8
  trt minilm 90 minilm-fp16
fi
gain() { # name, limit in seconds, minutes
  job "$1" "$2" "$PY" "$K/gain_boxed.py" "$O/gain.json" --minutes "$3" ${X:+--dry --most 30}
  [ ! -e "$O/gain.json" ] || job gain-command 30 "$PY" -m nm2trt gain "$W/models/resnet50-fp16/dense.onnx" --table "$O/gain.json"
}
gain gain-some 75 1
if [ ! -e "$W/rtx.done" ] && [ -e "$W/rtx.ready" ]; then rtx; fi
if [ -e "$W/trt.ready" ]; then
  job trt-tests 40 env NM2TRT_PYTHONPATH="$P" "$W/b/trt86/run" python3.10 -m pytest -p no:cacheprovider -q -m "trt and not gpu" --rootdir "$P" -c "$P/setup.cfg" "$P"/tests/trt/test_trt_real.py
fi
gain gain-rest 240 3.8
LINES_OF=8 job train 130 "$PY" "$K/train_gpu.py" "$O/train.json" --deadline 110 ${X:+--device cpu --tiny --batch 2 --steps 1}
job solve 40 "$PY" "$K/solve_gpu.py" "$O/solve.json" ${X:+--device cpu --tiny}
touch "$O/queue.done"; say "the queue is done"
