"""The sample: the same by openssl and sort, uniform, and open to nobody's choice."""

from __future__ import annotations

import hashlib
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verify import sample
from verify.sample import Member, Stratum

SECRET = bytes(range(32))
RUN, CHALLENGE = hashlib.sha256(b"run").hexdigest(), hashlib.sha256(b"challenge").hexdigest()
KEY = sample.seed(SECRET, RUN, CHALLENGE)
IDS = [f"case-{number}" for number in range(40)]


def test_commitment_and_seed_are_those_of_openssl() -> None:
    def openssl(data: bytes) -> str:
        done = subprocess.run(["openssl", "dgst", "-sha256", "-r"], input=data, capture_output=True, check=True)
        return done.stdout.decode().split()[0]

    assert sample.commitment(SECRET) == openssl(b"chipassay/reveal/v1\0" + SECRET)
    expected = openssl(b"chipassay/sample/v1\0" + SECRET + bytes.fromhex(RUN) + bytes.fromhex(CHALLENGE))
    assert KEY.hex() == expected


def test_a_secret_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        sample.commitment(b"short")


def test_openssl_and_sort_give_the_same_order() -> None:
    script = (
        f"for id in {' '.join(IDS)}; do printf '%s' \"$id\""
        f" | openssl dgst -sha256 -mac HMAC -macopt hexkey:{KEY.hex()} -r | cut -d' ' -f1 | tr '\\n' ' '; echo \"$id\"; done"
        " | LC_ALL=C sort | cut -d' ' -f2"
    )
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == sample.order(KEY, IDS)


def test_a_change_on_either_side_changes_the_order() -> None:
    other = [
        sample.seed(bytes(32), RUN, CHALLENGE),
        sample.seed(SECRET, CHALLENGE, CHALLENGE),
        sample.seed(SECRET, RUN, RUN),
        sample.seed(SECRET, CHALLENGE, RUN),
    ]
    orders = [sample.order(key, IDS) for key in (KEY, *other)]
    assert len({tuple(one) for one in orders}) == len(orders)


MEMBERS = [Member(name, "a") for name in IDS[:20]] + [Member(name, "b") for name in IDS[20:]]
HEAVY = frozenset(IDS[:6])
STRATA = (Stratum("a", 5, HEAVY), Stratum("a", 2), Stratum("b", 3))


def test_each_stratum_gives_its_first_k() -> None:
    drawn = sample.draw(KEY, STRATA, MEMBERS)
    assert drawn[:5] == sample.order(KEY, HEAVY)[:5]
    assert drawn[5:7] == sample.order(KEY, IDS[6:20])[:2]
    assert drawn[7:] == sample.order(KEY, IDS[20:])[:3]


def test_a_small_stratum_is_taken_whole_and_an_empty_one_gives_nothing() -> None:
    assert sorted(sample.draw(KEY, STRATA, MEMBERS[:3])) == IDS[:3]
    assert sample.draw(KEY, STRATA, []) == []


@given(st.permutations(MEMBERS))
def test_the_order_of_the_plan_does_not_matter(members: list[Member]) -> None:
    assert sample.draw(KEY, STRATA, members) == sample.draw(KEY, STRATA, MEMBERS)


def test_strata_that_cover_the_plan_have_no_fault() -> None:
    assert sample.faults(STRATA, MEMBERS) == []
    assert sample.parse([{"suite": "a", "k": 5, "cases": sorted(HEAVY)}, {"suite": "a", "k": 2, "cases": None}]) == STRATA[:2]


FAULTY = {
    "suite b needs exactly one stratum": STRATA[:2],
    "suite a needs exactly one stratum": (*STRATA, Stratum("a", 1)),
    "suite c needs": (*STRATA, Stratum("c", 1, frozenset({"x"}))),
    "suite a has a case in two strata": (*STRATA, Stratum("a", 1, frozenset(IDS[:1]))),
    "suite b has no case case-0": (*STRATA, Stratum("b", 1, frozenset(IDS[:1]))),
}


@pytest.mark.parametrize("said", FAULTY)
def test_strata_that_leave_cases_out_or_count_them_twice(said: str) -> None:
    assert any(said in fault for fault in sample.faults(FAULTY[said], MEMBERS))


def test_each_case_is_drawn_as_often_as_any_other() -> None:
    """Chi-square of 4,000 draws of 20 of 200 cases; 199 degrees of freedom, 0.999 quantile about 267."""
    ids = [f"c{number}" for number in range(200)]
    counts = dict.fromkeys(ids, 0)
    for number in range(4000):
        for name in sample.order(hashlib.sha256(str(number).encode()).digest(), ids)[:20]:
            counts[name] += 1
    expected = 4000 * 20 / 200
    variance = expected * (1 - 20 / 200)  # drawn without putting back
    assert sum((count - expected) ** 2 / variance for count in counts.values()) * 199 / 200 < 267
