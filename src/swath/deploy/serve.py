"""The service over HTTP, on the standard library's server: a page for people, four addresses for programs.

GET  /         a page: what the model takes, and a form
GET  /card     the bundle's card
GET  /health   {"ready": true}
POST /predict  GeoTIFF or zip -> GeoTIFF, PNG (?form=png), zip (?form=zip or layers), GeoJSON (objects) or JSON
"""

from __future__ import annotations

import html
import json
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from swath import __version__
from swath.core import SwathError, UserError
from swath.data.scene import SceneHints
from swath.deploy.service import Ask, Busy, Limits, Reply, Service, unpack

FORMS = ("tif", "png", "zip")
KNOWN = ("sensor", "bands", "pattern", "layers", "form", "name")
READ_S = 120.0


def make_server(service: Service, host: str = "127.0.0.1", port: int = 8000) -> ThreadingHTTPServer:
    """A server that is bound and not yet running; port 0 takes a free one."""

    class Handler(_Handler):
        bundle = service

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as why:
        raise UserError(f"cannot listen: {why.strerror or why}", where=f"{host}:{port}",
                        remedy="choose another --port") from why  # fmt: skip
    server.daemon_threads = True
    return server


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, what: str, remedy: str = "") -> None:
        self.status, self.what, self.remedy = status, what, remedy
        super().__init__(what)


class _Handler(BaseHTTPRequestHandler):
    bundle: Service
    timeout = READ_S
    server_version, sys_version = f"swath/{__version__}", ""
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged by default: what users send is theirs."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/":
            self._send(HTTPStatus.OK, Reply(page(self.bundle).encode(), "text/html; charset=utf-8"))
        elif path == "/card":
            self._send(HTTPStatus.OK, _json(self.bundle.card))
        elif path == "/health":
            self._send(HTTPStatus.OK, _json({"ready": True, "bundle": self.bundle.bundle.digest}))
        else:
            self._send(HTTPStatus.NOT_FOUND, _problem(f"there is no {path}", "", "/, /card, /health, POST /predict"))

    def do_POST(self) -> None:
        try:
            where = urlsplit(self.path)
            if where.path != "/predict":
                self._body()
                raise _Refused(HTTPStatus.NOT_FOUND, f"there is no {where.path}", "POST to /predict")
            ask = ask_of(where.query, self._body(), self.bundle.limits)
            reply, status = self.bundle.answer(ask), HTTPStatus.OK
        except _Refused as why:
            reply, status = _problem(why.what, "request", why.remedy), why.status
        except Busy:
            reply, status = _problem("too many requests wait", "request", "try again"), HTTPStatus.SERVICE_UNAVAILABLE
        except UserError as why:
            reply, status = _problem(why.what, why.where, why.remedy), HTTPStatus.UNPROCESSABLE_ENTITY
        except SwathError as why:
            reply, status = _problem(why.what, why.where, why.remedy), HTTPStatus.INTERNAL_SERVER_ERROR
        except TimeoutError:
            self.close_connection = True
            return
        except Exception as why:
            # a request must not take the server down; the one who runs it sees the trace
            self.log_error("%s: %s", type(why).__name__, why)
            reply = _problem(f"{type(why).__name__} while answering", "", "tell whoever runs this server")
            status = HTTPStatus.INTERNAL_SERVER_ERROR
        self._send(status, reply)

    def log_error(self, format: str, *args: Any) -> None:
        BaseHTTPRequestHandler.log_message(self, format, *args)

    def _body(self) -> bytes:
        limit = self.bundle.limits.max_mb << 20
        self.close_connection = True
        given = self.headers.get("Content-Length", "")
        if not given.isascii() or not given.isdigit():
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "the request does not say its length", "send Content-Length")
        size = int(given)
        if size > limit:
            self._drain(min(size, 4 * limit))
            raise _Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"{size / 2**20:.0f} MB are more than the {self.bundle.limits.max_mb} MB of one request",
                "send a smaller window, raise --max-mb, or use swath map",
            )
        body = self.rfile.read(size)
        if len(body) < size:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"{len(body)} of {size} bytes came")
        self.close_connection = False
        return body

    def _drain(self, size: int) -> None:
        """Read and forget, so that a client that is still sending gets to hear why it is refused."""
        while size > 0 and (part := self.rfile.read(min(size, 1 << 16))):
            size -= len(part)

    def _send(self, status: HTTPStatus, reply: Reply) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", reply.media)
            self.send_header("Content-Length", str(len(reply.body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            if reply.name:
                self.send_header("Content-Disposition", f'inline; filename="{reply.name}"')
            if status is HTTPStatus.SERVICE_UNAVAILABLE:
                self.send_header("Retry-After", "5")
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(reply.body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


def ask_of(query: str, body: bytes, limits: Limits) -> Ask:
    """The question of a request; an unknown word in it is refused."""
    given = {k: v[-1] for k, v in parse_qs(query, keep_blank_values=True).items()}
    unknown = sorted(set(given) - set(KNOWN))
    if unknown:
        raise UserError(f"unknown parameter '{unknown[0]}'", where="request", remedy=f"known: {', '.join(KNOWN)}")
    form = given.get("form", "tif")
    if form not in FORMS:
        raise UserError(f"unknown form '{form}'", where="form", remedy=f"one of {', '.join(FORMS)}")
    hints = SceneHints(given.get("sensor", ""), _words(given.get("bands", "")), given.get("pattern", ""))
    return Ask(unpack(body, given.get("name", ""), limits), hints, _words(given.get("layers", "")), form)


def _words(text: str) -> tuple[str, ...]:
    return tuple(w.strip() for w in text.split(",") if w.strip())


def _json(value: Any) -> Reply:
    return Reply(json.dumps(value, default=str).encode(), "application/json")


def _problem(what: str, where: str, remedy: str) -> Reply:
    return _json({"what": what, "where": where, "remedy": remedy})


def page(service: Service) -> str:
    """One page without a single outside address: the card in words, a form, the answer as a picture or text."""
    bundle, card = service.bundle, service.bundle.card
    takes = "".join(
        f"<li><code>{html.escape(i.sensor)}</code>: {html.escape(', '.join(b.name for b in i.bands))}"
        f" ({html.escape(i.bands[0].unit if i.bands else '')})</li>"
        for i in card.inputs
    )
    classes = "".join(f"<li>{html.escape(c)}</li>" for c in bundle.label.classes)
    scores = "".join(
        f"<tr><td>{html.escape(k)}</td><td>{v:.4g}</td></tr>" for k, v in card.metrics.items() if v is not None
    )
    sensors = "".join(f'<option value="{html.escape(i.sensor)}">' for i in card.inputs)
    parts = {
        "NAME": html.escape(card.name), "TASK": html.escape(card.task), "LICENCE": html.escape(card.licence),
        "TAKES": takes, "CLASSES": classes or "<li>a value</li>", "SCORES": scores, "SENSORS": sensors,
        "DIGEST": html.escape(card.digest[:16]), "MB": str(service.limits.max_mb),
    }  # fmt: skip
    text = PAGE
    for key, value in parts.items():
        text = text.replace(f"[[{key}]]", value)
    return text


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>[[NAME]] - swath serve</title><link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; --line: #8884; --accent: #1b7837 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem; margin: .5rem 0 } h2 { font-size: 1.05rem; margin: 1.2rem 0 .3rem }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 0 2rem }
ul { padding-left: 1.2rem; margin: .2rem 0 } td { padding: .1rem .8rem .1rem 0; border-bottom: 1px solid var(--line) }
form { border: 1px solid var(--line); border-radius: .5rem; padding: 1rem; display: grid; gap: .6rem }
input, button { font: inherit; padding: .4rem .6rem; max-width: 100%; box-sizing: border-box }
button { background: var(--accent); color: #fff; border: 0; border-radius: .3rem; cursor: pointer; justify-self: start }
#answer { margin-top: 1rem; overflow-x: auto } #answer img { max-width: 100%; image-rendering: pixelated }
pre { white-space: pre-wrap; overflow-wrap: anywhere } .bad { color: #d7301f }
</style></head><body>
<h1>[[NAME]]</h1><p>[[TASK]] - licence [[LICENCE]] - <code>[[DIGEST]]</code> - <a href="/card">card</a></p>
<form id="ask"><label>GeoTIFF, or a zip of GeoTIFFs (up to [[MB]] MB)<br><input type="file" id="file" required
accept=".tif,.tiff,.zip"></label>
<label>Sensor, if the file does not say<br><input id="sensor" list="sensors"></label>
<datalist id="sensors">[[SENSORS]]</datalist>
<label>Bands in file order, if it does not say<br><input id="bands" placeholder="blue,green,red,nir"></label>
<button>Predict</button></form>
<div id="answer" aria-live="polite"></div>
<div class="two"><section><h2>Takes</h2><ul>[[TAKES]]</ul></section>
<section><h2>Gives</h2><ul>[[CLASSES]]</ul></section>
<section><h2>Measured on its test split</h2><table>[[SCORES]]</table></section></div>
<h2>From a program</h2><pre>curl --data-binary @scene.tif -o map.tif 'http://HOST:PORT/predict?name=scene.tif'</pre>
<script>
const box = document.getElementById('answer');
function tell(text, bad) { const p = document.createElement('pre'); p.textContent = text;
  if (bad) p.className = 'bad'; box.replaceChildren(p) }
document.getElementById('ask').addEventListener('submit', async (event) => {
  event.preventDefault();
  const file = document.getElementById('file').files[0];
  const words = new URLSearchParams({form: 'png', name: file.name});
  for (const key of ['sensor', 'bands']) { const v = document.getElementById(key).value; if (v) words.set(key, v) }
  tell('working ...');
  try {
    const reply = await fetch('/predict?' + words, {method: 'POST', body: file});
    const kind = reply.headers.get('Content-Type');
    if (reply.ok && kind === 'image/png') {
      const img = document.createElement('img'); img.alt = 'the map';
      img.src = URL.createObjectURL(await reply.blob()); box.replaceChildren(img);
    } else if (reply.ok) { tell(JSON.stringify(await reply.json(), null, 2))
    } else { const why = await reply.json(); tell([why.what, why.where, why.remedy].filter(Boolean).join('\\n'), true) }
  } catch (why) { tell(String(why), true) }
});
</script></body></html>
"""
