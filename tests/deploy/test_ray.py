"""Ray Core tasks: two nodes, a killed worker, a killed driver, the same bits."""

import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from deploy_fakes import Deadly, NoiseScene, Slow
from test_map import _same

from swath.core import SwathError
from swath.deploy.map import MapRun, map_scene
from swath.deploy.plan import MapSettings

ray = pytest.importorskip("ray")
HERE = str(Path(__file__).parent)
SETTINGS = MapSettings(cell=64, batch=1, overlap=10)
DRIVER = """
import sys; sys.path[:0] = [{here!r}]
from pathlib import Path
from functools import partial
from deploy_fakes import NoiseScene, Slow
from test_map import _same
from swath.deploy.map import MapRun, map_scene
from swath.deploy.plan import MapSettings
map_scene(partial(_same, NoiseScene()), partial(_same, Slow()), Path({out!r}),
          settings=MapSettings(cell=64, batch=1, overlap=10), run=MapRun(engine="ray", address={address!r}))
"""


@pytest.fixture(scope="module")
def cluster():
    import os

    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = f"{HERE}:{Path(__file__).parents[2] / 'src'}"
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    yield nodes.address
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.slow
def test_two_nodes_a_killed_worker_and_a_killed_driver(cluster, tmp_path):
    want = tmp_path / "want.tif"
    map_scene(partial(_same, NoiseScene()), partial(_same, Slow(wait_s=0)), want, settings=SETTINGS)
    ray.init(address=cluster, log_to_driver=False)
    out = tmp_path / "ray.tif"
    deadly = partial(_same, Deadly(flag=tmp_path / "flag", after=1))
    done = map_scene(partial(_same, NoiseScene()), deadly, out, settings=SETTINGS, run=MapRun(engine="ray"))
    assert (tmp_path / "flag").exists() and done.computed == done.cells > 4
    assert out.read_bytes() == want.read_bytes()
    with pytest.raises(SwathError, match="block 7"):
        from swath.core import Window

        broken = partial(_same, NoiseScene(broken=(Window(250, 200, 2, 2),)))
        map_scene(broken, partial(_same, Slow()), tmp_path / "b.tif", settings=SETTINGS, run=MapRun(engine="ray"))
    ray.shutdown()
    again = tmp_path / "again.tif"
    code = DRIVER.format(here=HERE, out=str(again), address=cluster)
    driver = subprocess.Popen([sys.executable, "-c", code])
    while driver.poll() is None and len(list(tmp_path.glob("again.tif.cells/*/*.json"))) < 3:
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -9 and not again.exists()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert again.read_bytes() == want.read_bytes()
