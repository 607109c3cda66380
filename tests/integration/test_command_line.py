"""A user serves a file and calls it by hand: the commands as whole processes, patched and plain."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.processes import ENVIRONMENT, LONGEST, run_python

pytestmark = pytest.mark.once

APP = '''
import logging
import subprocess
import sys
import threading
import time

from webmesh import NotFound, Timeouts, WebMeshServer

server = WebMeshServer(timeouts=Timeouts(drain=5.0))
impatient = WebMeshServer(timeouts=Timeouts(drain=0.1, close=0.1))
gate = threading.Event()


@server.on("/")
def echo(payload, path, client):
    return payload


@server.on("/stock/<int:item>")
def stock(payload, path, client, item):
    if item > 9:
        raise NotFound(f"no item {item}", details={"item": item})
    return {"item": item, "pieces": 12}


@server.on("/count/<int:end>")
def count(payload, path, client, end):
    yield from range(end)
    return "counted"


@server.on("/bytes")
def some_bytes(payload, path, client):
    return b"\\x00\\xff"


@impatient.on("/slow")
@server.on("/slow")
def slow(payload, path, client):
    print("slow has begun", flush=True)
    time.sleep(payload)
    return "done"


@server.on("/fails")
def fails(payload, path, client):
    return 1 / 0


@server.on("/burn")
def burn(payload, path, client):
    print("burning", flush=True)
    while True:
        pass


@server.on("/log")
def log(payload, path, client):
    for number in range(payload):
        logging.getLogger("app").info("record %d of many, long enough to fill any pipe before it is read", number)
    return "logged"


@server.on("/child")
def child(payload, path, client):
    return subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True, check=True).stdout
'''

both_modes = pytest.mark.parametrize("mode", [[], ["--no-patch"]], ids=["patched", "plain"])


class Served:
    """A server in a process of its own, started by the command line."""

    def __init__(self, folder: Path, *arguments: str, command: tuple[str, ...] = ("-m", "webmesh.serve")) -> None:
        where = [] if "--unix" in arguments or "--port" in arguments else ["--port", "0"]
        self.process = subprocess.Popen(
            [sys.executable, *command, *arguments, *where],
            cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None and self.process.stderr is not None
        self.stdout, self.stderr = self.process.stdout, self.process.stderr
        self.banner: list[str] = []

    def await_url(self) -> str:
        """Read the banner, log records left out, up to the URL."""
        self.banner = []
        for line in self.stderr:
            if not line[:1].isdigit():
                self.banner.append(line.rstrip("\n"))
            if line.startswith("  url "):
                return line.split()[1]
        raise AssertionError("\n".join(["the server has ended:", *self.banner]))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for its end; the exit status."""
        return self.process.wait(LONGEST)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an app.py."""
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    return tmp_path


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., Served]]:
    """Start servers in the folder; end those that still run."""
    started: list[Served] = []

    def serve(*arguments: str, **options: tuple[str, ...]) -> Served:
        started.append(Served(folder, *arguments, **options))
        return started[-1]

    yield serve
    for served in started:
        if served.process.poll() is None:
            served.process.kill()
            served.process.wait()
        served.stdout.close()
        served.stderr.close()


def call(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return run_python("-m", "webmesh", "call", *arguments, stdin=stdin)


def begin_call(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "webmesh", "call", *arguments],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


class TestCall:
    @pytest.fixture
    def url(self, serve) -> str:
        return serve().await_url()

    def test_answers_are_json_on_standard_output(self, url):
        """The answer and nothing else."""
        finished = call(url, "/stock/7")

        assert (0, "") == (finished.returncode, finished.stderr)
        assert {"item": 7, "pieces": 12} == json.loads(finished.stdout)

    @pytest.mark.parametrize("serializer", ["msgpack", "json"])
    def test_payloads_arrive_as_they_are(self, url, serializer):
        """Whatever JSON can say goes there and back, by either serializer."""
        payload = {"a": [1, 2.5, None, True, "naïve 漢字"], "": {}}

        finished = call(url, "/", json.dumps(payload), "--serializer", serializer)

        assert payload == json.loads(finished.stdout)

    def test_payload_from_standard_input(self, url):
        """- reads it from there."""
        assert "[1, 2]\n" == call(url, "/", "-", stdin="[1,\n2]").stdout

    def test_a_stream_is_one_line_an_item(self, url):
        """Items on standard output; what the generator returned is a note beside them."""
        finished = call(url, "/count/3")

        assert (0, "0\n1\n2\n") == (finished.returncode, finished.stdout)
        assert 'the stream returned "counted"\n' == finished.stderr

    def test_an_empty_stream_prints_its_result(self, url):
        """Without items it is an answer like any other."""
        assert '"counted"\n' == call(url, "/count/0").stdout

    def test_bytes_are_shown_in_base64(self, url):
        """And it is said that they are."""
        finished = call(url, "/bytes")

        assert ('"AP8="\n', "bytes are shown in base64\n") == (finished.stdout, finished.stderr)

    def test_headers_go_with_the_request(self, url):
        """A route that looks at none still answers."""
        assert "1\n" == call(url, "/", "1", "--header", "tenant=blue", "--header", "x=a=b").stdout

    def test_an_error_answer_is_status_1(self, url):
        """One line with the wire code, the text and the details."""
        finished = call(url, "/stock/10")

        assert (1, "") == (finished.returncode, finished.stdout)
        assert 'python -m webmesh call: not_found: no item 10 {"item": 10}\n' == finished.stderr

    def test_no_such_route_is_an_error_answer(self, url):
        """The other side was there and has no such route."""
        finished = call(url, "/none")

        assert (1, 1) == (finished.returncode, finished.stderr.count("\n"))
        assert finished.stderr.startswith("python -m webmesh call: unimplemented: ")

    def test_a_handler_that_crashed_is_an_error_answer(self, url):
        """Internal, with the incident that stands in the server's log, and no traceback."""
        finished = call(url, "/fails")

        assert (1, 1) == (finished.returncode, finished.stderr.count("\n"))
        assert "internal: " in finished.stderr
        assert "incident" in finished.stderr
        assert "ZeroDivision" not in finished.stderr

    def test_no_answer_in_time_is_status_4(self, url):
        """The time that the caller gave is over."""
        finished = call(url, "/slow", "40", "--timeout", "0.5")

        assert (4, "", 1) == (finished.returncode, finished.stdout, finished.stderr.count("\n"))

    def test_nobody_there_is_status_3(self):
        """A port that nobody listens on."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]

        finished = call(f"ws://127.0.0.1:{port}", "/")

        assert (3, "", 1) == (finished.returncode, finished.stdout, finished.stderr.count("\n"))
        assert f"cannot connect to 127.0.0.1:{port}" in finished.stderr

    @pytest.mark.parametrize(("arguments", "status"), [(["--serializer", "pickle"], 2), (["--timeout", "0"], 2)])
    def test_a_mistake_is_status_2(self, url, arguments, status):
        """The command was used wrongly."""
        finished = call(url, "/", *arguments)

        assert (status, 1) == (finished.returncode, finished.stderr.count("\n"))

    def test_a_url_that_is_none_is_status_2(self):
        """Nothing can be dialled."""
        finished = call("http://127.0.0.1", "/")

        assert (2, 1) == (finished.returncode, finished.stderr.count("\n"))

    def test_a_reader_that_has_seen_enough(self, url):
        """`webmesh call … | head -1` ends without a complaint."""
        calling = begin_call(url, "/count/100000")
        assert calling.stdout is not None and calling.stderr is not None

        assert "0\n" == calling.stdout.readline()
        calling.stdout.close()

        assert ("", 0) == (calling.stderr.read(), calling.wait(LONGEST))
        calling.stderr.close()

    def test_interrupted(self, serve):
        """Ctrl-C during a call: status 130, no traceback."""
        served = serve()
        calling = begin_call(served.await_url(), "/slow", "40")
        assert "slow has begun\n" == served.stdout.readline()

        calling.send_signal(signal.SIGINT)

        out, err = calling.communicate(timeout=LONGEST)
        assert (130, "", "") == (calling.returncode, out, err)


class TestServe:
    @both_modes
    def test_finds_and_serves_app_py(self, serve, mode):
        """Without any name, app.py of the current directory is served; the banner says what and how."""
        served = serve(*mode)

        url = served.await_url()
        banner = served.banner + [served.stderr.readline().rstrip("\n") for _ in range(4)]

        assert banner[0].endswith("serves app:server")
        assert banner[2] == f"  mode    {'plain: handlers run in native threads' if mode else PATCHED_MODE}"
        assert banner[3] == f"  pid     {served.process.pid}"
        assert banner[4].startswith("  routes  / ")
        assert '{"item": 3, "pieces": 12}\n' == call(url, "/stock/3").stdout

    @pytest.mark.parametrize("command", [("-m", "webmesh", "serve"), ("-m", "webmesh.serve")])
    def test_both_spellings(self, serve, command):
        """`webmesh serve` and `python -m webmesh.serve` are the same, patched first."""
        served = serve("app:server", command=command)

        assert '"hi"\n' == call(served.await_url(), "/", '"hi"').stdout
        assert PATCHED_MODE in served.stderr.readline()

    def test_with_nothing_to_serve_something_is_served(self, serve, folder):
        """An empty folder gets the example or an echo, and is told so first."""
        (folder / "app.py").unlink()
        served = serve()

        url = served.await_url()

        assert f"no module was named and {folder} has none of app.py, service.py, main.py: serving" in served.banner[0]
        assert call(url, "/none").returncode == 1

    def test_a_unix_socket(self, serve, folder):
        """The URL of the banner can be called as it stands, and the file goes with the server."""
        path = folder / "s.sock"
        served = serve("--unix", str(path))

        assert "1\n" == call(served.await_url(), "/", "1").stdout
        served.signal(signal.SIGTERM)
        assert 0 == served.end()
        assert not path.exists()

    @both_modes
    @pytest.mark.row(88)
    def test_a_handler_may_start_programs(self, serve, mode):
        """`subprocess` works in handlers, and its child holds no socket of ours."""
        served = serve(*mode)

        assert '"42\\n"\n' == call(served.await_url(), "/child").stdout

    def test_logs_are_json_if_asked(self, serve):
        """Every line on standard error, from the banner to the end."""
        served = serve("--log-format", "json")
        banner = next(record for record in map(json.loads, served.stderr) if record["message"] == "serving")
        call(banner["url"], "/fails")

        served.signal(signal.SIGTERM)
        records = [json.loads(line) for line in served.stderr]

        assert 0 == served.end()
        assert "draining" in [record["message"] for record in records]
        assert "/" in [route["path"] for route in banner["routes"]]
        assert any("ZeroDivisionError" in record.get("exception", "") for record in records)

    def test_limits_from_the_command_line(self, serve):
        """With room for one connection the second is told to come again."""
        served = serve("--pool-size", "1", "--threads", "2")
        url = served.await_url()
        first = begin_call(url, "/slow", "40")
        assert "slow has begun\n" == served.stdout.readline()

        second = call(url, "/", "1")

        assert 3 == second.returncode
        assert "503" in second.stderr
        first.kill()
        first.communicate()

    @both_modes
    @pytest.mark.row(85)
    def test_a_standard_error_that_nobody_reads_holds_up_nothing(self, serve, mode):
        """Handlers that log into a full pipe go on, and so does the server; it still drains."""
        served = serve(*mode)
        url = served.await_url()

        assert '"logged"\n' == call(url, "/log", "20000").stdout
        assert '"hi"\n' == call(url, "/", '"hi"').stdout

        served.signal(signal.SIGTERM)
        assert 0 == served.end()


PATCHED_MODE = "patched: handlers run in greenlets"


class TestSignals:
    @both_modes
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    @pytest.mark.row(91, 92)
    def test_the_first_drains(self, serve, mode, number):
        """A call in progress is answered, nobody new is let in, and the status is 0."""
        served = serve(*mode)
        calling = begin_call(served.await_url(), "/slow", "1")
        assert "slow has begun\n" == served.stdout.readline()

        served.signal(number)

        assert 0 == served.end()
        out, err = calling.communicate(timeout=LONGEST)
        assert ('"done"\n', "", 0) == (out, err, calling.returncode)
        assert any(f"draining signal={number.name} connections=1" in line for line in served.stderr)

    @both_modes
    @pytest.mark.row(92)
    def test_draining_has_an_end(self, serve, mode):
        """A call that takes longer than the server's drain timeout is given up, and the status tells so."""
        served = serve("app:impatient", *mode)
        calling = begin_call(served.await_url(), "/slow", "3600")
        assert "slow has begun\n" == served.stdout.readline()

        served.signal(signal.SIGTERM)

        assert 3 == served.end()
        calling.communicate(timeout=LONGEST)
        assert calling.returncode in (1, 3)

    @both_modes
    @pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    @pytest.mark.row(91)
    def test_the_second_forces(self, serve, mode, number, status):
        """A handler that never ends, and never gives the hub back, does not keep the process."""
        served = serve(*mode)
        calling = begin_call(served.await_url(), "/burn")
        assert "burning\n" == served.stdout.readline()

        while served.process.poll() is None:  # two signals that come close together may be one
            served.signal(number)
            try:
                served.process.wait(0.3)
            except subprocess.TimeoutExpired:
                pass

        assert status == served.process.returncode
        calling.communicate(timeout=LONGEST)
        assert 3 == calling.returncode

    @both_modes
    @pytest.mark.row(91)
    def test_a_broken_pipe_kills_nobody(self, serve, mode):
        """SIGPIPE changes nothing."""
        served = serve(*mode)
        url = served.await_url()

        served.signal(signal.SIGPIPE)

        assert '"hi"\n' == call(url, "/", '"hi"').stdout

    @both_modes
    @pytest.mark.row(91)
    def test_a_signal_while_it_starts_ends_it(self, serve, folder, mode):
        """Before the server listens there is nothing to drain, and nothing to show."""
        (folder / "app.py").write_text("import time\nprint('starting', flush=True)\ntime.sleep(60)\n")
        served = serve(*mode)
        assert "starting\n" == served.stdout.readline()

        served.signal(signal.SIGINT)

        assert (130, "") == (served.end(), served.stderr.read())


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


class TestCertificates:
    @pytest.fixture
    def files(self, authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
        """Certificate, key, another key and the authority, as PEM files."""
        files = {name: str(tmp_path / f"{name}.pem") for name in ("certificate", "key", "other", "authority", "bad")}
        issued, other = authority.issue_cert("127.0.0.1"), authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(files["key"])
        other.private_key_pem.write_to_path(files["other"])
        authority.cert_pem.write_to_path(files["authority"])
        for blob in issued.cert_chain_pems:
            blob.write_to_path(files["certificate"], append=True)
        Path(files["bad"]).write_text("no PEM")
        return files

    def test_tls(self, serve, files):
        """With a certificate the URL is wss, and strangers' certificates are only taken when asked to."""
        url = serve("--certfile", files["certificate"], "--keyfile", files["key"]).await_url()

        assert url.startswith("wss://127.0.0.1:")
        assert "1\n" == call(url, "/", "1", "--insecure").stdout
        refused = call(url, "/", "1")
        assert (3, 1) == (refused.returncode, refused.stderr.count("\n"))
        assert "certificate" in refused.stderr

    @pytest.mark.row(61)
    def test_clients_need_a_certificate_of_the_authority(self, serve, files):
        """--client-ca turns away those without."""
        served = serve(
            "--certfile", files["certificate"], "--keyfile", files["key"], "--client-ca", files["authority"]
        )

        assert 3 == call(served.await_url(), "/", "1", "--insecure").returncode

    @pytest.mark.row(65, 91)
    def test_a_hangup_reads_the_certificate_again(self, serve, files):
        """SIGHUP with TLS: the server goes on with the new files."""
        served = serve("--certfile", files["certificate"], "--keyfile", files["key"])
        url = served.await_url()

        served.signal(signal.SIGHUP)

        assert any("certificate reloaded" in line for line in iter(served.stderr.readline, ""))
        assert "1\n" == call(url, "/", "1", "--insecure").stdout

    @pytest.mark.parametrize(
        ("certificate", "key", "reason"),
        [
            ("none", "key", "No such file or directory"),
            ("certificate", "none", "No such file or directory"),
            ("bad", "key", "PEM"),
            ("certificate", "other", "they do not belong together"),
        ],
    )
    def test_a_bad_certificate_is_one_line(self, folder, files, certificate, key, reason):
        """Status 2 and what is wrong with which file."""
        paths = {**files, "none": str(folder / "none.pem")}

        finished = run_python(
            "-m", "webmesh.serve", "--certfile", paths[certificate], "--keyfile", paths[key], folder=folder
        )

        assert (2, 1) == (finished.returncode, finished.stderr.count("\n"))
        assert reason in finished.stderr


class TestMistakes:
    @both_modes
    def test_a_port_that_is_taken(self, folder, mode):
        """One line with the port and what to do."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            finished = run_python("-m", "webmesh.serve", *mode, "--port", str(port), folder=folder)

        assert (2, 1) == (finished.returncode, finished.stderr.count("\n"))
        assert f"error: port {port} of 127.0.0.1 is in use" in finished.stderr

    @pytest.mark.skipif(shutil.which("setpriv") is None or os.geteuid() != 0, reason="needs root and setpriv")
    def test_a_privileged_port(self, folder):
        """Without the right to it, one line says so."""
        if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
            pytest.skip("here every port is free for all")
        without_right = ["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"]

        finished = subprocess.run(
            [*without_right, sys.executable, "-m", "webmesh.serve", "--port", "80"],
            cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=LONGEST,
        )  # fmt: skip

        assert (2, 1) == (finished.returncode, finished.stderr.count("\n"))
        assert "port 80 is privileged" in finished.stderr

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["ap"], "no module 'ap' in {folder} or on Python's path: did you mean 'app'?"),
            (["app:sever"], "module 'app' has no attribute 'sever': did you mean 'server'?"),
            (["app:gate"], "app:gate is no WebMeshServer but an Event"),
            (["app.py"], "'app.py' is a file, not a module: did you mean 'app'?"),
            (["--serializer", "pickle"], "no serializer 'pickle'"),
            (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid:4269"),
        ],
    )
    def test_what_cannot_be_served_is_one_line(self, folder, arguments, reason):
        """Status 2, no traceback, and what was probably meant."""
        finished = run_python("-m", "webmesh.serve", *arguments, folder=folder)

        assert (2, "", 1) == (finished.returncode, finished.stdout, finished.stderr.count("\n"))
        assert finished.stderr.startswith(f"python -m webmesh.serve: error: {reason.format(folder=folder)}")

    def test_a_module_that_fails_shows_its_traceback(self, folder):
        """The user's lines, then the reason; nothing of ours."""
        (folder / "app.py").write_text("import shop\n")
        (folder / "shop.py").write_text("prices = {}\nprices['pear']\n")

        finished = run_python("-m", "webmesh.serve", folder=folder)

        lines = finished.stderr.splitlines()
        assert 2 == finished.returncode
        assert ("Traceback (most recent call last):", "KeyError: 'pear'") == (lines[0], lines[-2])
        assert "python -m webmesh.serve: error: cannot import 'app': KeyError: 'pear'" == lines[-1]
        assert "webmesh/" not in "".join(lines)


class TestReload:
    @pytest.fixture
    def change(self, folder: Path) -> Callable[[str], None]:
        """Write app.py anew, with a time of modification of its own however fast the test is."""
        versions = iter(range(1, 100))

        def change(source: str) -> None:
            fresh = folder / "app.new"
            fresh.write_text(source)
            modified = fresh.stat().st_mtime_ns + next(versions) * 1_000_000_000
            os.utime(fresh, ns=(modified, modified))
            fresh.rename(folder / "app.py")

        return change

    @staticmethod
    def version(text: str) -> str:
        return APP + f'\n@server.on("/version")\ndef version(payload, path, client):\n    return "{text}"\n'

    @both_modes
    def test_an_edit_is_served(self, serve, change, mode):
        """The server comes up again with the new code, and a signal ends it all."""
        change(self.version("one"))
        served = serve("--reload", *mode)
        assert '"one"\n' == call(served.await_url(), "/version").stdout

        change(self.version("two"))
        assert '"two"\n' == call(served.await_url(), "/version").stdout

        served.signal(signal.SIGTERM)
        assert 0 == served.end()

    def test_a_broken_edit_shows_its_error_and_waits(self, serve, change):
        """The traceback, then a wait for the edit that mends it."""
        served = serve("--reload")
        served.await_url()

        change("1 / 0\n")
        lines = []
        for line in served.stderr:
            lines.append(line)
            if "waiting for a change" in line:
                break
        change(self.version("mended"))

        assert any("ZeroDivisionError" in line for line in lines)
        assert '"mended"\n' == call(served.await_url(), "/version").stdout

    @pytest.mark.row(91)
    def test_a_parent_that_was_killed_takes_its_server_along(self, serve):
        """Nobody is left behind who holds the port."""
        served = serve("--reload")
        served.await_url()
        for line in served.stderr:
            if line.startswith("  pid"):
                break

        served.process.kill()

        assert "INFO webmesh.serve: draining" in served.stderr.read()  # up to its end: the child has ended, too
