#!/bin/sh
# What minutes on a card can say of checkpoints and stability (14 at most), the most wanted first; each part is sealed and verified at once.
#   sh tests/device/checkpoint-stability.sh OUT [DEVICE]
# TINY=1 is the same with a small model, for a CPU: a rehearsal of the script itself. CHIPASSAY_CHECKPOINTS names the disk to measure.
set -u
out=$1 device=${2:-cuda}
mkdir -p "$out/plans"
cp tests/device/checkpoint.toml tests/device/stability.toml "$out/plans"
if [ "${TINY:-}" = 1 ]; then
  sed -i 's/^hidden_size = .*/hidden_size = 64/; s/^num_\(kv_\)*heads = .*/num_\1heads = 2/; s/^num_layers = .*/num_layers = 2/
    s/^ffn_size = .*/ffn_size = 128/; s/^vocab_size = .*/vocab_size = 256/; s/^sequence_length = .*/sequence_length = 64/
    s/^raw_bytes = .*/raw_bytes = 33554432/; s/^time_limit_s = .*/time_limit_s = 3600/; s/^start_s = .*/start_s = 900/
    s/^hang_s = .*/hang_s = 60/; s/^duration_s = .*/duration_s = 5/; s/step = \([0-9]*\)0 }/step = \1 }/; s/^checkpoint_every = .*/checkpoint_every = 5/
    s/^dtype = .*/dtype = "float32"/' "$out"/plans/*.toml
fi
part() { # NAME SECONDS PLAN CASE
  begin=$(date +%s)
  timeout "$2" sh tests/device/one-card.sh "$out/$1" "$device" --plan "$out/plans/$3.toml" --case "$4" > "$out/$1.log" 2>&1
  echo "$1: exit code $?, $(($(date +%s) - begin)) s" | tee -a "$out/parts.txt"
  python3 tests/device/summary.py "$out/$1/result.json" | tee -a "$out/parts.txt"
}
limit=${TINY:+3600}
part safetensors "${limit:-150}" checkpoint '*safetensors'
part faults "${limit:-290}" stability '*'
part deepspeed "${limit:-200}" checkpoint '*deepspeed'
part distributed "${limit:-200}" checkpoint '*distributed'
