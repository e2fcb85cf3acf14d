"""The opening of `swath tune`: what was planned is what the run asks for first, and the run is the same run."""

import json
import os
import subprocess
import sys

import pytest
from tests.data.chips import folder

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
CODE = """
import sys
from swath.adapt import opening
from swath.cli.main import main
if sys.argv[2] == "alone":
    opening.begin = lambda raw: None
else:
    import swath.core.config as config
    parse = config.parse
    def late(raw, schema, **more):  # after torch is there, before the run
        config.parse = parse
        import swath.data.raster as raster
        from swath.train import optim
        step, opened, count = optim.AdamW.step, raster.opened, []
        def stepped(self):
            step(self)
            optim.AdamW.step = step
            print("opened before the first step:", len(count))
        def counted(path):
            count.append(path)
            return opened(path)
        optim.AdamW.step, raster.opened = stepped, counted
        return parse(raw, schema, **more)
    config.parse = late
main(["tune", sys.argv[1], "--json", "--out", sys.argv[3]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")
def test_the_first_step_opens_no_file_and_the_run_is_the_same(tmp_path):
    from swath.data.propose import Hints
    from swath.data.start import start

    folder(tmp_path / "chips", n=90, size=16)
    start(tmp_path / "chips", "segment", Hints("sentinel2-l2a", ("blue", "green", "red", "nir"), ""))
    run = tmp_path / "run.json"
    data = {"kind": "folder", "path": str(tmp_path / "chips"), "card": str(tmp_path / "chips" / "card.toml")}
    raw = {
        "name": "opened", "data": data, "encoder": {"kind": "swath-vit", "size": "nano", "patch": 8},
        "task": "segment", "loop": {"steps": 2, "batch_size": 4, "seed": 3, "progress": False},
        "trust": {"calibrate": False, "ood": False, "bootstrap": 0, "chips": 0},
    }  # fmt: skip
    run.write_text(json.dumps(raw))
    told = {}
    for how in ("fork", "alone"):
        done = subprocess.run([sys.executable, "-c", CODE, str(run), how, str(tmp_path / how)], cwd=ROOT, text=True,
                              capture_output=True, check=False)  # fmt: skip
        assert not done.returncode, done.stderr
        assert "leaked" not in done.stderr
        first, _, answer = done.stdout.rpartition("first step: ")
        told[how] = json.loads(answer[answer.index("{") :])["scores"], (tmp_path / how / "bundle").exists()
        if how == "fork":
            assert "opened before the" in first and answer.startswith("0\n")
    assert told["fork"] == told["alone"]
