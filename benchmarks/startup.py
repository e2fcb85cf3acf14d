"""How long the door takes: `swath --help` and `import swath` against a bare interpreter, side by side.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

CASES = {
    "bare python": "pass",
    "import swath": "import swath",
    "swath --help": "import sys; sys.argv = ['swath', '--help']; from swath.cli.main import main; main()",
    "swath list": "import sys; sys.argv = ['swath', 'list']; from swath.cli.main import main; main()",
}
GOAL_S = {"import swath": 0.2, "swath --help": 0.4}
ROUNDS = 9


def main() -> None:
    """Rounds of every case, interleaved; the median of each."""
    spent: dict[str, list[float]] = {name: [] for name in CASES}
    for turn in range(ROUNDS + 1):
        for name, code in CASES.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            if turn:  # the first round warms the page cache
                spent[name].append(time.perf_counter() - begin)
    bare = statistics.median(spent["bare python"])
    for name, times in spent.items():
        middle = statistics.median(times)
        goal = f"   goal < {GOAL_S[name]} s" if name in GOAL_S else ""
        print(f"{name:<14} {middle:6.3f} s   {middle / bare:5.1f}x bare python{goal}")


if __name__ == "__main__":
    main()
