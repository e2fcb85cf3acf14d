"""The command line: exit codes, one readable block, JSON."""

import errno
import json
import os
import subprocess
import sys
import warnings

import pytest


def swath(*words):
    return subprocess.run([sys.executable, "-m", "swath.cli", *words], capture_output=True, text=True)


def test_list_and_show():
    families = json.loads(swath("list", "--json").stdout)
    assert "sensors" in {r["family"] for r in families}
    names = [r["name"] for r in json.loads(swath("list", "sensors", "--json").stdout)]
    assert "sentinel2-l2a" in names
    card = json.loads(swath("show", "sensors", "sentinel2-l2a", "--json").stdout)
    assert [b["name"] for b in card["bands"]][:4] == ["coastal", "blue", "green", "red"]


def test_a_mistake_is_two_lines_and_code_two():
    for words in (["lst"], ["list", "sensor_s"], ["show", "sensors", "sentinel2-l2b"]):
        done = swath(*words)
        assert done.returncode == 2 and done.stderr.startswith("error: unknown") and "Traceback" not in done.stderr
        assert "did you mean" in done.stderr


def test_debug_shows_the_traceback():
    done = swath("--debug", "show", "sensors", "nothing")
    assert "Traceback" in done.stderr


def test_debug_holds_for_one_call(monkeypatch):
    from swath.cli.main import main
    from swath.core import UnknownName

    monkeypatch.delenv("SWATH_DEBUG", raising=False)
    with pytest.raises(UnknownName):
        main(["--debug", "show", "sensors", "nothing"])
    with pytest.raises(SystemExit) as left:
        main(["show", "sensors", "nothing"])
    assert left.value.code == 2


def test_a_full_disk_is_no_defect(monkeypatch, capsys):
    """No room is said as such, whatever was being written."""
    from swath.cli import main, zoo

    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/bundle")

    monkeypatch.setattr(zoo, "command", full, raising=False)
    monkeypatch.delattr(zoo, "app", raising=False)
    with pytest.raises(SystemExit) as left:
        main.main(["zoo"])
    said = capsys.readouterr().err
    assert left.value.code == 1 and "runs/x/bundle" in said and "make room" in said and "defect" not in said


def test_a_warning_is_a_line_without_code(monkeypatch, capsys):
    from swath.cli import main, zoo
    from swath.core import SwathWarning

    def doubtful():
        warnings.warn("4 of 4 samples show nothing of sentinel1-rtc", SwathWarning, stacklevel=1)
        warnings.warn("of another library", FutureWarning, stacklevel=1)

    monkeypatch.setattr(zoo, "command", doubtful, raising=False)
    monkeypatch.delattr(zoo, "app", raising=False)
    usual = warnings.formatwarning
    with warnings.catch_warnings(), pytest.raises(SystemExit):
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "_showwarnmsg_impl", shown)
        main.main(["zoo"])
    said = capsys.readouterr().err
    assert said.startswith("warning: 4 of 4 samples show nothing of sentinel1-rtc\n")
    assert "FutureWarning: of another library" in said and warnings.formatwarning is usual


def shown(message):
    """What Python does when nobody records warnings, as pytest does."""
    sys.stderr.write(warnings.formatwarning(message.message, message.category, message.filename, message.lineno))
