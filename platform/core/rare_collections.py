"""Importing this module makes Python look for garbage cycles among all its objects rarely, until `loaded`.

torch, Ray and MLflow make some 850,000 objects that stay. While they are imported, Python looks through all of them again and again, which
is a fifth of the time (docs/notes/waiting.md).
"""

import gc

_BEFORE = gc.get_threshold()

gc.set_threshold(_BEFORE[0], _BEFORE[1], 300)


def loaded() -> None:
    """Collect as Python does by itself again, but never look at what is there now: it stays."""
    gc.freeze()
    gc.set_threshold(*_BEFORE)
