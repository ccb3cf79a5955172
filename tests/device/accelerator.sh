#!/bin/sh
# Our suites beside the plainest way, then the same suites as a sealed run, on one accelerator in the interpreter at hand.
#   sh tests/device/accelerator.sh OUT [DEVICE [CHIP [VERSION]]]     DEVICE as torch names it, CHIP a folder with a telemetry.toml
# The interpreter itself must have torch, diffusers, transformers and the kit's own packages: the worker ignores PYTHONPATH.
set -u
out=$1 device=${2:-cuda} chip=${3:-nvidia} version=${4:-1.5}
cp -r images/cpu images/onecard
cp "images/$chip/telemetry.toml" images/onecard/
trap 'rm -rf images/onecard "$out/config" "$out/cache"' EXIT
sed -i "s/^id = .*/id = \"onecard\"/; s/^device = \"cpu\"/device = \"$device\"/" images/onecard/chip.toml
export CHIPASSAY_CONFIG="$out/config" CHIPASSAY_CACHE="$out/cache"
python3 -m tests.device.beside "$out/beside" "$device" "$version" onecard
python3 -m kit run --plan tests/device/accelerator.toml --chip onecard --isolation none --out "$out/runs"
for run in "$out"/runs/*/; do
  python3 -m verify "$run" --policy self --json "$out/result.json"
  sh docs/check.sh "$run"
  tar cf "$out/run.tar" -C "$out/runs" "$(basename "$run")"
done
