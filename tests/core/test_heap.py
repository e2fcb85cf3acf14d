"""Freed memory stays when asked to: fewer page faults for the same work, and an environment's own setting stands."""

import subprocess
import sys

import pytest

WORK = """
import resource, sys
from swath.core.heap import keep_freed
if sys.argv[1] == "keep":
    assert keep_freed()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    held = [bytearray(b"1") * (int(sys.argv[2]) << 20) for _ in range(3)]
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how, size):
    told = subprocess.run([sys.executable, "-c", WORK, how, str(size)], capture_output=True, text=True, check=True)
    return int(told.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
@pytest.mark.parametrize("size", [8, 48], ids=["small", "larger than glibc ever keeps"])
def test_pages_are_faulted_in_once(size):
    assert faults("keep", size) < faults("leave", size) / 5


def test_the_environment_stands(monkeypatch):
    from swath.core.heap import keep_freed

    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_"):
        with monkeypatch.context() as given:
            given.setenv(name, "131072")
            assert keep_freed() is False
