"""The load generator: many connections in one epoll loop, so cheap that the server is what limits.

Every connection keeps `window` messages in flight: as many as were answered are sent anew, by one
system call. Answers are checked in full before the clock runs; while it runs only their bytes are
counted, and at the end all that is open must come in, to the byte.
"""

from __future__ import annotations

import gc
import select
import socket
import time
import zlib
from collections import deque
from dataclasses import dataclass

from bench_parts.processes import cpu_seconds
from bench_parts.wire import Ring, Speech, inflated_message, ring

PATIENCE = 30.0
"""Seconds without any byte from the server before a run is given up."""

LATENCY_EVERY = 5
"""Latency is taken on every so many-th connection, so that the clock does not burden the others."""

BUFFER = 1 << 18


class LoadFailed(Exception):
    """The server did not answer as it should; the text says in what way."""


@dataclass(frozen=True)
class Sample:
    """One measurement of one contestant."""

    messages: int
    seconds: float
    cpu: float
    """Seconds of CPU time of the server process."""
    latencies: tuple[float, float]
    """Median and 99th percentile, in seconds, from sending to the whole answer."""

    @property
    def micros(self) -> float:
        """Server CPU per message in microseconds."""
        return self.cpu / self.messages * 1e6

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds

    @property
    def busy(self) -> float:
        """Share of one core that the server used; near 1 it was the limit, below it the load was."""
        return self.cpu / self.seconds


@dataclass(frozen=True)
class Plan:
    """What to do to a server: how many connections, how much on each, for how long."""

    size: int
    window: int
    connections: int
    seconds: float
    warm_up: float


class FrameCounter:
    """Counts whole messages in a server's byte stream, whatever their sizes."""

    def __init__(self) -> None:
        self.head = b""
        self.body_left = 0

    def count(self, data: memoryview) -> int:
        """How many messages end within `data`."""
        found, position, end = 0, 0, len(data)
        while position < end:
            if self.body_left:
                step = min(self.body_left, end - position)
                self.body_left -= step
                position += step
                found += self._ended()
                continue
            wanted = self._head_size() - len(self.head)
            self.head += data[position : position + wanted]
            position += wanted
            if len(self.head) >= 2 and len(self.head) == self._head_size():
                self.body_left = self._body_size()
                found += self._ended()
        return found

    def _head_size(self) -> int:
        return 2 if len(self.head) < 2 else {126: 4, 127: 10}.get(self.head[1], 2)

    def _body_size(self) -> int:
        return self.head[1] if self.head[1] < 126 else int.from_bytes(self.head[2:], "big")

    def _ended(self) -> int:
        """1 when the frame just now complete is the last one of a data message."""
        if self.body_left:
            return 0
        first, self.head = self.head[0], b""
        if first & 0x0F == 8:
            raise LoadFailed("the server closed the WebSocket")
        return 1 if first & 0x80 and not first & 0x08 else 0


class Link:
    """One connection under load."""

    __slots__ = ("sock", "ring", "position", "unsent", "odd_bytes", "frames", "open", "stamps")

    def __init__(self, sock: socket.socket, messages: Ring) -> None:
        self.sock = sock
        self.ring = messages
        self.position = 0
        self.unsent = memoryview(b"")
        self.odd_bytes = 0
        self.frames = FrameCounter()
        self.open = 0
        self.stamps: deque[float] | None = None

    def send(self, messages: int) -> bool:
        """Send the next ones; False when the socket would not take all of it."""
        part = self.ring.part(self.position, messages)
        self.position = (self.position + messages) % self.ring.count
        self.open += messages
        if self.stamps is not None:
            self.stamps.extend([time.perf_counter()] * messages)
        if self.unsent:
            self.unsent = memoryview(bytes(self.unsent) + bytes(part))
            return False
        return self._push(part)

    def flush(self) -> bool:
        """Send what is left over; True when nothing is."""
        return self._push(self.unsent)

    def _push(self, part: memoryview) -> bool:
        try:
            sent = self.sock.send(part)
        except BlockingIOError:
            sent = 0
        self.unsent = part[sent:]
        return not self.unsent


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """So many bytes from a blocking socket."""
    parts = []
    while size:
        part = sock.recv(min(size, 1 << 20))
        if not part:
            raise LoadFailed("the server closed the connection")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receive_head(sock: socket.socket) -> bytes:
    """The head of the answer to an upgrade request; servers of ours send nothing right after it."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = sock.recv(4096)
        if not part:
            raise LoadFailed(f"the server closed the connection during the upgrade: {head[:100]!r}")
        head += part
    if not head.startswith(b"HTTP/1.1 101 "):
        raise LoadFailed(f"the upgrade was refused: {head[:100]!r}")
    return head


def receive_frame(sock: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of one whole unfragmented frame."""
    head = receive_exactly(sock, 2)
    if head[1] >= 126:
        head += receive_exactly(sock, 2 if head[1] == 126 else 8)
    size = head[1] if head[1] < 126 else int.from_bytes(head[2:], "big")
    return head, receive_exactly(sock, size)


def connect(port: int, speech: Speech) -> socket.socket:
    """A connected, upgraded, blocking socket."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if speech.opening:
        sock.sendall(speech.opening)
        head = receive_head(sock)
        if speech.deflate and b"permessage-deflate" not in head:
            raise LoadFailed(f"the server did not agree to permessage-deflate: {head!r}")
    return sock


def check_answer(speech: Speech, head: bytes, body: bytes, ident: int, size: int) -> None:
    """Raise LoadFailed unless this is the answer to that message."""
    try:
        plain = inflated_message(body) if head and head[0] & 0x40 else body
        right = speech.holds(plain, ident, size)
    except (ValueError, zlib.error) as error:
        raise LoadFailed(f"an answer that cannot be decoded: {error}: {body[:200]!r}") from error
    if not right:
        raise LoadFailed(f"wrong answer: {body[:200]!r}")


def check_answers(port: int, speech: Speech, messages: Ring, size: int) -> int | None:
    """Exchange a few messages one by one and check their answers in full.

    Returns:
        The size of every answer, or None when they differ and have to be told apart by their heads.
    """
    sizes = set()
    with connect(port, speech) as sock:
        for ident in list(range(min(messages.count, 20))) * 2:
            sent = messages.part(ident, 1)
            sock.sendall(sent)
            if speech.answers_are_frames:
                head, body = receive_frame(sock)
            else:
                head, body = b"", receive_exactly(sock, len(sent))
            check_answer(speech, head, body, ident, size)
            sizes.add(len(head) + len(body))
            if len(sizes) > 1 or speech.deflate:
                return None
    return sizes.pop()


class Load:
    """One run of one plan against one server."""

    def __init__(self, port: int, pid: int, speech: Speech, plan: Plan) -> None:
        self.pid = pid
        self.plan = plan
        messages = ring(speech, plan.size, plan.window)
        self.answer_size = check_answers(port, speech, messages, plan.size)
        self.poll = select.epoll()
        self.links: dict[int, Link] = {}
        self.latencies: list[float] = []
        self.buffer = bytearray(BUFFER)
        self.view = memoryview(self.buffer)
        for _ in range(plan.connections):
            sock = connect(port, speech)
            sock.setblocking(False)
            self.links[sock.fileno()] = Link(sock, messages)
            self.poll.register(sock, select.EPOLLIN)

    def run(self) -> Sample:
        """Warm up, measure, let what is open come in."""
        gc.collect()
        gc.disable()
        try:
            for link in list(self.links.values())[::LATENCY_EVERY]:
                link.stamps = deque()
            for link in self.links.values():
                self._send(link, self.plan.window)
            self._exchange(self.plan.warm_up)
            self.latencies.clear()
            cpu, started = cpu_seconds(self.pid), time.perf_counter()
            messages = self._exchange(self.plan.seconds)
            cpu, seconds = cpu_seconds(self.pid) - cpu, time.perf_counter() - started
            self._drain()
        finally:
            gc.enable()
            self.close()
        if not messages:
            raise LoadFailed("no message was answered within the measured time")
        return Sample(messages, seconds, cpu, percentiles(self.latencies))

    def close(self) -> None:
        """Drop all connections."""
        for link in self.links.values():
            link.sock.close()
        self.poll.close()

    def _exchange(self, seconds: float) -> int:
        """Answer answers with new messages for so long; returns how many were answered."""
        total, now = 0, time.perf_counter()
        end, last = now + seconds, now
        while now < end:
            answered = 0
            for fd, event in self.poll.poll(1.0):
                link = self.links[fd]
                if event & select.EPOLLOUT and link.flush():
                    self.poll.modify(fd, select.EPOLLIN)
                if event & ~select.EPOLLOUT:
                    answers = self._receive(link)
                    if answers:
                        answered += answers
                        self._send(link, answers)
            now = time.perf_counter()
            if answered:
                total, last = total + answered, now
            elif now - last > PATIENCE:
                raise LoadFailed(f"no answer for {PATIENCE:g} s")
        return total

    def _drain(self) -> None:
        """Wait for every answer that is still owed, so that a wrong one cannot hide in the count."""
        owed = sum(link.open for link in self.links.values())
        end = time.perf_counter() + PATIENCE
        while owed > 0 and time.perf_counter() < end:
            for fd, event in self.poll.poll(1.0):
                link = self.links[fd]
                if event & select.EPOLLOUT and link.flush():
                    self.poll.modify(fd, select.EPOLLIN)
                if event & ~select.EPOLLOUT:
                    owed -= self._receive(link)
        if owed or any(link.odd_bytes for link in self.links.values()):
            raise LoadFailed(f"{owed} answers are missing at the end, or were of another size than the first")

    def _send(self, link: Link, messages: int) -> None:
        if not link.send(messages):
            self.poll.modify(link.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _receive(self, link: Link) -> int:
        """Read once; how many answers that completed."""
        size = link.sock.recv_into(self.buffer)
        if not size:
            raise LoadFailed("the server closed the connection under load")
        if self.answer_size is None:
            answers = link.frames.count(self.view[:size])
        else:
            answers, link.odd_bytes = divmod(link.odd_bytes + size, self.answer_size)
        link.open -= answers
        if link.stamps:
            now = time.perf_counter()
            for _ in range(min(answers, len(link.stamps))):
                self.latencies.append(now - link.stamps.popleft())
        return answers


def percentiles(values: list[float]) -> tuple[float, float]:
    """Median and 99th percentile; zeros when there is nothing."""
    if not values:
        return (0.0, 0.0)
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
