"""Published files come in as tensors and plain values, or not at all; what is refused is said in one sentence with a hint."""

from __future__ import annotations

import argparse
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sightline.methods.errors import CallError, SightlineError
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


def arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.ones(3))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (page, "it is a web page"),
        (pointer, "Git LFS"),
        (tar, "tar archive"),
        (packed, "compressed members"),
        (arrays, "zip archive without PyTorch weights"),
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
