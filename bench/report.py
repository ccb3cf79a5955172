"""Time and size of the reports of a full synthetic result (every row of report 0.2.1), scoring included or not."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from kit.report import body, docx, html, pdf, words
from kit.report.source import Source
from tests import synthetic

REPEATS = 5


def _seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        made = call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times), made


def main() -> None:
    scoring, result = _seconds(lambda: synthetic.result(full_baseline=True).document())
    source = Source(json.loads(json.dumps(result)), {})
    size = len(json.dumps(result)) / 1000
    print(f"{len(result['cases'])} cases, {size:.0f} kB of result.json: scored in {scoring:.2f} s (median of {REPEATS})")
    for language in words.LANGUAGES:
        spoken = words.load(language)
        makers: dict[str, Callable[[], bytes]] = {
            "html": lambda spoken=spoken: html.render(body.page(source, spoken)).encode(),
            "pdf": lambda spoken=spoken: pdf.render(body.page(source, spoken)),
            "docx": lambda spoken=spoken: docx.render(body.page(source, spoken), source),
        }
        for name, make in makers.items():
            seconds, data = _seconds(make)
            print(f"{language} {name}: {seconds:.2f} s, {len(data) / 1000:.0f} kB")
