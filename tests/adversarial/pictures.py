"""A case of text to image in a built run, and an attack on each of its rules."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from kit.report.pictures import png as written
from tests.adversarial import builder
from tests.adversarial.attacks import add
from tests.adversarial.builder import Bench, Event
from tests.conftest import ROOT
from tests.taught import band, pictures
from verify.data import table
from verify.metrics import text_to_image
from verify.pictures import decode

PICTURES = "pictures-x"
CASE = {
    "id": PICTURES, "suite": "text_to_image", "section": "inference", "cards": 1, "processes": 1, "engine": "diffusers",
    "model": {"family": "stable-diffusion", "version": "tiny"}, "weights": "random", "batch": 1, "side": 64, "steps": 10, "guidance": 7.5,
    "prompt": "a beautiful photograph of Mt. Fuji during cherry blossom", "scheduler": "ddim", "safety_checker": "none", "compile": "default",
    "channels_last": False, "dtype": "float32", "seed": 1024, "loads": 2, "warmup_calls": 1, "measured_calls": 2, "latents_at": [1, 5, 10],
    "samples": 64, "time_limit_s": 60,
}  # fmt: skip
MS = 10**6
TAUGHT = "taught-x"
TAUGHT_CASE = CASE | {"id": TAUGHT, "model": {"family": "stable-diffusion", "version": "taught"}, "weights": "taught", "batch": 32,
                      "guidance": 1.5, "prompt": "a red disc"}  # fmt: skip
LOCK_SHA256 = hashlib.sha256((ROOT / "baselines/weights/taught/weights.lock.json").read_bytes()).hexdigest()


SIDE = 64
FLAT = bytes((1, 2, 3)) * SIDE**2


@cache
def honest() -> tuple[bytes, ...]:
    """Pixels of what the taught pipeline made on a CPU for the smoke plan's case: 32 pictures, one below the other."""
    sheet = decode((Path(__file__).parent / "taught.png").read_bytes(), SIDE * TAUGHT_CASE["batch"])
    pixels = b"".join(sheet.rows[at + 1 : at + 3 * SIDE + 1] for at in range(0, len(sheet.rows), 3 * SIDE + 1))
    return tuple(pixels[at : at + 3 * SIDE**2] for at in range(0, len(pixels), 3 * SIDE**2))


def drawn(numbers: range) -> list[bytes]:
    """The same of pictures that the recipe draws."""
    return [pictures.picture(number) for number in numbers if pictures.prompt(number) == band.PROMPT][: TAUGHT_CASE["batch"]]


def png(pixels: bytes, side: int = SIDE) -> bytes:
    """The file that the worker keeps of these pixels."""
    rows = b"".join(b"\0" + pixels[at : at + 3 * side] for at in range(0, len(pixels), 3 * side))
    return written(side, len(pixels) // (3 * side), rows)


def stored(case: dict[str, Any] = CASE) -> dict[str, list[float]]:
    """The stored reference of the case."""
    found = text_to_image.reference(case, text_to_image.Measured(weights_sha256=LOCK_SHA256 if case["weights"] == "taught" else None))
    assert found
    return found


def events(case: dict[str, Any] = CASE, shown: Sequence[bytes] = (FLAT,)) -> list[Event]:
    """Every call: 1 ms for text, 20 ms for ten steps, 4 ms for the decoder."""
    [row] = [row for row in table(text_to_image.DATA)["architecture"] if row["name"] == text_to_image.name(case)]
    counts = {part: row[part] for part in ("text_encoder", "denoiser", "decoder")}
    made = builder.start(case["id"], "text_to_image")
    made[2] |= {"parameters": sum(counts.values()), "seed": 1024}
    if case["weights"] != "random":
        made[2] |= {"weights": "file", "weights_sha256": LOCK_SHA256}
    made[2:2] = [
        {"t": 10 * MS, "e": "load", "begin_ns": 2 * MS, "kind": "cold"},
        {"t": 15 * MS, "e": "load", "begin_ns": 11 * MS, "kind": "warm"},
    ]
    made[4]["t"] = 15 * MS
    made.append({"t": 15 * MS, "e": "parts", **counts, "tokenizer": "bytes", "safety_checker": "none"})
    made.append({"t": 30 * MS, "e": "compiled", "begin_ns": 16 * MS, "mode": "default"})
    made += [{"t": 31 * MS, "e": "latents", "step": step, "values": list(stored(case)[str(step)])} for step in (1, 5, 10)]
    made += [{"t": 32 * MS, "e": "picture", "picture": number, **fields(number, pixels)} for number, pixels in enumerate(shown)]
    for number in range(3):
        begin = (40 + 30 * number) * MS
        made.append({"t": begin + 25 * MS, "e": "call", "call": number, "phase": "measured" if number else "warmup", "begin_ns": begin,
                     "encoded_ns": begin + MS, "denoised_ns": begin + 21 * MS})  # fmt: skip
    made.append({"t": 130 * MS, "e": "memory", "peak_bytes": 5 * 10**9})
    return builder.end(made)


@cache
def fields(number: int, pixels: bytes) -> dict[str, Any]:
    """Fields of the event of a kept picture with these pixels."""
    found = band.features(pixels)
    means = [round(1000 * sum(pixels[colour::3]) / SIDE**2) for colour in range(3)]
    told = {"mean_milli": means, "grid_milli": found["colour"], "spread_milli": found["texture"]}
    return {"file": f"artifacts/picture-{number}.png", "sha256": hashlib.sha256(png(pixels)).hexdigest()} | told


def keep(bench: Bench, number: int, data: bytes | None, case: str = PICTURES) -> None:
    """Let this be the file of a kept picture; None for no file."""
    bench.raw.pop(f"{case}/artifacts/picture-{number}.png", None)
    if data is not None:
        bench.raw[f"{case}/artifacts/picture-{number}.png"] = data


def add_case(bench: Bench, case: dict[str, Any], shown: Sequence[bytes]) -> list[Event]:
    """Add a case with these pictures to a run about to be sealed."""
    bench.plan.document["cases"].append(copy.deepcopy(case))
    bench.handed[case["id"]] = {"case": copy.deepcopy(case), "attempt": 1}
    made = copy.deepcopy(events(case, shown))
    bench.events[case["id"]] = {"events-00000.jsonl": made}
    bench.states[case["id"]] = ("done", None)
    for number, pixels in enumerate(shown):
        keep(bench, number, png(pixels), case["id"])
    return made


def with_case(bench: Bench) -> list[Event]:
    """Add the case to a run about to be sealed; its events may still be changed."""
    return add_case(bench, CASE, (FLAT,))


def with_taught(bench: Bench, change: Callable[[bytes], bytes] = bytes) -> list[Event]:
    """Add the case with taught weights, every picture changed."""
    return add_case(bench, TAUGHT_CASE, [change(pixels) for pixels in honest()])


def build(folder: Path, edit: Callable[[Bench], Any] = with_case) -> Path:
    """A sealed run that holds the case, untouched."""
    return builder.build(folder, edit)


def of(kind: str, events: list[Event]) -> list[Event]:
    return [event for event in events if event["e"] == kind]


def against(rule: str, name: str, change: Callable[[list[Event]], Any], *also: str) -> None:
    """An attack by a vendor who seals changed events of this case."""
    others = [f"text_to_image.{other}" for other in also]
    add(f"text_to_image.{rule}", "sealed", name, lambda bench: change(with_case(bench)), *others)


against("facts", "weights of a file, said to be", lambda e: of("model", e)[0].update(weights="file", weights_sha256="0" * 64))


def ragged(events: list[Event]) -> None:
    """Times that end in odd nanoseconds."""
    for call in of("call", events):
        call.update(encoded_ns=call["encoded_ns"] + 7, denoised_ns=call["denoised_ns"] + 7 * call["call"], t=call["t"] + 13)


def copied(events: list[Event]) -> None:
    """The best call told again."""
    ragged(events)
    of("call", events)[2].update({name: of("call", events)[1][name] + 30 * MS for name in ("begin_ns", "encoded_ns", "denoised_ns", "t")})


def on_a_card(events: list[Event]) -> None:
    """A card that held less than the weights."""
    of("environment", events)[0].update(device="xpu")
    of("memory", events)[0].update(peak_bytes=10**6)


def loaded_alike(bench: Bench) -> None:
    """One warm load told four times."""
    made = with_case(bench)
    for case in (bench.plan.document["cases"][-1], bench.handed[PICTURES]["case"]):
        case["loads"] = 5
    last = of("load", made)[1]
    at, begins = made.index(last), [11 * MS + number * MS for number in range(4)]
    made[at : at + 1] = [last | {"begin_ns": begin, "t": begin + 987_653} for begin in begins]


add("text_to_image.loads", "sealed", "the best load four times", loaded_alike)
against("facts", "random weights with a digest", lambda e: of("model", e)[0].update(weights_sha256="0" * 64))
against("parts", "a smaller model than its parts", lambda e: of("model", e)[0].update(parameters=1000))
against("parts", "another safety checker than asked", lambda e: of("parts", e)[0].update(safety_checker="off"))
against("loads", "a load within another", lambda e: of("load", e)[1].update(begin_ns=9 * MS))
against("compiled", "compiled before the model was there", lambda e: of("compiled", e)[0].update(begin_ns=14 * MS))
against("time", "a call before its pictures", lambda e: of("call", e)[0].update(begin_ns=31 * MS))
against("time", "the best call told again", copied)
against("memory", "less memory than the weights have", on_a_card)
against("facts", "no parts", lambda e: e.remove(of("parts", e)[0]))
against("parts", "a smaller denoiser", lambda e: of("parts", e)[0].update(denoiser=1000))
against("loads", "a slow load left out", lambda e: e.remove(of("load", e)[1]))
against("compiled", "compiled in silence", lambda e: e.remove(of("compiled", e)[0]))
against("calls", "a slow call left out", lambda e: e.remove(of("call", e)[2]))
against("calls", "a call named warm-up", lambda e: of("call", e)[1].update(phase="warmup"))
against("time", "calls that overlap", lambda e: of("call", e)[2].update(begin_ns=of("call", e)[1]["begin_ns"]))
against("time", "a decoder before its latents", lambda e: of("call", e)[2].update(denoised_ns=10**9))
against("latents", "latents of a step left out", lambda e: e.remove(of("latents", e)[1]))
against("latents", "fewer values", lambda e: of("latents", e)[1]["values"].pop())
against(
    "latents",
    "latents of one step told of another",
    lambda e: of("latents", e)[2].update(values=of("latents", e)[1]["values"]),
    "reference",
)
against("reference", "fewer steps than said", lambda e: of("latents", e)[2].update(values=[v * 1.1 for v in of("latents", e)[1]["values"]]))
against("reference", "values of another model", lambda e: of("latents", e)[0].update(values=[0.5] * 64))
against("reference", "values beyond all bounds", lambda e: of("latents", e)[0].update(values=[1e300] * 64))
against("pictures", "no picture kept", lambda e: e.remove(of("picture", e)[0]))
against("pictures", "parts of another picture", lambda e: of("picture", e)[0].update(grid_milli=[9000, 2000, 3000] * 64))
against("pictures", "fewer parts", lambda e: of("picture", e)[0]["grid_milli"].pop())
against("pictures", "a deviation of no byte", lambda e: of("picture", e)[0].update(spread_milli=[300_000] * 192))
against("memory", "no memory told", lambda e: e.remove(of("memory", e)[0]))


def kept(rule: str, name: str, change: Callable[[Bench, list[Event]], Any]) -> None:
    """An attack by a vendor who seals other files than the events speak of."""
    add(f"text_to_image.{rule}", "sealed", name, lambda bench: change(bench, with_case(bench)))


def told(made: list[Event], data: bytes) -> None:
    """Let the event name the digest of these bytes."""
    of("picture", made)[0].update(sha256=hashlib.sha256(data).hexdigest())


def exchanged_file(bench: Bench, made: list[Event], data: bytes) -> None:
    """Another file, its digest in the event: the colours there are those of the picture that was."""
    keep(bench, 0, data)
    told(made, data)


OTHER = png(bytes((9, 2, 3)) * SIDE**2)
DIFFERING = bytearray(FLAT)
DIFFERING[0] = 200
kept("kept", "the picture of another call", lambda b, e: keep(b, 0, OTHER))
kept("kept", "a digest of nothing", lambda b, e: told(e, b""))
kept("kept", "a picture told, not kept", lambda b, e: keep(b, 0, None))
kept("kept", "a picture kept, not told", lambda b, e: keep(b, 1, OTHER))
kept("kept", "a picture elsewhere", lambda b, e: of("picture", e)[0].update(file="../../../plan.json"))
kept("pixels", "colours of another picture", lambda b, e: exchanged_file(b, e, OTHER))
kept("pixels", "one pixel of one part", lambda b, e: exchanged_file(b, e, png(bytes(DIFFERING))))
kept("pixels", "no picture at all", lambda b, e: exchanged_file(b, e, b"<svg/>"))
kept("pixels", "a smaller picture", lambda b, e: exchanged_file(b, e, png(bytes((1, 2, 3)) * 32**2, 32)))


def judged(name: str, make: Callable[[Bench], Any]) -> None:
    """An attack by a vendor whose pictures are not those of the known weights."""
    add("text_to_image.quality", "sealed", name, make)


def exchanged(pixels: bytes) -> bytes:
    """Red for blue."""
    return b"".join(pixels[at : at + 3][::-1] for at in range(0, len(pixels), 3))


def rough(pixels: bytes) -> bytes:
    """Every other pixel 20 brighter, the rest 20 darker."""
    return bytes(min(max(value + (20 if place // 3 % 2 else -20), 0), 255) for place, value in enumerate(pixels))


judged("the training pictures themselves: too good", lambda b: add_case(b, TAUGHT_CASE, drawn(pictures.TRAINING)))
judged("other held-out pictures: too good", lambda b: add_case(b, TAUGHT_CASE, drawn(pictures.HELD_OUT)))
judged("grey pictures: too bad", lambda b: with_taught(b, lambda pixels: bytes([128]) * len(pixels)))
judged("red and blue exchanged: too bad", lambda b: with_taught(b, exchanged))
judged("pictures darker by a fifth: too bad", lambda b: with_taught(b, lambda pixels: bytes(value * 4 // 5 for value in pixels)))
judged("noise over everything: too bad", lambda b: with_taught(b, rough))


def one_of_all(bench: Bench) -> None:
    """One good picture, kept thirty-two times."""
    add_case(bench, TAUGHT_CASE, [honest()[0]] * TAUGHT_CASE["batch"])


def one_twice(bench: Bench) -> None:
    """A picture that went wrong is left out for one that did not."""
    add_case(bench, TAUGHT_CASE, [*honest()[:-1], honest()[0]])


add("text_to_image.pictures", "sealed", "a good picture kept twice", one_twice)
add("text_to_image.pictures", "sealed", "one picture for all", one_of_all, "text_to_image.quality")


def dressed(bench: Bench) -> None:
    """Noise is kept, its true digest told, and the colours of honest pictures: those are in the band."""
    for event, pixels in zip(of("picture", with_taught(bench)), honest(), strict=True):
        data = png(rough(pixels))
        keep(bench, event["picture"], data, TAUGHT)
        event["sha256"] = hashlib.sha256(data).hexdigest()


add("text_to_image.pixels", "sealed", "noise, told with the colours of honest pictures", dressed)
