"""Lines reach the descriptor in order, and a descriptor that takes nothing holds up nobody."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from gevent.monkey import get_original

from webmesh.observability.line_writer import WRITE_SIZE, LineWriter

from tests.processes import run_program

WAIT = 10.0
close = get_original("os", "close")  # gevent's own puts it off to the hub's next turn


def wait_until(condition: Callable[[], bool]) -> None:
    """Give other threads turns until *condition* holds; fail when it does not in time."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Pipe:
    """A pipe whose reading end the test holds."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def fill(self) -> int:
        """Leave no room in the pipe; return how many bytes that took."""
        os.set_blocking(self.writer, False)
        size = 0
        try:
            while True:
                size += os.write(self.writer, b"." * 1024)
        except BlockingIOError:
            os.set_blocking(self.writer, True)
            return size

    def read(self, size: int) -> bytes:
        """Exactly *size* bytes."""
        content = b""
        while len(content) < size:
            content += os.read(self.reader, size - len(content))
        return content

    def read_lines(self, count: int) -> list[bytes]:
        """Exactly *count* lines."""
        content = b""
        while content.count(b"\n") < count:
            content += os.read(self.reader, 65536)
        return content.splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for descriptor in (pipe.reader, pipe.writer):
        try:
            close(descriptor)
        except OSError:
            pass  # closed by the test


def test_lines_arrive_in_order(pipe):
    """What is queued by one caller is written in that order, each line ended once."""
    writer = LineWriter(pipe.writer)

    accepted = [writer.write(f"line {number}") for number in range(100)]

    assert all(accepted)
    assert [b"line %d" % number for number in range(100)] == pipe.read_lines(100)
    assert 0 == writer.dropped


def test_nothing_starts_before_the_first_line(pipe):
    """A writer that is not used costs no thread, and flushing it is no wait."""
    before = sys._current_frames().keys()

    writer = LineWriter(pipe.writer)

    assert writer.flush(timeout=0)
    assert before == sys._current_frames().keys()


def test_what_utf8_cannot_say_is_escaped(pipe):
    """A lone surrogate, as it comes from a file name, is written as its escape."""
    LineWriter(pipe.writer).write("caf\u00e9 \ud800")

    assert ["caf\u00e9 \\ud800".encode()] == pipe.read_lines(1)


@pytest.mark.row(85)
def test_a_full_pipe_holds_up_nobody(pipe):
    """With a reader that has stopped, lines beyond the bound are counted and the caller goes on at once."""
    size = pipe.fill()
    writer = LineWriter(pipe.writer, bound=10)
    stuck = "s" * WRITE_SIZE
    writer.write(stuck)
    wait_until(lambda: "waiting=0" in repr(writer))  # the thread has it, and cannot write it

    accepted = [writer.write(f"{number}") for number in range(1000)]

    assert [True] * 10 + [False] * 990 == accepted
    assert writer.full
    assert 990 == writer.dropped
    assert not writer.flush(timeout=0.01)
    pipe.read(size)
    assert [stuck.encode(), *(b"%d" % number for number in range(10))] == pipe.read_lines(11)
    assert writer.flush(WAIT)
    assert not writer.full


@pytest.mark.row(85)
def test_lines_to_a_broken_pipe_are_dropped_and_counted(pipe):
    """A reader that has gone costs the lines, not the program."""
    writer = LineWriter(pipe.writer)
    close(pipe.reader)

    for number in range(5):
        writer.write(f"{number}")

    assert writer.flush(WAIT)
    assert 5 == writer.dropped


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.row(85)
def test_a_full_disk_costs_lines_and_nothing_else():
    """ENOSPC is counted like any other loss, and later lines are tried again."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(descriptor)

    writer.write("lost")
    writer.flush(WAIT)
    writer.write("lost too")
    writer.flush(WAIT)
    close(descriptor)

    assert 2 == writer.dropped


def test_a_non_blocking_descriptor_is_waited_for(pipe):
    """Standard error that another program made non-blocking still gets every byte."""
    size = pipe.fill()
    os.set_blocking(pipe.writer, False)
    writer = LineWriter(pipe.writer)
    long = "x" * (2 * WRITE_SIZE)

    writer.write(long)
    pipe.read(size)

    assert [long.encode()] == pipe.read_lines(1)
    assert writer.flush(WAIT)
    assert 0 == writer.dropped


def test_lines_of_many_threads_stay_whole(pipe):
    """Lines never mix, whoever writes them."""
    writer = LineWriter(pipe.writer)
    threads = [
        threading.Thread(target=lambda name: [writer.write(name * 50) for _ in range(50)], args=(str(name),))
        for name in range(8)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    lines = pipe.read_lines(400)

    assert {str(name).encode() * 50: 50 for name in range(8)} == {line: lines.count(line) for line in set(lines)}


@pytest.mark.row(88)
def test_a_forked_child_writes_its_own_lines_once(pipe):
    """A child has no writing thread of its parent's: it starts one, and leaves the parent's lines to it."""
    program = """
import os
from webmesh.observability.line_writer import LineWriter
writer = LineWriter(1)
writer.write("parent before")
writer.flush(5)
child = os.fork()
writer.write("child" if child == 0 else "parent after")
assert writer.flush(5)
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    assert ["child", "parent after", "parent before"] == sorted(run_program(program).splitlines())


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()"], ids=["plain", "patched"])
@pytest.mark.row(85)
def test_native_threads_and_greenlets_share_one_writer(patch):
    """In a patched process pool threads and greenlets that write together all finish."""
    program = f"""
{patch}
import gevent
from gevent.threadpool import ThreadPool
from webmesh.observability.line_writer import LineWriter
writer = LineWriter(1, bound=10000)
def work(name):
    for number in range(200):
        writer.write(f"{{name}}")
pool = ThreadPool(4)
gevent.joinall([pool.spawn(work, f"thread") for _ in range(4)] + [gevent.spawn(work, "greenlet") for _ in range(4)])
assert writer.flush(5)
"""
    lines = run_program(program).splitlines()
    assert (800, 800) == (lines.count("thread"), lines.count("greenlet"))


def test_repr_tells_the_state():
    """Where it writes, what waits and what was lost; no content."""
    assert "<LineWriter fd=2 waiting=0 dropped=0>" == repr(LineWriter(2))
