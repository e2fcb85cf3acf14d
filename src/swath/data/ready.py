"""`swath init` for data that say themselves what they are: a tortilla, a pack, series, a card of another layout. Only a
run file is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swath.core.config import parse_member
from swath.core.contracts import Source
from swath.core.errors import UnknownName, UserError
from swath.data.open import config_of
from swath.data.propose import Note
from swath.data.sources import SOURCES
from swath.data.start import TASKS, UNLABELLED, Started, run_of, run_text, write


def says_itself(ref: str) -> bool:
    """Whether data need no card of ours: everything but a folder of rasters that we have no card of."""
    return not Path(ref).is_dir() or config_of(ref)["kind"] != "folder"


def begin(
    ref: str, task: str, out: Path | None = None, encoder: str = "swath-vit", *, path: str | None = None
) -> Started:
    """Write run.yaml into `out`, by default a folder here called as the data; a shipped card's data lie in `path`."""
    if task not in (*TASKS, UNLABELLED):
        raise UnknownName("task", task, (*TASKS, UNLABELLED))
    data = config_of(ref, path=path)
    data = {**data, "path": str(Path(data["path"]).resolve())} if "path" in data else data
    source = parse_member(data, SOURCES, where=ref).build()
    target = (out or Path(Path(ref).stem)).resolve()
    if (target / "run.yaml").exists():
        raise UserError("run.yaml is there already", where=str(target), remedy="remove it, or choose another --out")
    what = {"kind": task} if task == UNLABELLED else _task(source, ref, task)
    splits = {k: len(v) for k, v in source.splits().items()}
    notes = [] if "train" in splits else [Note("the data have no split 'train': tuning cuts splits by key", False)]
    if rule := getattr(source, "split_rule", ""):
        notes.append(Note(f"splits: {rule}", False))
    run = run_of(data, source.name, what, encoder, splits.get("train", len(source)))
    write({target / "run.yaml": run_text(run, notes)})
    label = source.labels.get(what.get("label", next(iter(source.labels), "")))
    facts = {
        "samples": len(source),
        "layers": {s.id: list(s.names) for s in source.sensors},
        "classes": list(label.classes) if label is not None else [],
        "splits": splits,
    }
    return Started(None, target / "run.yaml", facts, tuple(n.text for n in notes if not n.certain))


def _task(source: Source, ref: str, task: str) -> dict[str, Any]:
    """The task on the first label that it takes, named where there are several."""
    labels = source.labels
    fits = [n for n, spec in labels.items() if spec.kind in TASKS[task]]
    if not fits:
        has = ", ".join(f"{n} ({spec.kind})" for n, spec in labels.items()) or "none"
        kinds = {spec.kind for spec in labels.values()}
        others = [t for t, takes in TASKS.items() if kinds & set(takes)]
        raise UserError(
            f"the task '{task}' needs a label of kind {' or '.join(TASKS[task])}; found: {has}",
            where=ref,
            remedy=f"these labels fit --task {', '.join(others)}" if others else "choose other data",
        )
    return {"kind": task} if len(labels) == 1 else {"kind": task, "label": fits[0]}
