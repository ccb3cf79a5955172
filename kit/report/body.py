"""The report of one run, block by block, in the order of report 0.2.1; filled from result.json and environment.json only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from kit.report import figures, pictures, software, variants
from kit.report.blocks import Block, Column, Heading, Items, Page, Table, Text
from kit.report.markdown import blocks as markdown
from kit.report.source import Source
from kit.report.tables import caption, number, short, state, table
from kit.report.values import reading
from kit.report.words import Words

SUMMARY = {
    "training": (("function", ("function",)), ("performance", ("compute", "communication", "checkpoint")), ("stability", ("stability",))),
    "finetuning": (("function", ("function",)), ("performance", ("compute", "communication", "checkpoint")), ("stability", ("stability",))),
    "inference": (("text_generation", ("text_generation",)), ("text_to_image", ("text_to_image",))),
}


def page(source: Source, words: Words) -> Page:
    """The whole report in one language."""
    blocks: list[Block] = []
    for make in (_overview, _environment, _tests, _verification):
        blocks += make(source, words)
    labels = {key: words.say(key) for key in ("skip", "contents", "filter", "sort", "values")}
    return Page(
        words.say("language"),
        f"{words.say('title.report')} · {source.result['run'].get('chip', '-')}",
        words.say("title.subtitle"),
        tuple(blocks),
        labels,
    )


def heading(words: Words, key: str, level: int) -> Heading:
    """A heading by its key."""
    return Heading(level, words.say(f"heading.{key}"), key.replace("_", "-"))


def _overview(source: Source, words: Words) -> Iterator[Block]:
    run, scoring = source.result["run"], source.result["scoring"]
    yield heading(words, "h1", 1)
    named = scoring["baseline"]["title"]["zh" if words.language == "zh" else "en"] if scoring else words.say("none")
    facts = {key: run.get(key, words.say("missing")) for key in ("run", "plan", "chip")}
    yield Text(words.say("text.overview", verdict=words.say(f"verdict.{source.result['verdict']}"), baseline=named, **facts))
    if run.get("isolation") != "container":
        reason = words.name("isolation_reason", source.environment.get("isolation", {}).get("reason") or words.say("unknown"))
        yield Text(words.say("text.isolation", reason=reason), "warning")
    if scoring:
        yield from _narrative(source, words)
    yield heading(words, "summary", 2)
    yield summary(source, words)
    yield Items(tuple(words.say(f"text.{key}") for key in ("na", "zero", "total_none")))
    yield figures.overview(source, words)


def _narrative(source: Source, words: Words) -> Iterator[Block]:
    parts = source.result["sections"]["training"]
    scores = {name: figures.part_state(parts[name], words) for name in ("compute", "communication", "checkpoint", "stability")}
    yield Text(words.say("text.scores", **scores))
    for section in ("training", "finetuning", "inference", "all"):
        found = source.result["scoring"]["unofficial"][section]
        name = words.say(f"section.{section}")
        if found["ratio"] is None:
            yield Text(words.say("text.percent_none", section=name))
        else:
            ratio = number(found["ratio"] * 100, "")
            counts = {"counted": found["counted"], "asked": found["asked"]}
            yield Text(words.say("text.percent", section=name, ratio=ratio, unofficial=words.say("unofficial"), **counts))


def summary(source: Source, words: Words) -> Table:
    """Scores of the parts; the one cell of the report for performance shows its three parts side by side (ruling 21)."""
    rows = []
    for section, lines in SUMMARY.items():
        for name, parts in lines:
            found = source.result["sections"][section]
            scores = [figures.part_state(found[part], words) for part in parts]
            if len(parts) > 1:
                scores = [f"{words.say(f'part_name.{part}')} {score}" for part, score in zip(parts, scores, strict=True)]
            shares = [found[part]["share"] for part in parts]
            share = " · ".join(f"{entry['counted']}/{entry['rows']}" if entry else "-" for entry in shares)
            rows.append((words.say(f"section.{section}"), words.say(f"part_name.{name}"), " · ".join(scores), share))
    columns = (
        Column(words.say("column.section")),
        Column(words.say("column.part")),
        Column(words.say("score")),
        Column(words.say("share_short")),
    )
    return Table("table-summary", words.bare("summary"), columns, tuple(rows))


def _environment(source: Source, words: Words) -> Iterator[Block]:
    yield heading(words, "h2", 1)
    yield heading(words, "platform", 2)
    yield Text(words.say("text.platform"))
    yield heading(words, "chip", 2)
    yield from markdown(source.introduction) if source.introduction else (Text(words.say("text.chip_none"), "note"),)
    yield heading(words, "environment", 2)
    yield heading(words, "hardware", 3)
    yield _hardware(source, words)
    yield heading(words, "software", 3)
    yield from software.tables(source, words)
    yield heading(words, "method", 2)
    yield Text(words.say("text.method"))


def _hardware(source: Source, words: Words) -> Table:
    facts = source.environment
    host, run, seen = facts.get("host", {}), source.result["run"], facts.get("inventory") or {}
    image, cards = run.get("image") or {}, (seen.get("accelerators") or {}).get("cards") or []
    memory = host.get("memory_bytes")
    found = {
        "chip": ", ".join([str(run.get("chip")), *_counted(card.get("name", "") for card in cards)]),
        "cpu": host.get("cpu_model") and f"{host['cpu_model']} x {host.get('cpu_count', '?')}",
        "intra": _intra(seen.get("accelerators") or {}),
        "inter": "; ".join(_inter((seen.get("network") or {}).get("fabric") or {})),
        "os": host.get("os") and f"{host['os']}, {host.get('kernel', '')} {host.get('machine', '')}",
        "gcc": seen.get("compiler"),
        "python": host.get("python"),
        "torch": software.versions(source).get("torch"),
        "driver": ", ".join(_counted(card.get("driver", "") for card in cards)),
        "memory": memory and f"{memory / 2**30:.1f} GiB",
        "isolation": run.get("isolation") and words.name("isolation", run["isolation"]),
        "image": image and f"{image.get('reference')} {image.get('manifest') or image.get('config')}",
        "lock": facts.get("lock") and f"{facts['lock']['file']} sha256:{facts['lock']['sha256']}",
        "grants": facts.get("grants") and ", ".join(f"{name}={value}" for name, value in sorted(facts["grants"].items())),
    }
    rows = tuple(
        (str(index), words.say(f"hardware.{name}"), str(value) if value else words.say(_why_not(name, run, seen)))
        for index, (name, value) in enumerate(found.items(), start=1)
    )
    columns = (Column(words.say("column.id"), number=True), Column(words.say("column.item")), Column(words.say("column.info")))
    return Table("table-hardware", words.bare("hardware"), columns, rows)


def _intra(accelerators: dict[str, Any]) -> str | None:
    """Links between cards by their kind; the tool's own words where its table is not known."""
    return ", ".join(_counted(sorted((accelerators.get("links") or {}).values()))) or accelerators.get("topology")


def _inter(fabric: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Each port with what is known of it."""
    for port, facts in sorted(fabric.items()):
        known = [str(facts[name]) for name in ("type", "link_layer", "rate", "state") if facts.get(name)]
        yield f"{port}: {', '.join(known)}" if known else port


def _why_not(name: str, run: dict[str, Any], seen: dict[str, Any]) -> str:
    """The word for a fact that is not there: nothing to say without a container, nothing found, or never asked."""
    if name in {"image", "lock", "grants"} and run.get("isolation") == "none":
        return "no_container"
    return "none_found" if name in {"intra", "inter", "driver"} and seen else "unknown"


def _counted(names: Iterable[str]) -> list[str]:
    """Each name once, with how often it occurs where that is more than once."""
    return [f"{count} x {name}" if count > 1 else name for name, count in Counter(filter(None, names)).items()]


def _tests(source: Source, words: Words) -> Iterator[Block]:
    yield heading(words, "h3", 1)
    if source.result["scoring"] is None:
        yield cases(source, words)
        return
    yield heading(words, "base_specs", 2)
    yield Text(words.say("text.specs"), "note")
    yield from _scored(source, words, "base_specs")
    for section in ("training", "finetuning"):
        prefix = "" if section == "training" else "finetuning_"
        yield heading(words, section, 2)
        yield heading(words, f"{section}_function", 3)
        yield from _scored(source, words, f"{section}_function")
        yield from figures.series(source, words, (section, "function"))
        yield heading(words, f"{section}_performance", 3)
        for part in ("compute", "communication", "checkpoint"):
            name = f"{section}_{part}" if part == "compute" else f"{prefix}{part}"
            yield heading(words, name, 4)
            yield from _scored(source, words, name)
            yield from _figures(source, words, section, part)
        yield heading(words, f"{prefix}stability", 3)
        yield from _scored(source, words, f"{prefix}stability")
        if section == "training":
            yield from figures.curves(source, words)
        yield from figures.series(source, words, (section, "stability"))
    yield from _inference(source, words)
    if found := variants.table(source, words):
        yield Text(words.say("text.variants"), "note")
        yield found
    yield heading(words, "cases", 2)
    yield Text(words.say("text.off_grid"), "note")
    yield cases(source, words)


def _figures(source: Source, words: Words, section: str, part: str) -> Iterator[Block]:
    yield from figures.series(source, words, (section, part))
    make = {("training", "communication"): figures.communication, ("training", "checkpoint"): figures.checkpoint}.get((section, part))
    if make and (figure := make(source, words)):
        yield figure


def _inference(source: Source, words: Words) -> Iterator[Block]:
    yield heading(words, "inference", 2)
    yield heading(words, "text_generation", 3)
    yield from _scored(source, words, "text_generation")
    yield Text(words.say("text.tiers"), "note")
    yield from _scored(source, words, "text_generation_tiers")
    if figure := figures.latency(source, words):
        yield figure
    yield heading(words, "text_to_image", 3)
    yield from _scored(source, words, "text_to_image")
    yield from pictures.blocks(source.pictures, words)


def _scored(source: Source, words: Words, name: str) -> Iterator[Block]:
    scored = source.table(name)
    assert scored is not None
    if scored["reuse"]:
        yield Text(words.say("reuse"))
        return
    cards = {case["id"]: case["fields"].get("cards", 0) for case in source.result["cases"]}
    split = scored["split"]
    parts: list[str | None] = list(dict.fromkeys(str(row["label"][split]) for row in scored["rows"])) if split else [None]
    for part in parts:
        yield table(scored, words, cards, part)


def cases(source: Source, words: Words) -> Table:
    """Every metric of the cases that fill no row of the report."""
    rows: list[tuple[str, ...]] = []
    for case in source.result["cases"]:
        if case["row"] is None:
            rows += _case(case, words)
    names = ("case", "metric", "value", "spread", "unit")
    columns = [Column(words.say(f"column.{name}"), number=name in {"value", "spread"}) for name in names]
    columns += [Column(words.say("baseline"), number=True), Column(words.say("score"), number=True)]
    return Table("table-cases", words.bare("cases"), tuple(columns), tuple(rows))


def _case(case: dict[str, Any], words: Words) -> Iterator[tuple[str, ...]]:
    missing = words.say("missing")
    if not case["metrics"]:
        shown = (
            "NA" if case["state"] == "not_run" else f"0 ({words.name('reason', case['state'] if case['state'] != 'done' else 'refused')})"
        )
        yield (case["id"], missing, shown, missing, missing, missing, missing)
    for name, metric in case["metrics"].items():
        spread = f"{short(metric['least'])} ~ {short(metric['most'])}" if "least" in metric else missing
        scored = case["metric"] == name
        base = number(case["baseline"], words.say("none")) if scored else missing
        score = number(case["score"], missing) if scored else missing
        yield (case["id"], name, number(metric["value"], missing), spread, metric["unit"], base, score)


def _verification(source: Source, words: Words) -> Iterator[Block]:
    yield heading(words, "h4", 1)
    yield heading(words, "verdict", 2)
    yield Text(words.say(f"verdict.{source.result['verdict']}"), "note" if source.result["verdict"] == "verified" else "warning")
    keys = ("severity", "rule", "where", "expected", "found")
    findings = tuple(
        (words.name("severity", finding["severity"]), *(str(finding[key]) for key in keys[1:])) for finding in source.result["findings"]
    )
    columns = tuple(Column(words.say(f"column.{key}")) for key in keys)
    yield Table("table-findings", words.bare("verdict"), columns, findings) if findings else Text(words.say("text.no_findings"))
    yield heading(words, "audit", 2)
    yield from _audit(source, words)
    yield heading(words, "seal", 2)
    yield _seal(source, words)
    yield Text(words.say("text.signature"), "note")
    yield Text(words.say("text.seal"))
    yield Text(
        f"sh docs/check.sh {source.name}\nsha256sum {source.name}/SHA256SUMS\n(cd {source.name}/evidence && sha256sum -c ../SHA256SUMS)",
        "code",
    )
    if source.result["scoring"]:
        yield heading(words, "reading", 2)
        yield from _reading(source, words)
        yield from _against(source, words)
    yield heading(words, "signatures", 2)
    columns = (Column(words.say("column.item")), Column(words.say("text.sign_line")))
    rows = tuple((words.say(f"seal.{who}"), "") for who in ("vendor", "lab", "auditor"))
    yield Table("table-signatures", words.bare("signatures"), columns, rows)


def _audit(source: Source, words: Words) -> Iterator[Block]:
    """What `verify audit` found: its verdict, the lab's decision, each re-run against the vendor's claim, reasons, findings."""
    if not source.audit:
        yield Text(words.say("text.audit_none"), "note")
        return
    said, verdict = source.audit["audit"], source.audit["verdict"]
    yield Text(words.say("text.audit", verdict=words.say(f"verdict.{verdict}")), "note" if verdict == "verified" else "warning")
    if said is not None:
        sample = ", ".join([*said["sample"], *said["chosen"]])
        yield Text(words.say("text.audit_said", verdict=words.name("decision", said["verdict"]), sample=sample, runs=len(said["runs"])))
        yield Items(tuple(map(str, said["reasons"])))
        names = ("stage", "case", "metric", "vendor", "lab", "log_ratio", "tolerance", "decision")
        columns = tuple(Column(words.say(f"column.{name}"), number=name in names[3:7]) for name in names)
        yield Table("table-audit", words.bare("audit"), columns, tuple(_reruns(said, words)))
    keys = ("rule", "where", "expected", "found")
    rows = tuple(tuple(str(finding[key]) for key in keys) for finding in source.audit["findings"])
    if rows:
        yield Table(
            "table-audit-findings", words.say("text.audit_findings"), tuple(Column(words.say(f"column.{key}")) for key in keys), rows
        )


def _reruns(said: dict[str, Any], words: Words) -> Iterator[tuple[str, ...]]:
    for name, stage in said["stages"].items():
        for one in stage["cases"] if stage else ():
            lab = " ".join(one["lab"]) or words.say("missing")
            numbers = (str(one["vendor"]), lab, str(one["logRatio"]), str(one["tolerance"]))
            yield (words.name("stage_name", name), one["id"], one["metric"], *numbers, words.name("decision", one["verdict"]))


def _against(source: Source, words: Words) -> Iterator[Block]:
    """Totals under the other profiles and baselines that were asked for, and what those profiles change."""
    others = source.result["against"]
    if not others:
        return
    sides = [source.result["scoring"], *others]
    beside = [{found["id"]: found for found in side["tables"]} for side in sides]
    rows = tuple(
        (name, *(state(found[name]["total"], words) if name in found else words.say("missing") for found in beside))
        for name, scored in beside[0].items()
        if scored["total_kind"] != "none" or scored["reuse"]
    )
    columns = (Column(words.say("column.item")), *(Column(reading(side), number=True) for side in sides))
    yield Table("table-against", words.say("text.against"), columns, rows)
    changes = [(side["profile"]["name"], change) for side in others for change in side["profile"]["changes"]]
    ruling = words.say("column.ruling")
    lines = (f"{name} · {change['table']} ({ruling} {change['ruling']}): {change['note'][words.language]}" for name, change in changes)
    yield Items(tuple(dict.fromkeys(lines)))


def _seal(source: Source, words: Words) -> Table:
    run = source.result["run"]
    origin = {"origin": words.name("origin", run["origin"])} if run.get("origin") else {}
    facts = run | run.get("digests", {}) | _window(run, words) | origin
    names = ("run", "kit", "started", "finished", "signer", "origin", "sums_sha256", "plan_sha256", "log_size", "log_root", "unwitnessed")
    rows = tuple((words.say(f"seal.{name}"), str(facts.get(name) or words.say("unknown"))) for name in names)
    columns = (Column(words.say("column.item")), Column(words.say("column.value")))
    return Table("table-seal", words.bare("seal"), columns, rows)


def _window(run: dict[str, Any], words: Words) -> dict[str, str]:
    """What could have been rewritten unseen."""
    if "unwitnessed" not in run:
        return {}
    window = run["unwitnessed"] | {"witnesses": ", ".join(run["unwitnessed"]["witnesses"]) or words.say("nobody")}
    return {"unwitnessed": words.say("text.unwitnessed", **window)}


def _reading(source: Source, words: Words) -> Iterator[Block]:
    scoring = source.result["scoring"]
    named = {key: scoring[key]["name"] for key in ("profile", "baseline")} | {
        f"{key}_sha256": scoring[key]["sha256"] for key in ("profile", "baseline")
    }
    yield Text(words.say("text.reading", **named, filled=scoring["baseline"]["filled"], cells=scoring["baseline"]["cells"]))
    rows = tuple(
        (
            words.name("place", scored["place"]),
            caption(scored, words),
            words.name("part", part["id"]),
            words.name("metric", part["metric"]),
            part["formula"],
            number(part["weight"], ""),
            words.say(f"provenance.{part['provenance']}"),
        )
        for scored in scoring["tables"]
        for part in scored["parts"]
    )
    heads = ("column.place", "column.table", "column.item", "column.metric", "column.formula", "weight", "column.provenance")
    columns = tuple(Column(words.say(head)) for head in heads)
    yield Table("table-reading", words.bare("reading"), columns, rows)
