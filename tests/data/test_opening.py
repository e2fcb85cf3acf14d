"""Files read beforehand by a fork: what comes back equals the files, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import time

import pytest
import rasterio
from tests.data.chips import folder, write

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
HEAD = """
import os, sys, time, json
from pathlib import Path
from swath.data import opening, raster
from swath.data.sources.folder import FolderConfig
root = sys.argv[1]
source = FolderConfig(root, sensor="sentinel2-l2a", bands=("blue", "green", "red", "nir")).build()
assert "torch" not in sys.modules
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")


def run(code, *args, **more):
    return subprocess.run([sys.executable, "-c", HEAD + code, *map(str, args)], cwd=ROOT, text=True,
                          capture_output=True, check=False, **more)  # fmt: skip


@linux
def test_samples_come_from_the_fork_and_equal_the_files(tmp_path):
    folder(tmp_path, n=6)
    done = run(
        """
order = [3, 0, 5, 3]
started = opening.begin(lambda: [f for i in order for f in source.files(i)])
assert started is not None
opened, raster.opened = raster.opened, None  # nothing is opened here
found = [source.sample(i) for i in order]
raster.opened = opened
assert not started.held  # each is let go at its last use
alone = FolderConfig(root, sensor="sentinel2-l2a", bands=("blue", "green", "red", "nir")).build()
other = alone.sample(1)  # not of the plan: that ends it
assert not raster.BEFOREHAND and not started.process.is_alive()
for i, one in zip(order, found):
    two = alone.sample(i)
    (a,), (b,) = one.layers.values(), two.layers.values()
    assert (a.x == b.x).all() and (a.valid == b.valid).all()
    assert (one.labels["label"].value == two.labels["label"].value).all()
    assert one.where.grids == two.where.grids and (one.where.lonlat == two.where.lonlat).all()
print("same")
""",
        tmp_path,
    )
    assert done.stdout.strip() == "same", done.stderr


@linux
def test_a_file_unlike_the_others_is_refused_here_too(tmp_path):
    folder(tmp_path, n=4, names=("B02", "B03", "B04", "B08"))
    with rasterio.open(tmp_path / "images" / "k03.tif") as data:
        raw = data.read()
    write(tmp_path / "images" / "k03.tif", raw[::-1], names=("B08", "B04", "B03", "B02"), origin=(503000, 5000000))
    done = run(
        """
started = opening.begin(lambda: [f for i in range(4) for f in source.files(i)])
raster.opened = None
try:
    [source.sample(i) for i in range(4)]
except Exception as why:
    print(why)
started.close()
""",
        tmp_path,
    )
    assert "its bands are named" in done.stdout and "k03.tif" in done.stdout, done.stderr


@linux
def test_what_has_no_room_is_read_from_the_file(tmp_path):
    folder(tmp_path, n=4)
    done = run(
        """
started = opening.begin(lambda: [f for i in range(4) for f in source.files(i)], room=20_000)
a = [source.sample(i) for i in range(4)]
started.close()
b = [source.sample(i) for i in range(4)]
print(all((p.layers["sentinel2-l2a"].x == q.layers["sentinel2-l2a"].x).all() for p, q in zip(a, b)))
""",
        tmp_path,
    )
    assert done.stdout.strip() == "True", done.stderr


@linux
def test_a_damaged_file_is_named_as_ever(tmp_path):
    folder(tmp_path, n=3)
    path = tmp_path / "images" / "k01.tif"
    done = run(
        """
from swath.core import UserError
path = Path(root) / "images" / "k01.tif"
path.write_bytes(path.read_bytes()[:300])
opening.begin(lambda: [f for i in range(3) for f in source.files(i)])
source.sample(0)
try:
    source.sample(1)
except UserError as error:
    print(error.where)
source.sample(2)
""",
        tmp_path,
    )
    assert done.stdout.strip() == str(path), done.stderr


@linux
def test_a_plan_that_fails_changes_nothing(tmp_path):
    folder(tmp_path, n=2)
    code = "opening.begin(lambda: 1 / 0)\nprint(source.sample(1).where.names[0])"
    done = run(code, tmp_path)
    assert done.stdout.strip() == "k01" and not done.stderr, done.stderr


SLOW = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without it
def plan():
    for i in range(2):
        yield from source.files(i)
    print("said by the fork", flush=True)
    time.sleep(60)
print(opening.begin(plan).process.pid, flush=True)
time.sleep(60)
"""


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@linux
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_fork_goes_with_its_parent(tmp_path, how):
    folder(tmp_path, n=2)
    parent = subprocess.Popen([sys.executable, "-c", HEAD + SLOW, str(tmp_path)], cwd=ROOT, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
    child = int(parent.stdout.readline())
    time.sleep(0.5)
    assert alive(child)
    if how == signal.SIGINT:
        os.killpg(parent.pid, how)  # Ctrl-C reaches both
    else:
        parent.send_signal(how)
    parent.wait(20)
    until = time.time() + 20
    while alive(child) and time.time() < until:
        time.sleep(0.1)
    assert not alive(child) and not parent.stdout.read()
    assert parent.stderr.read().count("Traceback") == (how == signal.SIGINT)  # the parent's own


@linux
def test_one_at_a_time_and_none_beside_threads(tmp_path):
    done = run(
        """
import threading
hold = threading.Event()
other = threading.Thread(target=hold.wait)
other.start()
found = [opening.begin(list)]
hold.set()
other.join()
begun = opening.begin(list)
found.append(opening.begin(list))
opening.end()
print(found, begun is not None, raster.BEFOREHAND, begun.process.is_alive())
""",
        folder(tmp_path, n=2) or tmp_path,
    )
    assert done.stdout.strip() == "[None, None] True [] False", done.stderr
