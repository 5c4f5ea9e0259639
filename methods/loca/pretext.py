"""LOCA's pretext task: say on which patch of the reference each query patch lies, and to which cluster that patch belongs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from .. import collective
from ..contract import Batch, BuildContext, Visualisation
from ..layers.colour import to_float
from ..layers.drop_path import draw_kept
from ..layers.ema import ema_update
from ..layers.initial import uninitialised, weight_rng
from ..optim import Clock, OptimConfig, ParamGroup, Schedule
from ..random import MicrobatchRng
from .colour import augment
from .config import LocaConfig
from .diagnostics import SAMPLES, health_metrics, position_visualisation, reference_metrics
from .loss import cluster_errors, mean_entropy, over_valid, over_valid_of_samples, position_errors, sinkhorn
from .network import LocaNetwork, initialise
from .schedules import decay_and_rate_groups, loca_schedules, teacher_momentum


class Draws(NamedTuple):
    """Draws that the images of a microbatch share: tokens kept of reference and random query, and the branches that drop path keeps."""

    reference: Int[Tensor, " s"]
    query: Int[Tensor, " q"]
    reference_paths: Bool[Tensor, "l 2 b"] | None = None
    query_paths: Bool[Tensor, "l 2 b"] | None = None
    focal_paths: Bool[Tensor, "l 2 m"] | None = None


class Reference(NamedTuple):
    """The reference as queries see it. `features`, `cosines`: of all its patches, teacher's; None without clustering."""

    kept: Float[Tensor, "b s d"]
    features: Float[Tensor, "b n d"] | None
    cosines: Float[Tensor, "b n k"] | None


class Answer(NamedTuple):
    """The student's answer for all query tokens of each image: those kept of the random query, then each focal query's, raster order."""

    features: Float[Tensor, "b t d"]
    positions: Float[Tensor, "b t n"]
    cosines: Float[Tensor, "b t k"] | None


class LocaPretext(nn.Module):
    """The torch half of LOCA: a `Pretext`.

    After `to_device` a batch holds normalised `reference`, `query` (b x 3 x h x w) and `focal` (b x f x 3 x h x w), int64
    `query_target` (b x n) and `focal_target` (b x f x n), and the boxes. `targets` adds `reference_kept`, `assignments` (b x n x k) and,
    where this rank has several microbatches, `mean_prediction` (k, the same in all of them).
    """

    def __init__(self, config: LocaConfig) -> None:
        super().__init__()
        self.config = config
        self.student = LocaNetwork(config)
        self.teacher = LocaNetwork(config).requires_grad_(False) if config.pretext.clustering else None
        self.sample_losses: dict[str, Tensor] = {}
        self.encoder_prefixes = ("student.encoder.",) if self.teacher is None else ("student.encoder.", "teacher.encoder.")

    def to_device(self, batch: Batch) -> Batch:
        """uint8 -> float32, colours as drawn, normalised; patch numbers as int64."""
        colours = batch["colours"]
        b, f = batch["focal"].shape[:2]
        large = to_float(torch.cat([batch["reference"], batch["query"]]))
        large = augment(large, torch.cat([colours[:, 0], colours[:, 1]]))
        focal = to_float(batch["focal"].flatten(0, 1))
        if f:
            focal = augment(focal, colours[:, 2:].flatten(0, 1))
        targets = {name: batch[name].long() for name in ("query_target", "focal_target")}
        boxes = {name: batch[name] for name in ("query_box", "focal_box")}
        return {"reference": large[:b], "query": large[b:], "focal": focal.view(b, f, *focal.shape[1:]), **targets, **boxes}

    def draw(self, batch: Batch, rng: MicrobatchRng) -> Draws:
        """Drop path in training alone; there in the teacher, too."""
        model, task, device = self.config.model, self.config.pretext, batch["reference"].device
        n, s, q = model.patches, self.config.reference_tokens, self.config.query_tokens
        draws = rng.numpy("reference tokens")
        start = int(draws.integers(n - s + 1)) if task.reference_selection == "consecutive" else 0
        kept = torch.arange(start, start + s)
        if task.reference_selection == "unstructured":
            kept = torch.from_numpy(draws.permutation(n)[:s])
        tokens = torch.from_numpy(rng.numpy("query tokens").permutation(n)[:q]) if q < n else torch.arange(n)
        b, f = batch["focal"].shape[:2]
        paths: dict[str, Tensor | None] = {}
        if self.training:
            for name, images in (("reference", b), ("query", b), ("focal", b * f)):
                generator = rng.torch(f"drop path {name}")
                paths[f"{name}_paths"] = draw_kept(model.drop_path, model.encoder_depth, images, generator, device)
        return Draws(kept.to(device), tokens.to(device), **paths)

    def see_reference(self, batch: Batch, draws: Draws) -> Reference:
        """With clustering by the teacher, without gradient, tokens dropped after the encoder; else by the student, dropped before it."""
        if self.teacher is None:
            kept = self.student.encoder.encode(batch["reference"], kept=draws.reference, paths=draws.reference_paths)
            return Reference(kept, None, None)
        with torch.no_grad():
            features = self.teacher.encoder.encode(batch["reference"], paths=draws.reference_paths)
            assert self.teacher.cluster is not None
            return Reference(features[:, draws.reference], features, self.teacher.cluster(features))

    def answer(self, batch: Batch, draws: Draws, reference: Float[Tensor, "b s d"]) -> Answer:
        """Query tokens do not see each other after the encoder, so all of an image go through the heads side by side."""
        student, positions = self.student, self.teacher is not None
        features = student.encoder.encode(batch["query"], positions, draws.query, draws.query_paths)
        b, f = batch["focal"].shape[:2]
        if f:
            focal = student.encoder.encode(batch["focal"].flatten(0, 1), positions, paths=draws.focal_paths)
            features = torch.cat([features, focal.reshape(b, -1, focal.shape[-1])], dim=1)
        cosines = student.cluster(features) if student.cluster is not None else None
        return Answer(features, student.position(features, reference), cosines)

    def query_targets(self, batch: Batch, draws: Draws) -> Int[Tensor, "b t"]:
        """The reference patch of each query token, in the order of `Answer`; -1 outside."""
        return torch.cat([batch["query_target"][:, draws.query], batch["focal_target"].flatten(1)], dim=1)

    def targets(self, batches: list[Batch], rngs: list[MicrobatchRng]) -> list[Batch]:
        """Cluster assignments, balanced over all microbatches of all ranks, and the mean prediction of the whole batch.

        With several microbatches on this rank, a first pass of the student with the same draws gives the mean prediction that each of
        them needs. With a single one, `forward` takes the mean over the ranks itself.
        """
        if self.teacher is None:
            return batches
        seen = [self.with_reference(batch, rng) for batch, rng in zip(batches, rngs, strict=True)]
        self._balance(seen, everywhere=True)
        if len(seen) > 1:
            predictions = [self._mean_prediction(batch, rng) for batch, rng in zip(seen, rngs, strict=True)]
            mean = collective.mean(torch.stack(predictions).mean(dim=0))
            seen = [{**batch, "mean_prediction": mean} for batch in seen]
        return seen

    def with_reference(self, batch: Batch, rng: MicrobatchRng) -> Batch:
        """`batch` with `reference_kept` and, with clustering, `assignments`, which are not yet balanced."""
        reference = self.see_reference(batch, self.draw(batch, rng))
        batch = {**batch, "reference_kept": reference.kept}
        if reference.cosines is not None:
            batch["assignments"] = torch.softmax(reference.cosines / self.config.pretext.sharpening, dim=-1)
        return batch

    def alone(self, batch: Batch, rng: MicrobatchRng) -> Batch:
        """What `targets` gives, with the microbatch taken for the whole batch."""
        batch = self.with_reference(batch, rng)
        self._balance([batch], everywhere=False)
        return batch

    def _balance(self, batches: Sequence[Batch], everywhere: bool) -> None:
        if self.teacher is not None:
            sinkhorn([batch["assignments"] for batch in batches], self.config.pretext.sinkhorn_iterations, everywhere)

    def _mean_prediction(self, batch: Batch, rng: MicrobatchRng) -> Float[Tensor, " k"]:
        cosines = self.answer(batch, self.draw(batch, rng), batch["reference_kept"]).cosines
        assert cosines is not None
        return torch.softmax(cosines / self.config.pretext.temperature, dim=-1).mean(dim=(0, 1))

    def forward(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """`position`, `cluster`, `entropy` (0 without clustering); `accuracy`: of the query tokens on the reference, the share placed on
        the right patch; `valid`: their share. A batch that `targets` has not seen is taken for the whole batch."""
        if "assignments" in batch:
            return self.losses(batch, rng, everywhere=True)
        return self.losses(self.alone(batch, rng), rng, everywhere=False)

    def losses(self, batch: Batch, rng: MicrobatchRng, everywhere: bool) -> dict[str, Tensor]:
        """Of a batch from `targets` (the mean prediction is taken `everywhere`, where it is not in the batch) or from `alone`."""
        draws = self.draw(batch, rng)
        answer = self.answer(batch, draws, batch["reference_kept"])
        targets = self.query_targets(batch, draws)
        valid = targets >= 0
        right = (answer.positions.argmax(dim=-1) == targets) & valid
        errors = {"position": position_errors(answer.positions, targets)}
        log_p = None
        if answer.cosines is not None:
            log_p = log_softmax(answer.cosines / self.config.pretext.temperature, dim=-1)
            errors["cluster"] = cluster_errors(log_p, batch["assignments"], targets)
        self.sample_losses = {name: over_valid_of_samples(each.detach(), targets) for name, each in errors.items()}
        losses = {
            **{name: over_valid(each, targets) for name, each in errors.items()},
            "accuracy": right.sum() / valid.sum().clamp_min(1),
            "valid": valid.float().mean(),
        }
        if log_p is None:
            zero = losses["position"].new_zeros(())
            return {**losses, "cluster": zero, "entropy": zero}
        own = log_p.exp().mean(dim=(0, 1))
        mean = batch.get("mean_prediction")
        if mean is None:
            mean = collective.mean(own) if everywhere else own.detach()
        return {**losses, "entropy": mean_entropy(own, mean)}

    def after_step(self, step: int, steps: int) -> None:
        if self.teacher is not None:
            ema_update(self.teacher, self.student, teacher_momentum(self.config.pretext.teacher_momentum, step, steps))

    def param_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        return decay_and_rate_groups(self.student, optim.layer_decay)

    def schedules(self, optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
        return loca_schedules(optim, clock)

    def encoder(self) -> nn.Module:
        """The teacher's or, by `pretext.encoder` or without clustering, the student's."""
        return copy.deepcopy(self.kept_network.encoder).requires_grad_(True)

    @property
    def kept_network(self) -> LocaNetwork:
        return self.teacher if self.teacher is not None and self.config.pretext.encoder == "teacher" else self.student

    @property
    def kept_weights(self) -> str:
        return "the teacher's, an average of the student's" if self.kept_network is self.teacher else "the student's"

    @torch.no_grad()
    def embeddings(self, batch: Batch) -> Float[Tensor, "b d"]:
        return self.kept_network.encoder.encode(batch["reference"]).float().mean(dim=1)

    @torch.no_grad()
    def visualisations(self, batch: Batch, rng: MicrobatchRng) -> list[Visualisation]:
        batch = {name: value[:SAMPLES] for name, value in batch.items()}
        draws = self.draw(batch, rng)
        positions = self.answer(batch, draws, self.see_reference(batch, draws).kept).positions
        return [position_visualisation(batch, positions, draws.reference, len(draws.query), self.config.model)]

    @torch.no_grad()
    def health(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """On one microbatch, taken for the whole batch."""
        whole = self.alone(batch, rng)
        losses = self.losses(whole, rng, everywhere=False)
        student = self.student.encoder.encode(batch["reference"])
        teacher = None if self.teacher is None else self.teacher.encoder.encode(batch["reference"])
        return health_metrics(losses, whole.get("assignments"), student, teacher, self.config)

    @torch.no_grad()
    def control_metrics(self, batch: Batch, other: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        draws = self.draw(batch, rng)
        sources = {"own_reference": batch, "other_reference": other}
        logits = {name: self.answer(batch, draws, self.see_reference(source, draws).kept).positions for name, source in sources.items()}
        return reference_metrics(logits, self.query_targets(batch, draws))


def build(config: LocaConfig, context: BuildContext) -> LocaPretext:
    """A freshly initialised `LocaPretext` on the CPU, the same for the same `context.seed`; no global generator is used."""
    pretext = uninitialised(lambda: LocaPretext(config))
    initialise(pretext.student, weight_rng("loca", context.seed))
    if pretext.teacher is not None:
        pretext.teacher.load_state_dict(pretext.student.state_dict())
    return pretext
