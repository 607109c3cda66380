"""TLS: files, floors, reloading, and gevent sockets from whichever context in whichever process."""

from __future__ import annotations

import shutil
import ssl
from contextlib import contextmanager

import gevent
import gevent.ssl
import pytest
from gevent import subprocess
from gevent.socket import socket, socketpair

from tests.websocket.loopback import PATIENCE, each_mode, listening, peer, peer_at, reset, run_program
from webmesh.exceptions import ConfigurationError
from webmesh.websocket.tls import (
    ServerTLS,
    check_client_context,
    client_context,
    tls_failure,
    verified_certificate,
    wrap_client,
)

StdlibContext = gevent.ssl.SSLContext.__mro__[1]
"""The standard library's own class, also in a patched process, where `ssl.SSLContext` is gevent's."""


@contextmanager
def secured(tls: ServerTLS, context: ssl.SSLContext, name: str = "localhost"):
    """Both ends of a pair of sockets, with the TLS handshake done by two greenlets of one hub."""
    ours, theirs = socketpair()
    server, client = tls.wrap(ours), wrap_client(theirs, context, name)
    with server, client, gevent.Timeout(PATIENCE):
        handshakes = [gevent.spawn(end.do_handshake) for end in (server, client)]
        try:
            gevent.joinall(handshakes, raise_error=True)
        finally:
            gevent.killall(handshakes)  # the other end waits in vain when one has failed
        yield server, client


def serial(context: ssl.SSLContext, tls: ServerTLS) -> str:
    """Serial number of the certificate that a new connection sees."""
    with secured(tls, context) as (_, client):
        return client.getpeercert()["serialNumber"]


def old_client() -> ssl.SSLContext:
    """A client that speaks nothing newer than TLS 1.1."""
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def test_both_ends_are_gevent_sockets(authority):
    """A hub waits for them and for nothing else meanwhile, in a patched process and in another."""
    with secured(ServerTLS(authority.issue("localhost")), client_context(authority.file)) as (server, client):
        server.sendall(b"hello")

        assert b"hello" == client.recv(100)
        assert isinstance(server, socket) and isinstance(client, socket)


@pytest.mark.parametrize("make", [StdlibContext, gevent.ssl.SSLContext], ids=["stdlib", "gevent"])
def test_ready_contexts_of_either_class_make_gevent_sockets(authority, make):
    """Users hand in `ssl.SSLContext` objects; outside a patched process those would block the hub."""
    ready = make(ssl.PROTOCOL_TLS_SERVER)
    ready.load_cert_chain(authority.issue("localhost"))
    trusting = make(ssl.PROTOCOL_TLS_CLIENT)
    trusting.load_verify_locations(authority.file)

    with secured(ServerTLS.coerce(ready), trusting) as (server, client):
        assert isinstance(server, gevent.ssl.SSLSocket) and isinstance(client, gevent.ssl.SSLSocket)


CONTEXT_PROGRAM = """
import socket, ssl, sys
import gevent
from gevent import subprocess
from gevent.socket import socketpair
from webmesh.websocket.tls import ServerTLS, wrap_client

def default_context(purpose):
    return ssl.create_default_context(purpose, cafile=sys.argv[2])

ready = default_context(ssl.Purpose.CLIENT_AUTH)
ready.load_cert_chain(sys.argv[1])
ours, theirs = socketpair()
silent, mute = socketpair()
tls = ServerTLS.coerce(ready)
server, client = tls.wrap(ours), wrap_client(theirs, default_context(ssl.Purpose.SERVER_AUTH), "localhost")
waiting = gevent.spawn(tls.wrap(silent).do_handshake)  # for ever: a socket that blocks would stop the hub here
gevent.sleep(0)
gevent.joinall([gevent.spawn(server.do_handshake), gevent.spawn(client.do_handshake)], timeout=10, raise_error=True)
print(client.version(), waiting.ready())
"""


@each_mode
def test_contexts_of_the_standard_library_never_block_the_hub(authority, patched):
    """`ssl.create_default_context` is what people know; a silent peer on one such socket holds up no other."""
    program = run_program(CONTEXT_PROGRAM, authority.issue("localhost"), authority.file, patched=patched)

    out, err = program.communicate(timeout=PATIENCE * 3)

    assert ("TLSv1.3 False\n", "") == (out, err)


@pytest.mark.parametrize("files", [("nowhere.pem", None), ("garbage.pem", None), ("good.pem", "other.pem")])
def test_files_that_cannot_be_used_are_named(authority, tmp_path, files):
    """Missing, no PEM, key of another certificate: one class, and a text that names the files."""
    (tmp_path / "garbage.pem").write_text("no certificate")
    shutil.copy(authority.issue("localhost"), tmp_path / "good.pem")
    shutil.copy(authority.issue("localhost"), tmp_path / "other.pem")
    certfile, keyfile = (str(tmp_path / name) if name else None for name in files)

    with pytest.raises(ConfigurationError, match=files[1] or files[0]):
        ServerTLS(certfile, keyfile)


def test_authorities_that_cannot_be_used_are_named(authority, tmp_path):
    """Both where a server verifies its clients and where a client verifies its server."""
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")

    with pytest.raises(ConfigurationError, match="garbage.pem"):
        ServerTLS(authority.issue("localhost"), client_ca=str(garbage))
    with pytest.raises(ConfigurationError, match="garbage.pem"):
        client_context(str(garbage))


@pytest.fixture(scope="module")
def locked(authority, tmp_path_factory) -> str:
    """A PEM file whose private key is locked with the password `sesame`."""
    from cryptography.hazmat.primitives import serialization

    with open(authority.issue("localhost"), "rb") as file:
        pem = file.read()
    key = serialization.load_pem_private_key(pem, None)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"sesame")
    )
    path = tmp_path_factory.mktemp("locked") / "locked.pem"
    path.write_bytes(secret + pem[pem.index(b"-----BEGIN CERTIFICATE") :])
    return str(path)


@pytest.mark.parametrize("password", ["sesame", b"sesame", lambda: "sesame"], ids=["text", "bytes", "function"])
def test_a_locked_key_is_opened_with_its_password(locked, password):
    """As text, as bytes, or fetched when needed."""
    assert ServerTLS(locked, password=password).context is not None


@pytest.mark.parametrize(
    ("password", "text"), [(None, "locked.pem is locked: give its password"), ("wrong", "locked.pem")]
)
def test_a_locked_key_never_asks_on_the_terminal(locked, password, text):
    """OpenSSL would wait for somebody to type; a server that starts at night has nobody."""
    with pytest.raises(ConfigurationError, match=text):
        ServerTLS(locked, password=password)


@pytest.mark.row(65)
def test_new_connections_use_a_certificate_that_was_changed_on_disk(authority, tmp_path):
    """Open connections live on with the old one: nobody is disconnected by a renewal."""
    certfile, trusting = str(tmp_path / "site.pem"), client_context(authority.file)
    shutil.copy(authority.issue("localhost"), certfile)
    tls = ServerTLS(certfile)

    with secured(tls, trusting) as (server, client):
        old = client.getpeercert()["serialNumber"]
        shutil.copy(authority.issue("localhost"), certfile)
        assert old == serial(trusting, tls)
        tls.reload()
        assert old != serial(trusting, tls)
        server.sendall(b"still here")
        assert b"still here" == client.recv(100)


@pytest.mark.row(65)
def test_a_bad_file_keeps_the_old_certificate(authority, tmp_path):
    """A renewal that went wrong is told to whoever asked for it, and to no client."""
    certfile, trusting = str(tmp_path / "site.pem"), client_context(authority.file)
    shutil.copy(authority.issue("localhost"), certfile)
    tls = ServerTLS(certfile)
    old = serial(trusting, tls)

    with open(certfile, "w") as file:
        file.write("half written")
    with pytest.raises(ConfigurationError, match="site.pem"):
        tls.reload()

    assert old == serial(trusting, tls)


@pytest.mark.row(65)
def test_a_ready_context_is_reloaded_by_its_owner(authority):
    """`load_cert_chain` on the live context changes what new connections see; `reload` says so."""
    ready, trusting = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), client_context(authority.file)
    ready.load_cert_chain(authority.issue("localhost"))
    tls = ServerTLS.coerce(ready)
    old = serial(trusting, tls)

    with pytest.raises(ConfigurationError, match="load_cert_chain"):
        tls.reload()
    ready.load_cert_chain(authority.issue("localhost"))

    assert old != serial(trusting, tls)


def test_coerce_leaves_what_it_is_given_alone(authority):
    """A ServerTLS is itself; a context keeps its options, as its owner may use it elsewhere."""
    tls = ServerTLS(authority.issue("localhost"))
    ready = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    options = ready.options

    assert tls is ServerTLS.coerce(tls)
    assert ready is ServerTLS.coerce(ready).context
    assert options == ready.options


@pytest.mark.parametrize("wrong", ["cert.pem", ("cert.pem", "key.pem"), None, True])
def test_what_is_no_context_is_refused(wrong):
    """A pair of file names, as other libraries take, gets a text that says what to give."""
    with pytest.raises(ConfigurationError, match="ServerTLS"):
        ServerTLS.coerce(wrong)
    with pytest.raises(ConfigurationError, match="SSLContext"):
        check_client_context(wrong)


def test_a_context_of_the_other_side_is_refused():
    """The two are easily mixed up, and OpenSSL's own words for it help nobody."""
    with pytest.raises(ConfigurationError, match="for clients"):
        ServerTLS.coerce(client_context())
    with pytest.raises(ConfigurationError, match="for servers"):
        check_client_context(gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


@pytest.mark.row(61)
@pytest.mark.parametrize("floor", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.MINIMUM_SUPPORTED])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_ready_context_below_the_floor_is_refused(floor):
    """A context is never changed behind its owner's back, so one that allows too much cannot be used."""
    server, client = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.minimum_version = client.minimum_version = floor

    with pytest.raises(ConfigurationError, match="TLSv1_2"):
        ServerTLS.coerce(server)
    with pytest.raises(ConfigurationError, match="TLSv1_2"):
        check_client_context(client)


@pytest.mark.plain
def test_an_sni_callback_that_could_not_work_is_refused(authority):
    """Given gevent's socket it works; the standard library's context would hand it something else."""
    ready = StdlibContext(ssl.PROTOCOL_TLS_SERVER)
    ready.set_servername_callback(lambda sock, name, context: None)

    with pytest.raises(ConfigurationError, match="SNI"):
        ServerTLS.coerce(ready)


def test_an_sni_callback_on_a_gevent_context_chooses_the_certificate(authority):
    """One port, several names: the callback swaps the context before the certificate is sent."""
    other, trusting = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), client_context(authority.file)
    other.load_cert_chain(authority.issue("other.test"))
    ready = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ready.load_cert_chain(authority.issue("localhost"))

    def choose(sock, name, context):
        if name == "other.test":
            sock.context = other

    ready.sni_callback = choose

    with secured(ServerTLS.coerce(ready), trusting, "other.test") as (_, client):
        assert (("DNS", "other.test"),) == client.getpeercert()["subjectAltName"]


@pytest.mark.row(61)
def test_protocols_before_1_2_are_refused(authority, witness, server_log):
    """A client that speaks nothing newer than TLS 1.1 gets an alert that says so, and one log line is written."""
    with listening(tls=ServerTLS(authority.issue("localhost")), observer=witness) as listener:
        with wrap_client(peer(listener), old_client(), "localhost") as client:
            with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                client.do_handshake()

        assert [(0, "TLS failed")] == witness.wait_for(1)
    (record,) = server_log.records
    assert "unsupported protocol" == record.detail


@pytest.mark.row(61)
def test_contexts_of_ours_agree_on_no_renegotiation_and_no_old_protocol(authority):
    """The floor and the switch are set here, whatever the system's own configuration allows."""
    for context in (ServerTLS(authority.issue("localhost")).context, client_context()):
        assert ssl.TLSVersion.TLSv1_2 == context.minimum_version
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION


@pytest.mark.row(61)
@pytest.mark.skipif(shutil.which("openssl") is None, reason="asks for a renegotiation with the openssl program")
def test_renegotiation_is_refused(authority, server_log):
    """A peer that could ask for handshakes over and over would cost 100 times what it pays (TLS 1.2)."""
    with listening(tls=ServerTLS(authority.issue("localhost"))) as listener:
        finished = subprocess.run(  # gevent's: the listener of this process must go on meanwhile
            ["openssl", "s_client", "-tls1_2", "-connect", listener.address, "-legacy_renegotiation"],
            input=b"R\n", capture_output=True, timeout=PATIENCE,
        )  # fmt: skip

    assert b"RENEGOTIATING" in finished.stdout + finished.stderr
    assert b"no renegotiation" in finished.stderr


@pytest.mark.row(61)
def test_a_client_certificate_is_required_where_an_authority_is_given(authority, witness, server_log):
    """Without one the handshake fails; with one the decision and the connection know whose it is."""
    tls = ServerTLS(authority.issue("localhost"), client_ca=authority.file)
    anonymous = client_context(authority.file)
    known = client_context(authority.file, authority.issue("till-3.shop.test"))

    with secured(tls, known) as (server, _):
        certificate = verified_certificate(server)
    assert certificate is not None
    assert (("DNS", "till-3.shop.test"),) == certificate["subjectAltName"]
    with listening(tls=tls, observer=witness) as listener, peer(listener) as sock:
        with pytest.raises(ssl.SSLError), wrap_client(sock, anonymous, "localhost") as client:
            client.do_handshake()
            client.recv(1)  # in TLS 1.3 a client learns of it only now
        assert [(0, "TLS failed")] == witness.wait_for(1)
    assert "peer did not return a certificate" == server_log.records[0].detail


def test_no_certificate_is_told_where_none_was_verified(authority):
    """Without TLS, and from a client that nobody asked, there is nothing to know."""
    ours, theirs = socketpair()
    with ours, theirs:
        assert verified_certificate(ours) is None
    with secured(ServerTLS(authority.issue("localhost")), client_context(authority.file)) as (server, client):
        assert verified_certificate(server) is None
        assert verified_certificate(client) is not None


def test_a_client_verifies_unless_told_otherwise_by_a_loud_name(authority):
    """Row 60's rule: switching off takes an argument that nobody writes by accident."""
    strict, careless = client_context(), client_context(insecure_skip_verify=True)

    assert (ssl.CERT_REQUIRED, True) == (strict.verify_mode, strict.check_hostname)
    assert (ssl.CERT_NONE, False) == (careless.verify_mode, careless.check_hostname)
    with secured(ServerTLS(authority.issue("localhost")), careless, "elsewhere") as (_, client):
        assert client.version() is not None
        assert verified_certificate(client) is None  # whoever may have made it up


def test_a_peer_that_has_gone_before_tls_leaves_the_socket_to_the_caller(authority):
    """gevent finds out too late, when it has taken the socket over, and leaves nobody to close it."""
    tls = ServerTLS(authority.issue("localhost"))
    with socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen(1)
        reset(peer_at("{}:{}".format(*door.getsockname())))
        accepted, _ = door.accept()
        with accepted:
            with pytest.raises(OSError):
                tls.wrap(accepted)
            assert accepted.fileno() >= 0


def test_another_protocol_is_named_in_the_handshake(authority):
    """Both sides say http/1.1 by ALPN, so no WebSocket can be smuggled into a server of another protocol."""
    with secured(ServerTLS(authority.issue("localhost")), client_context(authority.file)) as (server, client):
        assert "http/1.1" == server.selected_alpn_protocol() == client.selected_alpn_protocol()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (OSError("odd"), "odd"),
        (OSError(), "OSError"),
    ],
)
def test_failures_that_are_not_openssl_s_are_told_too(error, text):
    """A peer can leave in the middle of a handshake."""
    assert text == tls_failure(error)


def test_a_refused_certificate_is_told_with_the_reason(authority):
    """Not as OpenSSL's number, but as what it verified."""
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        with secured(ServerTLS(authority.issue("localhost")), client_context(authority.file), "elsewhere"):
            pass

    assert "certificate refused: Hostname mismatch" in tls_failure(caught.value)
