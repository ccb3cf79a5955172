"""What an image holds, as CycloneDX 1.5 JSON: every Debian package and every Python distribution, read inside the image itself.

Nothing in it depends on when or where it was made: equal contents give equal bytes.
"""

from __future__ import annotations

import json
from typing import Any

from kit import engine
from kit.errors import ENVIRONMENT, KitError
from verify.strict import canonical

READ = """
import importlib.metadata, json
debian = []
try:
    text = open('/var/lib/dpkg/status', encoding='utf-8').read()
except OSError:
    text = ''
for block in text.split('\\n\\n'):
    fields = dict(line.split(': ', 1) for line in block.splitlines() if ': ' in line and line[0] != ' ')
    if 'Version' in fields:
        debian.append([fields['Package'], fields['Version'], fields['Architecture']])
python = [[d.metadata['Name'], d.version] for d in importlib.metadata.distributions() if d.metadata['Name']]
print(json.dumps({'debian': debian, 'python': python}))
"""


def of_image(client: Any, config: str) -> bytes:
    """The SBOM of an image that the engine has."""
    try:
        said = client.containers.run(config, ["-c", READ], network_mode="none", read_only=True, remove=True)
    except engine.FAULTS as error:
        raise engine.failed("contents of the image cannot be listed", error) from error
    try:
        found = json.loads(said)
    except ValueError as error:
        raise KitError("contents of the image cannot be listed", why=str(error), exit_code=ENVIRONMENT) from error
    return document(found["debian"], found["python"])


def document(debian: list[list[str]], python: list[list[str]]) -> bytes:
    """Canonical JSON of (name, version, architecture) of Debian packages and (name, version) of distributions."""
    parts = [_component(name, version, f"pkg:deb/debian/{name}@{version}?arch={arch}") for name, version, arch in sorted(debian)]
    parts += [_component(name, version, f"pkg:pypi/{name.lower().replace('_', '-')}@{version}") for name, version in sorted(python)]
    return canonical({"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": parts}) + b"\n"


def _component(name: str, version: str, purl: str) -> dict[str, str]:
    return {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}
