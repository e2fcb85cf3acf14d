"""The page of a tuned model, made from `record.json` and its pictures alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swath.report.figures import Axes, Row, curves, heat, intervals
from swath.report.page import Page, esc, facts, figure, gallery, image, swatches, table, text
from swath.report.record import again, line, number, read, used


def write(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write `report.html` beside the record."""
    place = Path(folder)
    record = read(place, "tune")
    card = record["card"]
    tests = record["splits"]["test"]
    page = Page(
        record["name"],
        f"{card['task']} · {card['encoder']} · {card['tuning']} · test of {tests} sample{'' if tests == 1 else 's'}",
    )
    page.add(_head(record))
    if record["notes"]:
        page.add("".join(text(n, "note") for n in record["notes"]))
    page.section("Scores", *_scores(record))
    if record.get("confusion"):
        page.section("Confusion", *_confusion(record))
    if record.get("chips"):
        page.section("Best and worst chips", *_chips(record, place / "chips"))
    page.section("Curves", *_curves(record))
    page.section("Trust", *_trust(record))
    page.section("What it takes and gives", *_interface(card))
    page.section("Provenance", *_provenance(record))
    return page.write(out or place / "report.html")


def _head(record: Mapping[str, Any]) -> str:
    primary, card = record["primary"], record["card"]
    spans = record["intervals"].get(primary)
    value, base = record["scores"].get(primary), record["baseline"].get(primary)
    shown = {
        primary: number(value),
        **({"95 % interval": f"{spans[0]:.3g} to {spans[1]:.3g}"} if spans else {}),
        **({"baseline without learning": number(base)} if base is not None else {}),
        "trainable parameters": f"{card['cost'].get('trainable', 0) + card['cost'].get('head', 0):,.0f}",
        **used(record["fit"].get("energy", {})),
        "seconds": f"{record['seconds']:.0f}",
    }
    return facts(shown)


def _scores(record: Mapping[str, Any]) -> list[str]:
    scores, spans = record["scores"], record["intervals"]
    per_class = [k for k in scores if "/" in k]
    summary = [k for k in scores if "/" not in k]
    rows = [
        {"score": k, "value": scores[k], "low": spans.get(k, (None, None))[0], "high": spans.get(k, (None, None))[1],
         "baseline": record["baseline"].get(k)}
        for k in summary
    ]  # fmt: skip
    parts = [table(rows)]
    kind = record["primary"].split("_")[0]
    kind = {"accuracy": "recall"}.get(kind, kind)  # of one class they are the same
    kind = kind if any(k.startswith(f"{kind}/") for k in per_class) else "f1"
    shown = [k for k in per_class if k.startswith(f"{kind}/")]
    lines = [Row(k.partition("/")[2], scores[k], *spans[k]) for k in shown if k in spans and scores[k] is not None]
    if lines:
        parts.append(
            figure(intervals(lines, f"{kind} per class"), f"{kind} per class; 95 % intervals, by resampling samples")
        )
    if per_class:
        names = list(dict.fromkeys(k.partition("/")[2] for k in per_class))
        kinds = list(dict.fromkeys(k.partition("/")[0] for k in per_class))
        parts.append(table([{"class": n, **{k: scores.get(f"{k}/{n}") for k in kinds}} for n in names]))
    return parts


def _confusion(record: Mapping[str, Any]) -> list[str]:
    """Of the classes that the test split holds, or that were said of it."""
    matrix, names = record["confusion"], record["card"]["label"]["classes"]
    names = names if len(names) == len(matrix) else ("outside", "field", "boundary")
    true = [sum(row) for row in matrix]
    said = [sum(row[j] for row in matrix) for j in range(len(matrix))]
    rows = [i for i, n in enumerate(true) if n]
    columns = [j for j, n in enumerate(said) if n or true[j]]
    values = {(f"is {names[i]}", f"said {names[j]}"): matrix[i][j] / true[i] for i in rows for j in columns}
    picture = heat([f"is {names[i]}" for i in rows], [f"said {names[j]}" for j in columns], values, "confusion")
    return [figure(picture, "Share of each true class (rows) by what was said (columns)"), *_absent(names, true)]


def _absent(names: Sequence[str], true: Sequence[float]) -> list[str]:
    lost = [n for n, count in zip(names, true, strict=True) if not count]
    return [text(f"Not in the test split, and so not judged: {', '.join(lost)}.", "note")] if lost else []


def _chips(record: Mapping[str, Any], folder: Path) -> list[str]:
    parts: list[str] = []
    for rank in ("best", "worst"):
        figures: list[str] = []
        mine = [c for c in record["chips"] if c["rank"] == rank]
        for chip in mine:
            first = "before" if "after" in chip else "seen"
            for role, word in (("image", first), ("after", "after"), ("truth", "true"), ("told", "said")):
                if role in chip and (folder / chip[role]).is_file():
                    measure = chip.get("measure", f"{chip['score']:.3g}")
                    note = f"{chip['name']}: {word}" + (f", {measure}" if role == "image" else "")
                    note += f", {chip['caption']}" if role == "image" and "caption" in chip else ""
                    if role in ("truth", "told") and "span" in chip:
                        low, high, unit = chip["span"]
                        note += f", {low:.3g} to {high:.3g} {unit}".rstrip()
                    figures.append(figure(image((folder / chip[role]).read_bytes(), note), note))
        if figures:
            told = any("told" in c for c in record["chips"])
            both = (4 if any("after" in c for c in record["chips"]) else 3) if told else 0
            colours: dict[str, str] = {}
            for chip in mine:
                colours |= chip.get("colours", {})
            parts += [f"<h3>{esc(rank.capitalize())}</h3>", gallery(figures, 220 if both else 150, both)]
            parts += [swatches(colours)] if colours else []
    return parts


def _curves(record: Mapping[str, Any]) -> list[str]:
    rows, primary = record["curves"], record["primary"]
    loss, watched = line(rows, "loss"), line(rows, primary)
    parts: list[str] = []
    if loss:
        parts.append(figure(curves({"training loss": loss}, Axes("step", "loss"), "training loss"), "Training loss"))
    if watched:
        name = f"validation {primary}"
        parts.append(figure(curves({name: watched}, Axes("step", primary), name), f"{name}; the best step is kept"))
    return parts or [text("Nothing was trained: the head remembers the training samples.", "soft")]


def _trust(record: Mapping[str, Any]) -> list[str]:
    c, curve = record["card"]["calibration"], record.get("reliability") or {}
    if c["ece"] is None and c["ece_before"] is None and c["conformal"] is None and not record["constraints"]:
        return [text("Nothing is calibrated for this kind of answer: its confidence is the model's own.", "note")]
    known = {"temperature": c["temperature"], "ECE before": c["ece_before"], "ECE after (test)": c["ece"]}
    # of values there is neither a temperature nor an error of calibration
    rows = {} if c["ece_before"] is None and c["ece"] is None else {k: number(v) for k, v in known.items()}
    if c["conformal"] is not None:
        promised = f"{1 - c['alpha']:.0%}"
        rows |= {
            f"coverage reached ({promised} asked)": number(c["coverage"]),
            "mean set size or width": number(c["set_size"]),
        }
    parts = [facts(rows)] if rows else []
    if curve:
        series = {
            f"{k} temperature": [
                (x, y)
                for x, y, n in zip(curve[k]["confidence"], curve[k]["accuracy"], curve[k]["count"], strict=True)
                if n
            ]
            for k in ("before", "after")
        }
        series["perfect"] = [(0.0, 0.0), (1.0, 1.0)]
        words = "Reliability on validation: how often what is said with that confidence is right"
        parts.append(figure(curves(series, Axes("confidence", "accuracy"), "reliability"), words))
    if record["constraints"]:
        parts.append(
            table([{"constraint": k, "share of values that break it": v} for k, v in record["constraints"].items()])
        )
    parts.append(text(
        "Conformal coverage is promised for data exchangeable with the validation split; pixels of one chip are not "
        "independent, so the coverage above is what was measured on the test split.", "note"))  # fmt: skip
    return parts


def _interface(card: Mapping[str, Any]) -> list[str]:
    bands = [
        {"sensor": i["sensor"], "band": b["name"], "unit": b["unit"], "nm": b["nm"], "gsd": b["gsd"],
         "mean": b["mean"], "std": b["std"]}
        for i in card["inputs"] for b in i["bands"]
    ]  # fmt: skip
    label, tiling = card["label"], card["tiling"]
    gives = ", ".join(label["classes"]) or label["unit"] or "values"
    return [
        table(bands),
        text(f"Gives {label['kind']} '{label['name']}': {gives}."),
        text(f"Tiles of {tiling['tile']} pixels (a multiple of {tiling['multiple']}), halo {tiling['halo']}.", "note"),
    ]


def _provenance(record: Mapping[str, Any]) -> list[str]:
    card, fit = record["card"], record["fit"]
    rows = {
        "base weights": card["base"]["weights"] or "random start", "base sha256": card["base"]["sha256"],
        "licence of the base": card["base"]["licence"], "bundle digest": card["digest"],
        **{k: v for k, v in card["provenance"].items() if v not in ("", None)},
        "hardware": record["hardware"], "steps": fit.get("steps"), "stopped": fit.get("stopped"),
        "best step": fit.get("best_step"), "energy by": ", ".join(fit.get("energy", {}).get("methods", [])),
    }  # fmt: skip
    proof = record.get("proof")
    if proof:
        rows["weights loaded"] = f"{proof['fraction']:.1%}, {proof['matched']} tensors"
    known = [{"what": k, "value": str(v)} for k, v in rows.items() if v not in (None, "")]
    unknown = f"swath tune run.yaml  # run digest {card['provenance'].get('run', '')[:12]}"
    return [table(known), *again(record, unknown)]
