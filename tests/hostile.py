"""A result whose every name is an attack on whoever shows it: markup, control characters, endless and right-to-left text."""

from __future__ import annotations

import json
from typing import Any

from tests import synthetic

MARKUP = "<script>document.title='broken'</script><img src=x onerror=alert(1)>"
CONTROL = "a\x1b[31mred\x00\x07b\r\nnext"
LONG = "x" * 3000
BACKWARDS = "\u202egnp.exe\u2066 \u200f"
TEMPLATE = '{{ 7 * 7 }} {% raw %} #include "/etc/passwd" $x$ @cite \\x'
NAMES = (MARKUP, CONTROL, LONG, BACKWARDS, TEMPLATE)


def document() -> dict[str, Any]:
    """The synthetic result with these names in every place that comes out of a run."""
    made = json.loads(json.dumps(synthetic.result().document()))
    made["run"] |= {"run": MARKUP, "plan": CONTROL, "chip": BACKWARDS, "kit": TEMPLATE, "isolation": LONG}
    made["findings"] = [{"rule": "x.y", "severity": "error", "where": name, "expected": name, "found": name} for name in NAMES]
    for index, name in enumerate(NAMES):
        made["cases"][index] |= {"id": name, "row": None}
    made["scoring"]["baseline"]["title"] = {"en": MARKUP, "zh": MARKUP}
    made["scoring"]["tables"][1]["rows"][0]["label"]["model"] = MARKUP
    return dict(made)
