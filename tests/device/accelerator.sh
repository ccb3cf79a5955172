#!/bin/sh
# A sealed run of base specifications and text to image, verified and checked. Beside it, on the last card and on cores of their own if there
# are two cards, else after it: eager pictures in pairs with the plain pipeline's, a case that runs out of memory, and bare loops of the products.
#   sh tests/device/accelerator.sh OUT [CHIP [DEVICE [PAIRS]]]     DEVICE as torch names it
# The interpreter itself must have torch, diffusers, transformers and the kit's own packages: the worker ignores PYTHONPATH.
set -u
out=$1 chip=${2:-nvidia} device=${3:-cuda} pairs=${4:-24}
mkdir -p "$out"
CHIPASSAY_CONFIG=$(mktemp -d) CHIPASSAY_CACHE=$(mktemp -d)
export CHIPASSAY_CONFIG CHIPASSAY_CACHE
begin=$(date +%s)
say() { echo "$(($(date +%s) - begin)) s: $*"; }
cards=$(python3 -c 'import torch; print(torch.accelerator.device_count())')
kit_cores=0-$(($(nproc) / 2 - 1)) plain_cores=$(($(nproc) / 2))-$(($(nproc) / 2 + 3))

sealed() {
  taskset -c "$kit_cores" python3 -m kit run --plan tests/device/accelerator.toml --chip "$chip" --isolation none --anonymous --out "$out/runs" >"$out/sealed.txt" 2>&1
  say "sealed run: $?"
  run=$(ls -d "$out"/runs/*/)
  python3 -m verify "$run" --policy self --json "$out/result.json" >"$out/verify.txt" 2>&1
  say "verify: $?"
  sh docs/check.sh "$run"
  say "check.sh: $?"
  python3 -m kit pack "$run" >>"$out/verify.txt" 2>&1
  mv "$out"/runs/*.tar.zst "$out/" # the folder is too deep to be carried
}

beside() {
  until ls -d "$out"/runs/*/evidence/cases/text* >/dev/null 2>&1; do sleep 0.5; done # the specifications have both cards to themselves
  timeout 240 taskset -c "$plain_cores" python3 -m tests.device.eager "$out/eager" "$device:$((cards - 1))" 1.5 "$pairs" >"$out/eager.txt" 2>&1
  say "eager pairs: $?"
  timeout 120 taskset -c "$plain_cores" python3 -m kit run --plan tests/device/memory.toml --chip "$chip" --cards $((cards - 1)) --isolation none --anonymous --out "$out/memory" >"$out/memory.txt" 2>&1
  say "out of memory: $? (1: a case failed)"
}

if [ "$cards" -gt 1 ]; then beside & else pairs=$((pairs / 2)); fi
sealed
if [ "$cards" -gt 1 ]; then wait; else beside; fi
timeout 60 python3 -m tests.device.bare "$out" "$device"
say "bare loops: $?"
