import json

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from deploy_fakes import BANDS, NoiseScene
from pyarrow import parquet
from rasterio.transform import Affine

from swath.cli.main import main
from swath.core import Batch, EncoderSpec, Features, Input, SwathError, UserError, Window
from swath.deploy import search
from swath.deploy.embed import EmbedPlan, EmbedSettings, pixels_of, read_chips, weights_digest
from swath.deploy.embed_files import dequantise, embed_scene, principal, quantise, read_vectors
from swath.deploy.packed import PackedLinear, supported
from swath.deploy.search import Index, bits, similar
from swath.models import build_encoder


class Means(torch.nn.Module):
    """An encoder that can be checked by hand: means and deviations of 8 x 8 patches."""

    def __init__(self, fail_after=10**9):
        super().__init__()
        inputs = (Input("sentinel2-l2a", BANDS, "reflectance"),)
        self.spec = EncoderSpec("means", inputs, (8,), (8.0,), 8, patch=8, licence="MIT")
        self.fail_after = fail_after
        self.register_buffer("calls", torch.zeros(()))  # embedding runs a copy that shares its tensors

    def forward(self, batch: Batch, levels=None):
        self.calls.add_(1)
        if self.calls > self.fail_after:
            raise KeyboardInterrupt
        x = batch.layers["sentinel2-l2a"].x.mean(1)
        mean = torch.nn.functional.avg_pool2d(x, 8)
        spread = torch.nn.functional.avg_pool2d(x**2, 8) - mean**2
        maps = torch.cat([mean, spread], 1)
        return Features((maps,), maps.mean((2, 3)), (8.0,))


def embed(tmp_path, scene, encoder=None, polygons=(), also=(), **settings):
    encoder = encoder or Means()
    plan = EmbedPlan.of(scene, encoder, "w", EmbedSettings(**{"chip": 32, "cell": 64, **settings}), polygons)
    return plan, embed_scene(plan, scene, encoder, tmp_path, also=also)


def test_chips_of_a_scene(tmp_path):
    scene = NoiseScene(100, 130, steps=2, gaps=(Window(0, 0, 32, 32), Window(32, 0, 8, 32)))
    plan, done = embed(tmp_path, scene)
    frame = geopandas.read_parquet(tmp_path / "embeddings.parquet")
    assert done["vectors"] == len(frame) == 3 * 4 - 1
    assert frame["key"].is_unique and frame.crs.to_string() == "OGC:CRS84"
    assert frame["valid"].max() == 1 and 0.7 < frame["valid"].min() < 0.8
    assert str(frame["time_start"][0]) == "2022-01-08" and str(frame["time_end"][0]) == "2022-01-18"
    row = frame[(frame["row"] == 32) & (frame["col"] == 64)].iloc[0]
    want = Means()(scene.read(Window(32, 64, 32, 32))).pooled[0].numpy()
    np.testing.assert_allclose(row["vector"], want, atol=1e-6)
    west, _, _, north = row.geometry.bounds
    assert abs(west - 15.00860) < 1e-4 and abs(north - 47.8509) < 1e-3
    facts = json.loads(parquet.read_schema(tmp_path / "embeddings.parquet").metadata[b"swath"])
    assert facts["encoder"] == "means" and facts["licence"] == "MIT" and facts["plan"] == plan.digest
    assert embed(tmp_path, scene)[1]["already"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_vectors_come_from_packed_weights_and_the_encoder_stays(tmp_path, precision):
    torch.manual_seed(0)
    encoder = build_encoder("swath-vit/tiny").eval()
    digest, seen = weights_digest(encoder), []
    watched = encoder.register_forward_pre_hook(lambda module, _: seen.append([type(m) for m in module.modules()]))
    scene = NoiseScene(64, 64)
    plan = EmbedPlan.of(scene, encoder, digest, EmbedSettings(chip=64, precision=precision))
    embed_scene(plan, scene, encoder, tmp_path)
    watched.remove()
    assert weights_digest(encoder) == digest and len(seen) == 1
    assert (PackedLinear in seen[0]) == supported(precision)
    (chip,) = read_chips(plan, plan.cells[0], scene)
    with torch.inference_mode():
        want = encoder(chip.batch, [-1]).pooled[0].numpy()
    found = read_vectors(tmp_path / "embeddings.parquet")[0][0]
    np.testing.assert_allclose(found, want, atol=1e-4 if precision == "fp32" else 0.05 * float(np.abs(want).max()))


def test_patches_as_a_cog_and_context_changes_nothing_but_context(tmp_path):
    scene = NoiseScene(100, 130)
    _, done = embed(tmp_path / "a", scene, per="patch", also=["cog"])
    with rasterio.open(tmp_path / "a" / "embeddings.tif") as file:
        bands = file.read()
        assert file.count == 8 and file.shape == (13, 17) and file.transform == Affine(80, 0, 500000, 0, -80, 5300000)
    want = Means()(scene.read(Window(0, 0, 96, 128))).maps[0][0].numpy()
    np.testing.assert_allclose(bands[:, :12, :16], want, atol=1e-6)
    embed(tmp_path / "b", scene, per="patch", also=["cog"], halo=8, batch=3, cell=200)
    with rasterio.open(tmp_path / "b" / "embeddings.tif") as file:
        np.testing.assert_allclose(file.read()[:, :12, :16], want, atol=1e-6)
    assert (tmp_path / "a" / "embeddings.png").stat().st_size > 200 and done["vectors"] == 12 * 16


@pytest.mark.parametrize("int8", [False, True])
def test_the_files_are_valid_for_their_own_readers(tmp_path, int8):
    from rio_cogeo import cog_validate

    _, done = embed(tmp_path, NoiseScene(300, 280), per="patch", also=["cog"], int8=int8)
    valid, errors, warnings = cog_validate(str(tmp_path / "embeddings.tif"))
    assert valid and not errors and not warnings
    frame = geopandas.read_parquet(tmp_path / "embeddings.parquet")
    assert len(frame) == done["vectors"] and frame.crs.is_geographic
    assert frame.geometry.is_valid.all() and frame.geometry.exterior.is_ccw.all()


def test_int8_is_the_alphaearth_convention(tmp_path):
    scene = NoiseScene(64, 64)
    embed(tmp_path, scene, per="patch", also=["cog"], int8=True)
    vectors, _, facts = read_vectors(tmp_path / "embeddings.parquet")
    with rasterio.open(tmp_path / "embeddings.tif") as file:
        stored = file.read()
        assert file.dtypes[0] == "int8" and file.nodata == -128
    want = Means()(scene.read(Window(0, 0, 64, 64))).maps[0][0].flatten(1).T.numpy()
    unit = want / np.linalg.norm(want, axis=1, keepdims=True)
    assert np.abs(dequantise(stored.reshape(8, -1).T) - unit).max() < 0.009 and "127.5" in facts["quantised"]
    order = np.lexsort(vectors.T)
    np.testing.assert_allclose(vectors[order], dequantise(quantise(want))[np.lexsort(dequantise(quantise(want)).T)])
    assert quantise(np.eye(3, dtype=np.float32)).max() == 127


def test_polygons_are_weighted_means(tmp_path):
    scene = NoiseScene(64, 96)
    shapes = [shapely.box(0, 0, 16, 8), shapely.box(28, 28, 44, 36), shapely.box(500, 500, 510, 510)]
    _, done = embed(tmp_path, scene, polygons=shapes, per="polygon")
    frame = geopandas.read_parquet(tmp_path / "embeddings.parquet")
    assert done["vectors"] == 2 and frame["key"].tolist() == [0, 1] and done["polygons left out"] == 1
    maps = Means()(scene.read(Window(0, 0, 64, 96))).maps[0][0].numpy()
    np.testing.assert_allclose(frame["vector"][0], maps[:, 0, :2].mean(1), atol=1e-6)
    weights = np.outer([4, 4], [4, 8, 4]) / 128
    np.testing.assert_allclose(frame["vector"][1], (maps[:, 3:5, 3:6] * weights).sum((1, 2)), atol=1e-6)


def test_files_of_polygons_hold_polygons(tmp_path):
    grid = NoiseScene(64, 96).grid
    x, y = grid.xy(20, 20)
    for shapes, words in (([], "holds no polygon"), ([shapely.Point(x, y)], "it holds Point: only polygons")):
        geopandas.GeoDataFrame(geometry=shapes, crs=grid.crs).to_file(tmp_path / "p.gpkg")
        with pytest.raises(UserError, match=words):
            pixels_of(grid, tmp_path / "p.gpkg")
    geopandas.GeoDataFrame(geometry=[shapely.Point(x, y).buffer(30)], crs=grid.crs).to_file(tmp_path / "p.gpkg")
    assert pixels_of(grid, tmp_path / "p.gpkg")[0].centroid.distance(shapely.Point(20, 20)) < 0.1


def test_an_interrupted_run_goes_on(tmp_path):
    scene = NoiseScene(200, 130)
    embed(tmp_path / "a", scene)
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path / "b", scene, Means(fail_after=3), batch=8)
    kept = len(list((tmp_path / "b" / "cells").glob("*/*.cell")))
    again = Means()
    embed(tmp_path / "b", scene, again)
    assert kept > 0 and 0 < again.calls < 12
    one, two = (read_vectors(tmp_path / n / "embeddings.parquet") for n in "ab")
    assert (one[0] == two[0]).all() and (one[1]["key"] == two[1]["key"]).all()
    assert not (tmp_path / "b" / "cells").exists()


def test_what_cannot_be_is_refused(tmp_path):
    scene = NoiseScene(64, 64)
    for settings, words in (({"chip": 30}, "multiples of 8"), ({"per": "polygon"}, "polygons")):
        with pytest.raises(UserError, match=words):
            embed(tmp_path, scene, **settings)
    with pytest.raises(UserError, match="nothing to embed"):
        embed(tmp_path, NoiseScene(64, 64, gaps=(Window(0, 0, 64, 64),)))
    with pytest.raises(SwathError, match="cannot be read"):
        embed(tmp_path, NoiseScene(64, 64, broken=(Window(40, 40, 1, 1),)))


def test_principal_components_are_those_of_the_covariance():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6))
    mean, top = principal(iter([{"vector": x[:200]}, {"vector": x[200:]}]))
    _, _, v = np.linalg.svd(x - x.mean(0), full_matrices=False)
    np.testing.assert_allclose(mean, x.mean(0))
    np.testing.assert_allclose(np.abs((top * v[:3].T).sum(0)), 1, atol=1e-9)


def clustered(n, d, seed=0):
    rng = np.random.default_rng(seed)
    low = rng.standard_normal((n // 20 + 1, 12))[rng.integers(0, n // 20 + 1, n)] + 0.4 * rng.standard_normal((n, 12))
    return (5 + low @ rng.standard_normal((12, d)) + 0.3 * rng.standard_normal((n, d))).astype(np.float32)


@pytest.mark.parametrize("d", [10, 64, 200, 320])
def test_bits_and_rerank_find_what_exact_finds(d):
    x = clustered(6000, d)
    index = Index.build(x)
    centred = x - x.mean(0)
    cosine = centred @ centred[17] / np.linalg.norm(centred, axis=1) / np.linalg.norm(centred[17])
    rows, scores = index.exact(x[17], 5)
    assert rows[0] == 17 and set(rows) == set(np.argsort(-cosine)[:5])
    np.testing.assert_allclose(scores, np.sort(cosine)[::-1][:5], atol=1e-4)
    assert index.recall(x[::300] + 0.01, candidates=300) > (0.95 if d > 10 else 0.9)
    np.testing.assert_allclose(index.lengths, np.linalg.norm(centred, axis=1), rtol=1e-4)
    assert index.near(x[3], k=7000)[0].shape == (6000,)


def decaying(n, power, d=128):
    """Groups of near neighbours whose variance falls from axis to axis, as that of real embeddings does."""
    rng = np.random.default_rng(0)
    size = np.arange(1.0, d + 1) ** -power
    groups = (rng.standard_normal((n // 12 + 1, d)) * size)[rng.integers(0, n // 12 + 1, n)]
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((d, d)))[0]
    return ((2 + groups + 0.3 * rng.standard_normal((n, d)) * size) @ turn).astype(np.float32)


@pytest.mark.parametrize("power", [0.5, 1.2, 3.0])
def test_building_finds_directions_and_candidates_for_the_recall_asked_for(power):
    x = decaying(24_000, power)
    fresh = x[3::400] * 1.001
    index = Index.build(x[::2])
    assert index.tuned.recall >= 0.98 and 400 <= index.tuned.candidates < 1500
    assert index.recall(fresh) >= 0.97
    assert Index.build(x[::2], recall=0.5).tuned.candidates <= index.tuned.candidates
    assert index.recall(fresh, candidates=20) < index.recall(fresh)
    assert (index.tuned.floor < 1) == (power > 2)


def test_a_recall_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="recall"):
        Index.build(decaying(100, 1), recall=0)


@pytest.mark.parametrize("d", [64, 200, 256, 300])
def test_faiss_and_numpy_find_the_same_candidates(d, monkeypatch):
    pytest.importorskip("faiss")
    x = clustered(3000, d)
    index = Index.build(x)
    code = bits(index.unit(x[11])[None], index.along)
    distance = np.bitwise_count(index.codes ^ code).sum(1, dtype=np.int64)
    slow = index._candidates(code, 40)
    last = np.sort(distance)[39]
    np.testing.assert_array_equal(slow, np.flatnonzero(distance <= last))
    monkeypatch.setattr(search, "FAISS_FROM", 0)
    del index.__dict__["_faiss"]
    quick = index._candidates(code, 40)
    assert index._faiss is not None and len(quick) == 40
    assert (distance[quick] <= last).all() and set(np.flatnonzero(distance < last)) <= set(quick)


def test_an_index_is_loaded_as_it_was_built(tmp_path):
    index = Index.build(clustered(2000, 64))
    index.save(tmp_path)
    again = Index.load(tmp_path)
    assert again.tuned == index.tuned
    for q in index.vectors[:200:40]:
        np.testing.assert_array_equal(again.near(q, 7)[0], index.near(q, 7)[0])


def test_search_from_a_point_a_key_and_a_polygon(tmp_path, capsys):
    scene = NoiseScene(256, 256)
    embed(tmp_path, scene, per="patch")
    file = tmp_path / "embeddings.parquet"
    vectors, columns, _ = read_vectors(file)
    key = int(columns["key"][40])
    found = similar(file, key, 4)
    assert found[0]["key"] == key and found[0]["similarity"] > 0.9999 and found[1]["similarity"] < 1
    assert similar(file, (found[0]["lon"], found[0]["lat"]), 4) == similar(file, key, 4, exact=True)
    stamp = (tmp_path / "embeddings.index" / "codes.npy").stat().st_mtime_ns
    with pytest.raises(SystemExit):
        main(["embed", "search", str(tmp_path), "--key", str(key), "-k", "4", "--json"])
    assert json.loads(capsys.readouterr().out) == found
    assert (tmp_path / "embeddings.index" / "codes.npy").stat().st_mtime_ns == stamp
    area = shapely.from_wkb(columns["geometry"][40]).buffer(-1e-6)
    geopandas.GeoDataFrame(geometry=[area], crs="OGC:CRS84").to_file(tmp_path / "q.gpkg")
    assert similar(file, tmp_path / "q.gpkg", 4)[0]["key"] == key
    with pytest.raises(UserError, match=r"nothing was embedded(.|\n)*lie between"):
        similar(file, (0.0, 0.0))
    for k in (0, -2):
        with pytest.raises(UserError, match=f"{k} places cannot be found"):
            similar(file, key, k)
    assert len(vectors) == 1024


@pytest.fixture
def small_scene(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "s2.tif"
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 500000, 0, -10, 5300000)}
    with rasterio.open(path, "w", "GTiff", 100, 90, 4, dtype="uint16", nodata=0, **place) as file:
        file.write(rng.integers(1100, 4000, (4, 90, 100), dtype=np.uint16))
        file.descriptions = ("B02", "B03", "B04", "B08")
    return path


def embed_it(out, encoder, path, *more):
    """The exit code."""
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in ["embed", encoder, path, "--out", out, *more, "--json"]])
    return done.value.code


def test_a_real_encoder_through_the_command(tmp_path, small_scene, capsys):
    more = ("--sensor", "sentinel2-l2a", "--chip", "32", "--per", "patch")
    assert embed_it(tmp_path / "e", "swath-vit/nano", small_scene, *more) == 0
    told = capsys.readouterr()
    out = json.loads(told.out)
    assert out["vectors"] == 6 * 6 and out["files"] == ["embeddings.parquet", "embeddings.png"]
    assert "has random ones" in told.err
    assert embed_it(tmp_path / "e", "swath-vit/nano", small_scene, *more) == 0
    assert json.loads(capsys.readouterr().out)["already"], "random weights are the same again"


def test_the_encoder_and_its_liberties_are_set_as_in_a_run_file(tmp_path, small_scene, capsys):
    more = ("--sensor", "hls-s30", "--bands", "blue,green,red,nir08", "--chip", "32")
    assert embed_it(tmp_path / "a", "mosaiks", small_scene, *more) == 2
    said = capsys.readouterr().err
    assert "--set encoder.sensor=hls-s30" in said and "adaptation.substitute.sentinel2-l2a=hls-s30" in said
    own = ("--set", "encoder.sensor=hls-s30", "--set", "encoder.bands=[blue,green,red,nir08]")
    assert embed_it(tmp_path / "a", "mosaiks", small_scene, *more, *own) == 0
    told = capsys.readouterr()
    assert "random ones" not in told.err, "it learns nothing"
    first = json.loads(told.out)
    whole = ("--sensor", "landsat8-sr", "--bands", "blue,green,red,nir08", "--chip", "32")
    instead = ("--set", "adaptation.substitute.hls-s30=landsat8-sr", "--set", "encoder.sensor=hls-s30")
    assert embed_it(tmp_path / "b", "mosaiks", small_scene, *whole, *instead, *own[2:]) == 0
    assert json.loads(capsys.readouterr().out)["plan"] != first["plan"]


@pytest.mark.parametrize("held", [1 << 18, 50])
@pytest.mark.parametrize("kind", ["spread", "ties", "equal", "few", "repeated"])
def test_true_neighbours_are_those_of_brute_force(kind, held, monkeypatch):
    monkeypatch.setattr(search, "MOST_HELD", held)
    rng = np.random.default_rng(3)
    vectors = {
        "spread": lambda: rng.standard_normal((5000, 32)),
        "ties": lambda: rng.integers(0, 2, (5000, 4)),
        "equal": lambda: np.ones((40, 8)),
        "few": lambda: rng.standard_normal((7, 64)),
        "repeated": lambda: np.repeat(rng.standard_normal((10, 64)), 600, 0),
    }[kind]().astype(np.float32)
    mean = search._middle(vectors)
    trials, sample = search._units(vectors, mean, 32), search._units(vectors, mean, 1 << 10)
    lengths, found = search._truth(vectors, mean, trials, sample)
    centred = vectors - mean
    np.testing.assert_allclose(lengths, np.maximum(np.linalg.norm(centred, axis=1), 1e-12), rtol=1e-5)
    scores = (trials @ centred.T) / lengths
    want = -np.sort(-scores, 1)[:, : found.shape[1]]
    np.testing.assert_allclose(np.take_along_axis(scores, found, 1), want, atol=1e-6)
    assert all(len(set(rows)) == len(rows) for rows in found)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(bad):
    vectors = np.random.default_rng(0).standard_normal((3 * search.ROWS, 16)).astype(np.float32)
    vectors[-1, 3] = bad
    with pytest.raises(UserError, match="finite"):
        Index.build(vectors)
