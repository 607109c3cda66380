"""A real browser for tests: Chromium without a window, with one page that runs what it is told.

The page is served by a small HTTP server. It fetches a job, which is JavaScript that a test brings along, runs
it, and posts what it returned. Its `Mesh` is a client of raw messages, written from docs/PROTOCOL.md alone;
JSON is the browser's own, msgpack is written out in the page.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from queue import Empty, Queue
from tempfile import TemporaryDirectory
from typing import Any

from tests.running import PATIENCE

NAMES = ("chromium", "chromium-browser", "google-chrome")

BINARY = next(filter(None, map(shutil.which, NAMES)), None)
"""The browser on PATH; `None` if there is none."""

START = 40.0
"""Seconds in which the browser must show its page: much, as it is large and the machine may be busy."""

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--disable-breakpad",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip
"""The sandbox does not start for root or in most containers; the pages are our own. Nothing but loopback is asked."""

PAGE = r"""<!doctype html><meta charset="utf-8"><title>WebMesh</title><script>
"use strict";

// msgpack. Writing takes the longest form of everything, which a reader must take too.
function pack(value) {
  const out = [];
  const head = (type, size, kind, number) => {
    const view = new DataView(new ArrayBuffer(1 + size));
    view.setUint8(0, type);
    view["set" + kind](1, number);
    out.push(new Uint8Array(view.buffer));
  };
  const put = (one) => {
    if (one === null) out.push(new Uint8Array([0xc0]));
    else if (typeof one === "boolean") out.push(new Uint8Array([one ? 0xc3 : 0xc2]));
    else if (Number.isInteger(one)) head(0xd3, 8, "BigInt64", BigInt(one));
    else if (typeof one === "number") head(0xcb, 8, "Float64", one);
    else if (one instanceof Uint8Array) { head(0xc6, 4, "Uint32", one.length); out.push(one); }
    else if (Array.isArray(one)) { head(0xdd, 4, "Uint32", one.length); one.forEach(put); }
    else if (typeof one === "string") {
      const text = new TextEncoder().encode(one);
      head(0xdb, 4, "Uint32", text.length);
      out.push(text);
    } else {
      head(0xdf, 4, "Uint32", Object.keys(one).length);
      Object.entries(one).flat().forEach(put);
    }
  };
  put(value);
  return new Blob(out).arrayBuffer();
}

const FORMS = {  // first byte: the kind of the number behind it, and what that number is
  0xc4: ["Uint8", "bytes"], 0xc5: ["Uint16", "bytes"], 0xc6: ["Uint32", "bytes"],
  0xca: ["Float32"], 0xcb: ["Float64"],
  0xcc: ["Uint8"], 0xcd: ["Uint16"], 0xce: ["Uint32"], 0xcf: ["BigUint64"],
  0xd0: ["Int8"], 0xd1: ["Int16"], 0xd2: ["Int32"], 0xd3: ["BigInt64"],
  0xd9: ["Uint8", "text"], 0xda: ["Uint16", "text"], 0xdb: ["Uint32", "text"],
  0xdc: ["Uint16", "list"], 0xdd: ["Uint32", "list"], 0xde: ["Uint16", "map"], 0xdf: ["Uint32", "map"],
};

function unpack(buffer) {
  const view = new DataView(buffer);
  let at = 0;
  const take = (size) => new Uint8Array(buffer, (at += size) - size, size);
  const number = (kind) => {
    const found = view["get" + kind](at);
    at += /8$/.test(kind) ? 1 : /16$/.test(kind) ? 2 : /64$/.test(kind) ? 8 : 4;
    return Number(found);
  };
  const of = {
    bytes: (size) => Array.from(take(size)),
    text: (size) => new TextDecoder("utf-8", {fatal: true}).decode(take(size)),
    list: (size) => Array.from({length: size}, value),
    map: (size) => Object.fromEntries(Array.from({length: size}, () => [value(), value()])),
  };
  function value() {
    const first = number("Uint8");
    if (first < 0x80) return first;
    if (first < 0x90) return of.map(first & 15);
    if (first < 0xa0) return of.list(first & 15);
    if (first < 0xc0) return of.text(first & 31);
    if (first >= 0xe0) return first - 256;
    if (first === 0xc0) return null;
    if (first === 0xc2 || first === 0xc3) return first === 0xc3;
    const [kind, what] = FORMS[first];
    return what ? of[what](number(kind)) : number(kind);
  }
  const whole = value();
  if (at !== buffer.byteLength) throw new Error("bytes after the end");
  return whole;
}

const through = (buffer, stream) => new Response(new Blob([buffer]).stream().pipeThrough(stream)).arrayBuffer();
const deflated = (buffer) => through(buffer, new CompressionStream("deflate"));  // zlib's format, RFC 1950
const isDeflated = (buffer) => new Uint8Array(buffer)[0] === 0x78;
const CODECS = {
  raw: {encode: async (one) => one, decode: async (one) => typeof one === "string" ? one : [...new Uint8Array(one)]},
  json: {encode: async (one) => JSON.stringify(one), decode: async (text) => JSON.parse(text)},
  msgpack: {
    encode: pack,
    decode: async (body) =>
      unpack(isDeflated(body) ? await through(body, new DecompressionStream("deflate")) : body),
  },
};

// What happens to a socket, in its order: {opened: its subprotocol}, every message, {closed: code}.
class Mesh {
  static sockets = [];

  constructor(url, protocol, codec) {
    this.codec = CODECS[codec];
    this.happened = [];
    this.bell = () => {};
    this.socket = protocol === null ? new WebSocket(url) : new WebSocket(url, protocol);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.note({event: {opened: this.socket.protocol}});
    this.socket.onmessage = (message) => this.note({data: message.data});
    this.socket.onclose = (close) => this.note({event: {closed: close.code}});
    Mesh.sockets.push(this.socket);
  }

  note(one) { this.happened.push(one); this.bell(); }

  async next() {
    while (!this.happened.length) await new Promise((resolve) => { this.bell = resolve; });
    const {event, data} = this.happened.shift();
    this.body = data;
    return event ?? this.codec.decode(data);
  }

  async send(message) { this.socket.send(await this.codec.encode(message)); }

  async ask(message) { await this.send(message); return this.next(); }
}

// The same from a document without an origin of its own.
function openedInSandbox(url) {
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts";
  frame.srcdoc = `<script>
    const socket = new WebSocket(${JSON.stringify(url)});
    socket.onopen = () => parent.postMessage({opened: socket.protocol}, "*");
    socket.onclose = (close) => parent.postMessage({closed: close.code}, "*");
  <\/script>`;
  return new Promise((resolve) => {
    window.onmessage = (message) => { frame.remove(); resolve(message.data); };
    document.body.append(frame);
  });
}

async function run(job) {
  const script = new (async () => {}).constructor(...Object.keys(job.values), job.script);
  const late = new Promise((_, reject) => {
    setTimeout(() => reject(new Error("the script still waits")), job.seconds * 1000);
  });
  try {
    return {number: job.number, returned: await Promise.race([script(...Object.values(job.values)), late]) ?? null};
  } catch (error) {
    return {number: job.number, failed: `${error}\n${error.stack}`};
  } finally {
    Mesh.sockets.splice(0).forEach((socket) => socket.close());
  }
}

(async () => {
  for (;;) {
    const job = await fetch("/job");
    if (job.status === 410) return;
    if (job.status === 200) await fetch("/result", {method: "POST", body: JSON.stringify(await run(await job.json()))});
  }
})();
</script><body>
"""


class PageServer(ThreadingHTTPServer):
    """Serves the page, hands it its jobs and takes their results; upgrades go on to a mesh server behind it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), PageRequest)
        self.jobs: Queue[dict[str, Any] | None] = Queue()
        self.results: Queue[dict[str, Any]] = Queue()
        self.shown = threading.Event()
        self.behind: int | None = None


class PageRequest(BaseHTTPRequestHandler):
    """One request of the page's."""

    server: PageServer

    def do_GET(self) -> None:
        if self.headers["Upgrade"]:
            self._relay()
        elif self.path == "/job":
            self._hand_out()
        elif self.path == "/":
            self._answer(200, PAGE)
        else:
            self._answer(404)

    def do_POST(self) -> None:
        self.server.results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(204)

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _hand_out(self) -> None:
        self.server.shown.set()
        try:
            job = self.server.jobs.get(timeout=PATIENCE)
        except Empty:
            self._answer(204)
        else:
            self._answer(410) if job is None else self._answer(200, json.dumps(job))

    def _answer(self, status: int, text: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(text.encode())

    def _relay(self) -> None:
        """As a reverse proxy does that serves the pages itself: the head goes on as it is, then all bytes."""
        head = [self.requestline, *(f"{name}: {value}" for name, value in self.headers.items()), "", ""]
        assert self.server.behind is not None
        with socket.create_connection(("127.0.0.1", self.server.behind), PATIENCE) as behind:
            behind.sendall("\r\n".join(head).encode("latin-1"))
            back = threading.Thread(target=copy, args=(behind, self.connection), daemon=True)
            back.start()
            copy(self.connection, behind)
            back.join(PATIENCE)


def copy(source: socket.socket, target: socket.socket) -> None:
    """Pass on what *source* sends, to its end."""
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class Browser:
    """Chromium with the page open; see `run`."""

    def __init__(self, pages: PageServer, process: subprocess.Popen[bytes], log: Path) -> None:
        self.pages = pages
        self.origin = f"http://127.0.0.1:{pages.server_port}"
        self._process = process
        self._log = log
        self._numbers = count(1)

    def await_shown(self) -> None:
        """Wait until the page asks for its first job."""
        if not self.pages.shown.wait(START):
            raise AssertionError(self._report("the browser did not show the page"))

    def run(self, script: str, **values: object) -> Any:
        """What *script*, the body of an async function whose arguments are *values*, returned in the page."""
        number = next(self._numbers)
        self.pages.jobs.put({"number": number, "script": script, "values": values, "seconds": PATIENCE})
        while True:
            try:
                result = self.pages.results.get(timeout=2 * PATIENCE)
            except Empty:
                raise AssertionError(self._report("the page does not answer")) from None
            if result["number"] == number:
                assert "failed" not in result, result["failed"]
                return result["returned"]

    def _report(self, what: str) -> str:
        status = self._process.poll()
        said = self._log.read_text(encoding="utf-8", errors="replace")[-3000:]
        return f"{what}; its exit status is {status}, and it said:\n{said}"


@contextmanager
def chromium(page: str, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The browser at *page*, with its profile and what it says in *folder*."""
    assert BINARY is not None
    log = folder / "chromium.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [BINARY, *ARGUMENTS, f"--user-data-dir={folder / 'profile'}", page],
            env={**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)},
            stdin=subprocess.DEVNULL, stdout=said, stderr=said,
        )  # fmt: skip
    try:
        yield process, log
    finally:
        process.terminate()  # it takes its children along
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE)


@contextmanager
def opened_browser() -> Iterator[Browser]:
    """A browser that shows the page; it and all that belongs to it ends with the block."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder, PageServer() as pages:
        serving = threading.Thread(target=pages.serve_forever, args=(0.05,), daemon=True)
        serving.start()
        try:
            with chromium(f"http://127.0.0.1:{pages.server_port}/", Path(folder)) as (process, log):
                started = Browser(pages, process, log)
                started.await_shown()
                yield started
                pages.jobs.put(None)
        finally:
            pages.shutdown()
            serving.join(PATIENCE)
