"""Whether the ranks of a case can share its model and its batch as it says: each thing that cannot be is one clear line."""

from __future__ import annotations

from typing import Any

from kit.errors import KitError

Case = dict[str, Any]
FLOAT8_MULTIPLE = 16  # elements of a side: what products in eight bits ask for
NAMES = {"tensor_parallel": "does not split layers", "pipeline_parallel": "has no stages"}  # what engine deepspeed lacks for each
SPLIT = ("num_heads", "num_kv_heads", "ffn_size")  # of a model, what each member of a team has a part of


def check(case: Case, where: str) -> None:
    """KitError where nodes, faults, teams, stages or the global batch do not fit the case's ranks; `where` names the case."""
    counted = "cards" if case["suite"] == "stability" else "processes"  # a supervised training has a rank a card, and one that records
    ranks = case[counted]
    if type(case["nodes"]) is not int or case["nodes"] < 1 or ranks % case["nodes"]:
        raise KitError(
            f"{ranks} {counted} do not spread evenly over nodes = {case['nodes']}",
            where=where,
            next_step=f"{counted} are those of all nodes together: make them a multiple of nodes",
        )
    if case["nodes"] == 1 and any(fault["kind"] == "kill_node" for fault in case.get("faults", [])):
        raise KitError(
            "kill_node ends the last of several nodes, and the case has one",
            where=where,
            next_step="take kill_supervisor, which ends everything on one node, or give the case more nodes",
        )
    sharers = 1
    for key, given in NAMES.items():
        if (number := case.get(key, 1)) > 1:
            _check_engine(case, key, number, given, where)
            sharers *= number
    if case.get("pipeline_parallel", 1) > 1:
        _check_stages(case, where)
    if sharers > 1:
        _check_divided(case, sharers, where)
    if "global_batch" in case:
        named = " / ".join(["processes", *(key for key in NAMES if case.get(key, 1) > 1)])
        _check_batch(case, ranks // sharers, named, where)
        _check_float8(case, where)
        _check_scale(case, where)


def _check_scale(case: Case, where: str) -> None:
    """DeepSpeed 0.19.8 scales losses with ZeRO's optimizers only (its engine.py, `backward`), and unscales gradients with all."""
    if (case.get("engine"), case.get("dtype"), case.get("zero_stage")) == ("deepspeed", "float16", 0):
        raise KitError(
            "engine deepspeed does not scale losses of float16 at zero_stage = 0: gradients would be lost",
            where=where,
            next_step='use zero_stage = 1, or engine = "torch"',
        )


def _check_engine(case: Case, key: str, number: int, lacking: str, where: str) -> None:
    if case["engine"] != "torch":
        raise KitError(
            f"engine {case['engine']} {lacking}: {key} = {number} is not possible",
            where=where,
            next_step=f'use engine = "torch", or zero_stage = 3 with {key} = 1',
        )
    if case.get("method") == "lora":
        raise KitError(
            f"adapters stand on whole layers: {key} = {number} is not possible with method lora",
            where=where,
            next_step=f'use method = "full", or {key} = 1',
        )
    if case["dtype"] == "float8":
        raise KitError(
            f"products in float8 take whole layers: {key} = {number} is not possible with dtype float8",
            where=where,
            next_step=f"take another dtype, or {key} = 1",
        )


def _check_stages(case: Case, where: str) -> None:
    """Stages are offered for models whose ends share no weights, drawn from a seed, and for losses of training alone."""
    stages, model = case["pipeline_parallel"], case["model"]
    lacking = {
        f"architecture {model['architecture']}": model["architecture"] not in {"llama", "internlm"},
        f"weights of a file ('{case['weights']}')": case["weights"] != "random",
        "packing varlen": case["packing"] == "varlen",
        "evaluation": "evaluation" in case,
    }
    for name, is_lacking in lacking.items():
        if is_lacking:
            raise KitError(
                f"pipeline_parallel = {stages} does not go with {name} yet",
                where=where,
                next_step="use pipeline_parallel = 1 and tensor_parallel, or engine deepspeed with zero_stage = 3",
            )
    if model["num_layers"] % stages:
        raise KitError(
            f"pipeline_parallel = {stages} does not divide num_layers of the model = {model['num_layers']}",
            where=where,
            next_step="choose a number that divides the layers, so that each stage has as many",
        )


def _check_divided(case: Case, sharers: int, where: str) -> None:
    team = case.get("tensor_parallel", 1)
    if case["processes"] % sharers:
        named = " x ".join(f"{key} = {case[key]}" for key in NAMES if case.get(key, 1) > 1)
        raise KitError(
            f"{named} does not divide processes = {case['processes']}",
            where=where,
            next_step="let processes be a multiple of the ranks that hold one model",
        )
    for name in SPLIT:
        if case["model"][name] % team:
            raise KitError(
                f"tensor_parallel = {team} does not divide {name} of the model = {case['model'][name]}",
                where=where,
                next_step="choose a number that divides heads, key/value heads and ffn_size",
            )


def _check_batch(case: Case, shares: int, named: str, where: str) -> None:
    """A global batch must be made exactly by micro batches over the ranks that have data of their own."""
    unit = case["micro_batch"] * shares
    if case["global_batch"] % unit:
        raise KitError(
            f"global_batch {case['global_batch']} is not a multiple of micro_batch x {named} = {unit}",
            where=where,
            next_step="change micro_batch or processes; the global batch is fixed by the plan",
        )


def _check_float8(case: Case, where: str) -> None:
    """Products in eight bits take sides that are multiples of 16, rows of a micro-batch among them."""
    if case.get("dtype") != "float8":
        return
    model = case["model"]
    hidden, kv = model["hidden_size"], model["hidden_size"] // model["num_heads"] * model["num_kv_heads"]
    sides = {
        "hidden_size": hidden,
        "ffn_size": model["ffn_size"],
        "key and value": kv,
        "a micro-batch": case["micro_batch"] * model["sequence_length"],
    }
    for name, side in sides.items():
        if side % FLOAT8_MULTIPLE:
            raise KitError(
                f"products in float8 need sides that are multiples of {FLOAT8_MULTIPLE}; {name} has {side}",
                where=where,
                next_step="change the model or micro_batch, or take another dtype",
            )
