"""The demo's first chapter in a real browser: every picture is there, nothing is fetched, no console message."""

import browser
from swath.report import page as p


def test_the_world_chapter(tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from demo import world

    page = p.Page("demo")
    world.chapter(page)
    report = browser.assert_sound(page.write(tmp_path / "index.html"), images=30)
    assert report["text"] > 500
