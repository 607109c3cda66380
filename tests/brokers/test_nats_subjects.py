"""Topics as NATS subjects: reversible, and nothing of it means anything to NATS."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.brokers.nats_subjects import pattern_subject, subject_topic, text_of, token, topic_subject
from webmesh.exceptions import BadPattern
from webmesh.protocol.topics import read_topic

segments = st.text("ab.>%*ds _\u00e4\u0416\U0001f600", min_size=1, max_size=6)
topics = st.lists(segments, min_size=1, max_size=5).map("/".join)


@given(topics)
def test_each_topic_has_one_subject_and_back(topic: str):
    """Whatever its letters are."""
    try:
        read_topic(topic)
    except BadPattern:
        return
    subject = topic_subject(topic)
    assert topic == subject_topic(subject)
    assert topic.count("/") == subject.count(".")
    assert not set(" *>\t\r\n") & set(subject)
    assert "" not in subject.split(".")


@given(st.text(min_size=1))
def test_any_text_is_one_token_and_back(text: str):
    """Keys of records are of any text."""
    assert text == text_of(token(text))
    assert not set(" .*>") & set(token(text))


@pytest.mark.row(98)
@given(st.text("ab.>%*ds/ $\u0000\u0301", max_size=12))
def test_what_others_publish_is_a_topic_of_ours_or_refused(subject: str):
    """Never two subjects of one topic: a stranger cannot bring a message around a subscription."""
    try:
        topic = subject_topic(subject)
    except ValueError:
        return
    assert subject == topic_subject(topic)
    assert topic == "/".join(read_topic(topic))


@pytest.mark.parametrize("subject", ["", "a..b", "a.", "a.%x", "a%", "%", "a.*", ">", "a b", "a/b", "$a", "a.e\u0301"])
def test_subjects_that_are_no_topics(subject: str):
    """Empty tokens, unknown escapes, what should have been escaped, another form of Unicode."""
    with pytest.raises(ValueError, match=r"."):
        subject_topic(subject)


@pytest.mark.parametrize(
    ("pattern", "subject"),
    [(("a", "*", "c"), "a.*.c"), (("a", "**"), "a.>"), (("**",), ">"), (("a.b", "c d"), "a%db.c%sd"), (("%",), "%p")],
)
def test_patterns_keep_their_wildcards(pattern: tuple[str, ...], subject: str):
    """They match the same in both."""
    assert subject == pattern_subject(pattern)
