"""Passwords and tokens in addresses are hidden, and nothing else is."""

import logging

import pytest

from nstexp.core.secrets import WithoutSecrets, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pass@host/a.tar", "https://***@host/a.tar"),
        ("https://me:p@ss:w@host:8080/a.tar", "https://***@host:8080/a.tar"),
        ("https://token@host/a-{000..003}.tar", "https://***@host/a-{000..003}.tar"),
        ("https://host/a-{0..3}.tar?sig=a%2Bb&exp=3", "https://host/a-{0..3}.tar?***"),
        ("s3://key:secret@bucket/a", "s3://***@bucket/a"),
        (
            "['https://me:x@host/a.tar?t=1', \"https://host/b?t=2\"]",
            "['https://***@host/a.tar?***', \"https://host/b?***\"]",
        ),
        ("data.content=https://me:x@host/a (404)", "data.content=https://***@host/a (404)"),
        ("content: https://h/a?t=1\nstyle: b.jpg\n", "content: https://h/a?***\nstyle: b.jpg\n"),
        ("https://host/a.tar", "https://host/a.tar"),
        ("mail me@host, or a?b=c", "mail me@host, or a?b=c"),
        ("file:///home/me@work/a.jpg", "file:///home/me@work/a.jpg"),
    ],
)
def test_what_is_shown_of_an_address(text, shown):
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown
    assert without_secrets({"a": [text, 1, None]}) == {"a": [shown, 1, None]}


def test_a_member_of_a_shard_keeps_its_name():
    name = f"{without_secrets('https://host/a.tar?t=1')}/photo.jpg: the file is empty"
    assert without_secrets(name) == "https://host/a.tar?***/photo.jpg: the file is empty"


def test_the_log_shows_none(caplog):
    record = logging.makeLogRecord({"msg": "%s: %s", "args": ("https://me:x@host/a", 404)})
    assert WithoutSecrets().filter(record)
    assert record.getMessage() == "https://***@host/a: 404"
