from __future__ import annotations

import pytest

from classifiers import SetupError
from classifiers.redaction import without_secrets


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://user:pw@cam/a.jpg", "http://user:***@cam/a.jpg"),
        ("HTTPS://u:p%40w:x@cam:8443/", "HTTPS://u:***@cam:8443/"),
        ("http://user:p@ss@cam/", "http://user:***@cam/"),
        ("http://:pw@cam/", "http://:***@cam/"),
        ("rtsp://admin:12345@10.0.0.7/1", "rtsp://admin:***@10.0.0.7/1"),
        ("amqp://guest:guest@host/vhost?queue=q", "amqp://guest:***@host/vhost?queue=q"),
        ("cannot fetch http://u:pw@a/ and ftp://u:pw@b/", "cannot fetch http://u:***@a/ and ftp://u:***@b/"),
        (
            "https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature=abc&x=1",
            "https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature=***&x=1",
        ),
        ("https://h/k?X-Amz-Security-Token=a%2Fb#f", "https://h/k?X-Amz-Security-Token=***#f"),
        ("https://h/k?X-Goog-Signature=ab", "https://h/k?X-Goog-Signature=***"),
        (
            "https://a.blob.core.windows.net/c/b?sv=1&sig=a%3D&se=2",
            "https://a.blob.core.windows.net/c/b?sv=1&sig=***&se=2",
        ),
        ("http://cam/snap.cgi?user=a&pwd=b", "http://cam/snap.cgi?user=a&pwd=***"),
        ("https://h/?access_token=t&token=u", "https://h/?access_token=***&token=***"),
        ("for url 'https://h/?token=u'", "for url 'https://h/?token=***'"),
    ],
)
def test_secrets(text: str, masked: str) -> None:
    assert without_secrets(text) == masked
    assert without_secrets(masked) == masked
    assert str(SetupError(text)) == masked


@pytest.mark.parametrize(
    "text",
    [
        "http://cam/a.jpg",
        "http://cam:8080/a@b:c.jpg",
        "https://h/?key=photo&design=1&tokens=3&passage=x",
        "s3://bucket/a?token=b",
        "s3://bucket/user:name@home.jpg",
        "/photos/user:pw@home.jpg",
        "photo.jpg?token=1",
        "",
    ],
)
def test_what_is_none(text: str) -> None:
    assert without_secrets(text) == text
