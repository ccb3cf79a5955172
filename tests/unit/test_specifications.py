"""Base specifications: the data is the same on both sides, exact numbers come out, and no precision passes for a higher one."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from tests.adversarial import specifications as built
from tests.conftest import ROOT
from verify import events, metrics, replay, words
from verify.data import table
from verify.metrics import specifications
from verify.metrics.specifications import Product

KIND = events.union(specifications.EVENTS)


def parsed(lines: list[dict[str, object]]) -> list[events.Event]:
    return [events.parse(json.dumps(line).encode(), KIND, "test") for line in lines]


def test_a_run_with_the_case_is_verified(tmp_path: Path) -> None:
    outcome = replay.replay(built.build(tmp_path), "self")
    assert (outcome.verdict, outcome.findings) == ("verified", [])
    found = {name: float(metric.value) for name, metric in outcome.cases[-1].metrics.items()}
    assert found == {
        "memory_gb": 8.0,
        "matmul_float32_tflops": pytest.approx(2 * 32**3 / (1e-3 / 3) / 1e12),
        "matmul_int8_tops": pytest.approx(2 * 32**3 / (1e-3 / 3) / 1e12),
        "on_card_gb_per_s": pytest.approx(2 * 1048576 / (1e-3 / 3) / 1e9),
        "stream_gb_per_s": pytest.approx(3 * 1048576 / (1e-3 / 3) / 1e9),
        "memory_bandwidth_gb_per_s": pytest.approx(3 * 1048576 / (1e-3 / 3) / 1e9),
    }


def test_schema_of_events_takes_them() -> None:
    assert len(parsed(built.events())) == len(built.events())


def functions(path: str) -> dict[str, str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name: ast.unparse(node.body[1:]) for node in tree.body if isinstance(node, ast.FunctionDef)}  # type: ignore[arg-type]


def test_worker_and_verify_make_seeds_alike() -> None:
    worker, verifier = functions("kit/worker/words.py"), functions("verify/words.py")
    assert (worker["seed"], worker["positions"]) == (verifier["seed"], verifier["places"])


def test_words_are_those_of_the_paper() -> None:
    # SplittableRandom(0).nextLong() begins e220a8397b1dcdaf, 6e789e6aa1b965f4, 06c45d188009454f
    assert [words.word(0, index) for index in range(3)] == [0xE220A839, 0x6E789E6A, 0x06C45D18]


def nearest(bits: int) -> Callable[[Fraction], Fraction]:
    """Rounds to `bits` significant bits."""

    def rounded(value: Fraction) -> Fraction:
        if not value:
            return value
        step = Fraction(2) ** (math.floor(math.log2(abs(value))) + 1 - bits)
        return round(value / step) * step

    return rounded


def cut(bits: int) -> Callable[[Fraction], Fraction]:
    """Cuts off what is beyond `bits` significant bits."""

    def shorter(value: Fraction) -> Fraction:
        if not value:
            return value
        step = Fraction(2) ** (math.floor(math.log2(abs(value))) + 1 - bits)
        return math.trunc(value / step) * step

    return shorter


def same(value: Fraction) -> Fraction:
    return value


K = 512
CASE = {"id": "x", "seed": 7, "samples": 16}


def error_of(mode: str, operand: Callable[[Fraction], Fraction], result: Callable[[Fraction], Fraction]) -> float:
    """The relative error that verify finds in a product of operands and results that were changed."""
    limit = specifications.limits(mode)
    assert limit
    bits, unit = limit["bits"], Fraction(1) if limit["whole"] else Fraction(1, 2 ** (limit["bits"] - 1))

    def element(name: str, index: int) -> Fraction:
        return operand(((words.word(words.seed(7, name), index) >> (32 - bits)) - 2 ** (bits - 1)) * unit)

    asked = words.places(words.seed("0" * 64, "entries"), 16, 64 * 64)
    values = []
    for place in asked:
        row, column = divmod(place, 64)
        values.append(result(sum((element("a", row * K + i) * element("b", column * K + i) for i in range(K)), Fraction(0))))
    check = Product(t=0, mode=mode, shape=[64, K, 64], output_sha256="0" * 64, places=asked, values=values, residual=Fraction(0))
    return math.sqrt(specifications._error_squares(CASE, check, limit))


HONEST = {
    "float16": (same, nearest(11)),
    "bfloat16": (same, nearest(8)),
    "float32": (same, nearest(24)),
    "float32_tensor": (cut(11), nearest(24)),
    "tf32": (nearest(11), nearest(24)),
    "int8": (same, same),
}
LOWER = {
    "float16": (nearest(8), nearest(11)),
    "bfloat16": (nearest(4), nearest(8)),
    "float32": (nearest(11), nearest(24)),
    "float32_tensor": (nearest(8), nearest(24)),
    "tf32": (nearest(8), nearest(24)),
    "int8": (lambda value: Fraction(round(value / 16) * 16), same),
}


@pytest.mark.parametrize("mode", HONEST)
def test_the_honest_precision_passes(mode: str) -> None:
    assert error_of(mode, *HONEST[mode]) <= float(specifications.limits(mode)["largest_error"])  # type: ignore[index]


@pytest.mark.parametrize("mode", LOWER)
def test_a_lower_precision_does_not_pass(mode: str) -> None:
    assert error_of(mode, *LOWER[mode]) > 1.5 * float(specifications.limits(mode)["largest_error"])  # type: ignore[index]


def test_every_mode_of_a_case_but_one_has_a_limit() -> None:
    schema = json.loads((ROOT / "manifests/schemas/cases/specifications.schema.json").read_text(encoding="utf-8"))
    modes = set(schema["properties"]["modes"]["items"]["enum"])
    assert modes - {row["name"] for row in table(specifications.LIMITS)["mode"]} == {"int16"}  # no such product in torch


def test_efficiency_is_the_best_mode_of_its_kind() -> None:
    cost = {"matmul_float16": 2, "matmul_float32": 20, "matmul_int8": 1}
    told = {f"{name}_energy_per_tera_operation_j": metrics.Metric(Fraction(joules), "J", "x") for name, joules in cost.items()}
    found = specifications.derived({"modes": ["float16", "float32", "int8", "int16"]}, told)
    assert {name: (metric.value, metric.unit) for name, metric in found.items()} == {
        "float_efficiency": (Fraction(1, 2), "TFLOPS/W"),
        "integer_efficiency": (Fraction(1), "TOPS/W"),
    }


def test_median_is_exact() -> None:
    assert metrics.median([3, 1, 2]) == 2
    assert metrics.median([4, 1, 2, 3]) == Fraction(5, 2)
