"""Text to image: throughput, latency with its parts, load and compile time, memory (F22), and whether the latents are right.

Throughput is pictures over the time of the measured pipeline calls, text encoder and decoder included. Latents at fixed steps are
compared with a stored float32 reference of the same weights, seed and size. Pictures of true weights are judged by verify.quality
where a band is stored for them; random weights make no pictures worth judging. Kept files are what the events say of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from verify import copies, picture_events, pictures, quality
from verify.data import table
from verify.events import Compiled, Environment, Event, Memory, Model, exact
from verify.files import Evidence
from verify.findings import Finding, error, warning
from verify.metrics import Blocks, Case, Metric, Window, mean, over, root_shown
from verify.picture_events import Call, Latents, Load, Parts, Picture
from verify.plausibility import Traits, Work, outcome

SECTION = "inference"
PART = "text_to_image"
NS_PER_S = 10**9
NS_PER_MS = 10**6
DATA = "baselines/text_to_image.toml"
PIXELS_A_PLACE = 8  # of the latents, in either direction
OWN = "diffusers"  # the engine that holds all parts on the worker's own device
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PROMPT_SEEN = 8  # letters of a prompt, in lower case without spaces
ITEMS = 2  # of the denoiser's batch for each picture: guidance asks with and without the prompt

RULES = {
    "text_to_image.facts": "environment, model (seed, dtype, weights of the case, a digest of a file's) and parts, once each",
    "text_to_image.parts": "each part has the architecture's number of parameters, together the model's; the case's safety checker",
    "text_to_image.loads": "the case's number of loads, the first cold, the others warm, one after the other, before the first call",
    "text_to_image.compiled": "compiled once, in the case's mode, before the first call, or not at all where the case is eager",
    "text_to_image.calls": "calls 0, 1, 2, ... with the case's warm-up, then its measured calls",
    "text_to_image.time": "a call begins after all that was told before, its parts follow each other, and no two calls have the same times",
    "text_to_image.latents": "latents sampled once after each of the case's steps, in order, no two steps alike",
    "text_to_image.reference": "sampled latents are those of the stored float32 reference, within the tolerance of the precision",
    "text_to_image.pictures": "one kept picture for each of the batch, no two alike, mean colours those of their parts",
    "text_to_image.kept": "the pictures that events name, and no others, lie in the attempt's artifacts with the digests that events say",
    "text_to_image.pixels": "colours told of a kept picture are those of its pixels",
    "text_to_image.quality": "pictures of known weights are neither worse nor better than this model makes them",
    "text_to_image.memory": "the largest allocation, once, no less than the weights where the worker itself holds them on a card",
}


EVENTS = picture_events.EVENTS


@dataclass(slots=True)
class Measured:
    """Everything by kind."""

    facts: list[str] = field(default_factory=list)
    weights: str = "random"
    weights_sha256: str | None = None
    parts: Parts | None = None
    loads: list[Load] = field(default_factory=list)
    compiled: list[Compiled] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    latents: list[Latents] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    devices: set[str] = field(default_factory=set)
    device: str = ""
    parameters: int = 0
    told_ns: int = 0  # the time of what was told last

    def measured(self, case: Case) -> list[Call]:
        """Calls that count."""
        return self.calls[case["warmup_calls"] :]


def condense(case: Case, rank: int, events: list[Event]) -> list[Event]:
    """The events as they are: they are few."""
    del case, rank
    return events


def measure(case: Case, blocks: Blocks) -> Measured:
    """Sort the events of the one rank."""
    measured = Measured()
    for _, events in blocks:
        for event in events:
            _take(case, measured, event)
    return measured


def _take(case: Case, measured: Measured, event: Event) -> None:
    kinds: dict[type, list[Any]] = {
        Load: measured.loads,
        Compiled: measured.compiled,
        Call: measured.calls,
        Latents: measured.latents,
        Picture: measured.pictures,
        Memory: measured.memory,
    }
    if type(event) in kinds:
        kinds[type(event)].append(event)
    elif isinstance(event, Environment | Model | Parts):
        measured.facts.append(type(event).__name__)
    if isinstance(event, Environment):
        measured.devices.add(event.device_name)
        measured.device = event.device
    if isinstance(event, Load | Compiled | Call):
        late = bool(measured.calls) and not isinstance(event, Call)
        if event.begin_ns < measured.told_ns or late:
            rule = {Load: "loads", Compiled: "compiled", Call: "time"}[type(event)]
            begin = f"from {measured.told_ns} ns on{', before the first call' if late else ''}"
            measured.findings.append(error(f"text_to_image.{rule}", f"{case['id']}: {rule}", begin, f"from {event.begin_ns} ns on"))
    measured.told_ns = event.t
    if isinstance(event, Parts):
        measured.parts = event
    if isinstance(event, Model):
        measured.weights, measured.weights_sha256, measured.parameters = event.weights, event.weights_sha256, event.parameters
        expected = (case["seed"], case["dtype"], "random" if case["weights"] == "random" else "file", case["weights"] != "random")
        found = (event.seed, event.dtype, event.weights, event.weights_sha256 is not None)
        if found != expected:
            measured.findings.append(error("text_to_image.facts", case["id"], f"seed, dtype, weights, digest of them = {expected}", found))


def rules(case: Case, measured: Measured) -> Iterator[Finding]:
    """What is wrong with the case as a whole, after what was wrong with its events."""
    yield from measured.findings
    where = case["id"]
    if sorted(measured.facts) != ["Environment", "Model", "Parts"]:
        yield error("text_to_image.facts", where, "environment, model and parts, once each", measured.facts)
    yield from _parts(case, measured)
    kinds = ["cold"] + ["warm"] * (case["loads"] - 1)
    if [load.kind for load in measured.loads] != kinds or any(load.begin_ns >= load.t for load in measured.loads):
        found = [(load.kind, load.t - load.begin_ns) for load in measured.loads]
        yield error("text_to_image.loads", where, f"{case['loads']} loads, cold then warm, each taking time", found)
    if copies.alike(warm := [load.t - load.begin_ns for load in measured.loads if load.kind == "warm"]):
        yield error("text_to_image.loads", where, "warm loads of their own", f"{len(warm)} of {warm[0]} ns each")
    modes = [] if case["compile"] == "none" else [case["compile"]]
    if [event.mode for event in measured.compiled] != modes or any(event.begin_ns >= event.t for event in measured.compiled):
        yield error("text_to_image.compiled", where, modes, [(event.mode, event.t - event.begin_ns) for event in measured.compiled])
    yield from _calls(case, measured)
    yield from _latents(case, measured)
    yield from _pictures(case, measured)
    held = measured.parameters * BYTES[case["dtype"]] if case["engine"] == OWN and measured.device != "cpu" else 1
    if len(measured.memory) != 1 or measured.memory[0].peak_bytes < held:
        peaks = [event.peak_bytes for event in measured.memory]
        yield error("text_to_image.memory", where, f"the largest allocation, once, of at least {held} bytes", peaks)


def _pictures(case: Case, measured: Measured) -> Iterator[Finding]:
    numbers = [picture.picture for picture in measured.pictures]
    if numbers != list(range(case["batch"])):
        yield error("text_to_image.pictures", case["id"], f"{case['batch']} pictures", numbers)
    odd = [picture.picture for picture in measured.pictures if not _consistent(picture)]
    if odd:
        yield error("text_to_image.pictures", case["id"], "mean colours of 8 x 8 parts that give those of the picture", odd)
    if twins := pictures.twins(measured.pictures):
        yield error("text_to_image.pictures", case["id"], "pictures that start from noise of their own, each another", f"twice: {twins}")
    if numbers == list(range(case["batch"])) and not odd:
        yield from _quality(case, measured)


def kept(case: Case, measured: Measured, evidence: Evidence, folder: str) -> Iterator[Finding]:
    """What is wrong with the kept files, once the events are right."""
    yield from pictures.kept(case["id"], case["side"], measured.pictures, evidence, folder)


def _consistent(picture: Picture) -> bool:
    """Whether the means of all parts have the mean of the picture, to their rounding, and are bytes."""
    grid, spread, means = picture.grid_milli, picture.spread_milli, picture.mean_milli
    if not len(grid) == len(spread) == quality.VALUES or len(means) != 3 or max(grid + spread) > quality.MOST_MILLI:
        return False
    return all(abs(mean(grid[colour::3]) - means[colour]) <= 1 for colour in range(3))


def _quality(case: Case, measured: Measured) -> Iterator[Finding]:
    """Both ways: too far from held-out pictures, or nearer than the model can be."""
    if measured.weights == "random":
        return
    band = quality.band(name(case), case, measured.weights_sha256)
    if band is None:
        yield warning("text_to_image.unproven", case["id"], "a proven quality band for these weights", "none: pictures are not judged")
        return
    found = distances(measured, band)
    for feature, what in quality.judge(band, found).items():
        least, most = band.ends[feature]
        expected = f"a {feature} distance of {'at most' if least is None else f'{float(least)} to'} {float(most)} to held-out pictures"
        yield error("text_to_image.quality", case["id"], expected, f"{float(found[feature]):.4g}, which is {what}")


def distances(measured: Measured, band: quality.Band) -> dict[str, Fraction]:
    """Distances of the kept pictures to the band's held-out ones."""
    grids = {"colour": [picture.grid_milli for picture in measured.pictures], "texture": [p.spread_milli for p in measured.pictures]}
    return quality.distances(grids, band.held_out)


def name(case: Case) -> str:
    """The case's architecture as data files name it."""
    return f"{case['model']['family']}-{case['model']['version']}"


def _architecture(case: Case) -> dict[str, Any] | None:
    return next((row for row in table(DATA)["architecture"] if row["name"] == name(case)), None)


def _parts(case: Case, measured: Measured) -> Iterator[Finding]:
    known = _architecture(case)
    if known is None:
        yield error("text_to_image.parts", case["id"], f"an architecture of {DATA}", name(case))
    elif measured.parts:
        expected = (known["text_encoder"], known["denoiser"], known["decoder"])
        found = (measured.parts.text_encoder, measured.parts.denoiser, measured.parts.decoder)
        if found != expected:
            yield error("text_to_image.parts", case["id"], f"text encoder, denoiser, decoder of {expected} parameters", found)
        whole = (sum(found), case["safety_checker"])
        if (measured.parameters, measured.parts.safety_checker) != whole:
            told = (measured.parameters, measured.parts.safety_checker)
            yield error("text_to_image.parts", case["id"], f"parameters, safety checker = {whole}", told)


def _calls(case: Case, measured: Measured) -> Iterator[Finding]:
    ended_ns = 0
    for number, call in enumerate(measured.calls):
        where = f"{case['id']}: call {number}"
        phase = "warmup" if number < case["warmup_calls"] else "measured"
        if (call.call, call.phase) != (number, phase):
            yield error("text_to_image.calls", where, f"call {number}, {phase}", f"call {call.call}, {call.phase}")
        if not ended_ns <= call.begin_ns <= call.encoded_ns < call.denoised_ns <= call.t:
            found = (call.begin_ns, call.encoded_ns, call.denoised_ns, call.t)
            yield error("text_to_image.time", where, f"{ended_ns} <= begin <= encoded < denoised <= t", found)
        ended_ns = call.t
    yield from _copied(case, measured)
    expected = case["warmup_calls"] + case["measured_calls"]
    if len(measured.calls) != expected:
        yield error("text_to_image.calls", case["id"], f"{expected} calls", len(measured.calls))


def _copied(case: Case, measured: Measured) -> Iterator[Finding]:
    """Calls whose three parts lasted as long as those of another, to the nanosecond."""
    first: dict[tuple[int, int, int], int] = {}
    for call in measured.calls:
        times = (call.encoded_ns - call.begin_ns, call.denoised_ns - call.encoded_ns, call.t - call.denoised_ns)
        other = first.setdefault(times, call.call)
        if other != call.call and any(ns % copies.COARSE_NS for ns in times):
            yield error("text_to_image.time", f"{case['id']}: call {call.call}", "times of its own", f"those of call {other}: {times}")


def _latents(case: Case, measured: Measured) -> Iterator[Finding]:
    shape = [(step, case["samples"]) for step in case["latents_at"]]
    found = [(event.step, len(event.values)) for event in measured.latents]
    if found != shape:
        yield error("text_to_image.latents", case["id"], f"step, values = {shape}", found)
        return
    stored = reference(case, measured)
    if len({tuple(event.values) for event in measured.latents}) < len(measured.latents):
        yield error("text_to_image.latents", case["id"], "values of its own after each step", "those of another step")
    if stored is None:
        yield warning(
            "text_to_image.unproven", case["id"], "a stored reference for these weights, seed and size", "none: latents are not judged"
        )
        return
    bound = Fraction(str(table(DATA)["tolerance"][case["dtype"]]))
    for event in measured.latents:
        wrong = latent_error_squares(event.values, stored[str(event.step)])
        if wrong > bound**2:
            yield error(
                "text_to_image.reference",
                f"{case['id']}: step {event.step}",
                f"a relative error of at most {float(bound)}",
                root_shown(wrong),
            )


def key(case: Case, weights_sha256: str | None) -> str:
    """What a reference belongs to: everything that decides the latents but the precision and how they are computed."""
    fields = ("batch", "side", "steps", "guidance", "prompt", "scheduler", "seed", "latents_at", "samples")
    text = "/".join([name(case), weights_sha256 or "random", *(str(case[item]) for item in fields)])
    return hashlib.sha256(text.encode()).hexdigest()


def reference(case: Case, measured: Measured) -> dict[str, list[float]] | None:
    """Stored values by step, from a float32 run; None where there is none for this case."""
    wanted = key(case, measured.weights_sha256)
    return next((dict(row["steps"]) for row in table(DATA).get("reference", []) if row["key"] == wanted), None)


def latent_error_squares(found: list[float], stored: list[float]) -> Fraction:
    """Sum of squared differences over the sum of the reference's squares, exact."""
    wrong = sum(((exact(a) - exact(b)) ** 2 for a, b in zip(found, stored, strict=True)), Fraction(0))
    return wrong / sum((exact(b) ** 2 for b in stored), Fraction(0))


def metrics(case: Case, measured: Measured) -> dict[str, Metric]:
    """Pictures per second, latency in seconds, parts in milliseconds, memory in GB (10^9), times of starting in seconds."""
    calls = measured.measured(case)
    times = [call.t - call.begin_ns for call in calls]
    denoised = sum(call.denoised_ns - call.encoded_ns for call in calls)
    rates = [Fraction(case["batch"] * NS_PER_S, wall) for wall in (max(times), min(times))]
    throughput = Fraction(case["batch"] * len(calls) * NS_PER_S, sum(times))
    steps_per_s = Fraction(case["steps"] * len(calls) * NS_PER_S, denoised)
    found = {
        "throughput": Metric(throughput, "images/s", "F22: pictures / time of the calls", *rates),
        "latency_s": Metric(mean(times) / NS_PER_S, "s", "mean of a call, which makes `batch` pictures", **over(times, NS_PER_S)),
        "text_encoder_ms": _part([call.encoded_ns - call.begin_ns for call in calls], "text encoder"),
        "denoiser_ms": _part([call.denoised_ns - call.encoded_ns for call in calls], "all denoiser steps"),
        "decoder_ms": _part([call.t - call.denoised_ns for call in calls], "decoder, pictures on the host"),
        "denoiser_steps_per_s": Metric(steps_per_s, "steps/s", "steps / time of the denoiser, its batch doubled by guidance"),
        "memory_gb": Metric(Fraction(measured.memory[0].peak_bytes, 10**9), "GB", "largest allocation / 1e9"),
    }
    if band := quality.band(name(case), case, measured.weights_sha256):
        for feature, value in distances(measured, band).items():
            found[f"{feature}_distance"] = Metric(value, "1", f"squared kernel distance to held-out pictures by {feature}, unbiased")
    return found | _starts(measured)


def _starts(measured: Measured) -> dict[str, Metric]:
    """Times of loading and compiling, which are in no other number."""
    warm = [load for load in measured.loads if load.kind == "warm"] or measured.loads
    cold = measured.loads[0]
    found = {
        "load_time_s": Metric(mean(load.t - load.begin_ns for load in warm) / NS_PER_S, "s", "mean of warm loads, else the cold one"),
        "cold_load_time_s": Metric(Fraction(cold.t - cold.begin_ns, NS_PER_S), "s", "first load, imports included"),
    }
    for event in measured.compiled:
        found["compile_time_s"] = Metric(Fraction(event.t - event.begin_ns, NS_PER_S), "s", "compiling and a first call")
    return found


def _part(times: list[int], formula: str) -> Metric:
    return Metric(mean(times) / NS_PER_MS, "ms", f"mean of a call: {formula}", **over(times, NS_PER_MS))


def facts(case: Case, measured: Measured) -> dict[str, str]:
    """Whether the weights were random or of a file; whether the pictures were judged."""
    judged = "within the band" if quality.band(name(case), case, measured.weights_sha256) else "unproven"
    judged = "NA (random weights)" if measured.weights == "random" else judged
    return {"weights": measured.weights, "mode": "eager" if case["compile"] == "none" else case["compile"], "quality": judged}


def windows(case: Case, measured: Measured) -> list[Window]:
    """From the begin of the first measured call to the end of the last."""
    calls = measured.measured(case)
    return [Window("", calls[0].begin_ns, calls[-1].t, {"image": case["batch"] * len(calls)})]


def traits(case: Case, measured: Measured) -> Traits:
    """Times of denoising and decoding in the measured calls, time within calls, and the least work of the denoiser alone."""
    calls, known = measured.measured(case), _architecture(case)
    busy_ns = sum(call.t - call.begin_ns for call in calls)
    decoded = [call.t - call.denoised_ns for call in calls]
    denoised = [call.denoised_ns - call.encoded_ns for call in calls]
    done = None
    if known:
        places = (case["side"] // PIXELS_A_PLACE) ** 2
        flop = known["place_flop"] * places * ITEMS * case["batch"] * case["steps"] * len(calls)
        done = Work(flop, case["dtype"], sum(denoised), case["cards"])
    span_ns = calls[-1].t - calls[0].begin_ns
    series = {"denoiser": denoised, "decoder": decoded}
    devices, made = frozenset(measured.devices), _outcomes(case, measured)
    return Traits(series, {}, done, busy_ns, span_ns, devices, made, measured.weights_sha256)


def _outcomes(case: Case, measured: Measured) -> dict[str, str]:
    """Digests of latents and pictures -> what decides them for sure: not the batch, whose noise may begin alike, and of a prompt no
    more than every tokenizer sees; random weights hardly know one.
    """
    seen = "".join(case["prompt"].lower().split())[:PROMPT_SEEN] if measured.weights != "random" else ""
    whose = f"{name(case)}, {measured.weights_sha256}, seed {case['seed']}, {case['side']} pixels, {case['steps']} steps, '{seen}'"
    found = {outcome(value for event in measured.latents for value in event.values): whose}
    shown = [one for one in measured.pictures if not pictures.plain(one)]
    found |= {outcome((*one.grid_milli, *one.spread_milli)): f"picture {one.picture}, {whose}" for one in shown}
    return {digest: text for digest, text in found.items() if digest}
