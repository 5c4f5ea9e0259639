"""ConMIM's loss: for each hidden patch of the student, its own place among all patches of the teacher."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


class Contrast(NamedTuple):
    """Hidden patches as queries, all patches of the same image as answers. `valid`: rows that hold a hidden patch, not filling."""

    logits: Float[Tensor, "b k n"]
    labels: Int[Tensor, "b k"]
    valid: Bool[Tensor, "b k"]

    def errors(self) -> Float[Tensor, "b k"]:
        """Cross-entropy of each row in nats, 0 where it is not valid."""
        rows = cross_entropy(self.logits.flatten(0, 1), self.labels.flatten(), reduction="none").view_as(self.labels)
        return rows * self.valid

    def mean(self, rows: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
        """Over the pooled list of hidden patches, so images with more of them weigh more."""
        return (rows * self.valid).sum() / self.valid.sum().clamp_min(1)


def contrast(
    student: Float[Tensor, "b n p"], teacher: Float[Tensor, "b n p"], mask: Bool[Tensor, "b n"], temperature: float, most: int
) -> Contrast:
    """Similarities of the student's features at hidden places to all of the teacher's, divided by the temperature; float32.

    `most`: hidden patches of an image at most; images with fewer get rows that are not valid.
    """
    labels = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]  # hidden places first, in raster order
    with torch.autocast(student.device.type, enabled=False):
        queries = student.float().gather(1, labels[..., None].expand(-1, -1, student.shape[2]))
        logits = normalize(queries, dim=-1) @ normalize(teacher.float(), dim=-1).transpose(1, 2) / temperature
    return Contrast(logits, labels, mask.gather(1, labels))
