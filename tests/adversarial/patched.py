"""Attacks on a vendor's source patches: a path that the plan does not allow, and lists that do not agree."""

from __future__ import annotations

from typing import Any

from tests.adversarial.attacks import add
from tests.adversarial.builder import Bench

PATCH = {"file": "0001-warmup.patch", "sha256": "4" * 64, "paths": [{"path": "torch/optim/adam.py", "added": 3, "removed": 1}]}
IMAGE: dict[str, Any] = {
    "reference": "chipassay/cpu:0", "manifest": None, "config": "sha256:" + "5" * 64, "platform": "linux/amd64", "sbom": None,
    "base": {"kind": "debian", "digest": "sha256:" + "6" * 64, "differs": []},
}  # fmt: skip


def patched(bench: Bench, *allowed: str) -> None:
    """An environment with a patch, under a plan that allows these globs."""
    bench.environment["patches"] = [PATCH]
    bench.plan.document["allowed_patches"] = list(allowed)


def contained(bench: Bench, in_image: list[dict[str, Any]]) -> None:
    """The same in a container whose image names other patches, or the same ones."""
    patched(bench, "torch/optim/*.py")
    bench.environment["image"] = IMAGE | {"patches": in_image}
    bench.environment["isolation"] = {"kind": "container", "reason": None}


def bare(bench: Bench) -> None:
    patched(bench, "torch/optim/*.py")
    bench.environment["isolation"] = {"kind": "none", "reason": "tests"}


def recount(statement: dict[str, Any]) -> None:
    statement["predicate"]["patches"] = [PATCH]


add("patches.allowed", "sealed", "a patch under a plan that allows none", patched)
add("patches.allowed", "sealed", "a patch one folder too deep", lambda bench: patched(bench, "torch/*"))
add("patches.allowed", "sealed", "a patch beside what a glob names", lambda bench: patched(bench, "torch/nn/**", "torch/optim/sgd.py"))
add("patches.stated", "restated", "a patch that nobody applied", recount)
add("patches.stated", "sealed", "an image that hides a patch", lambda bench: contained(bench, []))
add(
    "patches.stated",
    "sealed",
    "an image patched with more",
    lambda bench: contained(bench, [PATCH, PATCH | {"file": "0002-more.patch"}]),
)
add("patches.stated", "sealed", "an interpreter that nobody made, patched", bare)
