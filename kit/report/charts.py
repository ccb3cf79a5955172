"""Charts as SVG: attributes only, no style, no script, colours by class, so that a strict content policy allows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HALF, LEFT, RIGHT = 720, 440, 64, 16
BAR, GAP, PLOT_HEIGHT = 16, 8, 260
CHARACTER = 7.5  # width of a digit in labels


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a scatter plot; `group` picks mark and colour."""

    x: float
    y: float
    group: int
    name: str


def _svg(height: int, parts: Sequence[str], name: str, width: int = WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{_attribute(name)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;"})


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def nice(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about `count` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step * (1 + 1e-9)) + 1)]


def bars(entries: Sequence[tuple[str, float | None, str]], name: str, mark: float | None = 1.0) -> str:
    """Horizontal bars of (label, value, shown value) with a line at `mark`; no bar where there is no value."""
    label_width = 190
    top = 24
    largest = max([value for _, value, _ in entries if value is not None] + ([mark] if mark else []), default=1.0) or 1.0
    span = WIDTH - label_width - 110
    height = top + len(entries) * (BAR + GAP) + 8

    def at(value: float) -> float:
        return label_width + span * value / (largest * 1.05)

    parts = [
        _line(at(tick), top - 4, at(tick), height - 6, "grid") + _text(at(tick), 12, f"{tick:g}", "middle", "tick")
        for tick in nice(0, largest)
    ]
    if mark is not None:
        parts.append(_line(at(mark), top - 6, at(mark), height - 4, "mark"))
    for index, (label, value, shown) in enumerate(entries):
        y = top + index * (BAR + GAP)
        parts.append(_text(label_width - 8, y + 12, label, "end"))
        if value is not None:
            kind = "bar" if mark is None or value >= mark else "bar under"
            parts.append(
                f'<rect class="{kind}" x="{label_width}" y="{y}" width="{max(0.5, at(value) - label_width):.1f}" height="{BAR}" rx="2"/>'
            )
        parts.append(_text(_beside(at(value or 0), at(mark) if mark else 0, shown) + 6, y + 12, shown, kind="value"))
    return _svg(height, parts, name)


def _beside(end: float, mark: float, shown: str) -> float:
    """Where the value of a bar begins: at its end, or after the mark where it would lie across it."""
    return mark if end <= mark < end + 12 + CHARACTER * len(shown) else end


def scatter(points: Sequence[Point], bounds: Sequence[float], axes: tuple[str, str], legend: Sequence[str], name: str) -> str:
    """Points on two logarithmic axes with vertical bounds (tiers)."""
    top, height = 30, PLOT_HEIGHT + 90
    xs = [point.x for point in points] + list(bounds)
    x_low, x_high = math.log10(min(xs) / 1.3), math.log10(max(xs) * 1.3)
    ys = [point.y for point in points]
    y_low, y_high = math.log10(min(ys) / 1.3), math.log10(max(ys) * 1.3)

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(x) - x_low) / (x_high - x_low)
        return across, top + PLOT_HEIGHT * (1 - (math.log10(y) - y_low) / (y_high - y_low))

    bottom = top + PLOT_HEIGHT
    parts = []
    for tick in _decades(x_low, x_high):
        x = place(tick, ys[0])[0]
        parts += [_line(x, top, x, bottom, "grid"), _text(x, bottom + 16, f"{tick:g}", "middle", "tick")]
    for tick in _decades(y_low, y_high):
        y = place(xs[0], tick)[1]
        parts += [_line(LEFT, y, WIDTH - RIGHT, y, "grid"), _text(LEFT - 6, y + 4, f"{tick:g}", "end", "tick")]
    for bound in bounds:
        x = place(bound, ys[0])[0]
        parts += [_line(x, top, x, bottom, "bound"), _text(x + 4, top + 12, f"{bound:g}", kind="tick")]
    parts += [_dot(*place(point.x, point.y), point) for point in points]
    parts += [_text((LEFT + WIDTH) / 2, bottom + 36, axes[0], "middle"), _text(LEFT, 16, axes[1])]
    parts += _legend(legend, bottom + 52)
    return _svg(height, parts, name)


def _decades(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)]


def _dot(x: float, y: float, point: Point) -> str:
    title = f"<title>{escape(point.name)}</title>"
    if point.group % 2:
        return f'<rect class="dot g{point.group}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">{title}</rect>'
    return f'<circle class="dot g{point.group}" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{title}</circle>'


def _legend(names: Sequence[str], y: float, *, lines: bool = False) -> list[str]:
    parts, x = [], float(LEFT)
    for index, name in enumerate(names):
        mark = _line(x - 6, y, x + 12, y, f"line l{index}") if lines else _dot(x + 5, y, Point(0, 0, index, name))
        parts.append(mark + _text(x + 16, y + 4, name))
        x += 40 + 8.5 * sum(2 if ord(character) > 0x2E80 else 1 for character in name)
    return parts


def lines(
    series: Sequence[Sequence[float]],
    warmup: int,
    axes: tuple[str, str],
    legend: Sequence[str],
    name: str,
    *,
    every: int = 1,
    width: int = WIDTH,
) -> str:
    """Lines over steps, a point each `every` of them, the first `warmup` points shaded."""
    top, height = 30, PLOT_HEIGHT // 2 + 104
    plot = PLOT_HEIGHT // 2 + 20
    values = [value for line in series for value in line]
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) if low != high else 0.5 * abs(low) or 0.5
    low, high = low - margin, high + margin
    count = max(2, *(len(line) for line in series), 2)

    def place(index: float, value: float) -> tuple[float, float]:
        return LEFT + (width - LEFT - RIGHT) * index / (count - 1), top + plot * (1 - (value - low) / (high - low))

    parts = []
    if warmup:
        shaded = place(min(warmup, count - 1), low)[0] - LEFT
        parts.append(f'<rect class="warmup" x="{LEFT}" y="{top}" width="{shaded:.1f}" height="{plot}"/>')
    for tick in nice(low, high, 4):
        y = place(0, tick)[1]
        parts += [_line(LEFT, y, width - RIGHT, y, "grid"), _text(LEFT - 6, y + 4, f"{tick:.4g}", "end", "tick")]
    for tick in nice(0, (count - 1) * every, 6):
        x = place(tick / every, low)[0]
        parts.append(_text(min(x, width - RIGHT), top + plot + 16, f"{tick:g}", "middle", "tick"))
    for index, line in enumerate(series):
        points = " ".join("{:.1f},{:.1f}".format(*place(position, value)) for position, value in enumerate(line))
        parts.append(f'<polyline class="line l{index}" points="{points}"/>')
    parts += [_text((LEFT + width - RIGHT) / 2, top + plot + 32, axes[0], "middle", "tick"), _text(LEFT, 16, axes[1])]
    parts += _legend(legend, top + plot + 46, lines=True) if len(legend) > 1 else []
    return _svg(height if len(legend) > 1 else height - 14, parts, name, width)
