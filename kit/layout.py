"""Whether the ranks of a case can share its model and its batch as it says: each thing that cannot be is one clear line."""

from __future__ import annotations

from typing import Any

from kit.errors import KitError

Case = dict[str, Any]
FLOAT8_MULTIPLE = 16  # elements of a side: what products in eight bits ask for
SPLIT = ("num_heads", "num_kv_heads", "ffn_size")  # of a model, what each member of a team has a part of


def check(case: Case, where: str) -> None:
    """KitError where nodes, faults, tensor_parallel or the global batch do not fit the case's ranks; `where` names the case."""
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
    if (team := case.get("tensor_parallel", 1)) > 1:
        _check_team(case, team, where)
    if "global_batch" in case:
        _check_batch(case, ranks // team, "processes" if team == 1 else "processes / tensor_parallel", where)
        _check_float8(case, where)


def _check_team(case: Case, team: int, where: str) -> None:
    if case["engine"] != "torch":
        raise KitError(
            f"engine {case['engine']} does not split layers: tensor_parallel = {team} is not possible",
            where=where,
            next_step='use engine = "torch", or zero_stage = 3 with tensor_parallel = 1',
        )
    if case.get("method") == "lora":
        raise KitError(
            f"adapters stand on whole layers: tensor_parallel = {team} is not possible with method lora",
            where=where,
            next_step='use method = "full", or tensor_parallel = 1',
        )
    if case["dtype"] == "float8":
        raise KitError(
            f"products in float8 take whole layers: tensor_parallel = {team} is not possible with dtype float8",
            where=where,
            next_step="take another dtype, or tensor_parallel = 1",
        )
    divided = {"processes": case["processes"]} | {f"{name} of the model": case["model"][name] for name in SPLIT}
    for name, number in divided.items():
        if number % team:
            raise KitError(
                f"tensor_parallel = {team} does not divide {name} = {number}",
                where=where,
                next_step="choose a number that divides processes, heads, key/value heads and ffn_size",
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
