#!/bin/sh
# Checks the seal of a run without any of our code: openssl (3.0 or later), coreutils, sed, grep, awk, find.
#   sh docs/check.sh RUN [PUBLIC_KEY.pem]
# Without a key it takes the one that lies in the run, which shows that the run is whole, not whose it is. It reads no
# JSON but by patterns, which the canonical form allows: docs/check.mjs and `python -m verify` parse, and see more.
# Exit code: 0 ok, 1 refused, 2 could not check or misuse.
set -u
LC_ALL=C; export LC_ALL
[ -n "${1:-}" ] && [ $# -le 2 ] || { echo "usage: sh docs/check.sh RUN [PUBLIC_KEY.pem]" >&2; exit 2; }
run=$1
key=${2:-$run/evidence/signer.pub.pem}
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
refuse() { echo "REFUSED: $*" >&2; exit 1; }
field() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p' "$file"; }
digest() { sha256sum <"$1" | cut -d' ' -f1; }
# The payload of an envelope goes to $work/payload, if it is canonical JSON on one line with one signature, by $key, that holds.
opened() {
  file=$1
  [ "$(count "$file")" = 1 ] && grep -Eqx \
    '\{"payload":"[A-Za-z0-9+/]+={0,2}","payloadType":"application/vnd\.in-toto\+json","signatures":\[\{"keyid":"'"$keyid"'","sig":"[A-Za-z0-9+/]+={0,2}"\}\]\}' \
    "$file" || refuse "$file is not the canonical envelope with one signature by this key"
  for part in payload sig; do
    field $part | openssl base64 -d -A >"$work/$part" || refuse "$file: $part is not base64"
    [ "$(openssl base64 -A -in "$work/$part")" = "$(field $part)" ] || refuse "$file: $part is not canonical base64"
  done
  kind=$(field payloadType)
  { printf 'DSSEv1 %d %s %d ' "${#kind}" "$kind" "$(wc -c <"$work/payload")"; cat "$work/payload"; } >"$work/signed"
  openssl pkeyutl -verify -pubin -inkey "$key" -rawin -in "$work/signed" -sigfile "$work/sig" >/dev/null || refuse "$file: the signature does not hold"
}
count() { wc -l <"$1" | tr -d ' '; }

# 1. Only plain files with one link and plain names, no empty folder, nothing beside the four names of a run.
[ -d "$run" ] || { echo "no such folder: $run; name the folder of a run" >&2; exit 2; }
for name in run.dsse.json SHA256SUMS evidence/plan.json runlog/entries.jsonl runlog/checkpoints.txt; do
  [ -f "$run/$name" ] && [ ! -L "$run/$name" ] || refuse "$name is missing or not a plain file"
done
[ "$(cd "$run" && find . -mindepth 1 -maxdepth 1 -printf '%f/' | tr / '\n' | sort | tr '\n' /)" = "SHA256SUMS/evidence/run.dsse.json/runlog/" ] ||
  refuse "a name in the run that does not belong there"
[ -z "$(find "$run" ! -type d ! -type f -printf x)" ] || refuse "a link or special file"
[ -z "$(find "$run" -type f -links +1 -printf x)" ] || refuse "a file with a second link"
[ -z "$(find "$run" -type d -empty -printf x)" ] || refuse "an empty folder"
[ -z "$(cd "$run" && find . -mindepth 1 -regextype posix-extended ! -regex '.*/[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,127}' -printf x)" ] ||
  refuse "a name that is not allowed"
[ -z "$(cd "$run" && find . | tr A-Z a-z | sort | uniq -d)" ] || refuse "names that differ by case"

# 2. The key: for points of low order anybody can make signatures (RFC 8032 curve; either sign, canonical or not).
[ -f "$key" ] || { echo "no such key: $key; name the PEM file of a public key" >&2; exit 2; }
openssl pkey -pubin -in "$key" -pubout -outform DER >"$work/key" 2>"$work/why" || refuse "no public key: $(head -n 1 "$work/why")"
keyid=$(sha256sum <"$work/key" | cut -d' ' -f1)
case $(tail -c 32 "$work/key" | od -An -v -tx1 | tr -d ' \n') in
  00000000000000000000000000000000000000000000000000000000000000[08]0 | 01000000000000000000000000000000000000000000000000000000000000[08]0 | \
  e[cde]ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff[7f]f | \
  26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc[08]5 | c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03[7f]a)
    refuse "a key of low order" ;;
esac

# 3. The signature over the DSSE encoding of the statement. One signature, canonical JSON, on one line.
opened "$run/run.dsse.json"
cp "$work/payload" "$work/statement"

# 4. The statement's subject is this SHA256SUMS. Keys are sorted and nothing is spaced, so a pattern finds it.
[ "$(grep -o '"subject":' "$work/statement" | wc -l | tr -d ' ')" = 1 ] || refuse "not one subject"
subject=$(grep -o '"subject":\[{"digest":{"sha256":"[0-9a-f]*"},"name":"SHA256SUMS"}\]' "$work/statement" | cut -d'"' -f8)
sums=$(realpath "$run/SHA256SUMS")
[ "$(sha256sum <"$sums" | cut -d' ' -f1)" = "$subject" ] || refuse "SHA256SUMS is not the signed one"

# 5. SHA256SUMS is sorted and lists each path once; every listed file is there unchanged; nothing else is there.
grep -Evq '^[0-9a-f]{64}  [!-~]+$' "$sums" && refuse "a line of SHA256SUMS in another form"
[ -s "$sums" ] && [ -z "$(tail -c 1 "$sums")" ] && cut -c67- "$sums" | sort -cu || refuse "SHA256SUMS is empty, cut or not sorted"
there=$(cd "$run/evidence" && find . ! -type d | cut -c3- | sort)
[ "$there" = "$(cut -c67- "$sums")" ] || refuse "a listed file is missing, or an unlisted one is there"
(cd "$run/evidence" && sha256sum -c --quiet --strict "$sums") || refuse "a listed file differs"

# 6. The key of the run log: certified for this run by the same key, and named by the last entry that begins a stretch of the log.
named=$(grep -E '"type":"(open|resume)"' "$run/runlog/entries.jsonl" | tail -n 1 | grep -o '"run_key":"[0-9a-f]*"' | cut -d'"' -f4)
for certificate in "$run"/evidence/run-keys/*.dsse.json; do
  opened "$certificate"
  grep -qF '"predicateType":"https://chipassay.dev/attestation/run-key/v1"' "$work/payload" || refuse "$certificate certifies no key of a run"
  [ "$(grep -o '"run":"[^"]*"' "$work/payload")" = "$(grep -o '"run":"[^"]*"' "$work/statement")" ] || refuse "$certificate is another run's"
  grep -o '"spki":"[^"]*"' "$work/payload" | cut -d'"' -f4 | openssl base64 -d -A >"$work/spki"
  [ "$(digest "$work/spki")" != "$named" ] || cp "$work/spki" "$work/log.der"
done
[ -f "$work/log.der" ] || refuse "the run log's key is not certified"

# 7. The run log's last entry names SHA256SUMS, and its last checkpoint is signed by that key.
tail -n 1 "$run/runlog/entries.jsonl" | grep -q "\"sums_sha256\":\"$subject\",\"type\":\"close\"" ||
  refuse "the run log does not close over SHA256SUMS"
tail -n 6 "$run/runlog/checkpoints.txt" | head -n 3 >"$work/note"
tail -n 2 "$run/runlog/checkpoints.txt" | head -n 1 | awk '{print $3}' | openssl base64 -d -A | tail -c +5 >"$work/note.sig"
openssl pkeyutl -verify -pubin -keyform DER -inkey "$work/log.der" -rawin -in "$work/note" -sigfile "$work/note.sig" >/dev/null ||
  refuse "the last checkpoint's signature does not hold"
[ "$(sed -n 2p "$work/note")" = "$(count "$run/runlog/entries.jsonl")" ] || refuse "the run log has another length"
size=$(sed -n 2p "$work/note") root=$(sed -n 3p "$work/note")
grep -qF "\"root\":\"$root\",\"size\":$size}" "$work/statement" || refuse "the statement names another run log"
echo "OK: $(basename "$run"): signature, run log's end and $(count "$sums") files hold"
