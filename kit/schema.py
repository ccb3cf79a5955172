"""Validates data files against manifests/schemas and says what is wrong on one line, with a did-you-mean."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from functools import cache
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource

from kit.errors import KitError
from verify.data import root

SCHEMAS = "manifests/schemas"


@cache
def _registry() -> Registry[Any]:
    folder = root() / SCHEMAS
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.schema.json"))]
    return Registry().with_resources((document["$id"], Resource.from_contents(document)) for document in documents)


@cache
def _validator(name: str) -> Draft202012Validator:
    document = json.loads((root() / SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    return Draft202012Validator(document, registry=_registry())


def closest(word: str, choices: Iterable[str]) -> str:
    """`did you mean X?` for the nearest of `choices`, else the list of them."""
    known = sorted(choices)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known) or 'none'}"


def _explain(error: ValidationError) -> tuple[str, str]:
    """What is wrong and what to do next."""
    wanted, instance = cast("Any", (error.validator_value, error.instance))
    if error.validator == "additionalProperties":
        known = cast("Any", error.schema).get("properties", {})
        unknown = sorted(set(instance) - set(known))[0]
        return f"unknown key '{unknown}'", closest(unknown, known)
    if error.validator == "required":
        missing = next(key for key in wanted if key not in instance)
        return f"key '{missing}' is missing", "add it"
    if error.validator in {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}:
        return f"{instance!r} is out of range", f"{error.validator} is {wanted}"
    if error.validator == "const":
        return f"{instance!r} is not allowed here", f"it must be {wanted!r}"
    if error.validator == "enum":
        return f"{instance!r} is not allowed", closest(str(instance), map(str, wanted))
    return error.message[:200], "correct the file"


def check(document: Any, schema: str, where: str) -> None:
    """Raise one KitError (exit 2) when `document` does not fit `schema` (a name below manifests/schemas)."""
    errors = sorted(_validator(schema).iter_errors(document), key=lambda error: (len(error.absolute_path), str(error.path)))
    if not errors:
        return
    what, advice = _explain(errors[0])
    path = ".".join(str(part) for part in errors[0].absolute_path)
    raise KitError(what, where=f"{where}: {path}" if path else where, next_step=advice)
