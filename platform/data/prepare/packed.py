"""Long lists of small records in a few bytes each: a block at a time, field by field. Millions of them are held while data are prepared."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, Generic, NamedTuple, Self, TypeVar, overload

import numpy as np

T = TypeVar("T")
BLOCK = 512
HELD = 8
"""Blocks that stay unpacked, of all lists together: neighbours are mostly asked for one after the other."""
_FAST = 1


class _Block(NamedTuple):
    """`make` of the fields, each of which is unpacked by its function."""

    make: Callable[..., Any]
    columns: tuple[tuple[Callable[[Any], Sequence[Any]], Any], ...]
    many: int

    def items(self) -> list[Any]:
        columns = [unpack(kept) for unpack, kept in self.columns]
        return [self.make(*values) for values in zip(*(_repeated(column, self.many) for column in columns), strict=True)]


class Packed(Sequence[T], Generic[T]):
    """A list that only grows. Records that are frozen dataclasses or named tuples, and texts, cost what they do not share with their
    neighbours; what else there is stays as it is.

    What comes out is equal to what went in, and no copy is the same object.
    """

    def __init__(self, items: Iterable[T] = (), block: int = BLOCK) -> None:
        self._size = block
        self._blocks: list[_Block] = []
        self._rest: list[T] = []
        self.extend(items)

    def append(self, item: T) -> None:
        if self._blocks and self._blocks[-1].many < self._size:
            self._rest = self._blocks.pop().items()
        self._rest.append(item)
        if len(self._rest) == self._size:
            self.close()

    def extend(self, items: Iterable[T]) -> None:
        for item in items:
            self.append(item)

    def close(self) -> Self:
        """Packs what is not a whole block yet."""
        if self._rest:
            self._blocks.append(_packed(self._rest))
            self._rest = []
        return self

    def __len__(self) -> int:
        return len(self._rest) + (self._size * (len(self._blocks) - 1) + self._blocks[-1].many if self._blocks else 0)

    def __iter__(self) -> Iterator[T]:
        for number in range(len(self._blocks)):
            yield from self._blocks[number].items()
        yield from self._rest

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        block, place = divmod(range(len(self))[index], self._size)
        found: T = (self._rest if block == len(self._blocks) else _unpacked(_Same(self._blocks[block])))[place]
        return found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Packed | list | tuple):
            return NotImplemented
        return len(self) == len(other) and all(map(_alike, self, other))

    __hash__ = None  # type: ignore[assignment]


def _alike(one: Any, two: Any) -> bool:
    """Whether two records are equal, also where they hold arrays."""
    kind: Any = type(one)
    names = _fields(kind)
    if names and type(two) is kind:
        return all(_alike(getattr(one, name), getattr(two, name)) for name in names)
    return np.array_equal(one, two) if isinstance(one, np.ndarray) else bool(one == two)


class Dealt(NamedTuple, Generic[T]):
    """Some items of a list, held in the order of the list."""

    held: Packed[T]
    places: np.ndarray
    """The place among `held` of the first, the second and so on."""

    def __iter__(self) -> Iterator[T]:  # type: ignore[override]
        items = list(self.held)
        return (items[place] for place in self.places.tolist())


def dealt(items: Sequence[T], order: np.ndarray, size: int, block: int = 128) -> list[Dealt[T]]:
    """The items with these numbers, `size` at a time, in one pass: a list that is packed is not read at random. `order` has each once."""
    part = np.empty(len(order), np.int32)
    part[order] = np.arange(len(order)) // size
    held: list[Packed[T]] = [Packed(block=block) for _ in range(0, len(order), size)]  # all fill at once
    for number, item in enumerate(items):
        held[part[number]].append(item)
    wanted = [order[start : start + size] for start in range(0, len(order), size)]
    places = [np.searchsorted(np.sort(numbers), numbers).astype(np.int32) for numbers in wanted]
    return [Dealt(packed.close(), place) for packed, place in zip(held, places, strict=True)]


def sorted_by(key: Callable[[T], Any], items: Packed[T]) -> Packed[T]:
    """As `sorted` does it; the list itself where it is in order."""
    keys = [key(item) for item in items]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
    del keys
    if (order == np.arange(len(items))).all():
        return items
    return Packed(item for part in dealt(items, order, 8 * BLOCK) for item in part)


class _Same:
    """A block as a key: it is its own, whatever it holds."""

    def __init__(self, block: _Block) -> None:
        self.block = block

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.block is other.block

    def __hash__(self) -> int:
        return id(self.block)


@lru_cache(maxsize=HELD)
def _unpacked(key: _Same) -> list[Any]:
    return key.block.items()


def _packed(items: Sequence[Any]) -> _Block:
    """Of records of one class; others are held as they are."""
    kind: Any = type(items[0])
    names = _fields(kind)
    if not names or any(type(item) is not kind for item in items):
        return _Block(_itself, (_column(list(items)),), len(items))
    return _Block(kind, tuple(_column([getattr(item, name) for item in items]) for name in names), len(items))


@lru_cache
def _fields(kind: Any) -> tuple[str, ...]:
    """The names of all that makes a record of a class, in order; none for another class."""
    if is_dataclass(kind):
        own = fields(kind)
        params: Any = getattr(kind, "__dataclass_params__", None)
        return tuple(field.name for field in own) if params and params.frozen and all(field.init for field in own) else ()
    return getattr(kind, "_fields", ()) if issubclass(kind, tuple) else ()


Column = tuple[Callable[[Any], Sequence[Any]], Any]
"""How it is unpacked, and what is kept."""


def _column(values: list[Any]) -> Column:
    """One value for all, texts, numbers, rows of numbers, records, or the different values and which of them is where."""
    kinds: set[Any] = {type(value) for value in values}
    objects = {id(value): value for value in values}
    if len(objects) == 1:
        return _as_list, values[:1]
    if len(kinds) == 1:
        (kind,) = kinds
        if kind is str and (whole := "\0".join(values)).count("\0") == len(values) - 1:
            return _texts, zlib.compress(whole.encode("utf-8", "surrogatepass"), _FAST)
        if kind is int and values.count(values[0]) == len(values):
            return _as_list, values[:1]
        if kind is int and all(abs(value) < 2**31 for value in values):
            return _numbers, np.array(values, np.int32)
        if kind is float:
            return _numbers, np.array(values, np.float64)
        if kind is np.ndarray and len({(value.shape, value.dtype) for value in values}) == 1 and values[0].dtype == np.float64:
            return _arrays, (_thin(np.stack([value.ravel() for value in values])), values[0].shape)
        if kind is tuple and len({len(value) for value in values}) == 1 and {type(one) for value in values for one in value} == {float}:
            return _rows, _thin(np.array(values, np.float64))
        if _fields(kind):
            return _records, _packed(values)
    if type(None) in kinds:
        return _some, (np.array([value is not None for value in values]), _column([value for value in values if value is not None]))
    of = repr if all(_is_plain(value) for value in objects.values()) else id
    different = {of(value): value for value in values}
    order = {key: place for place, key in enumerate(different)}
    return _shared, (list(different.values()), np.array([order[of(value)] for value in values], np.uint16))


def _is_plain(value: Any) -> bool:
    """Whether a value is what its text says."""
    return all(map(_is_plain, value)) if type(value) is tuple else value is None or type(value) in (str, int, float, bool)


def _thin(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the columns that differ, which they are, the first row): a pose ends with 0 0 0 1, and a lens is mostly the same."""
    bits = rows.view(np.int64)  # -0.0 is another text than 0.0
    differ = (bits != bits[:1]).any(axis=0)
    return np.ascontiguousarray(rows[:, differ]), differ, rows[0].copy()


def _thick(values: np.ndarray, differ: np.ndarray, first: np.ndarray) -> np.ndarray:
    rows = np.repeat(first[None], len(values), axis=0)
    rows[:, differ] = values
    return rows


def _repeated(column: Sequence[Any], count: int) -> Sequence[Any]:
    return column if len(column) == count else [column[0]] * count


def _itself(item: Any) -> Any:
    return item


def _as_list(kept: list[Any]) -> list[Any]:
    return kept


def _texts(kept: bytes) -> list[str]:
    return zlib.decompress(kept).decode("utf-8", "surrogatepass").split("\0")


def _numbers(kept: np.ndarray) -> list[Any]:
    return kept.tolist()  # type: ignore[no-any-return]


def _rows(kept: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[tuple[float, ...]]:
    return [tuple(row) for row in _thick(*kept).tolist()]


def _arrays(kept: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], tuple[int, ...]]) -> list[np.ndarray]:
    thin, shape = kept
    return [row.reshape(shape).copy() for row in _thick(*thin)]


def _records(kept: _Block) -> list[Any]:
    return kept.items()


def _some(kept: tuple[np.ndarray, Column]) -> list[Any]:
    there, (unpack, rest) = kept
    values = iter(_repeated(unpack(rest), int(there.sum())))
    return [next(values) if one else None for one in there.tolist()]


def _shared(kept: tuple[list[Any], np.ndarray]) -> list[Any]:
    values, places = kept
    return [values[place] for place in places.tolist()]
