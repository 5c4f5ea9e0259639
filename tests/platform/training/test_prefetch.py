"""Steps are taken one ahead, in order, and errors and the end come where they belong. The copy itself needs a GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sightline.platform.data.loader.stream import Microbatch
from sightline.platform.training.prefetch import Copied, Step, ahead, prefetched

WAIT = 10.0


def steps(count: int, closed: list[bool], fails: bool = False) -> Iterator[Step]:
    try:
        for step in range(count):
            yield [Microbatch(step, 0, {"image": np.full((2, 3), step, np.uint8)}, ("a", "b"), ())]
        if fails:
            raise ValueError("broken")
    finally:
        closed.append(True)


def test_a_step_is_copied_while_the_one_before_is_used() -> None:
    closed, copied, used = list[bool](), [threading.Event() for _ in range(4)], list[int]()

    def copy(step: Step) -> Copied:
        copied[step[0].step].set()
        return step, lambda: used.append(step[0].step)

    for index, (microbatch,) in enumerate(ahead(steps(4, closed), copy)):
        assert microbatch.step == index and used == list(range(index + 1))
        assert index == 3 or copied[index + 1].wait(WAIT), "the next step is on its way"
        assert not any(one.is_set() for one in copied[index + 2 :]), "and no other: memory stays flat"
    assert closed == [True]


def test_an_error_comes_after_the_steps_before_it_and_an_early_end_closes_the_stream() -> None:
    closed, seen = list[bool](), list[int]()
    with pytest.raises(ValueError, match="broken"):
        for (microbatch,) in ahead(steps(2, closed, fails=True), lambda step: (step, lambda: None)):
            seen.append(microbatch.step)
    assert seen == [0, 1]
    stream = ahead(steps(5, closed), lambda step: (step, lambda: None))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert closed == [True, True]


def test_on_a_cpu_nothing_is_copied() -> None:
    stream = steps(1, [])
    assert prefetched(stream, torch.device("cpu")) is stream


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_batches_are_there_and_equal() -> None:
    for index, (microbatch,) in enumerate(prefetched(steps(5, []), torch.device("cuda"))):
        image = microbatch.batch["image"]  # type: ignore[attr-defined]
        assert image.is_cuda and image.unique().tolist() == [index]
