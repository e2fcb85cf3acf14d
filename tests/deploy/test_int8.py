"""int8: made with its measured loss or not at all; the map of the graph; what it refuses."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from test_cli_map import bundle, raster  # noqa: F401

from swath.adapt.bundle import Bundle
from swath.core import SwathError, UserError, Window
from swath.data.scene import SceneHints
from swath.deploy.bundles import OpenBundle
from swath.deploy.inputs import OpenInputs
from swath.deploy.int8 import card_path, open_graph, quantise
from swath.deploy.map import map_scene
from swath.deploy.plan import MapSettings

pytestmark = pytest.mark.slow
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
sys.path.insert(0, str(Path(__file__).parents[1] / "adapt"))


@pytest.fixture(scope="module")
def graph(bundle, tmp_path_factory):  # noqa: F811
    import tiny_adapt as tiny

    out = tmp_path_factory.mktemp("int8") / "tiny.onnx"
    return out, quantise(Bundle.load(bundle), tiny.TinySource("mask", n=40), out)


def test_the_loss_is_measured_and_lies_beside_the_graph(bundle, graph):  # noqa: F811
    out, card = graph
    assert json.loads(card_path(out).read_text())["loss"] == card.loss
    assert card.samples == 10 and card.metric and abs(card.loss) < 0.1 and card.same_classes > 0.9
    assert card.loss == pytest.approx(card.score - card.score_int8)
    assert out.stat().st_size < 0.8 * (Path(bundle) / "weights.safetensors").stat().st_size


def test_the_map_of_the_graph_is_nearly_that_of_the_bundle(bundle, graph, raster, tmp_path):  # noqa: F811
    scene = OpenInputs((str(raster[0]),), SceneHints("sentinel2-l2a"))
    whole = map_scene(scene, OpenBundle(str(bundle)), tmp_path / "a.tif", settings=MapSettings(proba=True))
    small = map_scene(scene, OpenBundle(str(bundle), int8=str(graph[0])), tmp_path / "b.tif",
                      settings=MapSettings(proba=True))  # fmt: skip
    a, b = (rasterio.open(m.files["class"]).read(1) for m in (whole, small))
    p, q = (rasterio.open(m.files["proba"]).read().astype(float) / 1e4 for m in (whole, small))
    assert ((a == 255) == (b == 255)).all() and (a == b).mean() > 0.9
    assert 0 < np.abs(p - q)[:, a != 255].mean() < 0.03
    texts = [json.loads(Path(m.files["item"]).read_text())["properties"]["swath:weights"] for m in (whole, small)]
    assert texts[0] != texts[1] and "int8" in texts[1]


def test_what_is_not_measured_is_not_opened(bundle, graph, tmp_path):  # noqa: F811
    import tiny_adapt as tiny

    held = Bundle.load(bundle)
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(graph[0].read_bytes())
    with pytest.raises(UserError, match="card cannot be read"):
        open_graph(held, str(alone))
    facts = json.loads(card_path(graph[0]).read_text())
    card_path(alone).write_text(json.dumps({**facts, "bundle": "another"}))
    with pytest.raises(UserError, match="not the one that was measured"):
        open_graph(held, str(alone))
    with pytest.raises(UserError, match="runs on the processor"):
        OpenBundle(str(bundle), device="cuda", int8=str(graph[0]))()
    with pytest.raises(UserError, match="no strangeness"):
        OpenBundle(str(bundle), strangeness=True, int8=str(graph[0]))()
    for out, split, words in (("x.bin", "test", "ONNX name"), ("x.onnx", "tset", "tset")):
        with pytest.raises(UserError, match=words):
            quantise(held, tiny.TinySource("mask", n=40), tmp_path / out, split=split)
    with pytest.raises(UserError, match="cut as the bundle was trained"):
        quantise(held, tiny.TinySource("mask", n=40, size=48), tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists() and not list(tmp_path.glob(".int8-*"))


def test_gaps_and_other_tiles_are_refused(bundle, graph):  # noqa: F811
    import tiny_adapt as tiny

    model, _ = open_graph(Bundle.load(bundle), str(graph[0]))
    batch = tiny.TinySource("mask", n=4).sample(0)
    assert set(model.predict(batch)) == {"probabilities", "classes"}
    name, layer = next(iter(batch.layers.items()))
    from swath.core import Batch, collate

    bad = layer.valid.clone()
    bad[..., :3, :3] = False
    two = collate([batch, Batch({name: replace(layer, valid=bad)}, batch.where, batch.labels)])
    with pytest.raises(SwathError, match="gaps"):
        model.predict(two)
    with pytest.raises(UserError, match="--tile"):
        small = Window(0, 0, 16, 16).slices
        model.predict(
            Batch({name: replace(layer, x=layer.x[..., *small], valid=layer.valid[..., *small])}, batch.where)
        )


def test_pixels_that_the_input_hides_are_not_judged(bundle, tmp_path):  # noqa: F811
    import tiny_adapt as tiny

    class Hidden(tiny.TinySource):
        def __init__(self, wrong):
            super().__init__("mask", n=40)
            self.wrong = wrong

        def sample(self, index, bands=None):
            batch = super().sample(index, bands)
            (name, layer), label = next(iter(batch.layers.items())), batch.labels["what"]
            valid, value = layer.valid.clone(), label.value.clone()
            valid[..., :8, :] = False
            value[..., :8, :] = (value[..., :8, :] + self.wrong) % 3
            labels = {"what": replace(label, value=value)}
            return replace(batch, layers={name: replace(layer, valid=valid)}, labels=labels)

    held = Bundle.load(bundle)
    cards = [quantise(held, Hidden(wrong), tmp_path / f"{wrong}.onnx") for wrong in (0, 1)]
    assert cards[0].score == cards[1].score and cards[0].same_classes == cards[1].same_classes > 0.9
