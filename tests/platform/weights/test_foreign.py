"""Published files come in as tensors and plain values, or not at all; what is refused is said in one sentence with a hint."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.core import budget
from sightline.platform.weights import flax_msgpack, foreign
from sightline.platform.weights.foreign import read


def trainers_file() -> dict[str, Any]:
    """As a reference trainer writes it: weights, arguments, scores."""
    arguments = argparse.Namespace(model="Net(depth=1)", lr=1e-3, betas=(0.9, 0.95), data=argparse.Namespace(root="x"), best=np.float64(3))
    return {
        "model": {"w": torch.arange(6.0).view(2, 3), "half": torch.ones(2, dtype=torch.float16)},
        "args": arguments,
        "epoch": 3,
        "best_so_far": np.float32(2.5),
        "seen": np.int64(4),
        "scaler": {"scale": 65536.0, "list": [np.bool_(True)]},
    }


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_trainers_file_with_its_namespace_comes_in_as_plain_values(tmp_path: Path, zipped: bool) -> None:
    torch.save(trainers_file(), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    content = read(tmp_path / "a.pth")
    assert torch.equal(content["model"]["w"], torch.arange(6.0).view(2, 3)) and content["model"]["half"].dtype == torch.float16
    assert content["args"] == {"model": "Net(depth=1)", "lr": 1e-3, "betas": (0.9, 0.95), "data": {"root": "x"}, "best": 3.0}
    for value, kind in ((content["best_so_far"], float), (content["seen"], int), (content["scaler"]["list"][0], bool)):
        assert type(value) is kind
    json.dumps({key: value for key, value in content.items() if key != "model"})


@pytest.mark.parametrize("zipped", [True, False])
def test_paths_among_a_trainers_arguments_come_in_as_text(tmp_path: Path, zipped: bool) -> None:
    given = {"model": {"w": torch.zeros(2)}, "args": argparse.Namespace(output_dir=Path("/runs/one"), data=Path("set"))}
    torch.save(given, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert read(tmp_path / "a.pth")["args"] == {"output_dir": "/runs/one", "data": "set"}


def test_numbers_of_numpy_1_come_in_too(tmp_path: Path) -> None:
    torch.save(trainers_file(), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    before = (tmp_path / "a.pth").read_bytes()
    after = before.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "b.pth").write_bytes(after)
    assert before != after and read(tmp_path / "b.pth")["best_so_far"] == 2.5


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run_and_its_class_is_named(tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "mark"
    torch.save({"model": {"w": torch.ones(2)}, "x": Evil(mark)}, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(SightlineError, match=r"evil\.pth holds an object of the class posix\.mkdir") as caught:
        read(tmp_path / "evil.pth")
    assert "safetensors" in caught.value.hint and not mark.exists()
    torch.save({"net": torch.nn.Linear(2, 2)}, tmp_path / "module.pth")
    with pytest.raises(SightlineError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read(tmp_path / "module.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_cut_anywhere_is_an_error_that_says_so(tmp_path: Path, zipped: bool) -> None:
    torch.save(trainers_file(), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "a.pth").read_bytes()
    for cut in (20, 100, len(whole) // 3, len(whole) // 2, len(whole) - 50, len(whole) - 3):
        (tmp_path / "cut.pth").write_bytes(whole[:cut])
        with pytest.raises(SightlineError, match=r"cut\.pth is not whole") as caught:
            read(tmp_path / "cut.pth")
        assert "cut short" in caught.value.hint


def page(path: Path) -> None:
    path.write_text("\n<!DOCTYPE html><html><body>Sign in to download</body></html>")


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12")


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__)


def packed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 10_000)


def notes(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README", "nothing")


def script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (page, "it is a web page"),
        (pointer, "Git LFS"),
        (tar, "tar archive"),
        (packed, "compressed members"),
        (notes, "zip archive without PyTorch weights"),
        (script, "TorchScript archive"),
        (lambda path: path.write_bytes(pickle.dumps({"w": 1}) + bytes(20)), "pickle that PyTorch did not write"),
        (lambda path: path.write_bytes(b"GGUF" + bytes(40)), "GGUF"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40)), "HDF5"),
        (lambda path: path.write_bytes(b"\x1f\x8b" + b"0" * 40), "gzip"),
        (lambda path: path.write_bytes(b""), "0 bytes"),
        (lambda path: path.write_bytes(b"nothing of the kind"), "no format that is known"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: None, "there is no file"),
        (lambda path: torch.save(torch.ones(3), path), "holds a Tensor, not a dict"),
    ],
)
def test_what_is_no_file_of_weights_is_told_by_its_content(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    make(tmp_path / "x.pth")
    with pytest.raises(CallError, match=said):
        read(tmp_path / "x.pth")


def test_flax_checkpoints_come_in_though_their_names_have_no_suffix(tmp_path: Path) -> None:
    import msgpack

    array = msgpack.packb(((2, 3), "float32", np.arange(6, dtype=np.float32).tobytes()))
    whole = msgpack.packb({"params": {"kernel": msgpack.ExtType(1, array)}, "global_step": 7, "metadata": {}})
    path = tmp_path / "checkpoint_7"
    path.write_bytes(whole)
    content = read(path)
    assert content["global_step"] == 7
    np.testing.assert_array_equal(np.asarray(content["params"]["kernel"]), np.arange(6, dtype=np.float32).reshape(2, 3))
    path.write_bytes(whole[:-9])
    with pytest.raises(SightlineError, match="checkpoint_7"):
        read(path)


def test_safetensors_bring_the_settings_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"w": torch.ones(2)}, path)
    assert list(read(path)) == ["model"]
    (tmp_path / "net.json").write_text(json.dumps({"settings": {"depth": 2}}))
    content = read(path)
    assert content["settings"] == {"depth": 2} and torch.equal(content["model"]["w"], torch.ones(2))
    (tmp_path / "net.json").write_text("{")
    with pytest.raises(SightlineError, match=r"net\.json, the settings beside"):
        read(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(SightlineError, match="not a whole safetensors file"):
        read(path)


def test_arrays_of_numpy_come_in_by_name_with_bfloat16(tmp_path: Path) -> None:
    values = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    path = tmp_path / "jax.npz"
    np.savez(path, **{"params/a/kernel": np.ones((2, 3), ">f4"), "params/b": values.view(torch.int16).numpy().view("V2"), "note": "x"})
    content = read(path)
    assert list(content) == ["params/a/kernel", "params/b"]
    assert content["params/a/kernel"].dtype == torch.float32 and torch.equal(content["params/b"], values)
    np.savez(path, a=np.array([{}]))
    with pytest.raises(SightlineError, match="objects of Python"):
        read(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_weights_in_several_files_are_read_whole_or_not_at_all(tmp_path: Path, suffix: str) -> None:
    tensors = {f"w{i}": torch.full((2,), float(i)) for i in range(3)}
    places = {}
    for i, (name, tensor) in enumerate(tensors.items()):
        file = f"model-{i + 1:05d}-of-00003{suffix}"
        save_file({name: tensor}, tmp_path / file) if suffix == ".safetensors" else torch.save({name: tensor}, tmp_path / file)
        places[name] = file
    index = tmp_path / f"model{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": places}))
    for place in (index, tmp_path):
        content = read(place)["model"]
        assert content.keys() == tensors.keys() and all(torch.equal(content[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(CallError, match="is part 2 of 3") as caught:
        read(tmp_path / places["w1"])
    assert f"model{suffix}.index.json" in caught.value.hint
    index.write_text(json.dumps({"weight_map": {**places, "lost": places["w0"]}}))
    with pytest.raises(SightlineError, match=r"1 tensors of .* are in none of its files, the first is lost"):
        read(index)
    (tmp_path / places["w2"]).unlink()
    with pytest.raises(SightlineError, match=r"1 of the 3 files of .* are missing"):
        read(index)
    for wrong in ({"weight_map": {"w": "../x.safetensors"}}, {"weight_map": []}, [], {"weight_map": {"w": 1}}, {"weight_map": {}}):
        index.write_text(json.dumps(wrong))
        with pytest.raises(SightlineError, match="is no index of weights"):
            read(index)


def shared_lists(path: Path) -> None:
    """Ten lists in each of ten lists, forty deep: written out, 10**40."""
    inner: list[Any] = []
    for _ in range(40):
        inner = [inner] * 10
    torch.save({"model": {"w": torch.ones(2)}, "more": inner}, path)


def many_steps(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + b"]0" * 5_000 + b"].")


def long_pickle(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", bytes(10_001))


def many_steps_of_old(path: Path) -> None:
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:15] + b"\x80\x02" + b"]0" * 5_000 + b"].")


def byte_array(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.")


def giant(path: Path) -> None:
    torch.save({"model": {"w": torch.ones(1).expand(1 << 36)}}, path)


def zeros(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open("a.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (1 << 19,)})
        member.write(bytes(2 << 20))


def giant_shape(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("a.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (1 << 45,)})


def empty_maps(path: Path) -> None:
    count = 20_000
    path.write_bytes(b"\x81\xa1a\xdd" + count.to_bytes(4, "big") + b"\x80" * count)


def deep_map(path: Path) -> None:
    path.write_bytes(b"\x81\xa1a" * 100_000 + b"\xc0")


def deep_lists(path: Path) -> None:
    inner: list[Any] = []
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    for _ in range(2_000):
        inner = [inner]
    torch.save({"model": {"w": torch.ones(2)}, "deep": inner}, path)
    sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (many_steps, "takes more than 10,000 steps"),
        (many_steps_of_old, "takes more than 10,000 steps"),
        (long_pickle, "its pickle has"),
        (byte_array, r"class builtins\.bytearray"),
        (giant, "repeat values up to 274,877,906,940 bytes"),
        (zeros, r"the array 'a\.npy' takes .* bytes in the file and 2,097,280"),
        (giant_shape, "is not whole"),
        (empty_maps, "values in lists and maps"),
        (deep_map, "no whole msgpack file|values in lists and maps"),
        (deep_lists, "more deeply than is read"),
    ],
)
def test_a_small_file_that_asks_for_much_is_refused(
    tmp_path: Path, make: Callable[[Path], object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "x.pth")
    if make in (many_steps, many_steps_of_old, long_pickle):
        monkeypatch.setattr(foreign, "MAX_STEPS", 10_000)
        monkeypatch.setattr(foreign, "MAX_PICKLE", 100_000 if make is many_steps else 10_000)
    monkeypatch.setattr(flax_msgpack, "MAX_VALUES", 10_000)
    if make is zeros:
        monkeypatch.setattr(budget, "UNPACKED", 1 << 20)
    start = time.process_time()
    with pytest.raises(SightlineError, match=said):
        read(tmp_path / "x.pth")
    assert time.process_time() - start < 10


def test_lists_that_lie_at_many_places_stay_shared(tmp_path: Path) -> None:
    shared_lists(tmp_path / "x.pth")
    more = read(tmp_path / "x.pth")["more"]
    assert all(part is more[0] for part in more)
    circle: list[Any] = [1]
    circle.append(circle)
    torch.save({"model": {"w": torch.ones(2)}, "circle": circle}, tmp_path / "x.pth")
    again = read(tmp_path / "x.pth")["circle"]
    assert again[1] is again


def test_the_kinds_of_tensors_that_people_save_come_in(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    parts = {"tied": whole, "again": whole, "turned": whole.t(), "row": whole[1], "repeated": torch.ones(1).expand(100)}
    parts |= {"bf16": whole.bfloat16(), "half": whole.half(), "double": whole.double(), "p": torch.nn.Parameter(whole)}
    for zipped in (True, False):
        torch.save(parts, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        content = read(tmp_path / "x.pth")
        assert all(torch.equal(content[name], tensor) and content[name].dtype == tensor.dtype for name, tensor in parts.items())


def test_tensors_without_values_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(2, device="meta")}}, tmp_path / "a.pth")
    with pytest.raises(SightlineError, match="1 of its tensors have no values"):
        read(tmp_path / "a.pth")
