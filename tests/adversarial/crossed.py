"""Attacks by a vendor who takes the results of one case for those of another, or other weights than the run was given."""

from __future__ import annotations

import copy

from tests.adversarial import pictures
from tests.adversarial.attacks import add
from tests.adversarial.builder import TEXT, Bench, prompt

OTHER = "text-y"


def judged(bench: Bench, tokens: int = 8) -> None:
    """A float32 model says something of every one of these tokens."""
    for case in (bench.plan.document["cases"][1], bench.handed[TEXT]["case"]):
        case["judge"]["tokens"] = tokens
    nll = [0.75 + number / 64 for number in range(tokens)]
    bench.kind("judged")[0].update(ids=[1] * tokens, nll=nll, gap=[0.0] * tokens)


def two_seeds(bench: Bench) -> None:
    """A case like the first with random weights of another seed, of which the same was said."""
    judged(bench)
    case = copy.deepcopy(bench.handed[TEXT]["case"]) | {"id": OTHER, "seed": 8}
    bench.plan.document["cases"].append(case)
    bench.handed[OTHER] = {"case": copy.deepcopy(case), "attempt": 1}
    made = copy.deepcopy(bench.events[TEXT])
    for event in made["events-00000.jsonl"]:
        if event["e"] == "case_start":
            event["case"] = OTHER
        if event["e"] == "model":
            event["seed"] = 8
        if event["e"] == "submit":
            event["prompt_sha256"] = prompt(event["request"], 8)
    bench.events[OTHER] = made
    bench.states[OTHER] = ("done", None)


def latents_of_another_seed(bench: Bench) -> None:
    """The latents for which a reference is stored, told of a seed for which none is."""
    pictures.with_case(bench)
    made = pictures.add_case(bench, pictures.CASE | {"id": "pictures-y"}, (pictures.FLAT,))
    bench.plan.document["cases"][-1]["seed"] = bench.handed["pictures-y"]["case"]["seed"] = 7
    pictures.of("model", made)[0].update(seed=7)


def pictures_of_another_prompt(bench: Bench) -> None:
    """Good pictures of one prompt, told of one for which no band is stored."""
    pictures.with_taught(bench)
    made = pictures.add_case(bench, pictures.TAUGHT_CASE | {"id": "taught-y"}, pictures.honest())
    for case in (bench.plan.document["cases"][-1], bench.handed["taught-y"]["case"]):
        case["prompt"] = "a green square"
    for event in pictures.of("latents", made):
        event["values"] = [value * 1.25 for value in event["values"]]


def other_weights(bench: Bench) -> None:
    """The run was given other weights than those whose pictures are known."""
    pictures.with_taught(bench)
    bench.environment["grants"] = {"weights": {"taught": "0" * 64}}


add("cases.copied", "sealed", "what was said of another seed's tokens", two_seeds)
add("cases.copied", "sealed", "latents of another seed", latents_of_another_seed)
add("cases.copied", "sealed", "pictures of another prompt", pictures_of_another_prompt)
add("cases.weights", "sealed", "known weights, said of others", other_weights)
