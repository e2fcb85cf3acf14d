"""int8: a bundle as an ONNX Runtime graph whose matrix products are int8, never without what that costs.

`quantise` exports the bundle (proven equal in float), quantises weights per tensor and activations as they come, then
asks both for the labelled samples of a split. Scores, their difference and the share of equal classes are written
beside the graph; `open_graph` opens none without them. The graph takes every pixel as seen, one size of tile,
and knows neither place nor date: what that costs a bundle that uses them is in the measured loss.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swath.adapt.bundle import Bundle
from swath.adapt.export import export
from swath.core import Batch, Layer, Source, SwathError, UnknownName, UserError
from swath.core.config import parse
from swath.deploy.blend import fill
from swath.deploy.commit import disk_error, publish


@dataclass(frozen=True)
class Int8Card:
    """What a graph is of, and what it costs: `loss` is how much worse the score is than that of the bundle. Of classes,
    `same_classes` is the share of judged pixels that keep theirs."""

    bundle: str
    sha256: str
    tile: int
    data: str
    split: str
    samples: int
    metric: str
    score: float
    score_int8: float
    loss: float
    same_classes: float | None = None


def card_path(graph: Path) -> Path:
    """Where the card of a graph lies."""
    return graph.with_name(f"{graph.name}.json")


def quantise(bundle: Bundle, source: Source, out: Path, *, split: str = "test", most: int = 200) -> Int8Card:
    """Write the graph and its card; refuses data that cannot tell what int8 costs."""
    if out.suffix != ".onnx":
        raise UserError(f"'{out.name}' is no ONNX name", where="--out", remedy="write a name that ends in .onnx")
    if bundle.label.kind not in ("mask", "map"):
        raise UserError(f"a bundle that gives {bundle.label.kind} is not mapped by a graph", where=bundle.name)
    splits = source.splits()
    if split not in splits:
        raise UnknownName("split", split, splits, where=source.name)
    index = [int(i) for i in splits[split]]
    index = index[:: max(1, len(index) // most)][:most]
    if not index:
        raise UserError(f"split '{split}' holds no sample", where=source.name)
    tile = bundle.card.tiling.tile
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".int8-") as name:
        temp = Path(name) / "graph.onnx"
        _quantised(bundle, Path(name) / "float.onnx", temp)
        data = temp.read_bytes()
    graph = Graph(bundle, data, tile)
    measured = _measure(bundle, graph, source, index, tile)
    card = Int8Card(bundle.digest, hashlib.sha256(data).hexdigest(), tile, source.name, split, len(index), **measured)
    try:
        card_path(out).unlink(missing_ok=True)
    except OSError as why:
        raise disk_error(why, out) from why
    publish(out, data)
    publish(card_path(out), (json.dumps(asdict(card), indent=1) + "\n").encode())
    return card


def _quantised(bundle: Bundle, plain: Path, out: Path) -> None:
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as why:
        raise UserError(
            "ONNX Runtime's quantisation is not installed", where="int8", remedy="pip install onnxruntime onnx"
        ) from why
    export(bundle, "onnx", plain)
    graph = onnx.load(str(plain))
    _products(graph.graph)
    onnx.save(graph, str(plain))
    quantize_dynamic(
        str(plain), str(out), op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8, per_channel=True
    )


def _products(graph: Any) -> None:
    """Gemm as MatMul and Add: the quantiser, left to it, turns weights whose shapes it has noted before."""
    from onnx import helper, numpy_helper

    del graph.value_info[:]
    held = {t.name: t for t in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        said = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        plain = said.get("alpha", 1.0) == said.get("beta", 1.0) == 1.0 and not said.get("transA", 0)
        if node.op_type != "Gemm" or not plain or len(node.input) != 3 or node.input[1] not in held:
            nodes.append(node)
            continue
        x, weight, bias = node.input
        w = numpy_helper.to_array(held[weight])
        turned, product = f"{node.output[0]}.weight", f"{node.output[0]}.product"
        graph.initializer.append(
            numpy_helper.from_array(np.ascontiguousarray(w.T if said.get("transB", 0) else w), turned)
        )
        nodes += [
            helper.make_node("MatMul", [x, turned], [product]),
            helper.make_node("Add", [product, bias], node.output),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {i for node in nodes for i in node.input}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _measure(bundle: Bundle, graph: Graph, source: Source, index: list[int], tile: int) -> dict[str, Any]:
    bands = {i.sensor: i.bands for i in bundle.inputs}
    whole, small = bundle.task.scores(), bundle.task.scores()
    same, count = 0, 0
    for i in index:
        batch = source.sample(i, bands)
        sizes = {tuple(layer.shape[3:]) for layer in batch.layers.values()}
        if (tile, tile) not in sizes:
            raise UserError(
                f"its samples have {sorted(sizes)} pixels, the bundle's tiles {tile} x {tile}",
                where=source.name,
                remedy="measure on data cut as the bundle was trained",
            )
        want, got, batch = bundle.predict(batch), graph.predict(batch), bundle.task.judged(batch)
        whole.update(want, batch)
        small.update(got, batch)
        if "classes" in want:
            known = batch.labels[bundle.task.label.name].valid
            same += int(((want["classes"] == got["classes"]) & known).sum())
            count += int(known.sum())
    a, b = (float(s.compute()[s.primary]) for s in (whole, small))
    loss = a - b if whole.direction == "max" else b - a
    facts = {"metric": whole.primary, "score": a, "score_int8": b, "loss": loss}
    return {**facts, "same_classes": same / count if count else None}


class Graph:
    """A graph in memory that answers as a bundle does."""

    def __init__(self, bundle: Bundle, data: bytes, tile: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self.bundle, self.tile = bundle, tile
        self.main = "probabilities" if bundle.label.kind == "mask" else "values"

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        ready = self.bundle.prepare(fill(batch) if len(batch) == 1 else batch)
        lacking = [i.sensor for i in self.bundle.card.inputs if i.sensor not in ready.layers]
        if lacking:
            raise UserError(f"the int8 graph needs {', '.join(lacking)}", where=self.bundle.name)
        shapes = {i.name: tuple(i.shape) for i in self.session.get_inputs()}
        feeds = [self._feed(ready.layers, shapes, i) for i in range(len(batch))]
        rows = [torch.from_numpy(np.asarray(self.session.run(None, feed)[0])) for feed in feeds]
        out = {self.main: torch.cat(rows)}
        return out | {"classes": out[self.main].argmax(1)} if self.main == "probabilities" else out

    def _feed(self, layers: Mapping[str, Layer], shapes: Mapping[str, tuple[int, ...]], i: int) -> dict[str, Any]:
        for name, layer in layers.items():
            if tuple(layer.shape[1:]) != shapes[name][1:]:
                raise UserError(
                    f"{name} comes as {tuple(layer.shape[1:])}, the int8 graph takes {shapes[name][1:]}",
                    where=self.bundle.name,
                    remedy=f"use --tile {self.tile} and as many dates",
                )
            if not bool(layer.valid[i].all()):
                raise SwathError(
                    f"{name} has gaps on some of its dates, and the int8 graph takes every pixel as seen",
                    where=self.bundle.name,
                    remedy="map without --int8",
                )
        return {name: layers[name].x[i : i + 1].float().numpy() for name in shapes}


def open_graph(bundle: Bundle, file: str) -> tuple[Graph, Int8Card]:
    """The graph of this very bundle, with its measured loss; refuses a graph without one or of another bundle."""
    path = Path(file)
    try:
        data, text = path.read_bytes(), card_path(path).read_text(encoding="utf-8")
    except OSError as why:
        raise UserError(
            f"the graph or its card cannot be read: {why}", where=file, remedy="make it with swath map-int8"
        ) from why
    card = parse(json.loads(text), Int8Card, where=str(card_path(path)))
    if card.bundle != bundle.digest or card.sha256 != hashlib.sha256(data).hexdigest():
        raise UserError(
            "the graph is not the one that was measured for this bundle", where=file, remedy="make it again"
        )
    return Graph(bundle, data, card.tile), card
