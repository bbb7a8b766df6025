"""Addresses of folders in stores, and their secrets."""

import contextlib
import os
import re
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from raydd.io.files import AnyPath

SCHEMES = ("s3", "gs", "gcs", "hdfs", "file")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PUBLIC = ("endpoint_override", "region", "scheme")  # the parts of a query that never hold a secret


def scheme_of(location: str) -> str:
    """Return the scheme of a URI in lower case; nothing for a path."""
    match = _SCHEME.match(location)
    return match[1].lower() if match else ""


def is_uri(location: AnyPath) -> bool:
    """Return whether a location is a URI, such as ``s3://bucket/folder``, rather than a path.

    >>> is_uri("s3://bucket/digits"), is_uri("runs/digits")
    (True, False)
    """
    return bool(scheme_of(os.fspath(location)))


def public_uri(uri: str) -> str:
    """Return a URI without its secrets, for messages and files; a path unchanged.

    >>> public_uri("s3://key:secret@bucket/digits/?region=eu-west-1&session=abc")
    's3://bucket/digits?region=eu-west-1'
    """
    if not is_uri(uri):
        return uri
    head, _, query = uri.partition("?")
    scheme, _, rest = head.partition("://")
    host, slash, path = rest.partition("/")
    if ":" in host and "@" not in host and "@" in path:  # a secret with a slash that was not quoted
        host, slash, path = path.rpartition("@")[2].partition("/")
    public = [(key, value.rpartition("@")[2]) for key, value in sorted(parse_qsl(query)) if key in _PUBLIC]
    address = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/")
    return f"{address}?{urlencode(public, safe=':/')}" if public else address


def without_secrets(message: str, uri: str) -> str:
    """Return a file system's message in one line and without the URI's secrets."""
    text = " ".join(message.split()).replace(uri, public_uri(uri))
    with contextlib.suppress(ValueError):
        parts = urlsplit(uri)
        values = [value for key, value in parse_qsl(parts.query) if key not in _PUBLIC]
        for secret in (word for word in (parts.password, parts.username, *values) if word and len(word) > 5):
            text = text.replace(secret, "***").replace(unquote(secret), "***")
    return text if len(text) <= 400 else f"{text[:400]}..."
