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

job pytest-gpu 90 "$PY" -m pytest -p no:cacheprovider -q -m "gpu and not trt" --rootdir "$P" -c "$P/setup.cfg" "$P"/tests/nm/test_mask.py "$P"/tests/sparsity/fcpts/test_session.py "$P"/tests/sparsity/test_mixed_precision.py "$P"/tests/benchmarks/test_gpu_gain.py
job mask 60 "$PY" "$K/mask_gpu.py" "$O/mask.json" ${X:+--device cpu --tiny --runs 2}
LINES_OF=8 job train 130 "$PY" "$K/train_gpu.py" "$O/train.json" --deadline 110 ${X:+--device cpu --tiny --batch 2 --steps 1}
if [ -e "$W/rtx.ready" ]; then LINES_OF=10 job rtx 120 env PYTHONPATH="$P:$W/rtx/site" "$PY" "$K/rtx_probe.py" "$W/models" "$O/rtx.json" --project "$P" --timeout 40; touch "$W/rtx.done"; fi
[ -e "$W/trt.ready" ] || [ -e "$W/trt.broken" ] || job gain 240 "$PY" "$K/gain_boxed.py" "$O/gain.json" --minutes 3.8 --stop "$W/trt.ready" ${X:+--dry --most 30}
for _ in $(seq 60); do [ -e "$W/trt.ready" ] || [ -e "$W/trt.broken" ] || sleep 1; done
if [ -e "$W/trt.ready" ]; then
  trt first 150 conv-fp16
  job trt-tests 40 env NM2TRT_PYTHONPATH="$P" "$W/b/trt86/run" python3.10 -m pytest -p no:cacheprovider -q -m "trt and not gpu" --rootdir "$P" -c "$P/setup.cfg" "$P"/tests/trt/test_trt_real.py
  trt resnet 220 resnet50-fp16 --seconds 3
  trt int8 100 conv-int8
  job trt-cli 60 env NM2TRT_PYTHONPATH="$P" "$W/b/trt86/run" python3.10 "$K/cli86.py" "$W/models" "$O" --project "$P"
  trt minilm 90 minilm-fp16
fi
if [ ! -e "$W/rtx.done" ] && [ -e "$W/rtx.ready" ]; then LINES_OF=10 job rtx 120 env PYTHONPATH="$P:$W/rtx/site" "$PY" "$K/rtx_probe.py" "$W/models" "$O/rtx.json" --project "$P" --timeout 40; fi
job gain-rest 240 "$PY" "$K/gain_boxed.py" "$O/gain.json" --minutes 3.8 ${X:+--dry --most 30}
[ ! -e "$W/trt.ready" ] || trt last 200 resnet50-int8 --seconds 2
touch "$O/queue.done"; say "the queue is done"
