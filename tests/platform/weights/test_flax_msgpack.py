"""Flax's single files: what is whole is read, what is not is refused."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from sightline.platform.weights.flax_msgpack import decode


def array(value: np.ndarray, code: int = 1, **changed: Any) -> msgpack.ExtType:
    parts = {"shape": value.shape, "dtype": value.dtype.name, "data": value.tobytes(), **changed}
    return msgpack.ExtType(code, msgpack.packb(tuple(parts.values()), use_bin_type=True))


def packed(content: Any) -> bytes:
    data: bytes = msgpack.packb(content, use_bin_type=True)
    return data


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "int32", "int64", "uint8", "uint32", "bool", "complex64"])
def test_arrays_of_every_type_come_back(dtype: str) -> None:
    value = np.arange(6).reshape(2, 3).astype(dtype)
    found = decode(packed({"params": {"x": array(value)}}))["params"]["x"]
    np.testing.assert_array_equal(found.numpy(), value)


def test_bfloat16_scalars_empty_arrays_and_plain_values() -> None:
    half = torch.arange(4, dtype=torch.bfloat16)
    data = half.view(torch.int16).numpy().tobytes()
    content = {
        "half": array(np.zeros(4, np.float16), dtype="bfloat16", data=data),
        "number": array(np.float32(1.5), code=3),
        "pair": msgpack.ExtType(2, msgpack.packb((1.0, -2.0))),
        "empty": array(np.zeros((0, 3), np.float32)),
        "scalar": array(np.array(7, np.int32)),
        "rest": {"step": 3, "none": None, "name": "x", "list": [1, 2]},
    }
    found = decode(packed(content))
    assert torch.equal(found["half"], half) and found["number"] == 1.5 and found["pair"] == 1 - 2j
    assert found["empty"].shape == (0, 3) and found["scalar"].shape == () and found["scalar"] == 7
    assert found["rest"] == {"step": 3, "none": None, "name": "x", "list": [1, 2]}


@pytest.mark.parametrize("maps", [True, False])
def test_chunks_become_one_array(maps: bool) -> None:
    value = np.arange(12, dtype=np.float32)
    chunks, shape = [array(value[:5]), array(value[5:])], [3, 4]

    def sequence(items: list[Any]) -> Any:
        return {str(i): item for i, item in enumerate(items)} if maps else items

    content = {"x": {"__msgpack_chunked_array__": True, "shape": sequence(shape), "chunks": sequence(chunks)}}
    np.testing.assert_array_equal(decode(packed(content))["x"].numpy(), value.reshape(3, 4))
    content["x"]["shape"] = sequence([3, 5])
    with pytest.raises(ValueError, match="/x: the chunks have 12 values"):
        decode(packed(content))
    content["x"]["chunks"] = sequence([])
    with pytest.raises(ValueError, match="/x"):
        decode(packed(content))


def test_what_is_not_whole_or_consistent_is_refused() -> None:
    x = np.arange(6, dtype=np.float32)
    whole = packed({"x": array(x)})
    bad: dict[str, bytes] = {
        "cut": whole[:-3],
        "longer": whole + b"\0",
        "empty": b"",
        "a list": packed([1]),
        "wrong shape": packed({"x": array(x, shape=(7,))}),
        "huge shape": packed({"x": array(x, shape=(2**40, 2**40))}),
        "negative shape": packed({"x": array(x, shape=(-6,))}),
        "no shape": packed({"x": array(x, shape="six")}),
        "many dimensions": packed({"x": array(x, shape=(1,) * 40)}),
        "unknown type": packed({"x": array(x, dtype="object")}),
        "text for bytes": packed({"x": array(x, data="a" * 24)}),
        "two parts": packed({"x": msgpack.ExtType(1, packed([[6], "float32"]))}),
        "not msgpack inside": packed({"x": msgpack.ExtType(1, b"\xc1")}),
        "foreign extension": packed({"x": msgpack.ExtType(42, b"")}),
        "half a complex": packed({"x": msgpack.ExtType(2, packed([1.0]))}),
        "number for a name": packed({1: 2}),
        "deep": b"\x81\xa1x" * 3000 + b"\xc0",
        "claims more": b"\xdf\xff\xff\xff\xff",
    }
    for what, data in bad.items():
        with pytest.raises(ValueError):
            print(what, decode(data))
