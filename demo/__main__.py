"""`make demo`: run every chapter and write one page."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

import swath
from demo import judge, learn, use, world
from swath.report import page as p


def _timed(name, run):
    sys.stderr.write(f"chapter {name} ...\n")
    start = time.monotonic()
    found = run()
    sys.stderr.write(f"chapter {name}: {time.monotonic() - start:.1f} s\n")
    return found


def main() -> None:
    """All chapters, in order, with the time each took."""
    options = argparse.ArgumentParser(prog="demo")
    options.add_argument("--out", type=Path, default=Path("out/demo"))
    out = options.parse_args().out
    torch.set_num_threads(2)
    began = time.monotonic()
    page = p.Page("Swath on the simulated Earth", f"swath {swath.__version__}, offline, on this machine's CPU")
    work = out / "work"
    _timed("world", lambda: world.chapter(page))
    weights = _timed("learn", lambda: learn.chapter(page, work))
    _timed("use", lambda: use.chapter(page, work, weights))
    _timed("judge", lambda: judge.chapter(page, work, weights))
    page.add(p.text(f"The whole page took {time.monotonic() - began:.0f} s.", "note"))
    target = page.write(out / "index.html")
    sys.stderr.write(f"wrote {target} ({time.monotonic() - began:.0f} s)\n")


if __name__ == "__main__":
    main()
