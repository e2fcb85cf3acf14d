"""The report as one self-contained page: findings by check, thumbnails of the files that are named."""

from __future__ import annotations

import base64
import html
import io
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.data.check.finding import Finding, Report

MOST_PICTURES = 120
SIDE = 128
_STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b2026}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid #ccd}table{border-collapse:collapse}
td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}.row{display:flex;gap:1rem;margin:.7rem 0}
.row img{width:96px;height:96px;image-rendering:pixelated;border:1px solid #ccd}.error b{color:#a3262a}
.warning b{color:#8a6100}.bar{background:#4c78a8;height:.8rem;display:inline-block}.dim{color:#667}
code{background:#f2f3f6;padding:0 .25rem}"""


def write(report: Report, path: Path) -> None:
    """Write the page; nothing is left half-written."""
    part = path.with_name(path.name + ".part")
    part.write_text(page(report), encoding="utf-8")
    os.replace(part, path)


def page(report: Report) -> str:
    """The page's HTML."""
    root = Path(report.data)
    root = root if root.is_dir() else root.parent
    groups: dict[str, list[Finding]] = defaultdict(list)
    for finding in report.findings:
        groups[finding.check].append(finding)
    pictures: dict[str, str] = {}
    counts = report.counts()
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>swath check</title><style>{_STYLE}</style>",
        f"<h1>{_e(report.data)}: {'ok' if report.ok else 'not ok'}</h1>",
        f"<p>{report.files} files, {report.samples} samples, {counts['error']} errors, {counts['warning']} warnings, "
        f"{report.seconds:g} s</p>",
        "".join(f"<p class='dim'>assumed: {_e(a)}</p>" for a in report.assumed),
        _splits(report),
        "".join(_histogram(group, table) for group, table in report.labels.items()),
    ]
    for name, findings in groups.items():
        parts.append(f"<h2>{_e(name)} ({len(findings)})</h2>")
        parts += [_row(f, root, pictures) for f in findings[:200]]
        if len(findings) > 200:
            parts.append(f"<p class='dim'>and {len(findings) - 200} more</p>")
    return "\n".join(parts) + "</html>\n"


def _e(text: object) -> str:
    return html.escape(str(text))


def _splits(report: Report) -> str:
    if not report.splits:
        return ""
    rows = "".join(f"<tr><td>{_e(s)}</td><td>{n}</td></tr>" for s, n in report.splits.items())
    far = "".join(
        f"<p>{_e(d['from'])} to {_e(d['to'])}: nearest {d['nearest_m']:.0f} m, median {d['median_m']:.0f} m, "
        f"{d['overlapping']} overlap</p>"
        for d in report.distances
    )
    return f"<h2>splits</h2><table>{rows}</table>{far}"


def _histogram(group: str, table: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{_e(table['names'][k])}</td><td><span class='bar' style='width:{max(1, round(300 * v))}px'></span> "
        f"{v:.2%}</td></tr>"
        for k, v in table["shares"].items()
    )
    return f"<h2>labels of {_e(group)}</h2><table>{rows}</table>"


def _row(finding: Finding, root: Path, pictures: dict[str, str]) -> str:
    if finding.file not in pictures:
        pictures[finding.file] = thumbnail(root / finding.file) if len(pictures) < MOST_PICTURES else ""
    image = f"<img alt='' src='{pictures[finding.file]}'>" if pictures[finding.file] else ""
    band = f" <code>{_e(finding.band)}</code>" if finding.band else ""
    remedy = f"<br><span class='dim'>{_e(finding.remedy)}</span>" if finding.remedy else ""
    return (
        f"<div class='row {finding.level}'>{image}<div><b>{finding.level}</b> <code>{_e(finding.file)}</code>{band}<br>"
        f"{_e(finding.message)}{remedy}</div></div>"
    )


def thumbnail(path: Path) -> str:
    """A small PNG as a data URI; empty when the file cannot be shown."""
    import rasterio
    from PIL import Image
    from rasterio.enums import Resampling

    try:
        with rasterio.open(path) as src:
            bands = [3, 2, 1] if src.count >= 3 else [1]
            scale = min(1.0, SIDE / max(src.height, src.width))
            shape = (len(bands), max(1, round(src.height * scale)), max(1, round(src.width * scale)))
            data = src.read(bands, out_shape=shape, resampling=Resampling.nearest)
            if src.nodata is not None:
                data = np.where(data == src.nodata, np.nan, data.astype(np.float64))
    except Exception:
        return ""
    picture = Image.fromarray(np.squeeze(np.moveaxis(_stretch(data), 0, 2)))
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _stretch(data: NDArray[Any]) -> NDArray[np.uint8]:
    values = data.astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    with np.errstate(all="ignore"):
        if np.isnan(values).all():
            return np.zeros(values.shape, np.uint8)
        low, high = np.nanpercentile(values, [2, 98])
    grey = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return np.nan_to_num(grey * 255).astype(np.uint8)
