"""Look at a page as a browser does: console errors, broken pictures, network requests, sideways overflow."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
FLAGS += ["--enable-logging=stderr", "--virtual-time-budget=4000"]
PROBE = """<script>window.addEventListener('load',()=>{
const d=document.documentElement,o=document.createElement('pre');
o.id='probe';o.textContent=JSON.stringify({images:document.images.length,svgs:document.querySelectorAll('svg').length,
svgs_shown:[...document.querySelectorAll('svg')].filter(s=>s.getClientRects().length).map(s=>s.getAttribute('class')),
broken:[...document.images].filter(i=>!i.naturalWidth).map(i=>i.alt),overflow:d.scrollWidth-window.innerWidth,
remote:performance.getEntriesByType('resource').map(r=>r.name).filter(n=>!n.startsWith('data:')&&!n.startsWith('file:')),
text:document.body.innerText.length});document.body.append(o)})</script></body>"""


def browser():
    """Chromium's path; `make test` installs it, and without it the page tests fail rather than pass in silence."""
    found = next((p for n in NAMES if (p := shutil.which(n))), None)
    assert found, "no chromium: run tools/browser.sh"
    return found


def look(page, width=1280):
    """What the browser says of a page at this width."""
    source = Path(page).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as home:
        copy = Path(page).with_name("probe.html") if 'src="' in source else Path(home) / "probe.html"
        copy.write_text(source.replace("</body>", PROBE), encoding="utf-8")
        command = [browser(), *FLAGS, f"--user-data-dir={home}/user", f"--window-size={width},1600", "--dump-dom"]
        done = subprocess.run([*command, copy.as_uri()], capture_output=True, text=True, timeout=120)
        copy.unlink()
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    report = json.loads(found.group(1).replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    report["console"] = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return report


def assert_sound(page, images=0):
    """No console message, nothing broken, nothing fetched, no sideways scrolling, at desktop and phone width."""
    for width in (1280, 500):
        report = look(page, width)
        assert not report["console"], report["console"][:3]
        assert not report["broken"] and not report["remote"], report
        assert report["images"] >= images, report
        assert report["overflow"] <= 0, f"{report['overflow']} px wider than a window of {width}"
    return report
