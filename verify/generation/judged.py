"""Whether the tokens are those of the model that the case names: three gates, none of which looks at speed.

Greedy decoding in a lower precision may part from float32 only where two tokens are nearly as likely, whatever the weights are. How near
that is in each precision is data, and so are references: outputs of a float32 run of known weights, with how far the next token was.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from decimal import Context
from fractions import Fraction
from typing import Any

from verify.data import table
from verify.events import exact
from verify.findings import Finding, error, warning
from verify.generation.events import Judged, Perplexity
from verify.generation.requests import Measured
from verify.metrics import Case, Metric, mean, over
from verify.plausibility import outcome

DATA = "baselines/text_generation.toml"
TEXT_TOKENS = 8 * 255  # of the frozen text: windows of 256, of which the first token is given
ROUNDING = 1e-6  # of logarithms in double precision; logits are as they are
_EXP = Context(prec=40)


def rules(case: Case, measured: Measured) -> Iterator[Finding]:
    """What the gates say; a warning where none of them could."""
    found: list[Judged] = measured.all(Judged)
    yield from _form(case, found)
    yield from _int8(case, measured)
    stored = reference(case, measured.weights_sha256)
    if not case["judge"]["prompts"] or (case["judge"]["reference"] == "none" and stored is None):
        expected = "a float32 model of the same weights beside the engine, or a stored reference"
        yield warning("text_generation.unproven", case["id"], expected, "neither: tokens are not judged")
    bound = tolerance(case)
    for one in found:
        where = f"{case['id']}: prompt {one.prompt}"
        if one.gap and exact(max(one.gap)) > bound:
            place = one.gap.index(max(one.gap))
            expected = f"tokens at most {float(bound)} nats less likely than the likeliest"
            yield error("text_generation.greedy", where, expected, f"{max(one.gap):.4g} at position {place}")
        yield from _first_difference(where, one, stored, bound)


def _form(case: Case, found: list[Judged]) -> Iterator[Finding]:
    asked, prompts = case["judge"], table(DATA)["prompts"]
    expected = list(range(asked["prompts"]))
    if [one.prompt for one in found] != expected:
        yield error("text_generation.judged", case["id"], f"{len(expected)} frozen prompts, in order", [one.prompt for one in found])
        return
    length = 0 if asked["reference"] == "none" else asked["tokens"]
    for one in found:
        where = f"{case['id']}: prompt {one.prompt}"
        if one.prompt_sha256 != prompts[one.prompt]:
            yield error("text_generation.judged", where, f"the frozen prompt {prompts[one.prompt][:12]}", one.prompt_sha256[:12])
        if (len(one.ids), len(one.nll), len(one.gap)) != (asked["tokens"], length, length) or min([*one.nll, *one.gap], default=0) < 0:
            sizes = (len(one.ids), len(one.nll), len(one.gap))
            yield error(
                "text_generation.judged", where, f"ids, nll, gap = {asked['tokens']}, {length}, {length} of them, none below 0", sizes
            )
        elif max(one.ids, default=0) >= case["model"]["vocab_size"]:
            yield error("text_generation.judged", where, f"ids below {case['model']['vocab_size']}", max(one.ids))
        elif odd := [place for place, pair in enumerate(zip(one.nll, one.gap, strict=True)) if not _can_be(*pair, case)]:
            possible = "likelihoods of two tokens that are at most 1 together, the likeliest one's at least 1 / vocabulary"
            yield error("text_generation.judged", f"{where}, position {odd[0]}", possible, (one.nll[odd[0]], one.gap[odd[0]]))


def _can_be(nll: float, gap: float, case: Case) -> bool:
    """Whether a token of this likelihood can be so much less likely than the likeliest of a vocabulary."""
    least = gap + math.log1p(math.exp(-gap)) if gap else 0
    return least - ROUNDING <= nll <= gap + math.log(case["model"]["vocab_size"]) + ROUNDING


def _first_difference(where: str, one: Judged, stored: list[dict[str, Any]] | None, bound: Fraction) -> Iterator[Finding]:
    if stored is None:
        return
    row = stored[one.prompt]
    place = first_difference(one.ids, row["ids"])
    if place is not None and Fraction(str(row["margin"][place])) > bound:
        expected = f"the stored reference's tokens, or a first difference where its margin is at most {float(bound)} nats"
        yield error("text_generation.reference", where, expected, f"position {place}, margin {row['margin'][place]}")


def first_difference(ids: list[int], wanted: list[int]) -> int | None:
    """The first position at which two continuations differ; None where they do not."""
    return next((place for place, (ours, theirs) in enumerate(zip(ids, wanted, strict=False)) if ours != theirs), None)


def _int8(case: Case, measured: Measured) -> Iterator[Finding]:
    """What the gate of ruling 10 needs; whether the case passes it is the profile's to say: one that does not is honest, and scores 0."""
    found: list[Perplexity] = measured.all(Perplexity)
    if case["quantization"] != "none" and "server" in case:
        yield from _continuations(case, measured)
    kinds = [] if case["quantization"] == "none" or "server" in case else ["none", case["quantization"]]
    if [one.quantization for one in found] != kinds or len({(one.text_sha256, one.tokens) for one in found}) > 1:
        expected = f"perplexity of one text by {kinds or 'nobody'}"
        yield error("text_generation.int8", case["id"], expected, [(one.quantization, one.tokens) for one in found])
        return
    if odd := [(one.tokens, one.nll) for one in found if one.tokens != TEXT_TOKENS or one.nll < 0]:
        yield error("text_generation.int8", case["id"], f"{TEXT_TOKENS} tokens, no likelihood above 1", odd)
    if kinds and found[0].text_sha256 != table(DATA)["text_sha256"]:
        yield error("text_generation.int8", case["id"], "the frozen text", found[0].text_sha256[:12])


def _continuations(case: Case, measured: Measured) -> Iterator[Finding]:
    """A server tells no likelihood of a given text: its gate is that of its own continuations, which a float32 model has to have judged."""
    if not any(one.gap for one in measured.all(Judged)):
        yield error("text_generation.int8", case["id"], "continuations of the frozen prompts judged by a float32 model", "none")


def continuation_ratio(gaps: list[Fraction]) -> Fraction:
    """Perplexity of the tokens taken over that of the likeliest tokens in their places, both by one float32 model: e to the mean gap."""
    return _exp(mean(gaps))


def perplexity_ratio(found: list[Perplexity]) -> Fraction:
    """Perplexity with quantisation over that without."""
    return _exp((exact(found[1].nll) - exact(found[0].nll)) / found[0].tokens)


def _exp(value: Fraction) -> Fraction:
    """E to the power, to 40 digits; beyond e^700, which is still a double, there is nothing to tell apart."""
    bounded = min(max(value, Fraction(-700)), Fraction(700))
    return Fraction(_EXP.exp(_EXP.divide(_EXP.create_decimal(bounded.numerator), _EXP.create_decimal(bounded.denominator))))


def tolerance(case: Case) -> Fraction:
    """Largest gap in nats that the case's precision may have."""
    kind = case["dtype"] if case["quantization"] == "none" else case["quantization"]
    return Fraction(str(table(DATA)["gap"][kind]))


def key(case: Case, weights_sha256: str | None) -> str:
    """What a stored reference belongs to: the model's shape and its weights; random ones are their seed's."""
    weights = weights_sha256 or f"random/{case['seed']}"
    shape = "/".join(f"{name}={value}" for name, value in sorted(case["model"].items()))
    return hashlib.sha256(f"{shape}/{weights}".encode()).hexdigest()


def reference(case: Case, weights_sha256: str | None) -> list[dict[str, Any]] | None:
    """Stored continuations, one a frozen prompt, with the margin of each token; None where there are none for these weights."""
    wanted = key(case, weights_sha256)
    return next((list(row["outputs"]) for row in table(DATA)["reference"] if row["key"] == wanted), None)


def outcomes(case: Case, measured: Measured) -> dict[str, str]:
    """Digest of what a float32 model said -> whose word it is: weights of a file, or those that seed and shape draw.

    Nothing of a server's weights, whose digest nobody tells.
    """
    if measured.weights != "random" and measured.weights_sha256 is None:
        return {}
    shape = [case["model"][name] for name in ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "ffn_size", "vocab_size")]
    whose = f"weights {measured.weights_sha256}" if measured.weights_sha256 else f"random weights of seed {case['seed']}, shape {shape}"
    digest = outcome([value for one in measured.all(Judged) for value in (*one.nll, *one.gap)])
    return {digest: whose} if digest else {}


def metrics(case: Case, measured: Measured) -> dict[str, Metric]:
    """Perplexities, the largest gap, and where continuations first differ; nothing of what was not judged."""
    found: list[Judged] = measured.all(Judged)
    made: dict[str, Metric] = {}
    losses = [exact(value) for one in found for value in one.nll]
    if losses:
        made["continuation_perplexity"] = Metric(_exp(mean(losses)), "1", "of the engine's own continuation, by a float32 model")
        largest = max(exact(max(one.gap)) for one in found)
        made["greedy_gap_max"] = Metric(largest, "nat", "largest gap between the likeliest token and the one taken")
        made |= _places(case, [_parted(one.gap) for one in found], "float32 beside it")
    stored = reference(case, measured.weights_sha256)
    if stored and found and not losses:
        places = [first_difference(one.ids, stored[one.prompt]["ids"]) for one in found]
        made |= _places(case, places, "a stored float32 reference")
    if measured.all(Perplexity):
        ratio = perplexity_ratio(measured.all(Perplexity))
        made["int8_perplexity_ratio"] = Metric(ratio, "1", "perplexity of the frozen text, quantised over not (ruling 10)")
    elif losses and case["quantization"] != "none" and "server" in case:
        gaps = [exact(value) for one in found for value in one.gap]
        words = "perplexity of its continuations over that of the likeliest tokens there, by a float32 model (ruling 10, of a server)"
        made["int8_perplexity_ratio"] = Metric(continuation_ratio(gaps), "1", words)
    return made


def _parted(gap: list[float]) -> int | None:
    return next((place for place, value in enumerate(gap) if value > 0), None)


def _places(case: Case, places: list[int | None], beside: str) -> dict[str, Metric]:
    """A continuation that never differs counts as its length."""
    whole = case["judge"]["tokens"]
    counted = [whole if place is None else place for place in places]
    same = Fraction(sum(place is None for place in places), len(places))
    return {
        "first_difference_mean": Metric(mean(counted), "tokens", f"mean first position that differs from {beside}", **over(counted)),
        "identical_share": Metric(same, "1", f"share of continuations that never differ from {beside}"),
    }
