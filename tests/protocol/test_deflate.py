"""permessage-deflate: what is agreed, and how it behaves inside plain wsproto. Inflation itself: test_inflation."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, TextMessage
from wsproto.extensions import PerMessageDeflate

from tests.protocol.compressed import MEGABYTE, deflated
from tests.protocol.raw_frames import CONTINUATION, PING, TEXT, cut, raw_frame
from webmesh.exceptions import MessageTooBig, RemoteProtocolError
from webmesh.options import Limits
from webmesh.protocol.deflate import OFFERS, BoundedDeflate, negotiate_deflate

LIMITS = Limits()
NO_TAKEOVER = "server_no_context_takeover; client_no_context_takeover"


def agreed(offers: str = "permessage-deflate", **limits: int) -> BoundedDeflate:
    extension = negotiate_deflate(offers, limits=Limits(**limits))
    assert extension is not None
    return extension


def accepted(answer: str = NO_TAKEOVER) -> BoundedDeflate:
    """A client's side after the server's *answer*."""
    extension = BoundedDeflate(LIMITS)
    extension.accept(answer)
    return extension


# --- The server agrees --------------------------------------------------------------------------


@pytest.mark.parametrize("offer, answer", [
    ("permessage-deflate", NO_TAKEOVER),
    ("permessage-deflate; client_max_window_bits", NO_TAKEOVER),
    ("permessage-deflate; client_max_window_bits=10", NO_TAKEOVER),
    ("permessage-deflate;server_no_context_takeover ; client_no_context_takeover", NO_TAKEOVER),
    ("permessage-deflate; server_max_window_bits=9", NO_TAKEOVER + "; server_max_window_bits=9"),
    ("permessage-deflate; server_max_window_bits=15", NO_TAKEOVER + "; server_max_window_bits=15"),
    ("\tpermessage-deflate ;\tserver_max_window_bits = 12 ", NO_TAKEOVER + "; server_max_window_bits=12"),
])  # fmt: skip
def test_a_server_keeps_no_window_and_promises_the_one_asked_for(offer: str, answer: str) -> None:
    """No context takeover either way, and the server's window where the client named one."""
    extension = agreed(offer)

    assert f"permessage-deflate; {answer}" == extension.response()
    assert extension.enabled()


@pytest.mark.row(11)
@pytest.mark.parametrize("parameters", [
    *(f"{side}_max_window_bits={bits}" for side in ("server", "client") for bits in (
        "7", "8", "16", "99", "abc", "", "-9", "+9", "09", "9.0", "1e1", "0x9", "\uff19", "9 9", '"10"', "'10'",
        "9" * 5000,
    )),
    "server_max_window_bits",
    "server_no_context_takeover=1", "client_no_context_takeover=", 'client_no_context_takeover="true"',
    "server_no_context_takeover; server_no_context_takeover",
    "server_max_window_bits=10; server_max_window_bits=10", "client_max_window_bits; client_max_window_bits=9",
    "unknown", "unknown=1", "SERVER_NO_CONTEXT_TAKEOVER", "", ";", "=", "=9", "\x00", "é",
])  # fmt: skip
def test_a_bad_offer_is_declined_and_the_next_one_taken(parameters: str) -> None:
    """No offer is repaired, and none raises; a client may list another one behind it."""
    bad = f"permessage-deflate; {parameters}"

    assert negotiate_deflate(bad, limits=LIMITS) is None
    if '"' not in bad:
        assert agreed(f"{bad}, permessage-deflate").response() == f"permessage-deflate; {NO_TAKEOVER}"


@pytest.mark.row(11)
def test_hundreds_of_offers_are_declined_together() -> None:
    """A client has a few to make; nobody reads 200."""
    assert negotiate_deflate(", ".join(["permessage-deflate"] * 200), limits=LIMITS) is None
    assert agreed(", ".join(["permessage-deflate; bad"] * (OFFERS - 1) + ["permessage-deflate"])).enabled()


@pytest.mark.row(11)
@pytest.mark.parametrize("offers", [
    "", ",", ",,,", "x-webkit-deflate-frame", "permessage-bzip2; client_max_window_bits", "permessage-deflate-2",
    "deflate", 'other; text="a, permessage-deflate, b"', "Permessage-Deflate\x00",
])  # fmt: skip
def test_what_does_not_offer_it_is_declined(offers: str) -> None:
    """Other extensions, nothing at all, and a name that only stands within a quoted text."""
    assert negotiate_deflate(offers, limits=LIMITS) is None


def test_the_first_acceptable_offer_is_taken() -> None:
    """Clients list offers by preference; other extensions between them do not matter."""
    offers = "other; a=1, permessage-deflate; server_max_window_bits=10, permessage-deflate"

    assert agreed(offers).response().endswith("server_max_window_bits=10")


@pytest.mark.row(11)
@given(offers=st.text(max_size=60) | st.lists(
    st.sampled_from(["permessage-deflate", ";", ",", "=", "8", "9", "15", '"', " ", "server_max_window_bits",
                     "client_max_window_bits", "client_no_context_takeover", "server_no_context_takeover", "x"]),
    max_size=12,
).map("".join))  # fmt: skip
def test_no_offer_raises(offers: str) -> None:
    """Whatever stands in the header, the answer is an extension or none."""
    extension = negotiate_deflate(offers, limits=LIMITS)

    assert extension is None or extension.enabled()


# --- The client accepts -------------------------------------------------------------------------


def test_a_clients_offer_is_one_that_a_server_takes() -> None:
    """Our own two sides agree, in both directions without a window."""
    extension = BoundedDeflate(LIMITS)

    answer = agreed(extension.offer()).response()
    extension.accept(answer.partition("; ")[2])

    assert extension.enabled()


@pytest.mark.parametrize("answer", [
    "", NO_TAKEOVER, "client_no_context_takeover", "server_max_window_bits=8", "server_max_window_bits=15",
    "client_max_window_bits=8; server_no_context_takeover", "client_max_window_bits=15",
])  # fmt: skip
def test_a_client_takes_every_answer_of_the_standard(answer: str) -> None:
    """Whatever RFC 7692 lets a server say to our offer."""
    assert accepted(answer).enabled()


@pytest.mark.row(11, 14)
@pytest.mark.parametrize("answer", [
    "unknown", "server_no_context_takeover=1", "client_max_window_bits", "client_max_window_bits=7",
    "server_max_window_bits", "server_max_window_bits=16", 'server_max_window_bits="10"',
    "server_max_window_bits=\uff19", "server_no_context_takeover; server_no_context_takeover", ";",
])  # fmt: skip
def test_a_client_refuses_a_bad_answer(answer: str) -> None:
    """RFC 7692 section 7: the client must fail the connection. The error is our own."""
    extension = BoundedDeflate(LIMITS)

    with pytest.raises(RemoteProtocolError):
        extension.accept(answer)

    assert not extension.enabled()


def test_a_server_that_keeps_its_window_is_understood() -> None:
    """One that does not promise to do without may refer to earlier messages."""
    theirs = PerMessageDeflate()
    theirs.finalize("permessage-deflate")
    server = Connection(ConnectionType.SERVER, [theirs])
    client = Connection(ConnectionType.CLIENT, [accepted("")])
    message = os.urandom(2000)

    first, second = server.send(BytesMessage(message)), server.send(BytesMessage(message))

    assert len(second) < 200 < len(first)
    assert [message] == messages(client, first)
    assert [message] == messages(client, second)


# --- Inside wsproto -----------------------------------------------------------------------------


def events(connection: Connection, *pieces: bytes) -> list[Event]:
    found: list[Event] = []
    for piece in pieces:
        connection.receive_data(piece)
        found += connection.events()
    return found


def messages(connection: Connection, *pieces: bytes) -> list[str | bytes]:
    """Whole messages; wsproto may hand out empty pieces before the last."""
    whole: list[str | bytes] = []
    parts: list[str | bytes] = []
    for event in events(connection, *pieces):
        assert isinstance(event, Message), event
        parts.append(event.data)
        if event.message_finished:
            whole.append("".join(parts) if isinstance(event.data, str) else b"".join(parts))  # type: ignore[arg-type]
            parts = []
    return whole


@pytest.mark.parametrize("message", ["", b"", "żółw" * 1000, b"ab" * 100_000, os.urandom(5000), b"short"])
@pytest.mark.parametrize("step", [1, 100, 1 << 20])
def test_messages_pass_between_plain_wsproto_connections(message: str | bytes, step: int) -> None:
    """It is an ordinary extension of wsproto, on either side."""
    sender = Connection(ConnectionType.CLIENT, [accepted()])
    receiver = Connection(ConnectionType.SERVER, [agreed()])
    event = TextMessage(message) if isinstance(message, str) else BytesMessage(message)

    assert [message, message] == messages(receiver, *cut(sender.send(event) + sender.send(event), step))


@pytest.mark.parametrize("window_bits", range(9, 16))
def test_the_promised_window_is_kept_to(window_bits: int) -> None:
    """A client that asked for a small window can inflate with just that."""
    theirs = PerMessageDeflate()
    theirs.finalize(f"permessage-deflate; server_max_window_bits={window_bits}")
    client = Connection(ConnectionType.CLIENT, [theirs])
    server = Connection(ConnectionType.SERVER, [agreed(f"permessage-deflate; server_max_window_bits={window_bits}")])
    message = os.urandom(600) * 200

    assert [message] == messages(client, server.send(BytesMessage(message)))


def test_a_client_that_may_use_8_bits_only_does_not_compress() -> None:
    """zlib makes no such window; an uncompressed message is always right."""
    client = Connection(ConnectionType.CLIENT, [accepted("client_max_window_bits=8")])

    assert 0x81 == client.send(TextMessage("a" * 5000))[0]


def test_outgoing_fragments_are_not_compressed() -> None:
    """We send whole messages; one that wsproto is given in parts goes out as it is, and right."""
    sender = Connection(ConnectionType.CLIENT, [accepted()])
    receiver = Connection(ConnectionType.SERVER, [agreed()])
    parts = [sender.send(TextMessage("a" * 2000, message_finished=finished)) for finished in (False, True)]

    assert [0x01, 0x80] == [part[0] for part in parts]
    assert ["a" * 4000] == messages(receiver, *parts)


@pytest.mark.row(30)
def test_wsproto_is_told_of_a_message_that_is_too_big() -> None:
    """Plain wsproto reports 1009; the extension tells the size."""
    extension = agreed(message_size=1000)
    receiver = Connection(ConnectionType.SERVER, [extension])

    (closed,) = events(receiver, raw_frame(TEXT, deflated(bytes(MEGABYTE)), rsv=4))

    assert isinstance(closed, CloseConnection)
    assert 1009 == closed.code
    assert isinstance(extension.failure, MessageTooBig)
    assert (1001, 1000) == (extension.failure.size, extension.failure.limit)


@pytest.mark.row(31, 32)
@pytest.mark.parametrize("stream, code", [
    (raw_frame(TEXT, b"garbage", rsv=4), 1007), (raw_frame(TEXT, deflated(b"a" * 99)[:-3], rsv=4), 1007),
    (raw_frame(PING, rsv=4), 1002), (raw_frame(TEXT, fin=False) + raw_frame(CONTINUATION, rsv=4), 1002),
    (raw_frame(TEXT, b"\x00", fin=False, rsv=4) + raw_frame(TEXT, b"garbage", rsv=4), 1002),
    (raw_frame(TEXT, deflated(b"\xff"), rsv=4), 1007),
])  # fmt: skip
def test_wsproto_is_told_of_faults(stream: bytes, code: int) -> None:
    """Bits and data that do not belong, with the right code."""
    (closed,) = (
        event for event in events(Connection(ConnectionType.SERVER, [agreed()]), stream)
        if isinstance(event, CloseConnection)
    )  # fmt: skip

    assert code == closed.code


def test_pings_between_compressed_fragments_are_left_alone() -> None:
    """A control frame is never compressed, and does not disturb the message around it."""
    compressed = deflated(b"message" * 10)
    receiver = Connection(ConnectionType.SERVER, [agreed()])
    stream = [
        raw_frame(TEXT, compressed[:5], fin=False, rsv=4), raw_frame(PING, compressed),
        raw_frame(CONTINUATION, compressed[5:]),
    ]  # fmt: skip

    found = events(receiver, *stream)

    assert Ping(compressed) in found
    assert "message" * 10 == "".join(event.data for event in found if isinstance(event, TextMessage))


@pytest.mark.row(34)
def test_no_message_tells_about_another() -> None:
    """Each is compressed by itself: what one user or one message holds does not shrink the next one."""
    sender = Connection(ConnectionType.SERVER, [agreed()])
    secret = os.urandom(2000).hex()

    first, second = sender.send(TextMessage(secret)), sender.send(TextMessage(secret))

    assert first == second
    assert Connection(ConnectionType.SERVER, [agreed()]).send(TextMessage(secret)) == first


def test_repr_tells_what_was_agreed() -> None:
    """For logs: parameters, never contents."""
    assert "<BoundedDeflate not agreed>" == repr(BoundedDeflate(LIMITS))
    assert f"<BoundedDeflate {NO_TAKEOVER}>" == repr(agreed())
