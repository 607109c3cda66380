"""Topics as NATS subjects, and back.

Pure. A segment is a token, `*` stays, `**` at the end is `>`. What means something to NATS is written as `%` and a
letter, so that every topic has one subject and every subject at most one topic. Other text stays as it is, in UTF-8.
"""

from __future__ import annotations

import re
from functools import lru_cache

from webmesh.exceptions import BadPattern
from webmesh.protocol.topics import ONE, REST, read_topic

_ESCAPES = {".": "%d", " ": "%s", "*": "%a", ">": "%g", "%": "%p"}
_TO_SUBJECT = str.maketrans(_ESCAPES)
_FROM_SUBJECT = {escape: character for character, escape in _ESCAPES.items()}
_ESCAPE = re.compile("%.?", re.DOTALL)


def token(segment: str) -> str:
    """A segment, or any other text that is not empty, as one token of a subject."""
    return segment.translate(_TO_SUBJECT)


def text_of(one: str) -> str:
    """What `token` was given.

    Raises:
        ValueError: It is nothing that `token` returns.
    """
    text = _ESCAPE.sub(lambda found: _FROM_SUBJECT.get(found[0], ""), one) if "%" in one else one
    if not text or token(text) != one:
        raise ValueError(f"{one!r} is no token of ours")
    return text


@lru_cache(4096)
def topic_subject(topic: str) -> str:
    """The subject of a topic, without a prefix."""
    return ".".join(map(token, topic.split("/")))


def pattern_subject(pattern: tuple[str, ...]) -> str:
    """The subject, with NATS' wildcards, of a pattern."""
    return ".".join(">" if one == REST else one if one == ONE else token(one) for one in pattern)


@lru_cache(4096)
def subject_topic(subject: str) -> str:
    """The topic of a subject that anyone may have chosen.

    Raises:
        ValueError: There is none.
    """
    topic = "/".join(map(text_of, subject.split(".")))
    try:
        if "/".join(read_topic(topic)) != topic:  # not in NFC: another subject is this topic's
            raise ValueError(f"{subject!r} is not in Unicode's form NFC")
    except BadPattern as error:
        raise ValueError(str(error)) from error
    if topic_subject(topic) != subject:  # a token that held the sign between segments
        raise ValueError(f"{subject!r} is no topic's subject")
    return topic
