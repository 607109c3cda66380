"""Every bound, wait and delay of WebMesh, with its unit and its reason.

Pure values: frozen dataclasses that are passed down at construction. What a user may have a reason to
change stands here; numbers that only shape the code stand where they are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from webmesh.exceptions import ConfigurationError

DEFAULT_PORT = 4269
"""TCP port that servers listen on and clients dial when none is named."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes and counts. Each is the most that is allowed; none can be switched off, only raised."""

    message_size: int = 1024 * 1024
    """Bytes of one assembled message, after inflation. NATS and websockets default to 1 MiB; larger
    payloads belong in a store, with a reference on the wire. Beyond it the connection closes with 1009."""

    fragments: int = 4096
    """Frames of one message, empty ones included, that do not end it (the default of websockets). Beyond it: 1009."""

    overhead_rate: int = 1000
    """Frames a second, averaged over a burst of the same size, that carry no whole message: pings, pongs,
    fragments and empty messages. Each costs about 10 us, so a peer holds 1 % of a core. Beyond it: 1008."""

    message_rate: int = 1_000_000
    """Messages a second from one connection, averaged over a burst of the same size. More than one process can
    answer: an honest peer is held back by flow control, so lower it where peers are strangers. Beyond it: 1008."""

    frames_per_turn: int = 64
    """Frames that are read from one connection before the hub serves others."""

    depth: int = 64
    """Nesting of maps and lists in one message. Decoders disagree (ujson and msgpack near 1,024), so the
    limit is ours; no schema that people write by hand comes near it. Beyond it: 1007."""

    items: int = 65536
    """Elements of all lists and maps of one message together. 1 MiB of `[],[],…` becomes 24 MiB of
    objects from JSON and 72 MiB from msgpack, hence the bound. Beyond it: 1007."""

    headers: int = 64
    """Entries in the `headers` of an envelope (protocol.md section 2)."""

    request_id_size: int = 64
    """Bytes of a textual request id (protocol.md section 2)."""

    path_size: int = 1024
    """Bytes of a request's path; longer ones are refused with `invalid_argument`."""

    invalid_messages: int = 10
    """Well-formed maps that are no valid message before the connection closes with 4501."""

    call_chain: int = 16
    """Services that a call may pass through (protocol.md section 2, header `call-chain`)."""

    in_flight: int = 256
    """Handlers that may run at once for one connection. Further requests wait, at most `open_requests` of
    them and `waiting_size` bytes; beyond that they get `resource_exhausted` at once. Reading goes on, since
    replies, credit and cancels that the handlers wait for come by the same connection."""

    waiting_size: int = 8 * 1024 * 1024
    """Bytes of requests of one connection that wait for room to be handled."""

    in_flight_size: int = 64 * 1024 * 1024
    """Bytes of requests of 64 KiB and more that handlers of one connection have in hand at once; small ones are bounded
    by `in_flight` alone. Further large ones wait as those do that find no handler free. One alone always has room."""

    open_requests: int = 1024
    """Requests of ours, streams included, that may await their answer on one connection; the next
    one raises `Overloaded` at once."""

    subscriptions: int = 1024
    """Subscriptions of one peer; as many as it may have open requests. Beyond it: `resource_exhausted`."""

    stream_credit: int = 64
    """Items of a stream that may be on their way: what a receiver grants when it names no number."""

    send_queue: int = 8 * 1024 * 1024
    """Bytes that may wait for a slow peer's socket. NATS allows 64 MiB, Centrifugo 1 MiB. When they are reached
    a sender waits, or what `slow_peer` says happens; `Timeouts.write` ends a peer that makes no progress."""

    session_backlog: int = 1024 * 1024
    """Bytes that are kept for one session: messages and items that its peer may not have, or that wait while it is
    away. Beyond it the oldest go, and whoever has missed one of those cannot resume. Centrifugo keeps 1 MiB."""

    away_sessions: int = 10_000
    """Sessions that are kept although their peers are away, as many as connections. Beyond it the one ends that has
    been away longest."""

    sessions_size: int = 256 * 1024 * 1024
    """Bytes that are kept for all sessions of a server together: what 256 full backlogs take. Beyond it the one that
    keeps most pays: it ends while its peer is away; a peer that is there and acknowledges nothing is cut off and told
    of a gap, or cannot resume what it has not had."""

    wills: int = 16
    """Last wills of one session. Beyond it: `resource_exhausted`."""

    wills_size: int = 16 * 1024
    """Bytes of the wills of one session together, as they are sent: the server keeps them for as long as it lasts, and
    the engine too. Beyond it: `resource_exhausted`."""

    announcements: int = 64
    """Topics that one peer may be present on at a time. Beyond it: `resource_exhausted`."""

    presence_meta: int = 1024
    """Bytes of what a subscriber says of itself when it announces itself. Beyond it: `invalid_argument`."""

    presence_size: int = 256 * 1024
    """Bytes of all keys and metas that are present on one topic through one node: they are told in one message. Beyond
    it: `resource_exhausted`."""

    receive_queue: int = 64
    """Messages of a plain WebSocket route that wait for its handler; at the bound reading pauses."""

    connections: int = 10_000
    """Connections of one server. About 16 KiB each when idle."""

    spare_connections: int = 64
    """Places kept beyond `connections` to answer 503 with Retry-After instead of letting clients hang."""

    handshakes: int = 1024
    """Connections that may be between accept and upgrade at once; beyond it the oldest is dropped, of the address
    that has most of them."""

    handshakes_per_address: int = 256
    """The same for one address, an IPv6 /64 counted as one: so it takes four to fill the server's. Beyond it the
    oldest one of that address is dropped."""

    connections_per_address: int = 1000
    """Connections of one address: a tenth of the server's. Beyond it: 429 with Retry-After."""

    address_rate: int = 100
    """New connections a second of one address, averaged over a burst of the same size: a thousand clients behind one
    router are back within 30 s. Beyond it: 429 with a Retry-After that spreads them; beyond twice of it they are
    closed unheard."""

    accept_rate: int = 2000
    """Upgrades a second of all addresses together, averaged over a burst of the same size: about half of what one core
    can do, so that the calls of those who are in go on. Beyond it: 503 with a Retry-After that spreads a crowd of
    10,000 over 10 s."""

    address_failures: int = 15
    """Failures of one address in a minute: heads that no program sends by mistake, logins that failed, connections
    that broke a rule, or broke off within 5 s. Beyond it the address is banned for `Timeouts.ban`. Browsers behind
    one router share an address."""

    addresses: int = 10_000
    """Addresses without a connection whose rates and bans are remembered, about 1 KiB each. Beyond it those that left
    longest ago are forgotten."""

    backlog: int = 4096
    """The listening socket's queue. With gevent's default of 256 a burst got 146 handshakes/s here, with
    this one 3,200/s. The kernel caps it at `net.core.somaxconn`."""

    header_line: int = 8 * 1024
    """Bytes of the request line (beyond: 414) or of one header line (beyond: 431)."""

    header_count: int = 100
    """Header lines of an upgrade request. Beyond: 431."""

    head_size: int = 32 * 1024
    """Bytes of a whole HTTP head, in one read or in many. Beyond: 431."""

    rejected_body: int = 64 * 1024
    """Bytes of an HTTP answer's body that a client reads when an upgrade is rejected."""

    informational_responses: int = 10
    """1xx answers that a client skips before the real one."""

    login_size: int = 4 * 1024
    """Bytes of a message from a peer that has yet to log in. Room for `$hello` with a token. Beyond it: 1009."""

    token_size: int = 8 * 1024
    """Characters of a token, wherever it stands; a header line holds no more. Longer ones are refused unread."""

    failed_logins: int = 10
    """Failed logins of one address that cost it no wait. After them each doubles the wait, up to a minute."""

    threads: int = 32
    """Native threads for blocking handlers of one server. Threads start when needed."""

    thread_queue: int = 968
    """Blocking calls that may wait for a thread; with `threads` at its default the 1,001st one gets
    `resource_exhausted` at once."""

    threads_per_connection: int = 16
    """Of `threads`, those that calls of one connection may hold at once; half of them, so that a peer with slow calls,
    or with streams that it does not read, leaves the others theirs. Its further calls wait, and count as waiting in
    `thread_queue`. As many as `threads` or more set no bound."""

    websocket_threads: int = 256
    """Native threads for blocking handlers of plain WebSocket routes, each of which lasts as long as its
    connection. With all in use an upgrade is answered with 503 and Retry-After."""

    idempotency_keys: int = 10_000
    """Calls with an idempotency key that a server or client remembers, and that may run at once. Beyond it the
    oldest outcome makes room, and is counted; with all of them running, the next one gets `resource_exhausted`."""

    idempotency_size: int = 16 * 1024 * 1024
    """Bytes of the outcomes that are remembered, msgpack and compressed. One of more than half of it is not kept: its
    repeat gets `aborted`."""

    def __post_init__(self) -> None:
        _check_positive(self)


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Waits, in seconds. Every wait of WebMesh is one of these, or was named by the caller."""

    connect: float = 10.0
    """For a client: name resolution, TCP, TLS and upgrade together."""

    tls: float = 5.0
    """For a server: a client's whole TLS handshake. gevent has no deadline here of its own."""

    upgrade: float = 5.0
    """For a server: the whole HTTP head, never extended by progress (slowloris)."""

    login: float = 5.0
    """For a peer of a server that authenticates: from the upgrade to a `$hello` that logs it in. Beyond it: 4500.
    And for the authenticator to answer."""

    request: float = 30.0
    """A call that names no timeout, on both sides."""

    message: float = 30.0
    """From the first byte of a message to its last. Beyond it: 1008."""

    credit: float = 60.0
    """A stream whose reader takes nothing for so long ends with `aborted`: its handler may hold a thread."""

    write: float = 10.0
    """A socket that takes no byte for so long ends the connection with 4008."""

    ping_interval: float = 20.0
    """Silence after which a ping is sent (protocol.md section 6)."""

    stalled: float = 5.0
    """From a ping to what it proves: a peer whose machine has acknowledged it and which has not answered is stalled
    (protocol.md section 6). While somebody waits for the peer, the ping itself is sent after so much silence."""

    liveness: float = 45.0
    """Silence after which the connection is lost: 4012. Two pings fit in it."""

    session: float = 30.0
    """A session whose peer has lost its connection ends after it (protocol.md section 6), and with it the streams
    that wait for that peer."""

    close: float = 5.0
    """From our close frame to the peer's; then TCP is dropped."""

    ban: float = 60.0
    """How long an address that has failed too often finds the server closed (`Limits.address_failures`)."""

    drain: float = 10.0
    """For calls in progress to finish when a server closes."""

    idempotency: float = 300.0
    """How long the outcome of a call with an idempotency key is remembered: ten times `request`, so that a caller
    who tries again for as long as he may still gets it."""

    hub_hold: float = 0.1
    """Code that keeps a hub for so long without letting others run is named in a warning, with its stack, and told
    to `Observer.hub_held`. It is not interrupted. asyncio's debug mode and gevent's monitor begin at 0.1 s too."""

    start: float = 10.0
    """For `await_started` and for a client's own thread to run."""

    def __post_init__(self) -> None:
        _check_positive(self)
        if self.liveness <= self.ping_interval:
            raise ConfigurationError(
                f"Timeouts.liveness ({self.liveness:g} s) must be longer than ping_interval ({self.ping_interval:g} s)"
            )


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Delays between attempts to connect, in seconds: full jitter, so that clients spread."""

    first: float = 0.1
    """Upper bound of the first delay."""

    factor: float = 2.0
    """Growth of that bound from one attempt to the next."""

    maximum: float = 30.0
    """Where the growth ends."""

    stable_after: float = 60.0
    """A connection that lasted so long resets the series."""

    longest_asked: float = 300.0
    """The longest delay of a server's own asking (`Retry-After`) that is obeyed; a longer one counts as this. A wrong
    number there must not keep a client away for a year."""

    give_up_after: float = math.inf
    """Without a connection for so long, the client stops trying, and calls fail at once until `connect` is called.
    Infinity, the default, never gives up: a server that is back after a week finds its clients."""

    def __post_init__(self) -> None:
        _check_positive(self, may_be_infinite=("give_up_after",))
        if self.factor < 1:
            raise ConfigurationError(f"Backoff.factor must be at least 1, not {self.factor:g}")


@dataclass(frozen=True, kw_only=True)
class RetryBudget:
    """How many calls a client may send again: so few that retries cannot multiply an outage (as gRPC's throttling)."""

    tokens: float = 2050.0
    """Each failure that may be retried takes one; a call is sent again only while more than half of them are left. That
    is as many as `Limits.open_requests`: what the loss of one connection may cost at once."""

    ratio: float = 0.1
    """What each call gives back: in the long run at most one call in ten is sent again."""

    def __post_init__(self) -> None:
        _check_positive(self)


@dataclass(frozen=True, kw_only=True)
class GossipSettings:
    """How the nodes of a mesh watch over each other; times in seconds. All nodes of a mesh should have the same."""

    period: float = 1.0
    """Between two probes of one node. SWIM's and memberlist's: a dead node is asked within two of them, as a rule."""

    timeout: float = 0.5
    """For the answer to a probe; memberlist's. A node that finds its own network bad waits up to nine times as long."""

    indirect: int = 3
    """Others who are asked to probe a node that has not answered; memberlist's. One of them gets through when only the
    way from here is broken."""

    suspicion: float = 3.0
    """For a suspect to say that it lives. News needs about one of them to get to 200 nodes and back."""

    spread: float = 0.2
    """Between two tellings of news, while there is some; memberlist's."""

    fan_out: int = 2
    """Nodes that are told each time."""

    sync: float = 30.0
    """Between two comparisons of the whole state with a random node; memberlist's. It mends what news has missed."""

    forget: float = 3600.0
    """A lost node is remembered for so long: it counts when a majority is asked for."""

    forget_left: float = 60.0
    """A node that has left, or is proven to have ended, is remembered for so long: late news must not bring it back."""

    members: int = 256
    """Nodes of one mesh: each has a link to every other. Further ones are not taken up."""

    news_size: int = 1024
    """Bytes of news in one message, encoded as JSON; a single larger record goes alone."""

    pause: float = 2.0
    """A node that was itself away for so long, stopped or held by its own code, believes nothing that it measured
    meanwhile."""

    def __post_init__(self) -> None:
        _check_positive(self)


def _check_positive(
    options: Limits | Timeouts | Backoff | RetryBudget | GossipSettings, *, may_be_infinite: tuple[str, ...] = ()
) -> None:
    for field in fields(options):
        value = getattr(options, field.name)
        wanted = int if field.type == "int" else (int, float)
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise ConfigurationError(f"{type(options).__name__}.{field.name} must be a {field.type}, not {value!r}")
        if value == math.inf and field.name in may_be_infinite:
            continue
        if not 0 < value < math.inf:
            raise ConfigurationError(f"{type(options).__name__}.{field.name} must be above 0 and finite, not {value!r}")
