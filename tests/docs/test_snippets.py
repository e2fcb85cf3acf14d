"""Every fenced ```python and ```console block of the docs and the README runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(python|console)\n(.*?)^```", re.M | re.S)
BLOCKS = [
    pytest.param(kind, body, id=f"{page.relative_to(ROOT)}:{page.read_text()[: m.start()].count(chr(10)) + 1}")
    for page in PAGES
    for m in FENCE.finditer(page.read_text())
    for kind, body in [m.groups()]
]


@pytest.mark.parametrize(("kind", "body"), BLOCKS)
def test_block(kind, body, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    if kind == "python":
        commands = [[sys.executable, "-c", body]]
    else:
        lines = [line[2:] for line in body.replace("\\\n", " ").splitlines() if line.startswith("$ ")]
        assert lines, "a console block has `$ command` lines"
        commands = [[sys.executable, "-m", "swath.cli", *shlex.split(line)[1:]] for line in lines]
        assert all(line.startswith("swath ") for line in lines)
    for command in commands:
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:]


def test_links_between_pages():
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert not broken
