"""What this machine has for a run, what is missing, and the next step, in English or Chinese; never changes anything."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tabulate import tabulate

from kit import chip, engine, environment, host, image, keys, recipe
from kit.errors import ENVIRONMENT, KitError
from kit.files import cache_folder, make_folder
from kit.schema import check

WANTED_FREE_BYTES = 8 * 2**30
LANGUAGES = ("en", "zh")
Row = tuple[str, str, str, str]
Say = Callable[..., str]


@cache
def _words() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def speaker(language: str) -> Say:
    """A function from a key of doctor.toml and its slots to words."""
    return lambda key, **slots: str(_words()[key][language]).format_map(slots)


def users_language() -> str:
    """Chinese where the locale says so, else English."""
    named = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "")
    return "zh" if named.startswith("zh") else "en"


def _engine(say: Say) -> Row:
    try:
        version = engine.connect().version()["Version"]
    except KitError as error:
        return "engine", "missing", str(error), say("engine_next")
    return "engine", "ok", say("engine_ok", version=version), ""


def _disk(say: Say) -> Row:
    free = min(environment.free_bytes(Path.cwd()), environment.free_bytes(cache_folder()))
    enough = free >= WANTED_FREE_BYTES
    return "disk", "ok" if enough else "low", say("disk", free=f"{free / 1e9:.1f}"), "" if enough else say("disk_next")


def _clock(say: Say) -> Row:
    source = environment.clock_source() or "unknown"
    good = source not in {"unknown", "jiffies", "hpet", "acpi_pm"}
    return "clock", "ok" if good else "poor", say("clock", source=source), "" if good else say("clock_next")


def _program(check: str, program: str) -> Callable[[Say], Row]:
    def row(say: Say) -> Row:
        if shutil.which(program):
            return check, "ok", program, ""
        return check, "missing", say("tool_missing", tool=program), say(f"{check}_next")

    return row


def _key(say: Say) -> Row:
    if (keys.config_folder() / keys.KEY_NAME).exists():
        return "key", "ok", say("key_ok"), ""
    return "key", "new", say("key_new"), say("key_next")


def _chips(say: Say, language: str) -> list[Row]:
    return [
        ("chip", product.status, f"{product.id}: {product.names[language]}", _image_next(product, say))
        for product in map(chip.load, chip.chips())
    ]


def _image_next(product: chip.Chip, say: Say) -> str:
    if not recipe.exists(product):
        return say("image_missing")
    return "" if image.is_built(product) else say("image_next")


def _cards(say: Say, language: str) -> list[Row]:
    """One row for each chip of which a card or a tool is here, one for a choice to be made, one for strangers."""
    found = host.scan()
    here = [item.chip.id for item in found if item.here]
    rows = [_card(item, say, language) for item in found]
    if len(here) > 1:
        rows.append(("card", "choose", say("several", chips=", ".join(here)), say("several_next", chip=here[0])))
    if strangers := host.strangers():
        rows.append(("card", "unknown", say("stranger", devices=", ".join(strangers)), say("stranger_next")))
    return rows


def _card(item: host.Found, say: Say, language: str) -> Row:
    name, how = item.chip.names[language], item.chip.detection
    if not item.here:
        return "card", "no card", say("tool_alone", name=name, tool=item.tool), ""
    shown = {"cards": [card.number for card in item.cards], "addresses": item.addresses, "nodes": item.nodes}
    joined = {key: ", ".join(map(str, values)) or "-" for key, values in shown.items()}
    text = say("card_here", name=name, tool=item.tool or "-", **joined)
    if how.get("nodes") and not item.nodes:
        return "card", "no driver", text, say("no_node", nodes=", ".join(how["nodes"]))
    if "tool" in how and not item.tool:
        return "card", "no tool", text, say("no_tool", tool=how["tool"])
    return "card", "ok", text, say("card_next", chip=item.chip.id + item.chip.option)


CHECKS: tuple[Callable[[Say], Row], ...] = (
    _engine,
    _program("base", "mmdebstrap"),
    _program("builder", "buildah"),
    _disk,
    _clock,
    _key,
)


def facts(language: str = "en") -> dict[str, Any]:
    """Host facts and one row per check: {"check", "state", "found", "next"}."""
    say = speaker(language)
    rows = [one(say) for one in CHECKS] + _cards(say, language) + _chips(say, language)
    return {
        "host": environment.host(),
        "checks": [dict(zip(("check", "state", "found", "next"), row, strict=True)) for row in rows],
    }


def show(*, as_json: bool, language: str) -> int:
    """Print the facts; exit code 3 when no run of any kind is possible here (no space), else 0."""
    found = facts(language)
    if as_json:
        print(json.dumps(found, sort_keys=True))
    else:
        print(tabulate([(k, v) for k, v in found["host"].items()], tablefmt="plain"))
        rows = [tuple(row.values()) for row in found["checks"]]
        print(tabulate(rows, headers=_words()["head"][language], tablefmt="simple"))
    full = any(row["check"] == "disk" and row["state"] == "low" for row in found["checks"])
    return ENVIRONMENT if full else 0


def draft(name: str, folder: Path) -> Path:
    """Write a first chip.toml below `folder` from what is seen here: what nobody can see stands as a comment to fill in."""
    path = folder / name / "chip.toml"
    if path.exists() or name in chip.chips():
        raise KitError("chip is described already", where=str(path), next_step="edit it, or choose another name")
    devices = host.strangers()
    vendor, kind = devices[0].split()[1:] if devices else ("", "")
    pci = f'pci = {{ vendor = "{vendor[:4]}", classes = ["{kind[:4]}"] }}' if devices else '# pci = { vendor = "0000", classes = ["12"] }'
    text = Path(__file__).with_name("draft.toml").read_text(encoding="utf-8")
    text = text.replace("VARIABLE", name.upper().replace("-", "_")).replace("NAME", name).replace("PCI_LINE", pci)
    check(tomllib.loads(text), "chip", "draft")
    make_folder(path.parent, "folder of the chip", "name a folder with --chips DIR")
    path.write_text(text, encoding="utf-8")
    return path
