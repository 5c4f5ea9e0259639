"""LOCA's pretext task: say on which patch of the reference each query patch lies, and to which cluster that patch belongs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from .. import collective
from ..contract import Batch, BuildContext, Visualisation
from ..layers.drop_path import draw_kept
from ..layers.ema import ema_update
from ..layers.patches import take
from ..optim import Clock, OptimConfig, ParamGroup, Schedule
from ..random import MicrobatchRng, key
from .colour import augment
from .config import LocaConfig
from .network import LocaNetwork, initialise
from .schedules import decay_and_rate_groups, loca_schedules, teacher_momentum

EPS = 1e-8  # added to the count of valid tokens


class Draws(NamedTuple):
    """What a group draws, shared by its images: tokens kept of reference and random query, and the paths that drop path keeps."""

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
    where this rank has several groups, `mean_prediction` (k, the same in all groups).
    """

    def __init__(self, config: LocaConfig) -> None:
        super().__init__()
        self.config = config
        self.student = LocaNetwork(config)
        self.teacher = LocaNetwork(config).requires_grad_(False) if config.pretext.clustering else None
        self.encoder_prefixes = ("student.encoder.",) if self.teacher is None else ("student.encoder.", "teacher.encoder.")

    def to_device(self, batch: Batch) -> Batch:
        """uint8 -> float32, colours as drawn, normalised; patch numbers as int64."""
        colours = batch["colours"]
        b, f = batch["focal"].shape[:2]
        large = _unit(torch.cat([batch["reference"], batch["query"]]))
        large = augment(large, torch.cat([colours[:, 0], colours[:, 1]]))
        focal = augment(_unit(batch["focal"].flatten(0, 1)), colours[:, 2:].flatten(0, 1)) if f else _unit(batch["focal"].flatten(0, 1))
        targets = {name: batch[name].long() for name in ("query_target", "focal_target")}
        boxes = {name: batch[name] for name in ("query_box", "focal_box")}
        return {"reference": large[:b], "query": large[b:], "focal": focal.view(b, f, *focal.shape[1:]), **targets, **boxes}

    def draw(self, batch: Batch, noise: MicrobatchRng) -> Draws:
        """Drop path in training alone; there in the teacher, too."""
        model, task, device = self.config.model, self.config.pretext, batch["reference"].device
        n, s, q = model.patches, self.config.reference_tokens, self.config.query_tokens
        rng = noise.numpy("reference tokens")
        start = int(rng.integers(n - s + 1)) if task.reference_selection == "consecutive" else 0
        kept = torch.arange(start, start + s)
        if task.reference_selection == "unstructured":
            kept = torch.from_numpy(rng.permutation(n)[:s])
        tokens = torch.from_numpy(noise.numpy("query tokens").permutation(n)[:q]) if q < n else torch.arange(n)
        b, f = batch["focal"].shape[:2]
        paths: dict[str, Tensor | None] = {}
        if self.training:
            for name, images in (("reference", b), ("query", b), ("focal", b * f)):
                generator = noise.torch(f"drop path {name}", device)
                paths[f"{name}_paths"] = draw_kept(model.drop_path, model.encoder_depth, images, generator)
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

    def targets(self, batches: list[Batch], noises: list[MicrobatchRng]) -> list[Batch]:
        """What the whole batch decides: cluster assignments, balanced over all groups of all ranks, and the mean prediction.

        Several groups on this rank: a first pass of the student, with the same draws, gives the mean prediction that each of them
        needs. A single group: `forward` takes the mean over the ranks itself.
        """
        if self.teacher is None:
            return batches
        seen = [self.with_reference(batch, noise) for batch, noise in zip(batches, noises, strict=True)]
        self._balance(seen, everywhere=True)
        if len(seen) > 1:
            groups = [self._mean_prediction(batch, noise) for batch, noise in zip(seen, noises, strict=True)]
            mean = collective.mean(torch.stack(groups).mean(dim=0))
            seen = [{**batch, "mean_prediction": mean} for batch in seen]
        return seen

    def with_reference(self, batch: Batch, noise: MicrobatchRng) -> Batch:
        """`batch` with `reference_kept` and, with clustering, `assignments`, which are not yet balanced."""
        reference = self.see_reference(batch, self.draw(batch, noise))
        batch = {**batch, "reference_kept": reference.kept}
        if reference.cosines is not None:
            batch["assignments"] = torch.softmax(reference.cosines / self.config.pretext.sharpening, dim=-1)
        return batch

    def alone(self, batch: Batch, noise: MicrobatchRng) -> Batch:
        """What `targets` gives, with the group taken for the whole batch."""
        batch = self.with_reference(batch, noise)
        self._balance([batch], everywhere=False)
        return batch

    def _balance(self, batches: Sequence[Batch], everywhere: bool) -> None:
        if self.teacher is not None:
            sinkhorn([batch["assignments"] for batch in batches], self.config.pretext.sinkhorn_iterations, everywhere)

    def _mean_prediction(self, batch: Batch, noise: MicrobatchRng) -> Float[Tensor, " k"]:
        cosines = self.answer(batch, self.draw(batch, noise), batch["reference_kept"]).cosines
        assert cosines is not None
        return torch.softmax(cosines / self.config.pretext.temperature, dim=-1).mean(dim=(0, 1))

    def forward(self, batch: Batch, noise: MicrobatchRng) -> dict[str, Tensor]:
        """`position`, `cluster`, `entropy` (0 without clustering); `accuracy`: of the query tokens on the reference, the share placed on
        the right patch; `valid`: their share. A batch that `targets` has not seen is taken for the whole batch."""
        if "assignments" in batch:
            return self.losses(batch, noise, everywhere=True)
        return self.losses(self.alone(batch, noise), noise, everywhere=False)

    def losses(self, batch: Batch, noise: MicrobatchRng, everywhere: bool) -> dict[str, Tensor]:
        """Of a batch from `targets` (the mean prediction is taken `everywhere`, where it is not in the batch) or from `alone`."""
        draws = self.draw(batch, noise)
        answer = self.answer(batch, draws, batch["reference_kept"])
        targets = self.query_targets(batch, draws)
        valid = targets >= 0
        right = (answer.positions.argmax(dim=-1) == targets) & valid
        losses = {
            "position": position_loss(answer.positions, targets),
            "accuracy": right.sum() / valid.sum().clamp_min(1),
            "valid": valid.float().mean(),
        }
        if answer.cosines is None:
            zero = losses["position"].new_zeros(())
            return {**losses, "cluster": zero, "entropy": zero}
        log_p = log_softmax(answer.cosines / self.config.pretext.temperature, dim=-1)
        group = log_p.exp().mean(dim=(0, 1))
        mean = batch.get("mean_prediction")
        if mean is None:
            mean = collective.mean(group) if everywhere else group.detach()
        return {**losses, "cluster": cluster_loss(log_p, batch["assignments"], targets), "entropy": mean_entropy(group, mean)}

    def after_step(self, step: int, steps: int) -> None:
        if self.teacher is not None:
            ema_update(self.teacher, self.student, teacher_momentum(self.config.pretext.teacher_momentum, step, steps))

    def param_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        return decay_and_rate_groups(self.student, optim.layer_decay)

    def schedules(self, optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
        return loca_schedules(optim, clock)

    def encoder(self) -> nn.Module:
        """The teacher's or, by `pretext.encoder` or without clustering, the student's."""
        network = self.teacher if self.teacher is not None and self.config.pretext.encoder == "teacher" else self.student
        return copy.deepcopy(network.encoder).requires_grad_(True)

    def visualisations(self, batch: Batch, noise: MicrobatchRng) -> list[Visualisation]:
        from .pictures import position_picture

        return [position_picture(self, batch, noise)]

    def health(self, batch: Batch, noise: MicrobatchRng) -> dict[str, Tensor]:
        from .health import health_figures

        return health_figures(self, batch, noise)

    def control_metrics(self, batch: Batch, other: Batch, noise: MicrobatchRng) -> dict[str, Tensor]:
        from .health import reference_claims

        return reference_claims(self, batch, other, noise)


@torch.no_grad()
def sinkhorn(parts: Sequence[Float[Tensor, "b n k"]], iterations: int, everywhere: bool = False) -> None:
    """In place: each column divided by its sum over all parts (with `everywhere`, of all ranks), then each row by its own sum.

    Float32. A column that is 0 throughout gives NaN, as in the authors' code.
    """
    for _ in range(iterations):
        columns = torch.stack([part.sum(dim=(0, 1)) for part in parts]).sum(dim=0)
        if everywhere:
            collective.sum_(columns)
        for part in parts:
            part /= columns
            part /= part.sum(dim=-1, keepdim=True)


def position_loss(logits: Float[Tensor, "b t n"], targets: Int[Tensor, "b t"]) -> Float[Tensor, ""]:
    """Cross-entropy, mean over the group's valid tokens; 0 where none is valid."""
    valid = targets >= 0
    each = cross_entropy(logits.flatten(0, 1), targets.flatten().clamp_min(0), reduction="none")
    return (each * valid.flatten()).sum() / (valid.sum() + EPS)


def cluster_loss(log_p: Float[Tensor, "b t k"], assignments: Float[Tensor, "b n k"], targets: Int[Tensor, "b t"]) -> Float[Tensor, ""]:
    """Cross-entropy between the prediction for a query token and the assignment of its reference patch, mean over valid tokens."""
    valid = targets >= 0
    each = -(take(assignments, targets.clamp_min(0)) * log_p).sum(dim=-1)
    return (each * valid).sum() / (valid.sum() + EPS)


def mean_entropy(group: Float[Tensor, " k"], mean: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Sum p log p of the mean prediction over the whole batch (no gradient); its gradient reaches this group through `group`.

    The derivative by p is log p + 1, a constant once p is known. Averaged over the groups, whose mean is p, the gradients of
    sum (log p + 1) p_group are that of sum p log p.
    """
    log_mean = mean.log()
    reach = ((log_mean + 1) * group).sum()
    return reach - reach.detach() + (mean * log_mean).sum()


def _unit(images: Tensor) -> Tensor:
    """uint8 b x h x w x 3 -> float32 b x 3 x h x w in [0, 1]."""
    return images.permute(0, 3, 1, 2).float() / 255


def build(config: LocaConfig, context: BuildContext) -> LocaPretext:
    """A freshly initialised `LocaPretext` on the CPU, the same for the same `context.seed`; no global generator is used."""
    with torch.device("meta"):  # PyTorch's own initialisation would draw from the global generator, and take as long again
        pretext = LocaPretext(config)
    pretext.to_empty(device="cpu")
    initialise(pretext.student, torch.Generator().manual_seed(key("weights", "loca", context.seed) >> 1))
    if pretext.teacher is not None:
        pretext.teacher.load_state_dict(pretext.student.state_dict())
    return pretext
