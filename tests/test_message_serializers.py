"""The serializers as servers and clients use them, and what the package may never use."""

from __future__ import annotations

import ast
import math
import os
import threading
import zlib
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

import webmesh
from webmesh.exceptions import ConfigurationError, DecodeError, EncodeError, MessageTooBig, WebMeshError
from webmesh.message_serializers import (
    AbstractMessageSerializer, MessagePackSerializer, StandardJsonSerializer, subprotocol,
)  # fmt: skip
from webmesh.options import Limits
from webmesh.protocol.values import INTEGER_MAX, INTEGER_MIN

SERIALIZERS: list[AbstractMessageSerializer] = [StandardJsonSerializer(), MessagePackSerializer()]
each_serializer = pytest.mark.parametrize("serializer", SERIALIZERS, ids=["json", "msgpack"])

REQUEST = {
    "path": "/accounts/get",
    "id": 123456,
    "timeout_ms": 5000,
    "data": {"name": "Zoë", "tags": ["a", "b"], "amount": 1234.5, "active": True, "note": None},
}

values = st.recursive(
    st.none() | st.booleans() | st.integers(INTEGER_MIN, INTEGER_MAX) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=30,
)  # fmt: skip


class TestBothSerializers:
    """What goes for every message, whatever its form."""

    @each_serializer
    def test_a_request_comes_back_as_it_was(self, serializer: AbstractMessageSerializer) -> None:
        """An ordinary message, there and back."""
        assert REQUEST == serializer.deserialize(serializer.serialize(REQUEST))

    @each_serializer
    def test_the_type_of_a_message_is_that_of_its_opcode(self, serializer: AbstractMessageSerializer) -> None:
        """Binary messages are bytes, text messages are str."""
        assert (bytes if serializer.binary else str) is type(serializer.serialize(REQUEST))

    @each_serializer
    @given(value=values)
    def test_values_come_back_as_they_were(self, serializer: AbstractMessageSerializer, value: object) -> None:
        """Every plain value, of every size, whether or not it was compressed."""
        for message in (value, {"data": [value] * 20}):
            assert repr(message) == repr(serializer.deserialize(serializer.serialize(message)))

    @each_serializer
    def test_tuples_arrive_as_lists(self, serializer: AbstractMessageSerializer) -> None:
        """Rows of a database are tuples."""
        assert {"data": [[1, "a"], [2, "b"]]} == serializer.deserialize(
            serializer.serialize({"data": [(1, "a"), (2, "b")]})
        )

    @pytest.mark.row(38, 39, 40, 41, 42)
    @each_serializer
    @pytest.mark.parametrize(
        "value",
        [math.nan, math.inf, 2**64, "\ud800", {1: "a"}, {"a"}, ValueError("x"), pytest.param([0] * 70_000, id="many")],
        ids=ascii,
    )
    def test_what_a_peer_would_refuse_is_refused_to_the_sender(
        self, serializer: AbstractMessageSerializer, value: object
    ) -> None:
        """Nothing is sent, and the error is the library's own."""
        with pytest.raises(EncodeError):
            serializer.serialize({"path": "/", "data": value})

    @pytest.mark.row(36)
    @each_serializer
    @given(data=st.binary(max_size=200))
    def test_any_bytes_end_in_a_value_or_one_of_two_errors(
        self, serializer: AbstractMessageSerializer, data: bytes
    ) -> None:
        """No foreign exception leaves a serializer, whatever arrives."""
        for body in (data, zlib.compress(data), b"\x78" + data):
            try:
                serializer.deserialize(body)
            except (DecodeError, MessageTooBig):
                pass

    @pytest.mark.row(44)
    @each_serializer
    def test_a_failure_leaves_nothing_behind(self, serializer: AbstractMessageSerializer) -> None:
        """After messages that fail half-way, in either direction, the next ones are right."""
        whole = serializer.serialize(REQUEST)
        for _ in range(3):
            with pytest.raises(EncodeError):
                serializer.serialize({"data": ["x" * 1000, {"deep": [2**64]}]})
            with pytest.raises(DecodeError):
                serializer.deserialize(whole[:-3])
            assert whole == serializer.serialize(REQUEST)
            assert REQUEST == serializer.deserialize(whole)

    @each_serializer
    def test_one_instance_serves_many_threads(self, serializer: AbstractMessageSerializer) -> None:
        """A server shares one among all connections, and pool threads use it too."""
        failures: list[object] = []

        def work(number: int) -> None:
            message = {"id": number, "data": {"text": str(number) * 300, "rows": [[number] * 5] * 20}}
            for _ in range(100):
                if serializer.deserialize(serializer.serialize(message)) != message:
                    failures.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        assert [] == failures

    @each_serializer
    def test_every_error_is_a_webmesh_error_with_its_cause(self, serializer: AbstractMessageSerializer) -> None:
        """One class to catch; the origin stays attached for whoever debugs."""
        with pytest.raises(WebMeshError) as caught:
            serializer.deserialize(b"\x81")

        assert isinstance(caught.value, DecodeError)
        assert caught.value.__cause__ is not None

    @pytest.mark.row(46)
    @each_serializer
    @pytest.mark.parametrize("text", ["\x1b[31m", "%s%n", "{0.__class__}", "a\r\nb", "k" * 9000])
    def test_errors_show_little_and_escaped(self, serializer: AbstractMessageSerializer, text: str) -> None:
        """What is in a message cannot colour, break or flood a log through the error about it."""
        with pytest.raises(EncodeError) as caught:
            serializer.serialize({text: {text: math.nan}})

        assert str(caught.value).isascii() and str(caught.value).isprintable()
        assert len(str(caught.value)) < 300


class TestJson:
    """Text messages."""

    serializer = StandardJsonSerializer()

    def test_a_message_by_hand(self) -> None:
        """What a person types into any WebSocket client."""
        assert {"path": "/", "data": "hi"} == self.serializer.deserialize('{"path": "/", "data": "hi"}')

    @pytest.mark.row(41)
    @pytest.mark.parametrize(
        "data",
        [
            "{}".encode("utf-16"), "{}".encode("utf-16-le"), "{}".encode("utf-32"), b"\xef\xbb\xbf{}", b'"\xff"',
            b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xf4\x90\x80\x80"', b"{}\x00",
        ],
        ids=bytes.hex,
    )  # fmt: skip
    def test_bytes_are_utf_8_and_nothing_else(self, data: bytes) -> None:
        """Other encodings, which the standard library would guess, byte order marks and broken UTF-8 are refused."""
        with pytest.raises(DecodeError):
            self.serializer.deserialize(data)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_utf_8_in_any_buffer_is_read(self, kind: type[Any]) -> None:
        """A layer below may hand up what it has."""
        assert {"a": "é"} == self.serializer.deserialize(kind('{"a":"é"}'.encode()))

    def test_bytes_are_refused_with_a_way_out(self) -> None:
        """JSON has no form for them; the error says which serializer has."""
        with pytest.raises(EncodeError, match=r"payload\.file: bytes .*msgpack"):
            self.serializer.serialize({"data": {"file": b"\x89PNG"}})

    def test_the_limits_are_those_of_the_instance(self) -> None:
        """Each server has its own."""
        serializer = StandardJsonSerializer(Limits(depth=2))

        assert [[1]] == serializer.deserialize("[[1]]")
        with pytest.raises(DecodeError):
            serializer.deserialize("[[[1]]]")


class TestMessagePack:
    """Binary messages."""

    serializer = MessagePackSerializer()

    def test_bytes_survive(self) -> None:
        """The serializer for files and keys."""
        message = {"data": [b"\x00\xff", b""]}

        assert message == self.serializer.deserialize(self.serializer.serialize(message))

    def test_short_messages_are_plain_msgpack(self) -> None:
        """Any msgpack library reads them."""
        assert REQUEST == msgpack.unpackb(self.serializer.serialize(REQUEST))

    @pytest.mark.parametrize(("size", "compressed"), [(1023, False), (1024, True), (100_000, True)])
    def test_messages_are_compressed_from_the_threshold_on(self, size: int, compressed: bool) -> None:
        """1,024 bytes by default; the first byte tells."""
        text = "x" * (size - len(msgpack.packb("x" * 900)) + 900)
        assert size <= len(msgpack.packb(text)) <= size + 2  # a longer header

        data = self.serializer.serialize(text)

        assert compressed is (data[0] == 0x78)
        assert text == self.serializer.deserialize(data)

    def test_noise_is_sent_plain(self) -> None:
        """Compression that does not pay is not sent."""
        data = self.serializer.serialize(os.urandom(5000))

        assert 5003 == len(data)

    @pytest.mark.parametrize("level", [1, 6, 9])
    def test_a_stream_of_any_level_is_read(self, level: int) -> None:
        """Receivers take both forms at any size."""
        assert REQUEST == self.serializer.deserialize(zlib.compress(msgpack.packb(REQUEST), level))

    def test_other_thresholds_and_levels(self) -> None:
        """An option of the serializer, not of the wire."""
        eager = MessagePackSerializer(compress_threshold=1, compress_level=9)
        never = MessagePackSerializer(compress_threshold=2**40)
        message = {"data": "text " * 1000}

        assert 0x78 == eager.serialize(message)[0]
        assert message == msgpack.unpackb(never.serialize(message))

    @pytest.mark.parametrize("options", [{"compress_threshold": 0}, {"compress_level": 0}, {"compress_level": 10}])
    def test_options_that_make_no_sense_are_refused(self, options: dict[str, int]) -> None:
        """At construction, not at the first message."""
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            MessagePackSerializer(**options)

    def test_the_number_that_looks_like_a_stream_comes_back(self) -> None:
        """120 alone is 0x78 in msgpack, the first byte of zlib."""
        assert 120 == self.serializer.deserialize(self.serializer.serialize(120))

    @pytest.mark.row(30)
    def test_a_bomb_ends_at_the_limit_of_the_instance(self) -> None:
        """Closes with 1009, which says too big."""
        serializer = MessagePackSerializer(Limits(message_size=10_000))

        with pytest.raises(MessageTooBig) as caught:
            serializer.deserialize(zlib.compress(bytes(50_000_000), 9))

        assert 1009 == caught.value.close_code

    @pytest.mark.row(30)
    def test_a_stream_within_a_stream_is_not_inflated(self) -> None:
        """One layer is taken off; the next one is no msgpack map."""
        with pytest.raises(DecodeError):
            self.serializer.deserialize(zlib.compress(zlib.compress(msgpack.packb(REQUEST))))

    @pytest.mark.row(29)
    def test_text_is_refused(self) -> None:
        """It has the wrong opcode."""
        with pytest.raises(DecodeError, match="binary"):
            self.serializer.deserialize("{}")

    @pytest.mark.parametrize("kind", [bytearray, memoryview])
    def test_any_buffer_is_read(self, kind: type[Any]) -> None:
        """A layer below may hand up what it has."""
        assert REQUEST == self.serializer.deserialize(kind(msgpack.packb(REQUEST)))


class TestCustomSerializers:
    """A serializer of the user's is a subclass with a name."""

    def test_a_subclass_gets_the_limits(self) -> None:
        """The base keeps them where subclasses find them."""
        limits = Limits(depth=3)

        assert limits is Upper(limits)._limits

    def test_the_interface_must_be_whole(self) -> None:
        """A class without both methods has no instances."""

        class Half(AbstractMessageSerializer):
            name, binary = "half", False

            def serialize(self, obj: object) -> str:
                return ""

        with pytest.raises(TypeError, match="deserialize"):
            Half()  # type: ignore[abstract]

    def test_the_subprotocol_carries_the_name(self) -> None:
        """Those of the two built-in ones are fixed by the protocol."""
        assert "webmesh.v1.json" == subprotocol(StandardJsonSerializer)
        assert "webmesh.v1.msgpack" == subprotocol(MessagePackSerializer)
        assert "webmesh.v1.upper" == subprotocol(Upper)

    @pytest.mark.row(15, 46)
    @pytest.mark.parametrize("name", ["", "two words", "a,b", "a\r\nX: y", "é", None, 5, "{0}"])
    def test_a_name_that_is_no_token_is_refused(self, name: object) -> None:
        """It stands in a header of the handshake."""
        named = type("Named", (Upper,), {"name": name})

        with pytest.raises(ConfigurationError, match="name"):
            subprotocol(named)

    def test_a_class_that_does_not_say_whether_it_is_binary_is_refused(self) -> None:
        """The opcode of its messages would be unknown."""
        with pytest.raises(ConfigurationError, match="binary"):
            subprotocol(type("Vague", (Upper,), {"binary": None}))

    @pytest.mark.row(45)
    @pytest.mark.parametrize("name", ["pickle", "yaml", "marshal", "jsonpickle"])
    def test_no_serializer_makes_objects_of_what_arrives(self, name: str) -> None:
        """The package has the two built-in ones, so a peer that offers another finds nothing to talk to."""
        everywhere = AbstractMessageSerializer.__subclasses__()
        known = {subprotocol(one) for one in everywhere if one.__module__.startswith("webmesh.")}

        assert {"webmesh.v1.json", "webmesh.v1.msgpack"} == known
        assert f"webmesh.v1.{name}" not in known


class Upper(AbstractMessageSerializer):
    """A serializer that shouts."""

    name = "upper"
    binary = False

    def serialize(self, obj: object) -> str:
        return str(obj).upper()

    def deserialize(self, data: str | bytes) -> object:
        return data


UNSAFE_MODULES = {
    "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "jsonpickle", "shelve", "marshal", "yaml", "ruamel",
}  # fmt: skip
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}


@pytest.mark.row(45)
def test_nothing_in_the_package_can_run_what_arrives() -> None:
    """No module imports a serializer that makes objects by name, and none evaluates text."""
    found: list[str] = []
    for path in sorted(Path(webmesh.__path__[0]).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            used = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom):
                used = {node.module or ""}
            unsafe = {name.split(".")[0] for name in used} & UNSAFE_MODULES
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
                unsafe.add(node.func.id)
            found += [f"{path.name}:{getattr(node, 'lineno', 0)}: {name}" for name in unsafe]

    assert [] == found
