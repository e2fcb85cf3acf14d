"""A local HTTP server with range requests, and what it was asked for."""

import contextlib
import functools
import http.server
import re
import threading
from pathlib import Path


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    do_POST = do_GET

    def answer(self, body):
        path, _, query = self.path.partition("?")
        self.server.asked.append((path, query, self.headers.get("Range")))
        hook = self.server.hooks.get(path)
        if hook is not None:
            data, status, extra = *hook(self), {}
            if isinstance(status, tuple):
                status, extra = status
            return self.reply(data, status, extra, body)
        file = Path(self.directory) / path.lstrip("/")
        if self.server.key and path.endswith(".tif") and self.server.key not in query:
            return self.reply(b"", 403, {}, body)
        if not file.is_file():
            return self.reply(b"", 404, {}, body)
        data = file.read_bytes()
        m = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if m:
            start, stop = int(m.group(1)), min(int(m.group(2) or len(data) - 1), len(data) - 1)
            extra = {"Content-Range": f"bytes {start}-{stop}/{len(data)}"}
            return self.reply(data[start : stop + 1], 206, extra, body)
        self.reply(data, 200, {}, body)

    def reply(self, data, status, extra, body):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), "Accept-Ranges": "bytes", **extra}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@contextlib.contextmanager
def serve(folder, key="", hooks=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    server.asked, server.key, server.hooks, server.daemon_threads = [], key, hooks or {}, True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
