"""Models as data: a case names one by the id of a file in manifests/models, and the resolved plan holds its whole shape."""

from __future__ import annotations

from typing import Any

from kit.chip import read_toml
from kit.errors import KitError
from kit.schema import closest
from verify import flop
from verify.data import root

FOLDER = "manifests/models"
FREE = frozenset({"sequence_length"})  # may differ without making another model


def names() -> list[str]:
    """Sorted ids of the models that are described here."""
    return sorted(path.stem for path in (root() / FOLDER).glob("*.toml"))


def shape(name: str, where: str) -> dict[str, Any]:
    """The shape of the model of this id, its number of parameters among it."""
    if name not in names():
        raise KitError(f"unknown model '{name}'", where=where, next_step=closest(name, names()))
    path = root() / FOLDER / f"{name}.toml"
    document = read_toml(path, "model")
    if document["id"] != name:
        raise KitError(f"model is named '{document['id']}'", where=str(path), next_step="name it as its file")
    return {"id": name, **document["shape"]}


def resolve(model: Any, where: str) -> Any:
    """The shape that a case's `model` stands for: an id, an id with other values beside it, or a shape of its own."""
    if isinstance(model, str):
        return shape(model, where)
    if not (isinstance(model, dict) and isinstance(model.get("id"), str)):
        return model
    own = {key: value for key, value in model.items() if key != "id"}
    found = shape(model["id"], where) | own
    if own.keys() <= FREE:
        return found | {"parameters": flop.parameters(found)}  # positions that are learned are as many as a sequence has
    return {key: value for key, value in found.items() if key not in {"id", "parameters"}} | {"like": model["id"]}
