"""For tests/device/container.sh: what Podman is given for one case of base specifications, and what its worker said of itself.

python tests/device/boxed.py plan CHIP BOX ROOT PYTHON     writes BOX/case/case.json; prints the arguments, each ended by a zero byte
python tests/device/boxed.py judge CHIP BOX ROOT           prints what the case said, and what the rules inside.* say of it
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kit import archive, chip, grants, host, inventory, launchers, plan
from verify import inside, libraries

CASE = "specifications-small"
KERNEL = {
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "mqueue",
    "cgroup",
    "cgroup2",
    "tmpfs",
    "securityfs",
    "debugfs",
    "tracefs",
    "bpf",
    "fusectl",
}
ELSEWHERE = ("/proc", "/sys", "/dev", "/tmp", "/run", "/etc/")


def given(product: chip.Chip, root: str) -> grants.Grants:
    """The first card by its nodes, with every node that the vendor's driver made, and what is mounted into the machine's own root."""
    made = grants.of(product, host.look(product).cards[:1], way="nodes")
    names = Path("/dev").glob(f"{product.id}*") if product.detection else ()
    driver = sorted(str(path) for path in names if path.is_char_device())
    mounts = [*made.mounts, *(_mounted() if root == "/" else [])]
    return replace(made, nodes=tuple(dict.fromkeys([*made.nodes, *driver])), mounts=tuple(dict.fromkeys(mounts)), memory_bytes=8 << 30)


def _mounted() -> list[str]:
    """Places that a plain bind of the root does not bring along: a driver's folder, say (proc(5), mountinfo)."""
    lines = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    found = [(fields[4], fields[fields.index("-") + 1]) for fields in lines]
    return sorted({path for path, kind in found if path != "/" and kind not in KERNEL and not path.startswith(ELSEWHERE)})


def arguments(product: chip.Chip, box: Path, root: str, python: str) -> list[str]:
    """The kit's own command line for Podman, with the bound root in place of an image."""
    case = next(case for case in plan.load("smoke").cases if case["id"] == CASE)
    (box / "case/case.json").write_text(json.dumps({"case": case, "attempt": 1}), encoding="utf-8")
    (box / "worker.pyz").write_bytes(archive.to_bytes())
    for path in (box, box / "case", box / "case/case.json", box / "worker.pyz"):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.chown(path, grants.PLAIN_USER, grants.PLAIN_USER)
    task = launchers.Task("chipassay-boxed", "IMAGE", box / "worker.pyz", box / "case")
    made = [f"{part},notmpcopyup" if part.startswith("/tmp:") else part for part in launchers.podman(product, given(product, root), task)]
    at = made.index("IMAGE")
    return [*made[:at], "--rootfs", str(box / "root"), python, *made[at + 1 :]]


def judge(product: chip.Chip, box: Path, root: str) -> int:
    """0 where the case is done and no rule on a container's inside is broken."""
    events = [json.loads(line) for path in sorted((box / "case").glob("events-*.jsonl")) for line in path.read_text().splitlines()]
    said = json.loads((box / "case/inside-rank0000.json").read_text(encoding="utf-8"))
    print("device:", [event.get("device_name") for event in events if event["e"] == "environment"], "events:", len(events))
    print("end:", events[-1])
    mapped = said["libraries"]
    print(
        "libraries:",
        len(mapped),
        "files,",
        sum(one["size_bytes"] or 0 for one in mapped),
        "bytes, of no package:",
        sum(not one["package"] for one in mapped),
    )
    granted = given(product, root)
    environment = {
        "isolation": {"kind": "container"}, "grants": granted.sealed(), "image": None, "lock": None, "kit": {"worker": said["worker"]},
        "inventory": {"libraries": {path: digest for mount in product.container.get("mounts", []) for path, digest in inventory._libraries(Path("/"), mount)}},
    }  # fmt: skip
    findings = [*inside._rank(said, 0, environment, "inside"), *libraries.check([("inside", said)], environment)]
    print("findings:", *map(str, findings), sep="\n  ")
    return 0 if events[-1].get("state") == "done" and not any(finding.severity == "error" for finding in findings) else 1


if __name__ == "__main__":
    what, product, box, root = sys.argv[1], chip.load(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    if what == "judge":
        sys.exit(judge(product, box, root))
    sys.stdout.write("".join(f"{argument}\0" for argument in arguments(product, box, root, sys.argv[5])))
