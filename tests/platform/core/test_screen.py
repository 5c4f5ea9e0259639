"""Text of others is shown as it is: no markup, no emoji, no control character."""

from __future__ import annotations

import io
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sightline.platform.core.loopback import loopback_without_proxy
from sightline.platform.core.printable import markdown, printable
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


def test_a_text_is_no_markdown_and_no_html() -> None:
    """As a reader of Markdown shows it: the same letters, in nothing but paragraphs."""
    from markdown_it import MarkdownIt

    text = "a *b* _c_ `d` ~~e~~ <img src=x onerror=y> [f](http://g) ![h](i) &amp; $x$ |j|\n\n# k\n\n- l\n\n1. m\n\n> n\n\n=== o \\* p"
    shown: list[str] = []
    tags: set[str] = set()
    reader = HTMLParser()
    reader.handle_data = shown.append  # type: ignore[method-assign]
    reader.handle_starttag = lambda tag, attrs: tags.add(tag)  # type: ignore[method-assign]
    reader.feed(MarkdownIt("commonmark").enable(["strikethrough", "table"]).render(markdown(text)))
    assert tags == {"p"} and "".join(shown).replace("\u200b", "").split() == text.split()
    assert markdown("The encoder has learned: 1.8 dB better (95 %).") == "The encoder has learned: 1.8 dB better (95 %)."


def test_a_closed_stream_leads_nowhere(tmp_path: Path) -> None:
    """Else the next file that is opened takes its number, and gets what is printed."""
    code = f"""
from sightline.platform.core.printable import open_streams
open_streams()
with open({str(tmp_path / "x")!r}, "w") as file:
    import os
    print("lost", flush=True)
    os.write(1, b"lost"), os.write(2, b"lost")
    file.write("kept %d" % (file.fileno() > 2))
"""
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code], check=False)
    assert done.returncode == 0 and (tmp_path / "x").read_text() == "kept 1"
