"""Pages: safe text, sortable tables, figures that survive odd values, and a real browser's view of a leaderboard."""

import json
import math
import re

import numpy as np
import pytest

import browser
from swath.core import Result, UserError
from swath.report import figures, page


def test_text_is_escaped(tmp_path):
    p = page.Page("<b>&", "x").section("a<script>", page.table([{"k<": "<img src=x>"}]), page.text("<i>"))
    html = p.write(tmp_path / "sub" / "p.html").read_text()
    assert "<img src=x>" not in html and "a&lt;script&gt;" in html and not list((tmp_path / "sub").glob("*.tmp"))


def test_tables_show_numbers_evenly():
    html = page.table([{"a": 1.5, "b": None}, {"a": 10.25, "b": float("nan")}, {"a": 1e-9, "b": 2.0}])
    assert "1.50<" in html and "10.25<" in html and "1e-09<" in html


@pytest.mark.parametrize("values", [[], [math.nan], [0.5], [0.5, 0.5], [-1e9, 1e9], [1e-12, 2e-12]])
def test_figures_take_any_values(values):
    rows = [figures.Row(f"r{i}", v, v, v) for i, v in enumerate(values)]
    for svg in (
        figures.intervals(rows, "t"),
        figures.strips({"a": values}, "t"),
        figures.curves({"a": [(i + 1.0, v) for i, v in enumerate(values)]}, figures.Axes("x", "y", log_x=True), "t"),
        figures.heat(["r"], ["c"], dict.fromkeys([("r", "c")], values[0]) if values else {}, "t"),
        figures.shares({"a": [v for v in values if 0 <= v <= 1]}, "t"),
    ):
        assert svg.startswith("<svg") and "nan" not in svg and "inf" not in svg


def test_a_curve_of_one_point_is_seen():
    axes = figures.Axes("step", "loss")
    one, two = (figures.curves({"loss": [(i, 0.5) for i in range(n)]}, axes, "t") for n in (1, 2))
    assert "<circle" in one and "<polyline" not in one
    assert "<circle" not in two and "<polyline" in two


def test_a_phone_sees_names_above_their_rows_and_nothing_cut(tmp_path):
    name = "a name as long as encoders have, tuned whole"
    axes = figures.Axes("step", "loss")
    made = {
        "intervals": figures.intervals([figures.Row(name, 0.5, 0.4, 0.6)], "t"),
        "strips": figures.strips({name: [0.1, 0.2]}, "t"),
        "curves": figures.curves({name: [(0, 0.0151), (9, 0.0153)]}, axes, "t"),
    }
    for kind, both in made.items():
        wide, narrow = re.findall(r'<svg class="(?:wide|narrow)".*?</svg>', both, re.S)
        assert 'class="wide"' in wide and 'class="narrow"' in narrow, kind
        assert float(re.search(r'width="([\d.]+)"', narrow)[1]) <= 362, "390 less the margins"
        at = [float(v) for v in re.findall(r'(?:cx|x1|x2|x)="(-?[\d.]+)"', narrow)]
        assert min(at) >= 0 and max(at) <= 362, kind
        assert "text-anchor" not in re.search(rf"<text[^>]*>{name}", narrow)[0], kind
        for end, words in re.findall(r'<text[^>]*x="([\d.]+)"[^>]*text-anchor="end">(.*?)</text>', narrow):
            assert float(end) >= 6.6 * len(words), (kind, words)
    page.Page("p").add(page.figure("".join(made.values()))).write(tmp_path / "p.html")
    seen = [browser.look(tmp_path / "p.html", width)["svgs_shown"] for width in (1280, 500)]
    assert seen == [["wide"] * 3, ["narrow"] * 3]


def test_what_was_not_measured_is_not_zero():
    from swath.report.record import used

    assert used({}) == used({"kwh": 0.0, "kgco2e": 0.0, "methods": []}) == {"energy": "not known", "CO2e": "not known"}
    assert used({"kwh": 0.0021, "kgco2e": 0.0, "methods": ["estimate"]}) == {"energy": "2.1 Wh", "CO2e": "0 g"}


def test_a_page_is_made_of_its_own_record_only(tmp_path):
    from swath.report import pretrain, tune

    for page_of, kind, other in ((tune, "tune", "pretrain"), (pretrain, "pretrain", "tune")):
        (tmp_path / "record.json").unlink(missing_ok=True)
        with pytest.raises(UserError, match=f"no record.json(.|\n)*swath {kind} wrote"):
            page_of.write(tmp_path)
        for wrong in ({"kind": other, "schema": 1}, {"kind": kind, "schema": 2}):
            (tmp_path / "record.json").write_text(json.dumps(wrong))
            with pytest.raises(UserError, match=f"no record of swath {kind}, schema 1"):
                page_of.write(tmp_path)
    assert not (tmp_path / "report.html").exists()


def records(n=6, **other):
    rng = np.random.default_rng(0)
    from swath.bench.suites import SUITES

    suite = SUITES.get("geobench2")
    facts = dict(
        suite="geobench2", protocol="p", tuning="full", metric="m", origin="rerun", licences={"weights": "MIT"}
    )
    return [
        Result(
            **{**facts, **other}, dataset=d.id, encoder=f"enc-{e}", seed=s, seconds=10.0 * (e + 1),
            value=d.low + (d.high - d.low) * (0.5 + 0.005 * e + 0.1 * rng.standard_normal()),
            units={"sentinel2-l2a": "reflectance"}, extra={"params": 1e7 * (e + 1), "task": d.task},
        )
        for e in range(n) for d in suite.data for s in range(3)
    ]  # fmt: skip


def test_the_leaderboard_in_a_browser(tmp_path):
    from swath.bench.ranking import Request, answer_of
    from swath.bench.store import add
    from swath.report.leaderboard import write

    rows = records()
    add(tmp_path / "r.jsonl", rows)
    found = answer_of([tmp_path / "r.jsonl"], Request("geobench2", "honest", repeats=2000))
    target = write(found, rows, tmp_path / "board.html")
    report = browser.assert_sound(target)
    assert report["svgs"] > 10
    html = target.read_text()
    assert "cannot be told apart" in html and "origin of the numbers: rerun" in html and "copied" not in html
    assert "Cost against score" in html and 'name="sensor"' in html and 'name="size"' in html


def test_a_browser_sees_what_is_wrong(tmp_path):
    bad = page.Page("bad").add('<img alt="gone" src="data:image/png;base64,AAAA"><script>console.error("x")</script>')
    report = browser.look(bad.write(tmp_path / "bad.html"))
    assert report["broken"] == ["gone"] and report["console"]


@pytest.mark.parametrize(("primary", "told"), [("iou_macro", "iou"), ("accuracy_macro", "recall"), ("kappa", "f1")])
def test_classes_are_drawn_under_their_own_scores_name(primary, told):
    from swath.report.tune import _scores

    scores = {"iou/wood": 0.31, "f1/wood": 0.32, "recall/wood": 0.33, primary: 0.5}
    record = {"scores": scores, "intervals": {k: (v, v) for k, v in scores.items()}, "primary": primary, "baseline": {}}
    drawn = next(p for p in _scores(record) if "per class" in p)
    assert f"{told} per class" in drawn and f"{scores[f'{told}/wood']:.3g}" in drawn


def test_a_confusion_holds_what_the_test_split_holds():
    from swath.report.tune import _confusion

    record = {"confusion": [[3, 0, 1], [0, 0, 0], [0, 0, 2]], "card": {"label": {"classes": ["a", "b", "c"]}}}
    told = "".join(_confusion(record))
    assert "is a" in told and "said c" in told and "is b" not in told and "said b" not in told
    assert "Not in the test split, and so not judged: b." in told and "0.75" in told


def test_chips_say_what_their_colours_mean(tmp_path):
    from swath.report.tune import _chips

    for name in ("i.png", "t.png", "s.png"):
        (tmp_path / name).write_bytes(b"\x89PNG")
    files = {"image": "i.png", "truth": "t.png", "told": "s.png"}
    chips = [
        {"name": "k", "rank": "best", "score": -2.0, "measure": "rmse 2", "span": [1.5, 30.0, "m"], **files},
        {"name": "l", "rank": "worst", "score": 0.25, "colours": {"forest": "#0a6401"}, **files},
    ]
    told = "".join(_chips({"chips": chips}, tmp_path))
    assert "k: seen, rmse 2" in told and "k: said, 1.5 to 30 m" in told and "-2" not in told
    assert 'style="background:#0a6401"></i>forest' in told and "l: seen, 0.25" in told
