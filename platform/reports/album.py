"""Small pictures for a page, as WebP inside it, as many as its size allows."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup
from PIL import Image

from .sections import Tile

QUALITY = 72


@dataclass
class Album:
    """Hands out tiles until `room` bytes of a page are used; the others are counted."""

    room: int = 1_600_000
    left_out: int = 0

    def tile(self, picture: np.ndarray, ids: Sequence[str], said: str = "", tone: Literal["", "good", "bad"] = "") -> list[Tile]:
        """One tile of a picture, uint8 H x W x 3, of these rows, or none where there is no room. Of an id its last part is shown."""
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "WEBP", quality=QUALITY, method=4)
        source = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        if len(source) > self.room:
            self.left_out += 1
            return []
        self.room -= len(source)
        height, width = picture.shape[:2]
        caption = " · ".join([*([said] if said else []), " | ".join(one.rsplit("/", 1)[-1] for one in ids)])
        return [
            Tile(Markup(source), width, height, caption, " | ".join(ids), tone)
        ]  # Markup: nothing in it needs an escape, and no address is hidden
