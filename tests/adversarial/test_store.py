"""What a verifier remembers of trust policies, and limits that hold exactly where they stand; each test killed a mutant."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.adversarial import trust
from tests.adversarial.trust import AT
from verify import chain, policy
from verify.findings import Refused
from verify.strict import MAX_DEPTH, canonical, loads

FIRST = trust.document()
SECOND = trust.after(FIRST)


def both(folder: Path) -> tuple[Path, Path]:
    """Version 1 alone, and versions 1 and 2."""
    return trust.write(folder / "one", trust.seal(FIRST)), trust.write(folder / "two", trust.seal(FIRST), trust.seal(SECOND))


def test_a_newer_version_takes_the_place_of_the_one_that_was_seen(tmp_path: Path) -> None:
    one, two = both(tmp_path)
    assert [finding.rule for finding in chain.load(one, AT).findings] == ["policy.first"]
    assert chain.load(one, AT).findings == ()
    assert chain.load(two, AT).findings == ()
    with pytest.raises(Refused, match=r"policy\.rollback"):
        chain.load(one, AT)


def test_a_policy_carries_the_digest_of_its_payload(tmp_path: Path) -> None:
    one, _ = both(tmp_path)
    assert chain.load(one, AT).sha256 == hashlib.sha256(canonical(FIRST)).hexdigest()


def test_more_versions_than_anybody_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = both(tmp_path)
    monkeypatch.setattr(chain, "MAX_VERSIONS", 1)
    assert chain.load(one, AT).version == 1
    with pytest.raises(Refused, match=r"policy\.version"):
        chain.load(two, AT)


def test_the_store_lies_in_the_home_of_who_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHIPASSAY_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    chain.load(both(tmp_path)[0], AT)
    store = tmp_path / "home/.local/state/chipassay/trust.json"
    assert json.loads(store.read_bytes())["schemaVersion"] == 1


def test_a_number_that_not_every_reader_holds_is_no_version() -> None:
    with pytest.raises(Refused, match=r"json\.number"):
        policy.parse(canonical(FIRST | {"statusMaxAgeDays": 2**53}), "policy")


@pytest.mark.parametrize(("begin", "end"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_is_counted_the_same_in_lists_and_in_objects(begin: bytes, end: bytes) -> None:
    inner = begin[:1] + end
    loads(begin * (MAX_DEPTH - 1) + inner + end * (MAX_DEPTH - 1))
    with pytest.raises(Refused, match=r"json\.depth"):
        loads(begin * MAX_DEPTH + inner + end * MAX_DEPTH)
