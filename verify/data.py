"""Where the files that come with the code are: manifests/ and baselines/."""

from __future__ import annotations

import posixpath
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported when a document is checked: a third of the time that `--help` takes
    from jsonschema import Draft202012Validator
    from referencing import Resource

from verify.findings import Finding, Unchecked, error
from verify.strict import loads

SCHEMAS = "manifests/schemas"
SCHEMA_ID = "https://chipassay.dev/schemas/"


def root() -> Path:
    """The folder that holds manifests/ and baselines/: the checkout, else <prefix>/share/chipassay."""
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "manifests").is_dir():
        return checkout
    installed = Path(sys.prefix) / "share/chipassay"
    if (installed / "manifests").is_dir():
        return installed
    raise Unchecked("manifests/ is missing", where=str(installed), next_step="install chipassay again, or use a checkout")


@cache
def _resource(uri: str) -> Resource[Any]:
    """The schema of this $id, which is its path; read when another schema asks for it.

    Without its $schema: by that, the library would go on with its own validator, not with ours, wherever a reference leads here.
    """
    from referencing.jsonschema import DRAFT202012

    path = root() / SCHEMAS / uri.removeprefix(SCHEMA_ID)
    contents = loads(path.read_bytes(), str(path))
    return DRAFT202012.create_resource({name: value for name, value in contents.items() if name != "$schema"})


@cache
def _validator(name: str) -> Draft202012Validator:
    """Knows the schemas that this one asks for from the start: a registry that must fetch one forgets it again."""
    from referencing import Registry

    uri = f"{SCHEMA_ID}{name}.schema.json"
    known = {uri: _resource(uri)}
    asked = list(known)
    for one in asked:
        found = {_target(one, reference) for reference in _references(known[one].contents)} - known.keys()
        known |= {other: _resource(other) for other in found}
        asked += sorted(found)
    registry: Registry[Any] = Registry(retrieve=_resource).with_resources(known.items()).crawl()  # type: ignore[call-arg]
    return _strict()(known[uri].contents, registry=registry)


@cache
def _strict() -> type[Draft202012Validator]:
    """JSON Schema takes 1.0 for an integer; here a count is written as one."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool))
    strict: type[Draft202012Validator] = extend(Draft202012Validator, type_checker=types)  # type: ignore[no-untyped-call]
    return strict


def _target(uri: str, reference: str) -> str:
    """Which schema a reference in another one means: our references are paths, and parts behind #."""
    path = reference.partition("#")[0]
    folder = uri.removeprefix(SCHEMA_ID).rpartition("/")[0]
    if not path or path.startswith(SCHEMA_ID):
        return path or uri
    return SCHEMA_ID + posixpath.normpath(f"{folder}/{path}").lstrip("/")


def _references(schema: Any) -> Iterator[str]:
    parts = schema.items() if isinstance(schema, dict) else enumerate(schema) if isinstance(schema, list) else ()
    for key, part in parts:
        if key == "$ref" and isinstance(part, str):
            yield part
        else:
            yield from _references(part)


def suites_own(case: dict[str, Any]) -> dict[str, Any]:
    """A case as the schema of its suite has it: less `nodes`, which any case has, and plans of earlier versions lack."""
    return {name: value for name, value in case.items() if name != "nodes"}


@cache
def table(path: str) -> Any:
    """A TOML file that comes with the code, by its path from the root."""
    return tomllib.loads((root() / path).read_text(encoding="utf-8"))


def has_schema(name: str) -> bool:
    """Whether manifests/schemas holds a schema of this name."""
    return (root() / SCHEMAS / f"{name}.schema.json").is_file()


def violations(document: Any, schema: str, rule: str, where: str) -> list[Finding]:
    """One finding for each way in which `document` breaks the named schema, at most 20."""
    faults = sorted(_validator(schema).iter_errors(document), key=lambda fault: fault.json_path)[:20]
    return [error(rule, f"{where} {fault.json_path}", f"{fault.validator} of {schema}.schema.json", fault.message) for fault in faults]
