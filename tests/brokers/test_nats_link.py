"""The connection to a NATS server: order, requests, and what outages do to it."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
import trustme

from tests.brokers.contract import until
from tests.brokers.nats_server import InLoop, NatsServer, new_prefix
from webmesh.brokers.nats_link import Message, NoReply, NoResponder
from webmesh.exceptions import BrokerUnavailable


def payloads(messages: list[Message]) -> list[bytes]:
    return [message.data for message in messages]


@pytest.fixture
def own_server(nats_server: NatsServer, tmp_path: Path) -> Iterator[NatsServer]:
    """A server that a test may kill."""
    made = NatsServer(tmp_path)
    made.start()
    yield made
    made.kill()


def test_messages_of_all_subscriptions_come_in_the_order_of_their_arrival(in_loop: InLoop):
    """One node's patterns overlap, and what it hears by each of them is in one order."""
    subject, arrived = new_prefix(), []
    for pattern in (f"{subject}.a", f"{subject}.*", f"{subject}.>"):
        in_loop(in_loop.link.subscribe(pattern, arrived.append))
    for number in range(50):
        in_loop.do(in_loop.link.send, f"{subject}.{'ab'[number % 2]}", b"%d" % number)
    in_loop.until(lambda: len(arrived) == 125)
    assert [*map(int, payloads(arrived))] == sorted(map(int, payloads(arrived)))


def test_a_request_is_answered(in_loop: InLoop):
    """With headers both ways."""
    subject = new_prefix()

    def answer(message: Message) -> None:
        in_loop.link.send(message.reply, message.data * 2, headers={"Said": message.headers["Asked"]})

    in_loop(in_loop.link.subscribe(subject, answer))
    answered = in_loop(in_loop.link.request(subject, b"x", {"Asked": "a"}))
    assert (b"xx", "a") == (answered.data, answered.headers["Said"])


def test_a_request_that_nobody_hears_says_so(in_loop: InLoop):
    """At once; and one that is not answered, after its time."""
    subject = new_prefix()
    with pytest.raises(NoResponder):
        in_loop(in_loop.link.request(subject))
    in_loop(in_loop.link.subscribe(subject, lambda message: None))
    with pytest.raises(NoReply):
        in_loop(in_loop.link.request(subject, timeout=0.05))
    assert not in_loop.link._answers


def test_what_was_on_its_way_is_taken_before_a_subscription_ends(in_loop: InLoop):
    """Afterwards nothing comes."""
    subject, arrived = new_prefix(), []
    in_loop(in_loop.link.subscribe(subject, arrived.append))
    for _ in range(20):
        in_loop.do(in_loop.link.send, subject, b"x")
    in_loop(in_loop.link.settle())
    in_loop(in_loop.link.unsubscribe(subject))
    assert 20 == len(arrived)
    in_loop.do(in_loop.link.send, subject, b"x")
    in_loop(in_loop.link.settle())
    assert 20 == len(arrived)


@pytest.mark.parametrize("last", [True, False])
def test_the_last_word_about_a_subscription_counts(in_loop: InLoop, last: bool):
    """However fast it is made and ended; the server knows of none that nobody takes from."""
    subject = new_prefix()

    async def toggle() -> None:
        changes = [
            in_loop.link.subscribe(subject, lambda message: in_loop.link.send(message.reply, b"here"))
            if wanted else in_loop.link.unsubscribe(subject)
            for wanted in [True, False, True, True, False, True, *[last]]
        ]  # fmt: skip
        await asyncio.gather(*changes)

    in_loop(toggle())
    if last:
        assert b"here" == in_loop(in_loop.link.request(subject)).data
    else:
        with pytest.raises(NoResponder):
            in_loop(in_loop.link.request(subject))
    assert not in_loop.link._turns


@pytest.mark.row(96)
def test_it_comes_back_with_its_subscriptions(own_server: NatsServer):
    """Those included that were made meanwhile; what waits for an answer fails at once, nothing is kept to be sent."""
    in_loop = InLoop(own_server.url)
    try:
        arrived = []
        in_loop(in_loop.link.subscribe("a", arrived.append))
        in_loop(in_loop.link.subscribe("silent", lambda message: None))

        asking = gevent.spawn(lambda: pytest.raises(NoReply, in_loop, in_loop.link.request("silent", timeout=1000)))
        until(lambda: in_loop.link._answers)
        own_server.kill()
        assert "lost" in str(asking.get().value)
        in_loop.until(lambda: not in_loop.link.up)
        assert not in_loop.do(in_loop.link.send, "a", b"lost")
        with pytest.raises(BrokerUnavailable, match="no connection"):
            in_loop(in_loop.link.request("a"))
        in_loop(in_loop.link.subscribe("b", arrived.append))
        own_server.start()
        in_loop(in_loop.link.wait_up())
        for subject in "ab":
            in_loop.do(in_loop.link.send, subject, subject.encode())
        in_loop.until(lambda: len(arrived) == 2)
        assert [b"a", b"b"] == payloads(arrived)
        assert ["up", "down", "up"] == [one.split(":")[0] for one in in_loop.events if not one.startswith("trouble")]
    finally:
        in_loop.close()


@pytest.mark.row(96)
def test_a_server_that_answers_no_more_is_left(own_server: NatsServer):
    """Its connection stands, so nothing but its silence tells."""
    in_loop = InLoop(own_server.url, patience=0.2)
    try:
        own_server.freeze()
        in_loop.until(lambda: any("no answer within 0.2" in one for one in in_loop.events))
        own_server.thaw()
        in_loop(in_loop.link.wait_up())
    finally:
        own_server.thaw()
        in_loop.close()


def test_no_server_says_which_were_tried():
    """And leaves nothing behind."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(BrokerUnavailable, match=rf"nats://127.0.0.1:{port}: .*failed"):
            InLoop(f"nats://u:s3cret@127.0.0.1:{port}")


def test_the_next_server_is_taken_where_one_is_not_there(nats_server: NatsServer):
    """In whichever order they stand."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        in_loop = InLoop(f"nats://127.0.0.1:{closed.getsockname()[1]},127.0.0.1:{nats_server.port}")
        in_loop.close()


def test_a_password_is_demanded_and_not_told(nats_server: NatsServer, tmp_path: Path):
    """Neither in errors; it may hold whatever a URL may not."""
    server = NatsServer(tmp_path, 'authorization { user: "me", password: "s3/c,ret" }')
    server.start()
    try:
        place = f"127.0.0.1:{server.port}"
        InLoop(f"nats://me:s3%2Fc%2Cret@{place}").close()
        for wrong in (f"nats://me:s3crex@{place}", f"nats://s3crex@{place}", f"nats://{place}"):
            with pytest.raises(BrokerUnavailable, match="Authorization Violation|demands a user") as raised:
                InLoop(wrong)
            assert "s3cre" not in str(raised.value)
    finally:
        server.kill()


def test_tls_is_spoken_and_demanded(nats_server: NatsServer, tmp_path: Path):
    """A server without TLS does not get the password, one whose certificate is not right neither."""
    import ssl

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    server = NatsServer(tmp_path, f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem" }}')
    server.start()
    try:
        place = f"127.0.0.1:{server.port}"
        InLoop(f"tls://u:p@{place}", tls=context).close()
        with pytest.raises(BrokerUnavailable, match="certificate"):
            InLoop(f"tls://u:p@{place}")
        with pytest.raises(BrokerUnavailable, match="no TLS"):
            InLoop(f"tls://u:p@127.0.0.1:{nats_server.port}", tls=context)
    finally:
        server.kill()
