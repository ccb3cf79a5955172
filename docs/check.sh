#!/bin/sh
# Checks the seal of a run without any of our code: openssl (3.0 or later), coreutils, sed, grep, awk, find.
#   sh docs/check.sh RUN [PUBLIC_KEY.pem]
# Without a key it takes the one that lies in the run, which shows that the run is whole, not whose it is.
set -u
run=${1:?usage: sh docs/check.sh RUN [PUBLIC_KEY.pem]}
key=${2:-$run/evidence/signer.pub.pem}
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
refuse() { echo "REFUSED: $*" >&2; exit 1; }
field() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p' "$run/run.dsse.json"; }

for name in run.dsse.json SHA256SUMS evidence/plan.json runlog/entries.jsonl runlog/checkpoints.txt; do
  [ -f "$run/$name" ] && [ ! -L "$run/$name" ] || refuse "$name is missing or not a plain file"
done
[ -f "$key" ] || { echo "no such key: $key" >&2; exit 2; }

# 1. The signature over the DSSE encoding of the statement.
kind=$(field payloadType)
field payload | openssl base64 -d -A >"$work/statement" || refuse "payload is not base64"
field sig | openssl base64 -d -A >"$work/signature" || refuse "signature is not base64"
{ printf 'DSSEv1 %d %s %d ' "${#kind}" "$kind" "$(wc -c <"$work/statement")"; cat "$work/statement"; } >"$work/signed"
openssl pkeyutl -verify -pubin -inkey "$key" -rawin -in "$work/signed" -sigfile "$work/signature" >/dev/null ||
  refuse "the signature does not hold"

# 2. The statement's subject is this SHA256SUMS. Keys are sorted and nothing is spaced, so a pattern finds it.
subject=$(grep -o '"subject":\[{"digest":{"sha256":"[0-9a-f]*"},"name":"SHA256SUMS"}\]' "$work/statement" | cut -d'"' -f8)
sums=$(realpath "$run/SHA256SUMS")
[ "$(sha256sum <"$sums" | cut -d' ' -f1)" = "$subject" ] || refuse "SHA256SUMS is not the signed one"

# 3. Every listed file is there unchanged; nothing else is there; nothing is a link.
(cd "$run/evidence" && sha256sum -c --quiet --strict "$sums") || refuse "a listed file differs or is missing"
there=$(cd "$run/evidence" && find . ! -type d | cut -c3- | LC_ALL=C sort)
[ "$there" = "$(cut -c67- "$sums")" ] || refuse "an unlisted file below evidence/"
[ -z "$(find "$run" ! -type d ! -type f)" ] || refuse "a link or special file"
[ -z "$(find "$run" -type f -links +1)" ] || refuse "a file with a second link"

# 4. The run log's last entry names SHA256SUMS, and its last checkpoint is signed by the same key.
tail -n 1 "$run/runlog/entries.jsonl" | grep -q "\"sums_sha256\":\"$subject\",\"type\":\"close\"" ||
  refuse "the run log does not close over SHA256SUMS"
tail -n 6 "$run/runlog/checkpoints.txt" | head -n 3 >"$work/note"
tail -n 2 "$run/runlog/checkpoints.txt" | head -n 1 | awk '{print $3}' | openssl base64 -d -A | tail -c +5 >"$work/note.sig"
openssl pkeyutl -verify -pubin -inkey "$key" -rawin -in "$work/note" -sigfile "$work/note.sig" >/dev/null ||
  refuse "the last checkpoint's signature does not hold"
[ "$(sed -n 2p "$work/note")" = "$(wc -l <"$run/runlog/entries.jsonl" | tr -d ' ')" ] || refuse "the run log has another length"
size=$(sed -n 2p "$work/note") root=$(sed -n 3p "$work/note")
grep -qF "\"root\":\"$root\",\"size\":$size}" "$work/statement" || refuse "the statement names another run log"
echo "OK: $(basename "$run"): signature, run log's end and $(wc -l <"$sums" | tr -d ' ') files hold"
