"""Model-flop utilisation: what a training case computes a second, over the chip's peak and over the run's own best product.

The peak is the one that the chip's data sheet names for the case's precision, as it was sealed with the run; its source is kept
beside the number. The run's own rate is suite `specifications`' largest product in the same precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from verify.metrics import Metric
from verify.plausibility import rates

if TYPE_CHECKING:
    from verify.score import CaseResult

RATE = "model_tflops"
UNIT = "TFLOPS"


def add(results: Sequence[CaseResult], environment: Mapping[str, Any]) -> list[CaseResult]:
    """The same results; those that train also have `mfu` and `matmul_utilisation`, where there is something to divide by."""
    own: dict[str, Fraction] = {}
    for result in results:
        for name, metric in result.metrics.items():
            if name.startswith("matmul_") and metric.unit == UNIT:
                own[name] = max(metric.value, own.get(name, Fraction(0)))
    peaks = environment.get("chip", {}).get("peaks") or []
    return [_with(result, peaks, own) if RATE in result.metrics else result for result in results]


def _with(result: CaseResult, peaks: Sequence[Mapping[str, Any]], own: Mapping[str, Fraction]) -> CaseResult:
    name = rates.PRODUCT.format(mode=result.fields["dtype"], unit=UNIT.lower())
    devices = result.traits.devices if result.traits else frozenset()
    peak, source = rates.ceilings(peaks, devices).get((name, UNIT), (None, ""))
    found, facts = dict(result.metrics), dict(result.facts)
    if peak is not None:
        found["mfu"] = Metric(found[RATE].value / peak, "1", "model_tflops / peak of the data sheet in the case's precision")
        facts["peak"] = f"{float(peak):g} {UNIT}: {source}"
    if own.get(name):
        found["matmul_utilisation"] = Metric(found[RATE].value / own[name], "1", "model_tflops / best product of the run in that precision")
    return replace(result, metrics=found, facts=facts)
