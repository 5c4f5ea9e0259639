"""The pretext that timm's models stand in for: it holds an encoder, and cannot be trained."""

from __future__ import annotations

import copy
from typing import NoReturn

import torch
from torch import nn

from ..contract import BuildContext
from ..errors import CallError
from .config import TimmConfig, TimmModel
from .network import TimmEncoder


class TimmPretext(nn.Module):
    """Holds an encoder, so that its weights come in, are kept and are measured like any other's."""

    encoder_prefixes = ("inner.",)

    def __init__(self, model: TimmModel) -> None:
        super().__init__()
        self.inner = TimmEncoder(model)

    def encoder(self) -> TimmEncoder:
        return copy.deepcopy(self.inner)

    def forward(self, *arguments: object) -> NoReturn:
        raise CallError("method timm is not trained here", "choose one of the pretext methods")

    to_device = after_step = param_groups = schedules = forward


def build(config: TimmConfig, context: BuildContext) -> TimmPretext:
    """With timm's own random weights, the same for the same `context.seed`."""
    with torch.random.fork_rng(devices=[]):  # timm draws from the global generator of the CPU, which is put back
        torch.default_generator.manual_seed(context.seed)
        return TimmPretext(config.model)
