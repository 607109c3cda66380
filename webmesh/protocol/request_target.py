"""The target of a request line: the one decoded form of a path that everything above sees.

Decides which targets are refused: whatever two readers could take for two different paths. So it is
decoded here once, and by nobody again; which route owns the path is `routing`'s question.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote_to_bytes

from webmesh.protocol.http_head import RefusedHead

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Line and paragraph separators end a line for some readers of logs.
_REFUSED_CATEGORIES = frozenset({"Cc", "Zl", "Zp"})


def parse_target(target: str) -> tuple[str, str]:
    """Path and query of a target of printable ASCII. The path is decoded and in Unicode's form NFC; the query is raw.

    Raises:
        RefusedHead: Status 400. No absolute path (RFC 9112 section 3.2.1); an escape that is malformed, no UTF-8 or a
            hidden slash; an empty, `.` or `..` segment; a backslash or a control character.
    """
    if not target.startswith("/"):
        raise RefusedHead(400, "target that is not a path")
    if "#" in target:
        raise RefusedHead(400, "target with a fragment")
    path, _, query = target.partition("?")
    if "%" in path:
        path = _decoded(path)
    # The commonest path skips the checks of segments.
    if path != "/":
        _check_path(path)
    return path, query


def _decoded(path: str) -> str:
    if _BAD_ESCAPE.search(path):
        raise RefusedHead(400, "malformed percent escape in the path")
    if "%2f" in path.lower():
        # A proxy that reads '/a%2Fb' as one segment would guard another path than the one served here.
        raise RefusedHead(400, "escaped slash in the path")
    try:
        text = unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise RefusedHead(400, "path that is not UTF-8") from None
    return unicodedata.normalize("NFC", text)


def _check_path(path: str) -> None:
    if "\\" in path:
        raise RefusedHead(400, "backslash in the path")
    if not path.isprintable() and any(unicodedata.category(character) in _REFUSED_CATEGORIES for character in path):
        raise RefusedHead(400, "control character in the path")
    segments = path.split("/")[1:]
    # A slash at the end leaves one empty segment, which is harmless.
    if "" in segments[:-1] or "." in segments or ".." in segments:
        raise RefusedHead(400, "path with an empty or a dot segment")
