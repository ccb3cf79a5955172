#!/bin/sh
# Runs the suites on one accelerator, in the interpreter at hand, as a chip made up for the occasion; then verifies the run.
#   sh tests/device/one-card.sh OUT [DEVICE [OPTION ...]]     DEVICE as torch names it; options (--plan, --case) go to `kit run`
# The interpreter itself must have torch, deepspeed and the kit's own packages: the worker ignores PYTHONPATH.
set -eu
failed=0
out=$1 device=${2:-cuda}
shift "$(($# < 2 ? $# : 2))"
cp -r images/cpu images/onecard
trap 'rm -rf images/onecard "$out/config" "$out/cache"' EXIT
sed -i "s/^id = .*/id = \"onecard\"/; s/^device = \"cpu\"/device = \"$device\"/" images/onecard/chip.toml
export CHIPASSAY_CONFIG="$out/config" CHIPASSAY_CACHE="$out/cache"
python3 -m kit run --plan single-card --chip onecard --isolation none --out "$out/runs" "$@" || failed=$?  # what was sealed is verified all the same
for run in "$out"/runs/*/; do
  python3 -m verify "$run" --policy self --json "$out/result.json"
  sh docs/check.sh "$run"
done
exit "$failed"
