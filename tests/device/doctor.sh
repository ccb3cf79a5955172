#!/usr/bin/env bash
# Doctor, detection and inventory on a machine with cards, without an engine and without torch. Usage: tests/device/doctor.sh [CHIP]
# Needs Python 3.11 or newer with the kit's packages. Leaves what it found under $OUT, if that is set.
set -euo pipefail
cd "$(dirname "$0")/../.."
chip=${1:-nvidia}
out=${OUT:-$(mktemp -d)}
python3 -m kit doctor | tee "$out/doctor.txt"
python3 -m kit doctor --lang zh >"$out/doctor_zh.txt"
python3 -m kit doctor --json >"$out/doctor.json"
python3 - "$chip" "$out" <<'PYTHON'
import json, sys
from kit import chip, host, inventory

product, out = chip.load(sys.argv[1]), sys.argv[2]
found = host.look(product)
print("detected:", [item.chip.id for item in host.scan() if item.here], "only:", getattr(host.only(), "id", None))
print("addresses:", found.addresses, "nodes:", found.nodes, "tool:", found.tool)
print("cards:", [(card.number, card.nodes) for card in found.cards])
print("strangers:", host.strangers())
plain = inventory.take(product, product.container.get("mounts", []), inventory.Veil())
veiled = inventory.take(product, [], inventory.Veil(b"salt"))
print("findings:", plain["findings"])
for card in plain["accelerators"]["cards"]:
    print("card:", {name: value for name, value in card.items() if name not in inventory.SECRET_COLUMNS})
secrets = [card[name] for card in plain["accelerators"]["cards"] for name in inventory.SECRET_COLUMNS if name in card]
assert not [value for value in secrets if len(value) > 3 and value in json.dumps(veiled)], "a name was not hidden"
assert found.here and plain["accelerators"]["cards"], "no card was found"
json.dump(veiled, open(f"{out}/inventory.json", "w"), indent=1)
print("OK")
PYTHON
