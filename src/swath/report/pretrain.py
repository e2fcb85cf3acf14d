"""The page of a pretraining, made from `record.json` and its pictures alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swath.report.figures import Axes, curves
from swath.report.page import Page, esc, facts, figure, gallery, image, table, text
from swath.report.record import again, line, number, read, used


def write(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write `report.html` beside the record."""
    place = Path(folder)
    record = read(place, "pretrain")
    card, pictures = record["card"], record["pictures"]
    sensors = ", ".join(card["sensors"])
    page = Page(record["name"], f"{card['objective']['kind']} · {card['architecture']['spec']} · {sensors}")
    page.add(_head(card))
    if record["probe"]:
        page.section("What the features know", *_probe(record))
    page.section("Curves", *_curves(record["curves"]))
    if pictures.get("reconstructions"):
        page.section("Reconstructions", *_reconstructions(pictures["reconstructions"], place / "pictures"))
    if pictures.get("features"):
        page.section("Features as colours", *_features(pictures["features"], place / "pictures"))
    page.section("Data", *_data(card))
    page.section("Compute", *_compute(card))
    page.section("Provenance", *_provenance(record))
    return page.write(out or place / "report.html")


def _head(card: Mapping[str, Any]) -> str:
    compute = card["compute"]
    return facts({
        "last loss": number(card["loss"]),
        "steps": f"{card['steps']:,}",
        "encoder parameters": f"{card['architecture']['parameters']:,}",
        "tokens a second": number(compute["tokens_per_s"], ",.0f"),
        "MFU": number(compute["mfu"], ".0%"),
        "waiting for data": number(compute["data_wait"], ".1%"),
        "J a sample": number(card["joules_per_sample"], ".3g"),
        **used(card["energy"]),
        "seconds": f"{card['seconds']:.0f}",
    })  # fmt: skip


def _probe(record: Mapping[str, Any]) -> list[str]:
    start, rows = record["probe_start"], [r for r in record["curves"] if "linear" in r]
    names = [k for k in ("linear", "knn") if k in start]
    series: dict[str, Sequence[tuple[float, float]]] = {
        n: [(0.0, start[n]), *((float(r["step"]), r[n]) for r in rows)] for n in names
    }
    if "commonest" in start:
        last = float(rows[-1]["step"]) if rows else 0.0
        series["commonest class"] = [(0.0, start["commonest"]), (last, start["commonest"])]
    said = f"probes of {record['probe']['label']} on frozen features"
    picture = curves(series, Axes("step", "accuracy"), said)
    end = rows[-1] if rows else start
    gains = [{"probe": n, "start": start[n], "end": end[n], "gain, points": 100 * (end[n] - start[n])} for n in names]
    words = "Step 0 is where the run started from: a random initialisation or the weights it was given."
    return [figure(picture, said), table(gains), text(words, "note")]


def _curves(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    steps = [r for r in rows if r.get("loss") is not None]
    if not steps:
        return [text("No step was written down.", "soft")]
    known = ("step", "epoch", "loss", "lr", "grad_norm", "seconds", "samples_per_s", "data_wait", "memory_gb")
    parts = [figure(curves({"loss": line(steps, "loss")}, Axes("step", "loss"), "loss"), "Training loss")]
    terms = [k for k in steps[-1] if k not in known]
    if terms:
        series = {k: line(steps, k) for k in terms}
        parts.append(figure(curves(series, Axes("step", "term"), "terms"), "Terms of the loss"))
    series = {"gradient norm": line(steps, "grad_norm")}
    parts.append(figure(curves(series, Axes("step", "norm"), "gradient norm"), "Gradient norm, before clipping"))
    return parts


def _file(folder: Path, name: str, words: str) -> list[str]:
    path = folder / name
    return [figure(image(path.read_bytes(), words), words)] if path.is_file() else []


def _reconstructions(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    parts: list[str] = []
    for sensor in dict.fromkeys(r["sensor"] for r in rows):
        mine = [r for r in rows if r["sensor"] == sensor]
        known = [r["mse"] for r in mine if r["mse"] is not None]
        error = f", hidden tokens' mean squared error {sum(known) / len(known):.3g} (standardised)" if known else ""
        parts.append(f"<h3>{esc(sensor)}{esc(error)}</h3>")
        shown = [
            f for r in mine
            for role, word in (("input", "input"), ("masked", "what was seen"), ("made", "reconstruction"))
            for f in _file(folder, r[role], f"chip {r['chip']}: {word}")
        ]  # fmt: skip
        parts.append(gallery(shown, 300))
    words = (
        "Chips that nothing was learnt from where there is such a split; dates side by side. Pale is hidden, lilac was "
        "never measured. What is shown of hidden tokens alone is predicted. Objectives with per-patch targets are "
        "given each patch's true mean and width."
    )
    return [*parts, text(words, "note")]


def _features(told: Mapping[str, Any], folder: Path) -> list[str]:
    shown: list[str] = []
    for i, files in enumerate(told["chips"]):
        for role, word in (
            ("input", told["sensor"]),
            ("start", "features at the start"),
            ("end", "features at the end"),
        ):
            shown += _file(folder, files[role], f"chip {i}: {word}")
    rows = [
        {"weights": k, "variance in three components": told[k]["explained"],
         "effective rank": told[k]["effective_rank"], "width": told[k]["width"], "cells": told[k]["cells"]}
        for k in ("start", "end")
    ]  # fmt: skip
    words = (
        "Colours are the first three principal components over all chips; the start and the end have each their own."
    )
    return [gallery(shown, 300), table(rows), text(words, "note")]


def _data(card: Mapping[str, Any]) -> list[str]:
    data = card["data"]
    rows = [{"what": k, "value": str(data[k])} for k in ("source", "fingerprint", "licence", "samples") if k in data]
    rows += [{"what": k, "value": str(v)} for k, v in data["sampling"].items() if v is not None]
    bands = [{"sensor": s, "bands": ", ".join(b)} for s, b in card["sensors"].items()]
    parts = [table(rows), table(bands)]
    varied = data["diversity"]
    shares = [
        {"aspect": k, "entropy, nats": varied["entropy"][k],
         "shares": ", ".join(f"{n} {v:.0%}" for n, v in list(s.items())[:6])}
        for k, s in varied["shares"].items()
    ]  # fmt: skip
    if varied["spectral"]:
        told = ", ".join(f"{k} {v:.3g}" for k, v in varied["spectral"].items())
        shares.append({"aspect": "spectral entropy, bits", "entropy, nats": None, "shares": told})
    return [*parts, f"<h3>Diversity of {varied['samples']} samples</h3>", table(shares)]


def _compute(card: Mapping[str, Any]) -> list[str]:
    c = card["compute"]
    rows = {
        "FLOPs of the run": number(c["flops"], ".3e"),
        "measured peak of a matrix product": number(c["peak_flops_per_s"] / 1e9, ",.0f", " GFLOP/s"),
        "device": f"{c['device']}, {c['threads']} threads, {c['ranks']} ranks",
        "seconds in steps": number(c["step_seconds"], ".1f"),
        "energy by": ", ".join(card["energy"]["methods"]) or "nothing: it was not measured",
    }
    shapes = [
        {"batch": k, "passes": b["passes"], "GFLOP a pass": None if b["flops"] is None else b["flops"] / 1e9,
         "tokens a pass": b["tokens"]}
        for k, b in c["flops_by_shape"].items()
    ]  # fmt: skip
    words = (
        "FLOPs are those of the forward and backward pass of the first batch of a shape; a mask that shows more "
        "or fewer tokens from batch to batch moves them. MFU leaves the wait for data out and the optimiser in."
    )
    return [table([{"what": k, "value": v} for k, v in rows.items()]), table(shapes), text(words, "note")]


def _provenance(record: Mapping[str, Any]) -> list[str]:
    card = record["card"]
    rows = {
        "weights": card["sha256"], "started from": card["weights_from"], "code": json.dumps(card["code"]),
        "environment": json.dumps(card["environment"]), "skipped steps": card["skipped"],
    }  # fmt: skip
    return [table([{"what": k, "value": str(v)} for k, v in rows.items()]), *again(record, "swath pretrain run.yaml")]
