"""Figures as small SVG: intervals, heat maps, lines, strips, rank shares. They take their colours from the page.

Each comes twice and the page shows one: names beside the rows, or above them and all of it narrower, for a phone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from swath.report.page import esc

PALETTE = ("#0b6e4f", "#b9770e", "#2e6fb7", "#a4343a", "#6c4f9c", "#3d8b8b", "#8a6d3b", "#5b7083")


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values that span low..high."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / about
    step = 10 ** math.floor(math.log10(raw))
    step *= next(m for m in (1, 2, 5, 10) if raw <= m * step)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def svg(width: float, height: float, body: str, title: str, kind: str = "") -> str:
    """An SVG that scales with the page and has a title for readers of the screen; `kind` is its class."""
    kept = f' class="{kind}"' if kind else ""
    return (
        f'<svg{kept} viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" aria-label="{esc(title)}">'
        f"<title>{esc(title)}</title>{body}</svg>"
    )


PHONE = 346.0
LEGEND = 14
"""Most series whose colours are told apart in a legend."""


@dataclass(frozen=True)
class _Names:
    """Where named rows lie: beside their names, or on a phone below them."""

    longest: int
    step: float
    above: bool

    @classmethod
    def of(cls, names: Sequence[str], step: float, above: bool) -> _Names:
        return cls(max(map(len, names)), step + 16 * above, above)

    @property
    def left(self) -> float:
        return 6.0 if self.above else 12 + 7.0 * self.longest

    def text(self, name: str, i: int, top: float, inside: float) -> str:
        """A row's name; `inside` is how far below the row's top it stands where it stands beside it."""
        if self.above:
            return f'<text x="{self.left:g}" y="{top + self.step * i + 12:g}">{esc(name)}</text>'
        y = top + self.step * i + inside
        return f'<text x="{self.left - 8:g}" y="{y:g}" text-anchor="end">{esc(name)}</text>'

    def row(self, i: int, top: float) -> float:
        """Where the row itself begins, under its name if that is above it."""
        return top + self.step * i + 16 * self.above


def _both(draw: Callable[[bool], tuple[float, float, str]], title: str) -> str:
    """A figure as `draw(phone)` gives its width, height and body: for a wide page, and for a phone."""
    return svg(*draw(False), title, "wide") + svg(*draw(True), title, "narrow")


@dataclass(frozen=True)
class Row:
    """One line of an interval plot."""

    name: str
    point: float
    low: float
    high: float
    strong: bool = True
    hint: str = ""


def intervals(rows: Sequence[Row], title: str, unit: str = "") -> str:
    """Point and interval per row; weak rows are drawn softly."""
    good = [r for r in rows if math.isfinite(r.point)]
    if not good:
        return svg(400, 30, '<text x="0" y="20" class="soft">nothing complete</text>', title)
    low, high = min(r.low for r in good), max(r.high for r in good)
    pad = 0.04 * ((high - low) or 1)

    def draw(above: bool) -> tuple[float, float, str]:
        names, width = _Names.of([r.name for r in good], 24.0, above), PHONE if above else 860.0

        def x(v: float) -> float:
            return names.left + (v - low + pad) / (high - low + 2 * pad) * (width - names.left - 16)

        body: list[str] = []
        bottom = names.step * len(good) + 6
        for t in ticks(low, high, 4 if above else 5):
            body.append(f'<line class="axis" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="0" y2="{bottom:g}"/>')
            body.append(
                f'<text class="soft" x="{x(t):.1f}" y="{bottom + 16:g}" text-anchor="middle">{t:g}{esc(unit)}</text>'
            )
        for i, r in enumerate(good):
            y = names.row(i, 4) + 12 - 2 * above
            fade = "" if r.strong else ' opacity=".45"'
            body.append(
                f"<g{fade}><title>{esc(r.hint or f'{r.name}: {r.point:.3g} ({r.low:.3g} to {r.high:.3g})')}</title>"
                f"{names.text(r.name, i, 4, 16)}"
                f'<line class="stroke" stroke-width="2.5" x1="{x(r.low):.1f}" x2="{x(r.high):.1f}" '
                f'y1="{y:g}" y2="{y:g}"/>'
                f'<circle class="mark" r="4.5" cx="{x(r.point):.1f}" cy="{y:g}"/></g>'
            )
        return width, bottom + 24, "".join(body)

    return _both(draw, title)


def heat(rows: Sequence[str], columns: Sequence[str], values: Mapping[tuple[str, str], float], title: str) -> str:
    """A table of coloured cells; a missing value stays empty."""
    known = [v for v in values.values() if math.isfinite(v)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)

    def draw(above: bool) -> tuple[float, float, str]:
        names, cell = _Names.of(rows, 24.0, above), 62.0
        top = min(150.0, 26 + 4.4 * max((len(c) for c in columns), default=0))  # as high as the longest name leans
        body = [
            f'<text transform="translate({names.left + cell * (j + 0.55):g},{top - 8:g}) rotate(-38)">{esc(c)}</text>'
            for j, c in enumerate(columns)
        ]
        for i, r in enumerate(rows):
            y = names.row(i, top)
            body.append(names.text(r, i, top, 16))
            for j, c in enumerate(columns):
                v = values.get((r, c), math.nan)
                if not math.isfinite(v):
                    continue
                light = 93 - 55 * (v - low) / ((high - low) or 1)
                ink = "#fff" if light < 62 else "#17202a"
                body.append(
                    f'<rect x="{names.left + cell * j:g}" y="{y:g}" width="{cell - 2:g}" height="22" rx="3" '
                    f'fill="hsl(158 45% {light:.0f}%)"><title>{esc(r)}, {esc(c)}: {v:.4g}</title></rect>'
                    f'<text x="{names.left + cell * (j + 0.5) - 1:g}" y="{y + 15:g}" text-anchor="middle" '
                    f'style="fill:{ink};font-size:11px">{v:.3g}</text>'
                )
        return names.left + cell * len(columns) + 70, top + names.step * len(rows) + 6, "".join(body)

    return _both(draw, title)


def shares(rows: Mapping[str, Sequence[float]], title: str) -> str:
    """How often each name took each rank: one row a name, one cell a rank, darker is more often."""
    n = max((len(v) for v in rows.values()), default=0)
    values = {(name, str(i + 1)): v for name, row in rows.items() for i, v in enumerate(row)}

    def draw(above: bool) -> tuple[float, float, str]:
        names, top = _Names.of(list(rows), 22.0, above), 24.0
        cell = max(26.0, (PHONE - 14) / max(n, 1)) if above else min(44.0, 700 / max(n, 1))
        body = [
            f'<text class="soft" x="{names.left + cell * (i + 0.5):g}" y="16" text-anchor="middle">{i + 1}</text>'
            for i in range(n)
        ]
        for i, name in enumerate(rows):
            y = names.row(i, top)
            body.append(names.text(name, i, top, 15))
            for j in range(n):
                v, middle = values.get((name, str(j + 1)), 0.0), names.left + cell * (j + 0.5)
                ink = "fill:var(--paper);" if v > 0.35 else ""
                label = f'<text x="{middle:g}" y="{y + 14:g}" text-anchor="middle" style="{ink}font-size:10px">'
                body.append(
                    f'<rect class="mark" opacity="{min(1.0, 0.04 + 1.6 * v):.3f}" x="{names.left + cell * j:g}" '
                    f'y="{y:g}" width="{cell - 2:g}" height="20" rx="2">'
                    f"<title>{esc(name)}, rank {j + 1}: {v:.1%}</title></rect>"
                    + (f"{label}{100 * v:.0f}</text>" if v >= 0.05 else "")
                )
        return names.left + cell * n + 8, top + names.step * len(rows) + 4, "".join(body)

    return _both(draw, title)


def strips(groups: Mapping[str, Sequence[float]], title: str) -> str:
    """Every value as a dot, one row a group, with a tick at the mean."""
    full = [v for row in groups.values() for v in row if math.isfinite(v)]
    if not full:
        return svg(400, 30, '<text x="0" y="20" class="soft">no values</text>', title)
    low, high = min(full), max(full)
    span = (high - low) or 1.0

    def draw(above: bool) -> tuple[float, float, str]:
        names, width = _Names.of(list(groups), 19.0, above), PHONE if above else 700.0

        def x(v: float) -> float:
            return names.left + 8 + (v - low) / span * (width - names.left - 24)

        bottom = names.step * len(groups) + 4
        body = [
            f'<line class="axis" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="0" y2="{bottom:g}"/>'
            f'<text class="soft" x="{x(t):.1f}" y="{bottom + 15:g}" text-anchor="middle">{t:g}</text>'
            for t in ticks(low, high, 4 if above else 5)
        ]
        for i, (name, row) in enumerate(groups.items()):
            y = names.row(i, 2) + 9.5
            good = [v for v in row if math.isfinite(v)]
            body.append(names.text(name, i, 2, 13.5))
            body += [f'<circle class="mark" opacity=".55" r="3.5" cx="{x(v):.1f}" cy="{y:g}"/>' for v in good]
            if good:
                m = x(sum(good) / len(good))
                body.append(
                    f'<line class="stroke" stroke-width="2" x1="{m:.1f}" x2="{m:.1f}" y1="{y - 7:g}" y2="{y + 7:g}"/>'
                )
        return width, bottom + 22, "".join(body)

    return _both(draw, title)


@dataclass(frozen=True)
class Axes:
    """Words and scale of a line or scatter plot."""

    x: str
    y: str
    log_x: bool = False


def curves(series: Mapping[str, Sequence[tuple[float, float]]], axes: Axes, title: str, *, dots: bool = False) -> str:
    """Lines (or dots) in one frame, with a legend."""
    points = [(x, y) for s in series.values() for x, y in s if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return svg(400, 30, '<text x="0" y="20" class="soft">no values</text>', title)

    def scale(v: float) -> float:
        return math.log10(max(v, 1e-12)) if axes.log_x else v

    x0, x1 = min(scale(p[0]) for p in points), max(scale(p[0]) for p in points)
    y0, y1 = min(p[1] for p in points), max(p[1] for p in points)
    pad = 0.05 * ((y1 - y0) or abs(y1) or 1)
    y0, y1 = y0 - pad, y1 + pad

    def draw(phone: bool) -> tuple[float, float, str]:
        width, bottom = (PHONE, 212.0) if phone else (720.0, 262.0)
        left = max(46.0 if phone else 62.0, 10 + 7.0 * max(len(f"{t:g}") for t in ticks(y0, y1)))

        def across(x: float) -> float:
            return left + (x - x0) / ((x1 - x0) or 1) * (width - left - 20)

        def down(y: float) -> float:
            return bottom - (y - y0) / (y1 - y0) * (bottom - 28)  # below the name of the axis

        body = [f'<text class="soft" x="4" y="10">{esc(axes.y)}</text>']
        for t in ticks(y0, y1):
            y = down(t)
            body.append(f'<line class="axis" x1="{left:g}" x2="{width - 20:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
            body.append(f'<text class="soft" x="{left - 6:g}" y="{y + 4:.1f}" text-anchor="end">{t:g}</text>')
        for t in ticks(x0, x1, 4 if phone else 5):
            word = f"{10**t:.3g}" if axes.log_x else f"{t:g}"
            body.append(
                f'<text class="soft" x="{across(t):.1f}" y="{bottom + 17:g}" text-anchor="middle">{word}</text>'
            )
        body.append(f'<text class="soft" x="{width - 20:g}" y="{bottom + 34:g}" text-anchor="end">{esc(axes.x)}</text>')
        legend = 0 if len(series) > LEGEND else len(series) if phone else min(len(series), LEGEND // 2)
        for i, (name, s) in enumerate(series.items()):
            colour = PALETTE[i % len(PALETTE)] if legend else "var(--accent)"
            places = [(across(scale(x)), down(y)) for x, y in s if math.isfinite(x) and math.isfinite(y)]
            body.append(_marks(places, colour, name) if dots or len(places) == 1 else _path(places, colour))
            if legend:
                column, line = divmod(i, legend)
                x, y = left + 330 * column, bottom + 44 + 17 * line
                body.append(f'<rect x="{x:g}" y="{y:g}" width="11" height="11" fill="{colour}"/>')
                body.append(f'<text x="{x + 16:g}" y="{y + 10:g}">{esc(name)}</text>')
        return width, bottom + 48 + 17 * legend, "".join(body)

    return _both(draw, title)


def _marks(places: Sequence[tuple[float, float]], colour: str, name: str) -> str:
    return "".join(
        f'<circle r="4.5" cx="{x:.1f}" cy="{y:.1f}" fill="{colour}"><title>{esc(name)}</title></circle>'
        for x, y in places
    )


def _path(places: Sequence[tuple[float, float]], colour: str) -> str:
    told = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{told}" fill="none" stroke="{colour}" stroke-width="2"/>'
