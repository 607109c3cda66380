"""The mesh's secret: what is shown of it, and that nothing else is taken for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.exceptions import ConfigurationError, InvalidArgument
from webmesh.protocol.mesh_proof import (
    Handshake, acceptor_proof, checked_secret, dialler_proof, is_proof, read_nonce,
)  # fmt: skip

SECRET = b"sixteen bytes or more"
HANDSHAKE = Handshake("a", "b", "1" * 32, "2" * 32)


def test_both_sides_come_to_the_same_proofs() -> None:
    """And neither can answer with the other's."""
    assert is_proof(dialler_proof(SECRET, HANDSHAKE), dialler_proof(SECRET, HANDSHAKE))
    assert dialler_proof(SECRET, HANDSHAKE) != acceptor_proof(SECRET, HANDSHAKE)


@given(st.tuples(*[st.text(max_size=6)] * 4), st.tuples(*[st.text(max_size=6)] * 4))
def test_another_handshake_has_another_proof(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    """However its texts are cut: an id that ends in another's nonce proves nothing."""
    same = one == other
    assert same == is_proof(dialler_proof(SECRET, Handshake(*one)), dialler_proof(SECRET, Handshake(*other)))


OTHER = acceptor_proof(b"another secret of theirs", HANDSHAKE)


@pytest.mark.parametrize("shown", [None, 1, "", "é" * 64, b"x", "0" * 64, OTHER])
def test_anything_else_is_no_proof(shown: object) -> None:
    """And raises nothing."""
    assert not is_proof(shown, acceptor_proof(SECRET, HANDSHAKE))


@pytest.mark.parametrize("secret", ["short", b"", 17, None])
def test_a_secret_that_can_be_guessed_is_refused(secret: object) -> None:
    """Sixteen bytes at least."""
    with pytest.raises(ConfigurationError, match="secret"):
        checked_secret(secret)  # type: ignore[arg-type]


def test_a_text_is_a_secret_too() -> None:
    """In UTF-8."""
    assert SECRET == checked_secret(SECRET.decode()) == checked_secret(SECRET)


@pytest.mark.parametrize("nonce", [None, 5, "", "a" * 31, "a" * 129, "é" * 40])
def test_a_nonce_that_is_not_random_is_refused(nonce: object) -> None:
    """An empty one would make a proof worth repeating."""
    with pytest.raises(InvalidArgument, match="nonce"):
        read_nonce(nonce)
    assert "a" * 32 == read_nonce("a" * 32)
