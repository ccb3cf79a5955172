"""Sample predicates that fit their schemas, for tests of whoever opens them."""

from __future__ import annotations

from typing import Any


def challenge_predicate(**changes: Any) -> dict[str, Any]:
    """What lab-a asks of acme on a CPU in May and June 2026."""
    return {
        "vendor": "acme", "lab": "lab-a", "chip": "cpu", "nonce": "0" * 32, "revealCommit": {"sha256": "1" * 64},
        "notBefore": "2026-05-01T00:00:00Z", "notAfter": "2026-06-30T00:00:00Z", "auditBy": "2026-08-31T00:00:00Z",
        "allowed": {"images": [], "kits": []},
        "scorer": {"sha256": "2" * 64}, "sampling": {"rule": "hmac-sha256/v1", "strata": [{"suite": "pretrain", "k": 1, "cases": None}]},
        "tolerances": {"sha256": "3" * 64}, "maxAttempts": 3, "policy": {"version": 1, "sha256": "4" * 64},
    } | changes  # fmt: skip
