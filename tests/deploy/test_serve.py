"""A bundle behind an address: the same map as the command, refusals in words, nothing left behind."""

import http.client
import io
import json
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from swath.core.errors import UserError
from swath.deploy.serve import make_server
from swath.deploy.service import Ask, Busy, Limits, Service, unpack

sys.path.insert(0, str(Path(__file__).parents[1] / "adapt"))
from test_cli_map import bundle, raster  # noqa: F401  one trained bundle and one raster serve both files

from swath.adapt.run import TuneRun
from swath.adapt.tune import tune
from swath.core import config

LIMITS = Limits(max_mb=2, max_mpx=1.0, max_files=3, waiting=0)


@pytest.fixture(scope="module")
def service(bundle):  # noqa: F811
    return Service(str(bundle), limits=LIMITS)


@pytest.fixture(scope="module")
def server(service):
    running = make_server(service, port=0)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def ask(server, method, path, body=None, headers=None):
    link = http.client.HTTPConnection(*server.server_address, timeout=60)
    link.request(method, path, body, headers or {})
    reply = link.getresponse()
    out = reply.status, reply.getheader("Content-Type"), reply.read()
    link.close()
    return out


def leftovers():
    return sorted(p.name for p in Path(tempfile.gettempdir()).glob("swath-serve-*"))


def test_the_map_is_the_one_of_the_command(server, raster, bundle, tmp_path):  # noqa: F811
    from test_cli_map import swath

    swath("map", bundle, raster[0], "--out", tmp_path / "map.tif", "--sensor", "sentinel2-l2a", "--proba")
    body = raster[0].read_bytes()
    status, media, got = ask(server, "POST", "/predict?name=s2.tif&sensor=sentinel2-l2a", body)
    assert (status, media) == (200, "image/tiff")
    with rasterio.open(io.BytesIO(got)) as ours, rasterio.open(tmp_path / "map.tif") as theirs:
        assert ours.transform == theirs.transform and ours.crs == theirs.crs
        assert np.array_equal(ours.read(), theirs.read())
    status, media, got = ask(server, "POST", "/predict?sensor=sentinel2-l2a&layers=proba,entropy", body)
    assert (status, media) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(got)) as archive:
        assert {"map.tif", "map_proba.tif", "map_entropy.tif", "map.json", "map.png"} <= set(archive.namelist())
        with (
            rasterio.open(io.BytesIO(archive.read("map_proba.tif"))) as ours,
            rasterio.open(tmp_path / "map_proba.tif") as theirs,
        ):
            assert np.array_equal(ours.read(), theirs.read())
    status, media, got = ask(server, "POST", "/predict?form=png&sensor=sentinel2-l2a", body)
    assert (status, media, got[:4]) == (200, "image/png", b"\x89PNG")
    assert not leftovers()


def test_what_it_says_of_itself(server, service):
    status, _, body = ask(server, "GET", "/card")
    assert status == 200 and json.loads(body)["digest"] == service.bundle.digest
    assert json.loads(ask(server, "GET", "/health")[2])["ready"] is True
    status, media, body = ask(server, "GET", "/")
    assert status == 200 and media.startswith("text/html") and b"http" not in body.replace(b"http://HOST:PORT", b"")
    assert ask(server, "GET", "/secret")[0] == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        ("/predict", b"", 422, "does not begin as a TIFF"),
        ("/predict", b"<VRTDataset><SourceFilename>/etc/passwd</SourceFilename></VRTDataset>", 422, "TIFF"),
        ("/predict", b"II*\x00" + b"\x00" * 40, 422, "scene.tif"),
        ("/predict?form=jpg", b"II*\x00", 422, "unknown form 'jpg'"),
        ("/predict?senser=x", b"II*\x00", 422, "unknown parameter 'senser'"),
        ("/predict?layers=magic", b"II*\x00", 422, "no layer 'magic'"),
        ("/predict", b"PK\x03\x04 broken", 422, "archive cannot be read"),
        ("/predict", b"0" * (3 << 20), 413, "of one request"),
        ("/elsewhere", b"x", 404, "there is no /elsewhere"),
    ],
)
def test_refusals_are_in_words_and_the_server_lives_on(server, path, body, status, word):
    got, _, text = ask(server, "POST", path, body)
    told = json.loads(text)
    assert got == status and word in told["what"] + told["where"]
    assert tempfile.gettempdir() not in text.decode()
    assert ask(server, "GET", "/health")[0] == 200 and not leftovers()


def test_a_raster_that_does_not_say_what_it_is_is_refused(server, tmp_path):
    path = tmp_path / "plain.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=8, width=8, count=4, dtype="uint16", crs="EPSG:32633",
        transform=rasterio.transform.from_origin(5e5, 5e6, 10, 10),
    ) as file:  # fmt: skip
        file.write(np.ones((4, 8, 8), np.uint16))
    status, _, text = ask(server, "POST", "/predict?name=plain.tif", path.read_bytes())
    assert status == 422 and "sensor" in text.decode()


def test_length_is_asked_for_and_pixels_are_counted(server, service, raster):  # noqa: F811
    link = http.client.HTTPConnection(*server.server_address, timeout=60)
    link.putrequest("POST", "/predict")
    link.putheader("Transfer-Encoding", "chunked")
    link.endheaders(b"0\r\n\r\n")
    assert link.getresponse().status == 411
    link.close()
    small = Service(service.path, limits=Limits(max_mpx=0.001))
    from swath.data.scene import SceneHints

    with pytest.raises(UserError, match="157 x 203 pixels are more"):
        small.answer(Ask({"s2.tif": raster[0].read_bytes()}, SceneHints("sentinel2-l2a")))


def test_archives_are_flat_and_bounded():
    def pack(members):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, body in members.items():
                archive.writestr(name, body)
        return out.getvalue()

    assert unpack(pack({"a.tif": b"II*\x00", "d/b.tif": b"MM\x00*"}), "", LIMITS).keys() == {"a.tif", "d/b.tif"}
    with pytest.raises(UserError, match="unfolds to more than 2 MB"):
        unpack(pack({"bomb.tif": b"\x00" * (3 << 20)}), "", LIMITS)
    with pytest.raises(UserError, match="holds 4 files"):
        unpack(pack({f"{i}.tif": b"" for i in range(4)}), "", LIMITS)


def test_a_member_cannot_leave_its_folder(service, tmp_path):
    with pytest.raises(UserError, match="sent twice"):
        service.answer(Ask({"../../x.tif": b"II*\x00 no raster", "x.tif": b"II*\x00"}))
    with pytest.raises(UserError, match="no file name"):
        service.answer(Ask({"../..": b"II*\x00"}))


def test_more_than_may_wait_are_told_to_come_back(service, raster):  # noqa: F811
    told = []

    def first():
        try:
            service.answer(Ask({}))
        except UserError as why:
            told.append(why.what)

    with service._one:
        waiting = threading.Thread(target=first)
        waiting.start()
        while service._room._value:
            pass
        with pytest.raises(Busy):
            service.answer(Ask({"s2.tif": raster[0].read_bytes()}))
    waiting.join()
    assert told == ["no raster was sent"]


def test_a_classifier_answers_in_numbers(raster, tmp_path):  # noqa: F811
    import tiny_adapt as tiny

    plan = {
        "name": "tiny", "data": {"kind": "folder", "path": "unused"}, "task": "classify",
        "encoder": {"kind": "swath-vit", "size": "nano", "patch": 8}, "out": str(tmp_path / "run"),
        "loop": {"epochs": 1, "batch_size": 8, "progress": False}, "trust": {"bootstrap": 20, "chips": 1},
    }  # fmt: skip
    path = tune(config.parse(plan, TuneRun), tiny.TinySource("class", n=40)).bundle
    service = Service(str(path))
    from swath.data.scene import SceneHints

    with rasterio.open(raster[0]) as file:
        place = {**file.profile, "height": 32, "width": 32}
        with rasterio.open(tmp_path / "chip.tif", "w", **place) as chip:
            chip.write(file.read(window=((40, 72), (40, 72))))
            chip.descriptions = file.descriptions
    reply = service.answer(Ask({"chip.tif": (tmp_path / "chip.tif").read_bytes()}, SceneHints("sentinel2-l2a")))
    told = json.loads(reply.body)
    assert reply.media == "application/json" and told["class"] in service.bundle.label.classes
    assert abs(sum(told["probabilities"]) - 1) < 1e-4


def test_objects_are_answered_as_geojson(raster, tmp_path, monkeypatch):  # noqa: F811
    """With a place on Earth and without one."""
    import tiny_adapt as tiny

    from swath.data.scene import SceneHints

    plan = {
        "name": "tiny", "data": {"kind": "folder", "path": "unused"}, "task": "detect",
        "encoder": {"kind": "swath-vit", "size": "nano", "patch": 8}, "out": str(tmp_path / "run"),
        "loop": {"steps": 1, "batch_size": 2, "progress": False}, "trust": {"bootstrap": 5, "chips": 0},
    }  # fmt: skip
    source = tiny.ObjectSource(n=8)
    service = Service(str(tune(config.parse(plan, TuneRun), source).bundle))
    told = {"boxes": [[[4.0, 6.0, 12.0, 20.0]]], "scores": [[0.9]], "classes": [[0]], "counts": [1]}
    answer = {k: torch.tensor(v) for k, v in told.items()}
    monkeypatch.setattr(service.bundle, "predict", lambda batch, uncertainty=False: answer)  # what it has not learnt
    stored = ((source.sample(0).layers[tiny.SENSOR.id].x[0, 0] + 0.1) * 1e4).clamp_min(1).numpy().astype("uint16")
    with rasterio.open(raster[0]) as file:
        place, names, (x0, y0) = dict(file.profile), file.descriptions, file.transform * (4, 6)
    for name, crs in (("chip", place["crs"]), ("bare", None)):
        with rasterio.open(tmp_path / f"{name}.tif", "w", **{**place, "height": 32, "width": 32, "crs": crs}) as chip:
            chip.write(stored)
            chip.descriptions = names
        reply = service.answer(Ask({"a.tif": (tmp_path / f"{name}.tif").read_bytes()}, SceneHints("sentinel2-l2a")))
        found = json.loads(reply.body)
        assert reply.media == "application/geo+json" and len(found["features"]) == 1
        one = found["features"][0]
        xs, ys = zip(*one["geometry"]["coordinates"][0], strict=True)
        assert one["properties"]["score"] == pytest.approx(0.9)
        if crs is None:
            assert (min(xs), max(ys)) == pytest.approx((x0, y0))
        else:
            assert 15 < min(xs) < max(xs) < 15.01 and 47.8 < min(ys) < max(ys) < 47.9
    with pytest.raises(UserError, match="objects have no layer 'proba'"):
        service.answer(Ask({"a.tif": (tmp_path / "chip.tif").read_bytes()}, SceneHints("sentinel2-l2a"), ("proba",)))
