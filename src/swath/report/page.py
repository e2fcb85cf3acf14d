"""A self-contained HTML page: sections, sortable tables, pictures inside the file; phone, print and dark layouts.

Nothing is fetched: styles, script and pictures are part of the file.
"""

from __future__ import annotations

import base64
import html
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any


def _asset(name: str) -> str:
    return files("swath.report").joinpath(name).read_text(encoding="utf-8")


def esc(value: Any) -> str:
    """Text made safe for HTML."""
    return html.escape(str(value), quote=True)


@dataclass
class Page:
    """A page under construction; `add` HTML, then `write`."""

    title: str
    subtitle: str = ""
    parts: list[str] = field(default_factory=list[str])
    sections: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def add(self, *parts: str) -> Page:
        self.parts.extend(parts)
        return self

    def section(self, title: str, *parts: str) -> Page:
        """A chapter with an anchor in the navigation."""
        anchor = f"s{len(self.sections) + 1}"
        self.sections.append((anchor, title))
        return self.add(f'<h2 id="{anchor}">{esc(title)}</h2>', *parts)

    def render(self) -> str:
        links = "".join(f'<li><a href="#{a}">{esc(t)}</a></li>' for a, t in self.sections)
        nav = f'<nav aria-label="chapters"><ul>{links}</ul></nav>' if len(self.sections) > 2 else ""
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
            f"<title>{esc(self.title)}</title><style>{_asset('page.css')}</style></head><body><main>"
            f'<header class="top"><h1>{esc(self.title)}</h1><div class="soft">{esc(self.subtitle)}</div>{nav}</header>'
            f"{''.join(self.parts)}</main><script>{_asset('page.js')}</script></body></html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the whole page at once: a reader never sees half of it."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(self.render())
        Path(name).chmod(0o644)
        os.replace(name, target)
        return target


def text(words: str, kind: str = "") -> str:
    """A paragraph."""
    return f'<p class="{kind}">{esc(words)}</p>' if kind else f"<p>{esc(words)}</p>"


def code(words: str) -> str:
    """A block of commands or output."""
    return f"<pre><code>{esc(words)}</code></pre>"


def facts(values: Mapping[str, Any]) -> str:
    """A row of figures with what they are."""
    cells = "".join(f'<div class="fact"><b>{esc(v)}</b><span>{esc(k)}</span></div>' for k, v in values.items())
    return f'<div class="facts">{cells}</div>'


def table(rows: Sequence[Mapping[str, Any]], name: str = "") -> str:
    """A sortable table; numbers stand right. Keys that start with `data-` become filter values of the row."""
    if not rows:
        return text("nothing to show", "soft")
    columns = list(dict.fromkeys(k for row in rows for k in row if not k.startswith("data-")))
    numeric = {c for c in columns if all(isinstance(r.get(c), (int, float)) or r.get(c) is None for r in rows)}
    head = "".join(f'<th class="n">{esc(c)}</th>' if c in numeric else f"<th>{esc(c)}</th>" for c in columns)
    digits = {c: _digits([r.get(c) for r in rows]) for c in numeric}
    body: list[str] = []
    for row in rows:
        tags = "".join(f' {esc(k)}="{esc(v)}"' for k, v in row.items() if k.startswith("data-"))
        cells = "".join(_cell(row.get(c), digits.get(c)) for c in columns)
        body.append(f"<tr{f' data-filter={chr(34)}{esc(name)}{chr(34)}' if name else ''}{tags}>{cells}</tr>")
    inside = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div class="scroll"><table class="sort">{inside}</table></div>'


def _digits(values: Sequence[Any]) -> int:
    """Decimals that show every value of a column to four figures, the same for all of them."""
    texts = [f"{v:.4g}" for v in values if isinstance(v, float) and v == v]
    return max((len(t.partition(".")[2]) for t in texts if "e" not in t), default=0)


def _cell(value: Any, digits: int | None) -> str:
    kind = "" if digits is None else ' class="n"'
    if value is None or value != value:
        return f'<td{kind} data-v="-1e308"></td>'
    if isinstance(value, float) and digits is not None:
        small = 0.0 < abs(value) < 10.0**-digits
        return f'<td{kind} data-v="{value!r}">{f"{value:.2g}" if small else f"{value:.{digits}f}"}</td>'
    return f"<td{kind}>{esc(value)}</td>"


def filters(name: str, choices: Mapping[str, Sequence[str]], search: bool = True) -> str:
    """Controls that hide the rows of the table `name` by their `data-` values."""
    boxes = [
        f'<label>{esc(k)}<select name="{esc(k)}"><option value="">all</option>'
        + "".join(f"<option>{esc(o)}</option>" for o in options)
        + "</select></label>"
        for k, options in choices.items()
    ]
    if search:
        boxes.append('<label>name holds<input name="text" type="search"></label>')
    return f'<div class="filters" data-for="{esc(name)}">{"".join(boxes)}</div>'


def figure(picture: str, caption: str = "") -> str:
    """A picture (an `<svg>` or an `<img>`) with its caption."""
    return f"<figure>{picture}<figcaption>{esc(caption)}</figcaption></figure>"


def swatches(colours: Mapping[str, str]) -> str:
    """What colours stand for; a colour is `#rrggbb`."""
    one = "".join(f'<span><i style="background:{esc(c)}"></i>{esc(n)}</span>' for n, c in colours.items())
    return f'<p class="swatches">{one}</p>'


def image(data: bytes, alt: str) -> str:
    """A picture (PNG, JPEG or WebP bytes) inside the page."""
    kind = "webp" if data[8:12] == b"WEBP" else "jpeg" if data[:2] == b"\xff\xd8" else "png"
    return f'<img alt="{esc(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def gallery(figures: Sequence[str], cell: int = 200, together: int = 0) -> str:
    """Figures side by side, as many as fit; with `together` so many a row, which belong together, at any width."""
    rows = f";grid-template-columns:repeat({together},minmax(0,var(--cell)))" if together else ""
    return f'<div class="grid" style="--cell:{cell}px{rows}">{"".join(figures)}</div>'
