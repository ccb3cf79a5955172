#!/bin/sh
# Several cards of one host: communication rows as a sealed run, verified; then our timing beside a bare loop in the same minutes.
#   sh tests/device/cards.sh OUT CARDS [CHIP [DEVICE [LIBRARY [SCALE]]]]     CHIP a folder below images/; SCALE divides all counts (rehearsal)
# The interpreter must have torch and the kit's own packages. NVLink multicast stays off. Steps of a plan of your own: PLANS="a.toml b.toml".
set -u
out=$1 cards=$2 chip=${3:-nvidia} device=${4:-cuda} library=${5:-nccl} scale=${6:-1}
export NCCL_NVLS_ENABLE=0 CHIPASSAY_CONFIG="$out/config" CHIPASSAY_CACHE="$out/cache"
mkdir -p "$out"
trap 'rm -rf "$out/config" "$out/cache"' EXIT
numbers=$(seq -s, 0 $((cards - 1)))
[ "$chip" = cpu ] || only="--cards $numbers"
for plan in tests/device/cards.toml ${PLANS:-}; do
  made="$out/$(basename "$plan")"
  sed "s/cards = \[2\]/cards = [$cards]/; s/^processes = 2/processes = $cards/; s/^global_batch = 16/global_batch = $((8 * cards))/" "$plan" |
    awk -v scale="$scale" -v cards="$cards" '/^elements = / && scale > 1 { $3 = int($3 / scale / cards) * cards } { print }' > "$made"
  timeout 600 python3 -m kit run --plan "$made" --chip "$chip" --isolation none ${only:-} --anonymous --out "$out/runs"
done
for run in "$out"/runs/*/; do
  python3 -m verify "$run" --policy self --json "$out/$(basename "$run").json"
done
timeout 300 python3 -m torch.distributed.run --nproc-per-node "$cards" --master-port 29555 -m tests.device.collectives "$out/beside" "$device" "$library" "$scale"
