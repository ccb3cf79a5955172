"""What suites that train show of a case: rates (report formula F2), losses, perplexity, targets, utilisation, series, traits.

The clock of a step is the synchronised wall time of its slowest rank; warm-up steps, evaluation and saving do not count
(ruling 16). Nominal tokens are scored, real (unpadded) tokens are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Context, Decimal
from fractions import Fraction

from verify import flop, step_losses
from verify.metrics import Case, Metric, Series, Window, mean, over, points
from verify.plausibility import Traits, Work, outcome
from verify.scoring.formulas import loss_variance
from verify.steps import Measured, loss, tokens_of

NS_PER_S = 10**9
TERA = 10**12
TRIM = 10  # the lab's later rule: steps left out at each end of the sorted TGS (profile lab-2025)
TRIMMED_STEPS = 10_000  # an exact mean of more rates takes minutes; the rule is for runs of some hundred steps
CURVE_STEPS = 101  # steps 0 to 100, as the published curves
VARIANCE_STEPS = 100  # of them F10 takes steps 0 to 99 (ruling 8)
LARGEST_LOSS = 100  # nats: e^100 is no perplexity that anybody asks for
OUTCOME_STEPS = 16
SIZES = ("architecture", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "ffn_size", "vocab_size")
DECIMAL = Context(prec=40)


def metrics(case: Case, measured: Measured) -> dict[str, Metric]:
    """Rates in tokens per second and card, step time in seconds, losses in nats per token, and what the case asks for besides."""
    warmup, times_ns = case["warmup_steps"], measured.steps.slowest_ns[case["warmup_steps"] :]
    count, wall_ns = len(times_ns), sum(times_ns)
    card_seconds = Fraction(wall_ns * case["cards"], NS_PER_S)
    tokens, real_tokens = tokens_of(measured.steps, warmup)
    rates = [Fraction(tokens * NS_PER_S, count * slowest_ns * case["cards"]) for slowest_ns in (max(times_ns), min(times_ns))]
    found = {
        "tgs": Metric(tokens / card_seconds, "tokens/(s*card)", "F2", *rates),
        "tgs_real": Metric(real_tokens / card_seconds, "tokens/(s*card)", "F2 over real tokens"),
        "step_time_mean_s": Metric(
            Fraction(wall_ns, NS_PER_S * count), "s", "mean over measured steps of the slowest rank", **over(times_ns, NS_PER_S)
        ),
        "loss_first": Metric(loss(measured, warmup, warmup + 1), "nat/token", "mean over ranks at the first measured step"),
        "loss_last": Metric(loss(measured, warmup + count - 1, warmup + count), "nat/token", "mean over ranks at the last measured step"),
        "loss_mean": Metric(loss(measured, warmup, warmup + count), "nat/token", "mean over ranks and measured steps"),
        "model_tflops": Metric(Fraction(_operations(case, tokens), TERA) / card_seconds, "TFLOPS", "products and attention, both ways"),
        "time_to_first_step_s": Metric(Fraction(measured.first_step_ns, NS_PER_S), "s", "start of the slowest rank to its first update"),
    }
    if 2 * TRIM < count <= TRIMMED_STEPS:
        kept = [Fraction(tokens * NS_PER_S, count * slowest_ns * case["cards"]) for slowest_ns in sorted(times_ns)[TRIM:-TRIM]]
        found["tgs_trimmed"] = Metric(mean(kept), "tokens/(s*card)", "F2 a step, mean without the 10 lowest and highest")
    if any(measured.peaks):  # 0: a chip whose library does not tell
        found["memory_gb"] = Metric(Fraction(max(measured.peaks), 10**9), "GB", "largest allocation of a card")
    return found | dict(_curve(case, measured)) | dict(_validation(case, measured)) | dict(_targets(case, found, measured))


def _operations(case: Case, tokens: int) -> int:
    return flop.training(case["model"], tokens, frozen=case.get("method") == "lora") + flop.attention(case["model"], tokens)


def _curve(case: Case, measured: Measured) -> Iterator[tuple[str, Metric]]:
    """F10 against the case's own curve, whole and without the steps of the curve's spike, where there is one (ruling 8)."""
    curve = case.get("curve")
    if curve is None or len(measured.steps.slowest_ns) < VARIANCE_STEPS:
        return
    theirs = [Fraction(value) for value in curve["values"][:VARIANCE_STEPS]]
    ours = [loss(measured, step, step + 1) for step in range(VARIANCE_STEPS)]
    yield "loss_variance", Metric(loss_variance(ours, theirs), "nat^2", "F10, steps 0 to 99")
    if curve["spike"]:
        kept = [step for step in range(VARIANCE_STEPS) if step not in curve["spike"]]
        without = loss_variance([ours[step] for step in kept], [theirs[step] for step in kept])
        yield "loss_variance_without_spike", Metric(without, "nat^2", "F10 without the curve's spike, shown only")


def _validation(case: Case, measured: Measured) -> Iterator[tuple[str, Metric]]:
    """Loss and perplexity on held-out data at the last evaluation."""
    value = validation(case, measured)
    if value is not None:
        yield "loss_validation", Metric(value, "nat/token", "held-out data, mean over ranks, last evaluation")
        yield "perplexity", Metric(perplexity(value), "1", "e to the held-out loss")


def validation(case: Case, measured: Measured) -> Fraction | None:
    """Held-out loss of the last evaluation, below what has a perplexity; None where nothing was evaluated."""
    del case
    if not measured.evaluations:
        return None
    last = measured.evaluations[max(measured.evaluations)]
    return min(mean(last), Fraction(LARGEST_LOSS))


def perplexity(value: Fraction) -> Fraction:
    """E to the loss, to 40 digits, the same everywhere."""
    return Fraction(DECIMAL.exp(DECIMAL.divide(Decimal(value.numerator), Decimal(value.denominator))))


def _targets(case: Case, found: dict[str, Metric], measured: Measured) -> Iterator[tuple[str, Metric]]:
    """F1, one model: 1 where every target that the case names is met, strictly (ruling 9)."""
    targets = case.get("targets")
    if targets is None:
        return
    held = validation(case, measured)
    values = {"loss": found["loss_last"].value, "perplexity": None if held is None else perplexity(held)}
    met = [value is not None and value < Fraction(targets[name]) for name, value in values.items() if name in targets]
    yield "targets_met", Metric(Fraction(all(met)), "1", "F1: every target met, strictly")


def facts(case: Case, measured: Measured) -> dict[str, str]:
    """Whether the weights were random or of a file; and of a case about function, whether a target proves it."""
    found = {"weights": measured.weights}
    if case.get("purpose") == "function":
        found["function"] = "judged by its targets" if "targets" in case else "unproven: no target is public"
    return found


def traits(case: Case, measured: Measured) -> Traits:
    """Durations of measured steps, a digest of each rank's, and the work of the products alone."""
    warmup, steps = case["warmup_steps"], measured.steps
    times_ns = steps.slowest_ns[warmup:]
    operations = flop.training(case["model"], tokens_of(steps, warmup)[0], frozen=case.get("method") == "lora")
    done = Work(operations, case["dtype"], sum(times_ns), case["cards"])
    ranks = {number: rank.digest.hexdigest() for number, rank in measured.ranks.items()}
    busy_ns, span_ns = sum(times_ns) + measured.evaluated_ns, measured.ranks[0].ended_ns - measured.begin_ns
    return Traits({"step": times_ns}, ranks, done, busy_ns, span_ns, frozenset(measured.devices), _outcomes(case, measured))


def _outcomes(case: Case, measured: Measured) -> dict[str, str]:
    """A digest of the first losses, with what cannot but change them: no other case has them to the last digit."""
    losses = measured.steps.loss_dp_mean[:OUTCOME_STEPS]
    digest = None if step_losses.coarse(losses) else outcome(losses)
    if digest is None:
        return {}
    sizes = "-".join(str(case["model"][name]) for name in SIZES)
    seed = f", seed {case['seed']}" if case["weights"] == "random" else ""
    data = ", ".join(sorted(str(sha256)[:12] for _, sha256, _ in measured.facts))
    return {digest: f"losses of {sizes}{seed}, batches of {case['global_batch']}, data {data}"}


def series(case: Case, measured: Measured) -> dict[str, Series]:
    """Step time in seconds and loss in nats per token, over all steps; the loss of the first ones also step by step (F10)."""
    warmup, times_ns = case["warmup_steps"], measured.steps.slowest_ns
    return {
        "step_time_s": points(len(times_ns), lambda begin, end: Fraction(sum(times_ns[begin:end]), NS_PER_S * (end - begin)), "s", warmup),
        "loss": points(len(times_ns), lambda begin, end: loss(measured, begin, end), "nat/token", warmup, CURVE_STEPS),
    }


def windows(case: Case, measured: Measured) -> list[Window]:
    """From the begin of the first measured step to the end of the last, on rank 0's clock, with the tokens of all ranks."""
    tokens, _ = tokens_of(measured.steps, case["warmup_steps"])
    return [Window("", measured.begin_ns, measured.ranks[0].ended_ns, {"token": tokens})]
