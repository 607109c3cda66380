"""URLs of NATS servers."""

import pytest

from webmesh.brokers.nats_address import read_address
from webmesh.exceptions import ConfigurationError


@pytest.mark.parametrize(
    ("url", "servers", "credentials"),
    [
        ("nats://h", ["nats://h:4222"], {}),
        ("nats://h:1,g:2/", ["nats://h:1", "nats://g:2"], {}),
        ("nats://h:1,nats://[::1]:2", ["nats://h:1", "nats://[::1]:2"], {}),
        ("nats://u:p%40%2C@h,g", ["nats://h:4222", "nats://g:4222"], {"user": "u", "password": "p@,"}),
        ("nats://u:p@h,u:p@g", ["nats://h:4222", "nats://g:4222"], {"user": "u", "password": "p"}),
        ("tls://s3cret@h", ["tls://h:4222"], {"token": "s3cret"}),
    ],
)
def test_servers_and_credentials_are_read(url: str, servers: list[str], credentials: dict[str, str]):
    """The URLs of the servers hold no credentials."""
    address = read_address(url)
    assert (tuple(servers), credentials) == (address.servers, address.credentials)
    assert url.startswith("tls") == address.tls
    assert ",".join(servers) == str(address)


def test_the_query_is_left_to_others():
    """It holds the engine's options."""
    assert "prefix=a&lease=2" == read_address("nats://h?prefix=a&lease=2").query


@pytest.mark.parametrize(
    "url",
    ["redis://u:s3cret@h", "nats://", "nats://u:s3cret@", "nats://u:s3cret@h:port", "nats://u:s3cret@h/path",
     "nats://u:s3cret@h,tls://g", "nats://u:s3cret@h,v:s3cret@g", "nats://u:s3cret@h,,g", "nats://u:s3cret@h:99999",
     "nats://u:s3cret@h#f"],
)  # fmt: skip
def test_others_are_refused_without_a_word_of_the_password(url: str):
    """Errors end in logs."""
    with pytest.raises(ConfigurationError) as raised:
        read_address(url)
    assert "s3cret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_no_repr_shows_the_password():
    """As in tracebacks."""
    assert "s3cret" not in repr(read_address("nats://u:s3cret@h"))
