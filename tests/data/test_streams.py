"""Packs: what comes back is what went in; killed, corrupted, remote; bands cost what they weigh."""

import http.server
import json
import pickle
import threading

import numpy as np
import pytest
import torch

from swath.core import SENSORS, Batch, Boxes, Grid, Label, LabelSpec, Layer, Where, collate
from swath.core.errors import SwathError, SwathWarning, UserError
from swath.data.streams import Mixture, PackConfig, PackedSource, Stream, joined, pack
from swath.data.streams.order import StreamConfig
from swath.data.streams.packed import verify

S2 = SENSORS.get("sentinel2-l2a")
S1 = SENSORS.get("sentinel1-grd")


class Samples:
    """Reflectance from whole numbers, radar dB, dates, holes, every kind of label; sample 3 lacks the radar."""

    name, licence, fingerprint = "memory", "CC-BY-4.0", "f00d"

    def __init__(self, n=10, side=24):
        self.n, self.side, self.sensors = n, side, (S2, S1)
        self.labels = {
            "mask": LabelSpec("mask", "mask", ("a", "b")), "height": LabelSpec("height", "map", unit="m"),
            "boxes": LabelSpec("boxes", "boxes", ("x",)), "tags": LabelSpec("tags", "tags", ("p", "q", "r")),
            "kind": LabelSpec("kind", "class", ("u", "v")), "value": LabelSpec("value", "scalar"),
        }  # fmt: skip
        self.reads = []

    def __len__(self):
        return self.n

    def splits(self):
        return {"train": range(self.n - 3), "test": range(self.n - 3, self.n)}

    def sample(self, index, bands=None):
        self.reads.append(index)
        rng, s = np.random.default_rng(index), self.side
        raw = rng.integers(1000, 9000, (1, 2, 12, s, s)).astype("uint16")
        scale = np.array([b.scale for b in S2.bands], dtype=np.float32).reshape(12, 1, 1)
        offset = np.array([b.offset for b in S2.bands], dtype=np.float32).reshape(12, 1, 1)
        valid = torch.from_numpy(rng.random((1, 2, 1, s, s)) > (0.2 if index % 2 else -1))
        layers = {
            S2.id: Layer.of(S2, torch.from_numpy(raw * scale + offset), valid, torch.tensor([[18000, 18000 + index]]))
        }
        if index != 3:
            layers[S1.id] = Layer.of(
                S1, torch.from_numpy(rng.normal(-12, 3, (1, 1, 2, s // 2, s // 2)).astype("float32"))
            )
        mask = torch.from_numpy(rng.integers(0, 2, (1, s, s)))
        n = index % 3
        labels = {
            "mask": Label("mask", mask, torch.from_numpy(rng.random((1, s, s)) > 0.1)),
            "height": Label("map", torch.from_numpy(rng.random((1, 1, s, s))), torch.ones(1, 1, s, s) > 0),
            "boxes": Label("boxes", torch.tensor([[s, s]]), torch.ones(1, 2, dtype=torch.bool),
                           (Boxes(torch.rand(n, 4), torch.zeros(n, dtype=torch.int64), torch.rand(n, s, s) > 0.5),)),
            "tags": Label("tags", torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[True, True, False]])),
            "kind": Label("class", torch.tensor([index % 2]), torch.tensor([True])),
            "value": Label("scalar", torch.tensor([index / 3]), torch.tensor([index != 2])),
        }  # fmt: skip
        grid = Grid("EPSG:32633", (10.0, 0.0, 5e5 + index, 0.0, -10.0, 5e6), (s, s))
        where = Where(
            torch.tensor([1000 + index]),
            torch.tensor([[15.0, 45.0 + index]], dtype=torch.float64),
            (grid,),
            (f"s{index}",),
        )
        return Batch(layers, where, labels)


class Fixed(Samples):
    """The same draw of torch's random boxes every time."""

    def sample(self, index, bands=None):
        with torch.random.fork_rng():
            torch.manual_seed(index)
            return super().sample(index, bands)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return str(pack(Fixed(), tmp_path_factory.mktemp("pack"), PackConfig(per_shard=4)))


def same(a, b):
    assert a.layers.keys() == b.layers.keys() and a.labels.keys() == b.labels.keys()
    for k, x in a.layers.items():
        y = b.layers[k]
        assert x.sensor == y.sensor and x.x.dtype == y.x.dtype
        assert torch.equal(x.x, y.x) and torch.equal(x.valid, y.valid)
        assert (x.times is None) == (y.times is None) and (x.times is None or torch.equal(x.times, y.times))
    for k, x in a.labels.items():
        y = b.labels[k]
        assert x.kind == y.kind and x.value.dtype == y.value.dtype and torch.equal(x.value, y.value)
        assert torch.equal(x.valid, y.valid)
        for p, q in zip(x.objects, y.objects, strict=True):
            assert torch.equal(p.xyxy, q.xyxy) and torch.equal(p.classes, q.classes) and torch.equal(p.masks, q.masks)
    assert torch.equal(a.where.key, b.where.key) and torch.equal(a.where.lonlat, b.where.lonlat)
    assert a.where.grids == b.where.grids and a.where.names == b.where.names


@pytest.mark.parametrize("codec", ["lz4hc", "zstd", "lz4", "none"])
def test_round_trip_is_exact(tmp_path, codec):
    source = Fixed()
    found = PackedSource(str(pack(source, tmp_path, PackConfig(codec=codec, per_shard=3))))
    assert len(found) == 10 and found.sensors == source.sensors and found.labels == source.labels
    assert {k: list(v) for k, v in found.splits().items()} == {k: list(v) for k, v in source.splits().items()}
    for i in range(10):
        same(source.sample(i), found.sample(i))
    collate([found.sample(0), found.sample(0)])
    assert verify(str(tmp_path)) == []
    assert found.lonlat[4].tolist() == [15.0, 49.0]


def test_stored_as_small_whole_numbers(packed):
    source = PackedSource(packed)
    raw = source.raw(0)
    assert {k: (v.dtype, v.scale[0]) for v in raw.form.layers for k in [v.id] if v.scale} == {S2.id: ("uint16", 1e-4)}
    assert raw.arrays[S2.id, "bands"].dtype == np.uint16
    assert raw.form.layers[1].dtype == "float32" and raw.form.labels[0].dtype == "uint8"


def test_bands_cost_what_they_weigh(packed):
    source = PackedSource(packed)
    seen = []
    read = source._files.read

    def counting(name, ranges):
        seen.append(sum(n for _, n in ranges))
        return read(name, ranges)

    source._files.read = counting
    one = source.sample(1, {S2.id: ["B04", "blue", "nir"]})
    three = seen.pop()
    whole = source.sample(1)
    everything = seen.pop()
    assert one.layers.keys() == {S2.id} and one.layers[S2.id].sensor.names == ("red", "blue", "nir")
    assert torch.equal(one.layers[S2.id].x, whole.layers[S2.id].select(["red", "blue", "nir"]).x)
    labels = sum(source.index[1]["length"][int(source.index[0]["first"][1]) :][-8:])
    assert three < 0.45 * everything, (three, everything, labels)


class Plain(Fixed):
    """Without boxes and holes in the list of sensors: samples that are decoded straight into a batch."""

    def __init__(self, n=10, side=24):
        super().__init__(n, side)
        self.labels = {k: v for k, v in self.labels.items() if k != "boxes"}

    def sample(self, index, bands=None):
        batch = super().sample(index, bands)
        return Batch(batch.layers, batch.where, {k: v for k, v in batch.labels.items() if k != "boxes"})


@pytest.mark.parametrize("codec", ["lz4hc", "none"])
@pytest.mark.parametrize("indices", [[0, 2, 4], [1, 5, 1, 7], [0, 1, 3], [3], [6]])
@pytest.mark.parametrize("bands", [None, {S2.id: ["red", "blue"], S1.id: ["vh"]}, {S1.id: ["vv"]}])
def test_a_batch_is_its_samples_collated(tmp_path_factory, codec, indices, bands):
    if (codec, "plain") not in PLAIN:
        root = pack(Plain(), tmp_path_factory.mktemp("plain"), PackConfig(codec=codec, per_shard=4))
        PLAIN[codec, "plain"] = PackedSource(str(root), verify="always")
    source = PLAIN[codec, "plain"]
    if bands is not None and S2.id not in bands and 3 in indices:
        return
    given = []

    def room(shape, dtype):
        given.append(np.full(shape, 7, dtype))
        return given[-1]

    found = source.batch(indices, bands, room)
    want = collate([source._careful(i, bands) for i in indices])
    same(found, want)
    if 3 not in indices:
        held = [a for a in given if found.layers[S1.id].x.data_ptr() == a.ctypes.data]
        assert held, "samples of one outline are decoded into the arrays that were given"


PLAIN = {}


def test_a_killed_pack_goes_on(tmp_path, monkeypatch):
    class Killed(Fixed):
        def sample(self, index, bands=None):
            if index == 9:
                raise KeyboardInterrupt
            return super().sample(index, bands)

    with pytest.raises(KeyboardInterrupt):
        pack(Killed(), tmp_path, PackConfig(per_shard=4))
    assert sorted(p.name for p in tmp_path.glob("shard*.bin")) == ["shard-00000.bin", "shard-00001.bin"]
    assert (tmp_path / "shard-00002.bin.part").exists()
    with pytest.raises(UserError, match="no finished pack"):
        PackedSource(str(tmp_path))
    source = Fixed()
    pack(source, tmp_path, PackConfig(per_shard=4))
    assert set(source.reads) == {8, 9}  # what was finished is not read again
    same(PackedSource(str(tmp_path)).sample(2), source.sample(2))
    source.fingerprint = "beef"
    with pytest.raises(UserError, match="fingerprint"):
        pack(source, tmp_path, PackConfig(per_shard=4))


def test_processes_write_the_same_pack(tmp_path):
    a, b = (pack(Fixed(6, 8), tmp_path / str(n), PackConfig(per_shard=2, workers=n)) for n in (1, 2))
    for file in sorted(a.iterdir()):
        assert file.read_bytes() == (b / file.name).read_bytes(), file.name


def spoil(root, index, what, tmp_path, cut=None):
    """Flip a byte in a chunk of a copy of the pack."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    source = PackedSource(str(copy))
    row = source.index[0][index]
    from swath.data.streams.form import read_form, slots

    every = slots(read_form(source._forms[int(row["form"])]), source._bands)
    place = 0 if what == "head" else 1 + next(i for i, s in enumerate(every) if (s.of, s.band) == what)
    chunk = source.index[1][int(row["first"]) + place]
    shard = copy / f"shard-{int(row['shard']):05d}.bin"
    data = bytearray(shard.read_bytes())
    if cut is None:
        data[int(chunk["offset"]) + int(chunk["length"]) // 2] ^= 0xFF
    else:
        del data[int(chunk["offset"]) + 1 :]
    shard.write_bytes(data)
    return str(copy)


def test_a_corrupt_chunk_is_named(packed, tmp_path):
    root = spoil(packed, 5, (S2.id, 3), tmp_path)
    source = PackedSource(root)
    with pytest.raises(SwathError, match=r"sentinel2-l2a, band red of sample 5 \(s5\): its checksum") as error:
        source.sample(5)
    assert "shard-00001.bin" in error.value.where and "on_corrupt" in error.value.remedy
    same(source.sample(4), PackedSource(packed).sample(4))
    source.sample(5, {S2.id: ["blue"]})
    assert len(verify(root)) == 1
    skipping = PackedSource(root, on_corrupt="skip")
    with pytest.warns(SwathWarning, match="skipped"):
        got = skipping.sample(5)
    assert not got.layers[S2.id].valid.any() and got.layers[S1.id].valid.all()
    assert got.layers[S2.id].times.tolist() == [[18000, 18005]]


def test_a_corrupt_head_or_label_and_a_truncated_shard(packed, tmp_path):
    with pytest.warns(SwathWarning, match="mask, value"):
        got = PackedSource(spoil(packed, 1, ("mask", -1), tmp_path / "a"), on_corrupt="skip").sample(1)
    assert not got.labels["mask"].valid.any() and got.layers[S2.id].valid.any()
    with pytest.warns(SwathWarning, match="the head"):
        got = PackedSource(spoil(packed, 1, "head", tmp_path / "b"), on_corrupt="skip").sample(1)
    assert not any(x.valid.any() for x in got.layers.values()) and int(got.where.key[0]) == 1001
    root = spoil(packed, 9, (S2.id, 0), tmp_path / "c", cut=True)
    with pytest.raises(SwathError, match="bytes are there"):
        PackedSource(root).sample(9)


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A file server that answers range requests."""

    fail = 0

    def do_GET(self):
        if type(self).fail:
            type(self).fail -= 1
            self.send_error(503)
            return
        span = self.headers.get("Range")
        if span is None:
            super().do_GET()
            return
        first, last = (int(v) for v in span.removeprefix("bytes=").split("-"))
        with open(self.translate_path(self.path), "rb") as file:
            file.seek(first)
            data = file.read(last - first + 1)
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def test_over_http(packed):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Ranges(*a, directory=packed))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        source = PackedSource(f"http://127.0.0.1:{server.server_port}")
        local = PackedSource(packed)
        same(source.sample(6), local.sample(6))
        Ranges.fail = 1
        same(source.sample(2), local.sample(2))
        with pytest.raises(UserError, match="404"):
            PackedSource(f"http://127.0.0.1:{server.server_port}/nowhere")
    finally:
        server.shutdown()
        server.server_close()


def test_in_an_object_store(packed):
    import fsspec

    store = fsspec.filesystem("memory")
    store.put(packed, "/bucket", recursive=True)
    same(PackedSource("memory://bucket").sample(6), PackedSource(packed).sample(6))
    with pytest.raises(UserError):
        PackedSource("memory://nowhere")


def test_a_source_pickles_and_opens_by_config(packed):
    from swath.core.config import parse_member
    from swath.data.sources import SOURCES

    source = PackedSource(packed)
    source.sample(0)
    same(pickle.loads(pickle.dumps(source)).sample(0), source.sample(0))
    assert parse_member({"kind": "packed", "path": packed}, SOURCES).build().fingerprint == source.fingerprint


def test_what_is_refused(tmp_path, packed):
    with pytest.raises(UserError, match="codec"):
        pack(Fixed(), tmp_path, PackConfig(codec="rar"))
    with pytest.raises(UserError, match="no sample"):
        pack(Fixed(0), tmp_path)
    (tmp_path / "pack.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(UserError, match="another format"):
        PackedSource(str(tmp_path))
    with pytest.raises(UserError):
        PackedSource(packed).sample(3, {S1.id: ["vv"]})


def keys(batches):
    return [int(k) for b in batches for k in b.where.key]


def take(stream, n):
    found = iter(stream)
    return [next(found) for _ in range(n)]


class Small(Samples):
    def sample(self, index, bands=None):
        layer = Layer.of(S1, torch.full((1, 1, 2, 2, 2), float(index)))
        return Batch(
            {S1.id: layer}, Where(torch.tensor([1000 * self.n + index]), torch.zeros(1, 2, dtype=torch.float64))
        )


def test_a_stream_resumes_at_the_exact_sample():
    sources = [Small(10), Small(7)]
    config = StreamConfig(batch_size=4, seed=3, weights=(0.75, 0.25))
    whole = keys(take(Stream(sources, config), 12))
    first = Stream(sources, config)
    head = keys(take(first, 5))
    state = json.loads(json.dumps(first.state()))
    second = Stream(sources, config)
    second.resume(state)
    assert head + keys(take(second, 7)) == whole
    parts = []
    for rank in (0, 1):
        one = Stream(sources, StreamConfig(4, 3, (0.75, 0.25), rank=rank, world=2))
        one.resume(state)
        parts.append(take(one, 7))
    assert [k for pair in zip(*parts, strict=True) for k in keys(pair)] == whole[20:]
    with pytest.raises(UserError, match="seed"):
        Stream(sources, StreamConfig(4, 4, (0.75, 0.25))).resume(state)


def test_workers_change_nothing(packed):
    plain = keys(take(Stream([PackedSource(packed)], StreamConfig(2, 5), bands={S2.id: ["red"]}), 6))
    ahead = keys(take(Stream([PackedSource(packed)], StreamConfig(2, 5, workers=2), bands={S2.id: ["red"]}), 6))
    assert plain == ahead and sorted(plain[:10]) == sorted(1000 + i for i in range(10))


def test_joined_sources():
    one, indices = joined([Small(10), Small(7)], (1, 1), 100, seed=1)
    assert len(one) == 17 and len(indices) == 100 and max(indices) < 17
    assert keys([one.sample(9), one.sample(10)]) == [10009, 7000]
    assert {k: len(v) for k, v in one.splits().items()} == {"train": 11, "test": 6}
    assert abs(sum(i < 10 for i in indices) - 50) < 20


def test_mixture_refuses():
    for lengths, weights in (((), ()), ((0,), ()), ((3, 3), (1.0,)), ((3, 3), (1.0, 0.0)), ((3, 3), (1.0, 1e-9))):
        with pytest.raises(UserError):
            Mixture(lengths, weights)
    with pytest.raises(UserError):
        StreamConfig(1, world=2)


def test_pack_by_the_command(tmp_path, capsys):
    import rasterio
    from rasterio.transform import from_origin

    from swath.cli.main import main
    from swath.data.open import open_source

    (tmp_path / "images").mkdir()
    for i in range(4):
        with rasterio.open(
            tmp_path / "images" / f"k{i}.tif", "w", driver="GTiff", height=16, width=16, count=2, dtype="uint16",
            crs="EPSG:32633", transform=from_origin(5e5 + 1e3 * i, 5e6, 10, 10),
        ) as out:  # fmt: skip
            out.write(np.random.default_rng(i).integers(1100, 9000, (2, 16, 16)).astype("uint16"))
    (tmp_path / "card.toml").write_text(
        'name = "mine"\n[layout]\nkind = "folder"\n[[layer]]\nsensor = "sentinel2-l2a"\npath = "images"\n'
        'bands = ["red", "nir"]\n'
    )

    def run(*args):
        with pytest.raises(SystemExit) as stop:
            main(["data", "pack", *args, "--json"])
        return stop.value.code or 0, json.loads(capsys.readouterr().out)

    code, found = run(str(tmp_path), "--out", str(tmp_path / "p"), "--per-shard", "2")
    assert code == 0 and found["samples"] == 4
    assert run(str(tmp_path / "p"), "--verify") == (0, {"pack": str(tmp_path / "p"), "corrupt": []})
    source = open_source(str(tmp_path / "p"))
    same(source.sample(2), open_source(str(tmp_path)).sample(2))
    shard = tmp_path / "p" / "shard-00001.bin"
    shard.write_bytes(shard.read_bytes()[:-5])
    code, found = run(str(tmp_path / "p"), "--verify")
    assert code == 2 and len(found["corrupt"]) == 1 and "sample 3 (k3)" in found["corrupt"][0]
