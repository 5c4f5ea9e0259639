"""What a page is made of: sections with charts, tables and notes. They hold plain text; the templates escape it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from .charts import Chart


@dataclass(frozen=True)
class Column:
    label: str
    note: str = ""
    """Stands small under the label."""
    hint: str = ""
    """Shown when the pointer rests on the label."""


@dataclass(frozen=True)
class Cell:
    text: str
    span: str = ""
    """The interval of a value, in small type."""
    verdict: str = ""
    tone: Literal["", "good", "bad"] = ""
    """Colour of the verdict."""
    address: str | None = None
    """Makes the text a link."""
    prose: bool = False
    """Whether the text may break into lines."""


@dataclass(frozen=True)
class TableRow:
    name: str
    cells: Sequence[Cell]
    weight: Literal["", "main", "minor"] = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column, the names of its rows, has no heading. It is left out of the page where it has no rows."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[TableRow]


@dataclass(frozen=True)
class Tile:
    """A small picture as a data URI, with its size in pixels on the page."""

    source: Markup
    width: int
    height: int
    caption: str = ""
    name: str = ""
    """Shown when the pointer rests on the picture."""
    tone: Literal["", "good", "bad"] = ""


@dataclass(frozen=True)
class Gallery:
    """Small pictures in rows, like words on a page."""

    heading: str
    tiles: Sequence[Tile]
    text: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in the order of the fields. A chart that is None had nothing to draw."""

    heading: str
    text: str = ""
    charts: Sequence[Chart | None] = ()
    items: Sequence[str] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    galleries: Sequence[Gallery] = ()

    @property
    def drawn(self) -> list[Chart]:
        return [chart for chart in self.charts if chart]

    @property
    def empty(self) -> bool:
        shown = any(gallery.tiles for gallery in self.galleries) or any(table.rows for table in self.tables)
        return not (self.text or self.drawn or self.items or self.notes or shown)


def text_table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str | Cell]], main: int | None = None) -> Table:
    """A table of texts. The first text of a row is its name; row `main` is emphasised."""
    return Table(
        caption,
        [Column(label) for label in columns],
        [
            TableRow(str(name), [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells], "main" if index == main else "")
            for index, (name, *cells) in enumerate(rows)
        ],
    )
