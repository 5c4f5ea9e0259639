"""Text of others is shown as it is: no markup, no emoji, no control character."""

from __future__ import annotations

import io

import pytest

from sightline.platform.core.loopback import loopback_without_proxy
from sightline.platform.core.printable import printable
from sightline.platform.core.screen import Screen

HOSTILE = "[red]a[/] [/] [link=x]b :smile: \x1b[31mc\x1b]0;t\x07 \udce9 \u202eback\x9b"
SHOWN = r"[red]a[/] [/] [link=x]b :smile: \x1b[31mc\x1b]0;t\x07 \udce9 \u202eback\x9b"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_screen_shows_text_as_it_is(terminal: bool) -> None:
    screen = Screen(file=(file := io.StringIO()), force_terminal=terminal, width=20)
    screen.print(HOSTILE)
    screen.field("found", HOSTILE)
    screen.field(HOSTILE, "x")
    screen.warn(HOSTILE)
    text = file.getvalue()
    assert text.count(SHOWN) == 4 and len(text.splitlines()) == 4, "nothing wraps"
    styles = text.replace("\x1b[1m", "").replace("\x1b[33m", "").replace("\x1b[0m", "")
    assert printable(styles) == styles and ("\x1b[33m" in text) == terminal


def test_lines_and_tabs_stay() -> None:
    assert printable("a\tb\nc\rd ünï 漢 \u200d") == "a\tb\nc\\rd ünï 漢 \u200d"


def test_loopback_needs_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    from requests.utils import get_environ_proxies

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert get_environ_proxies("http://127.0.0.1:5000/")
    loopback_without_proxy()
    loopback_without_proxy()
    assert not get_environ_proxies("http://127.0.0.1:5000/") and not get_environ_proxies("http://localhost:5000/")
    assert get_environ_proxies("http://mlflow.example.com/") and not get_environ_proxies("http://example.org/")
