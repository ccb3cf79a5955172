#!/bin/sh
# The suites on several cards of one host, one sealed and verified run a part, the most wanted first. What was found is kept when a part fails or is cut.
#   [ONLY="pretrain checkpoint finetuning stability generation"] [TOTAL=500] [TINY=1] sh tests/device/cards-suites.sh OUT CARDS [CHIP]
# CHIP is a folder below images/. The interpreter must have torch, deepspeed, peft, lmdeploy and the kit's own packages. TOTAL: seconds for all parts.
# OUT holds summary.txt, a log a part (PART.log), and all sealed runs with their verdicts as runs.tar.gz; the rest lies below TMPDIR and is removed.
# TINY=1 with chip `cpu` is a rehearsal of the script itself with small models; of generation, which no CPU runs, it only resolves the plan.
set -u
out=$1 cards=$2 chip=${3:-nvidia}
begun=$(date +%s) total=${TOTAL:-500}
[ "${TINY:-}" = 1 ] && total=${TOTAL:-7200}
mkdir -p "$out"
work=$(mktemp -d)
export NCCL_NVLS_ENABLE=0 CHIPASSAY_CONFIG="$work/config" CHIPASSAY_CACHE="$work/cache"
export CHIPASSAY_SCRATCH="${CHIPASSAY_SCRATCH:-$work}"
trap 'rm -rf "$work"' EXIT
trap 'exit 143' TERM INT
plan="$work/cards-suites.toml" only=
[ "$chip" = cpu ] || only="--cards $(seq -s, 0 $((cards - 1)))"
sed "s/cards = \[2\]/cards = [$cards]/; s/^processes = 2/processes = $cards/
  s/^global_batch = \([0-9]*\)/global_batch = \1 * $cards \/ 2/" tests/device/cards-suites.toml |
  awk '/^global_batch = / { $0 = "global_batch = " $3 * $5 / $7 } { print }' > "$plan"
if [ "${TINY:-}" = 1 ]; then
  shape='{ architecture = "llama", hidden_size = 64, num_layers = 2, num_heads = 2, num_kv_heads = 2, ffn_size = 128, vocab_size = 256, sequence_length = 64 }'
  sed -i "/65b/! s/^model = .*/model = $shape/
    s/^dtype = .*/dtype = \"float32\"/; s/^kv_dtype = .*/kv_dtype = \"float32\"/; s/^base_weights = .*/base_weights = \"int8\"/
    s/^raw_bytes = .*/raw_bytes = 33554432/; s/^time_limit_s = .*/time_limit_s = 3600/; s/^start_s = .*/start_s = 900/; s/^hang_s = .*/hang_s = 60/
    s/^duration_s = .*/duration_s = 5/; s/step = \([0-9]*\)0 }/step = \1 }/g; s/^checkpoint_every = .*/checkpoint_every = 5/" "$plan"
fi

part() { # NAME SECONDS CASE: exit code 0 if the run was sealed, verified, and its case done
  left=$((total - $(date +%s) + begun)) cap=$2
  [ "${TINY:-}" = 1 ] && cap=3600
  [ "$cap" -le "$left" ] || cap=$left
  if [ "$cap" -lt 50 ]; then
    echo "$1: left out, $left s left" | tee -a "$out/summary.txt"
    return 1
  fi
  start=$(date +%s) own="$work/$1" log="$out/$1.log"
  awk -v most=$((cap - 20)) '/^time_limit_s = / && $3 > most { $3 = most } { print }' "$plan" > "$own.toml" # a case at its limit is sealed
  # shellcheck disable=SC2086
  timeout -k 15 "$cap" python3 -m kit run --plan "$own.toml" --case "$3" --chip "$chip" --isolation none $only --anonymous --out "$own" > "$log" 2>&1
  echo "$1: exit code $?, $(($(date +%s) - start)) s" | tee -a "$out/summary.txt"
  rm -rf "$own/.checkpoints"
  for run in "$own"/*/; do
    [ -d "$run" ] || continue
    for said in "$run"evidence/cases/*/attempt-*/std*.log; do
      echo "== ${said#"$run"}" && tail -n 60 "$said"
    done >> "$log" 2>&1
    python3 -m verify "$run" --policy self --json "$own/result.json" >> "$log" 2>&1
  done
  tar -czf "$out/runs.tar.gz" -C "$work" $(cd "$work" && ls -d pretrain* checkpoint* finetuning* stability* generation* 2> /dev/null)
  python3 tests/device/summary.py "$own/result.json" > "$work/said.txt"
  good=$?
  tee -a "$out/summary.txt" < "$work/said.txt"
  return $good
}

for name in ${ONLY:-pretrain checkpoint finetuning stability generation}; do
  case $name in
    pretrain) part pretrain 170 'pretrain-*-True' || again=1 ;;
    checkpoint) part checkpoint 160 'checkpoint-*' ;;
    finetuning) part finetuning 120 'finetuning-*' ;;
    stability) part stability 160 'stability-*' ;;
    generation)
      if [ "${TINY:-}" = 1 ]; then
        python3 -m kit run --plan "$plan" --case 'text-*' --chip "$chip" --isolation none --dry-run > "$out/generation.log" 2>&1
        echo "generation: plan only, exit code $?" | tee -a "$out/summary.txt"
      else
        part generation 160 'text-*'
      fi ;;
    eager) part pretrain-eager 170 'pretrain-*-False' ;;
    *) echo "$name: no such part" >&2 ;;
  esac
done
[ -z "${again:-}" ] || part pretrain-eager 170 'pretrain-*-False'
