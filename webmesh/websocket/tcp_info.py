"""What Linux tells of a TCP connection (`TCP_INFO`, tcp(7)), and when the system gives one up by itself.

Decides where the figures stand in the system's answer. Elsewhere than on Linux there are none.
"""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import suppress
from typing import Any

from webmesh.protocol.liveness import SAME_MACHINE, TcpState

# struct tcp_info of include/uapi/linux/tcp.h: it only ever grew, so the places are fixed.
_RETRANSMITS = 2  # one byte
_UNACKED = struct.Struct("@24xI")  # segments
_LAST_ACK_RECV = struct.Struct("@56xI")  # milliseconds
_BYTES_ACKED = struct.Struct("@120xQ")
_NOTSENT_BYTES = struct.Struct("@144xI")
_SIZE = _NOTSENT_BYTES.size

_TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
_TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)


def tcp_state(sock: Any) -> TcpState | None:
    """How far the other end's system has taken what was sent; `None` where this system does not tell."""
    if sock.family == getattr(socket, "AF_UNIX", None):
        return SAME_MACHINE
    if _TCP_INFO is None:
        return None
    try:
        return read(sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _SIZE))
    except OSError:
        return None


def read(info: bytes) -> TcpState | None:
    """The figures of a `tcp_info`; `None` for one that is too short, as before Linux 4.6."""
    if len(info) < _SIZE:
        return None
    unsent = _UNACKED.unpack_from(info)[0] or _NOTSENT_BYTES.unpack_from(info)[0]
    return TcpState(
        outstanding=bool(unsent),
        acknowledged=_BYTES_ACKED.unpack_from(info)[0],
        since_ack=_LAST_ACK_RECV.unpack_from(info)[0] / 1000,
        retransmits=info[_RETRANSMITS],
    )


def give_up_after(sock: Any, seconds: float) -> None:
    """Let the system end a TCP connection whose other end acknowledges nothing for so long (RFC 5482)."""
    if _TCP_USER_TIMEOUT is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):  # it has gone already, which its reader sees
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, max(1, min(round(seconds * 1000), 2**31 - 1)))
