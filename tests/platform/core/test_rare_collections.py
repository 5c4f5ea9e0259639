"""When Python looks for garbage."""

from __future__ import annotations

import gc
import importlib

from sightline.platform.core import rare_collections


def test_everything_is_looked_through_rarely_until_it_is_loaded_and_never_again() -> None:
    before = gc.get_threshold()
    try:
        gc.set_threshold(700, 10, 10)
        importlib.reload(rare_collections)
        assert gc.get_threshold() == (700, 10, 300)
        rare_collections.loaded()
        assert gc.get_threshold() == (700, 10, 10) and gc.isenabled() and gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
