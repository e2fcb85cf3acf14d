"""`swath data show DATA`: what a tortilla, folder, card or source holds, sample by sample."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def command(
    data: Annotated[list[str], typer.Argument(help="Tortilla files, a folder, a card file or a card's name.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Show every sample with id and split; of a tortilla also every leaf with shape, dtype and sha256."""
    from pathlib import Path

    from swath.cli.output import answer, answer_json
    from swath.data.tortilla import holds_tortillas, is_tortilla, parts, show

    paths = [Path(d) for d in data]
    if all(p.suffix in (".tortilla", ".taco") or is_tortilla(p) or holds_tortillas(p) for p in paths):
        held = show([f for p in paths for f in (parts(p) if p.is_dir() else [p])])
    else:
        from swath.data.summary import summary

        held = summary(data[0])
    if as_json:
        answer_json(held)
        return
    samples: Any = held.get("samples")
    listed = isinstance(samples, list)
    answer({k: v for k, v in held.items() if k != "samples" or not listed}, False)
    rows: list[dict[str, Any]] = [_row(s) for s in samples] if listed else []
    if rows:
        answer(rows[:50], False, title=f"{len(rows)} samples" + (", the first 50" if len(rows) > 50 else ""))


def _row(sample: dict[str, Any]) -> dict[str, Any]:
    leaves = sample.get("leaves") or []
    text = ", ".join(f"{x['path'][-1]} {'x'.join(map(str, x.get('shape', [x['format']])))}" for x in leaves[:6])
    more = f" and {len(leaves) - 6} more" if len(leaves) > 6 else ""
    return {"id": sample["id"], "split": sample["split"], "holds": text + more or sample.get("holds", "")}
