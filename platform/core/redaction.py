"""Removes passwords, tokens and signatures from what is shown, recorded or sent. The one place that knows what a secret looks like."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>\S*)")
USER = re.compile(r"(?P<user>.*@)(?P<host>[^@]*)", re.S)
SECRET_KEY = re.compile(r"sig|token|key|secret|pass|pwd|cred|auth|policy|session|code|sas\b|jwt|bearer|hash|hmac|user", re.I)
"""In the name of a query parameter whose value is kept back."""
LONG = re.compile(r"(?=.*\d)[\w+/=%~-]{20,}")
"""A value that is no word: of whatever parameter, it may be a key."""
PARAMETER = re.compile(r"(?P<start>[?&;#])(?P<key>[^=&;#?\s]+)=(?P<value>[^&;#\s]*)")
PART = re.compile(r"(?P<start>[?&])(?P<key>[\w.-]*)=(?P<value>[^&\s'\"]+)")
"""Of an address without its beginning, as libraries print it: `/path?token=...`."""
NAMED = re.compile(
    r"(?P<name>\b\w*(?:password|passwd|secret_access_key|(?:access|auth|session|security|tracking|hf)_token)[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&*][^\s\"',;&]*",
    re.I,
)
"""A word that names a secret, and its value: of an environment, or of a database's connection string."""
HEADER = re.compile(r"(?P<name>authorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer|token)?\s*)[^\s\"',]+", re.I)


def redact(text: str) -> str:
    """`text` without the user, password, token and signature of the addresses in it: `http://***@host/x?sig=***`."""
    if "://" in text:
        text = ADDRESS.sub(_shown, text)
    if "=" in text or ":" in text:
        text = NAMED.sub(r"\g<name>***", PART.sub(_part, text))
    return HEADER.sub(r"\g<name>***", text) if "uthorization" in text or "UTHORIZATION" in text else text


def redacted(value: Any) -> Any:
    """A JSON-able value with `redact` of each text in it."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redacted(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(redacted(each) for each in value)
    return value


def quoted_password(uri: str) -> str:
    """The address with its user and password percent-encoded where a letter of them, such as `/` or `@`, would end them early."""
    scheme, _, rest = uri.partition("://")
    user, host = _split_user(rest)
    if not user or re.match(r"[^/@:]*:\d+/", rest):  # a port and a path
        return uri
    name, colon, password = user.partition(":")
    safe = "%!$&'()*+,;=-._~"
    return f"{scheme}://{quote(name, safe=safe)}{colon}{quote(password, safe=safe)}@{host}"


def safe_line(error: BaseException | None) -> str:
    """What went wrong, in a line without passwords."""
    return redact(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def command_line(words: Sequence[str]) -> str:
    """The `sightline` command of these words, as a shell takes it and without passwords."""
    return shlex.join(["sightline", *map(redact, words)])


def _shown(match: re.Match[str]) -> str:
    rest, after = match["rest"], ""
    if next_one := ADDRESS.search(rest):
        rest, after = rest[: next_one.start()], redact(rest[next_one.start() :])
    user, rest = _split_user(rest)
    rest = PARAMETER.sub(_parameter, rest)
    return f"{match['scheme']}://{'***@' if user else ''}{rest}{after}"


def _parameter(match: re.Match[str]) -> str:
    value = match["value"].rstrip(":.,;)]}>'\"")  # what follows an address in a sentence
    after = match["value"][len(value) :]
    secret = SECRET_KEY.search(match["key"]) or LONG.fullmatch(value)
    return f"{match['start']}{match['key']}={'***' if secret and value else value}{after}"


def _part(match: re.Match[str]) -> str:
    return f"{match['start']}{match['key']}=***" if SECRET_KEY.search(match["key"]) else match[0]


def _split_user(rest: str) -> tuple[str, str]:
    """(user and password or "", the rest) of what follows `://`.

    A password may hold `/`, `?`, `#` and `@`, as people write it. It is told from a path with an `@` by the colon before it that no port
    follows, or by the host with a port or a dot behind it.
    """
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        head = authority.rpartition("@")[0]
        # `user:a@b/c@host`: the password goes on behind the first @ where a whole host follows a later one
        tail = rest[len(head) + 1 :]
        if ":" in head and (match := USER.fullmatch(tail)) and _is_host(match["host"]) and not _is_host(tail):
            return f"{head}@{match['user'][:-1]}", match["host"]
        return head, tail
    if "@" not in rest or ":" not in authority:
        return "", rest
    user, _, host = rest.rpartition("@")
    after = authority.partition(":")[2]
    if not after.isdigit() or _is_host(host):
        return user, host
    return "", rest


def _is_host(text: str) -> bool:
    """Whether it begins like a host: with a port, or with a dot in its name, or it is localhost."""
    return re.match(r"([\w-]+(\.[\w-]+)*:\d+|[\w-]+(\.[\w-]+)+|localhost|\[[0-9a-f:]+\])(?=[^\w.-]|$)", text) is not None
