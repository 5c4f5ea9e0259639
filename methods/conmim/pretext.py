"""ConMIM's pretext task: for each hidden patch, find its own place among the patches that a teacher sees in the whole image."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..contract import Batch, BuildContext, Visualisation
from ..layers.colour import colour_jitter, gaussian_blur, grey, solarise, to_float
from ..layers.drop_path import draw_kept
from ..layers.ema import cosine_momentum, ema_update
from ..layers.initial import uninitialised, weight_rng
from ..optim import Clock, OptimConfig, ParamGroup, Schedule, decay_groups
from ..random import MicrobatchRng
from .backbone import layer_of, normalise
from .config import ConMIMConfig, ConMIMModel
from .diagnostics import SAMPLES, health_metrics, similarity_visualisation, teacher_metrics
from .loss import Contrast, contrast
from .network import ConMIMEncoder, ConMIMNetwork
from .schedules import conmim_schedules
from .views import BLUR, GREY, JITTERED, SOLARISE, blur_reach

STD = 0.02


class ConMIMPretext(nn.Module):
    """The torch half of ConMIM: a `Pretext`. After `to_device` a batch holds normalised `student` and `teacher` images and `mask`."""

    encoder_prefixes = ("student.", "teacher.")

    def __init__(self, config: ConMIMConfig) -> None:
        super().__init__()
        self.sample_losses: dict[str, Tensor] = {}
        self.config = config
        self.student = ConMIMNetwork(config.model)
        self.teacher = ConMIMNetwork(config.model).requires_grad_(False)

    def train(self, mode: bool = True) -> ConMIMPretext:
        """The teacher and the student's projector stay in training mode: BatchNorm always takes the statistics of its own microbatch.

        In evaluation with running statistics a loss would not compare with that of training: they lag behind the weights, and the
        teacher has none that would fit.
        """
        super().train(mode)
        self.teacher.train()
        self.student.projectors.train()
        return self

    def to_device(self, batch: Batch) -> Batch:
        """uint8 b x h x w x 3 -> normalised float32 b x 3 x h x w, once as it is and once in changed colours."""
        images = to_float(batch["image"])
        colours, view = batch["colours"], self.config.pretext.strong_view
        student = self.strong(images, colours[:, 0]) if view in ("student", "both") else images
        teacher = self.strong(images, colours[:, -1]) if view in ("teacher", "both") else images
        return {"student": normalise(student, self.config.model), "teacher": normalise(teacher, self.config.model), "mask": batch["mask"]}

    def strong(self, images: Float[Tensor, "b 3 h w"], colours: Float[Tensor, "b c"]) -> Float[Tensor, "b 3 h w"]:
        """Jitter, grey, blur, solarise, in this order, each on the images that drew it."""
        images = images.clone()
        if len(rows := colours[:, JITTERED].nonzero().flatten()):
            images[rows] = colour_jitter(images[rows], colours[rows, :JITTERED])
        if len(rows := colours[:, GREY].nonzero().flatten()):
            images[rows] = grey(images[rows]).expand(-1, 3, -1, -1)
        if len(rows := colours[:, BLUR].nonzero().flatten()):
            images[rows] = gaussian_blur(images[rows], colours[rows, BLUR], blur_reach(self.config.augment))
        if len(rows := colours[:, SOLARISE].nonzero().flatten()):
            images[rows] = solarise(images[rows])
        return images

    def contrast(
        self, student: Float[Tensor, "b n p"], teacher: Float[Tensor, "b n p"], mask: Bool[Tensor, "b n"], most: int | None = None
    ) -> Contrast:
        """See `loss.contrast`. `most`: by default as the settings hide them."""
        return contrast(student, teacher, mask, self.config.pretext.temperature, self.config.masked if most is None else most)

    def kept(self, network: str, batch: int, rng: MicrobatchRng, device: torch.device) -> Bool[Tensor, "l 2 b"] | None:
        model = self.config.model
        return draw_kept(model.drop_path, model.depth, batch, rng.torch(f"drop_path_{network}"), device)

    @torch.no_grad()
    def teacher_features(self, images: Float[Tensor, "b 3 h w"], rng: MicrobatchRng) -> tuple[Tensor, Tensor]:
        """The teacher's (tokens, projected patches) of whole images."""
        found: tuple[Tensor, Tensor] = self.teacher(images, None, self.kept("teacher", len(images), rng, images.device))
        return found

    def student_features(self, batch: Batch, rng: MicrobatchRng) -> tuple[Tensor, Tensor]:
        """The student's (tokens, projected patches) of images with hidden patches."""
        images = batch["student"]
        kept = self.kept("student", len(images), rng, images.device) if self.training else None
        found: tuple[Tensor, Tensor] = self.student(images, batch["mask"], kept)
        return found

    def forward(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """`contrast`: cross-entropy pooled over the hidden patches of the microbatch; `accuracy`: share of them that find their place."""
        _, wanted = self.teacher_features(batch["teacher"], rng)
        _, found = self.student_features(batch, rng)
        pairs = self.contrast(found, wanted, batch["mask"])
        errors = pairs.errors()
        self.sample_losses = {"contrast": errors.detach().sum(dim=1) / pairs.valid.sum(dim=1).clamp_min(1)}
        right = pairs.logits.detach().argmax(dim=-1) == pairs.labels
        return {"contrast": pairs.mean(errors), "accuracy": pairs.mean(right.float())}

    def after_step(self, step: int, steps: int) -> None:
        """The teacher's parameters follow the student's, which has been updated; its running statistics are its own."""
        ema_update(self.teacher, self.student, cosine_momentum(self.config.pretext.teacher_momentum, step, steps))

    def param_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        """No decay for tensors of one dimension, position table and class token; mask token and bias tables decay.
        `optim.layer_decay` scales the rate by depth, `model.relative_bias_lr` that of the bias tables."""
        depth, faster = self.config.model.depth, self.config.model.relative_bias_lr
        parts: dict[tuple[int, bool], list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in self.student.named_parameters():
            name = name.removeprefix("backbone.")
            layer = layer_of(name, depth) if optim.layer_decay != 1 else depth + 1
            table = faster != 1 and name.endswith("relative_position_bias_table")
            parts.setdefault((layer, table), []).append((name, parameter))
        groups = []
        for (layer, table), named in sorted(parts.items(), key=lambda part: part[0]):
            for group in decay_groups(named, no_decay):
                group.lr_scale = optim.layer_decay ** (depth + 1 - layer) * (faster if table else 1)
                parts_of = (f"layer{layer}" if optim.layer_decay != 1 else "", "bias tables" if table else "", group.name)
                group.name = ".".join(filter(None, parts_of))
                groups.append(group)
        return groups

    def schedules(self, optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
        return conmim_schedules(optim, clock)

    def encoder(self) -> nn.Module:
        """The backbone of the network that `pretext.encoder` names."""
        return ConMIMEncoder(self.config.model, self.kept_network.backbone)

    @property
    def kept_network(self) -> ConMIMNetwork:
        return self.teacher if self.config.pretext.encoder == "teacher" else self.student

    @property
    def kept_weights(self) -> str:
        return "the teacher's, an average of the student's" if self.kept_network is self.teacher else "the student's"

    @torch.no_grad()
    def embeddings(self, batch: Batch) -> Float[Tensor, "b d"]:
        tokens: Tensor = self.kept_network.backbone(batch["student"])
        return tokens[:, 1:].float().mean(dim=1)

    @torch.no_grad()
    def visualisations(self, batch: Batch, rng: MicrobatchRng) -> list[Visualisation]:
        _, wanted = self.teacher_features(batch["teacher"], rng)  # of the whole microbatch: BatchNorm takes its statistics from it
        _, found = self.student_features(batch, rng)
        images, mask = batch["student"][:SAMPLES], batch["mask"][:SAMPLES]
        pairs = self.contrast(found[:SAMPLES], wanted[:SAMPLES], mask)
        return [similarity_visualisation(images, mask, pairs, self.config.model, rng)]

    @torch.no_grad()
    def control_metrics(self, batch: Batch, other: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        _, found = self.student_features(batch, rng)
        wanted = {name: self.teacher_features(images, rng)[1] for name, images in (("own", batch["teacher"]), ("other", other["teacher"]))}
        return teacher_metrics({name: self.contrast(found, features, batch["mask"]) for name, features in wanted.items()})

    @torch.no_grad()
    def health(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        mask = batch["mask"]
        tokens, wanted = self.teacher_features(batch["teacher"], rng)
        _, found = self.student_features(batch, rng)
        swapped = self.contrast(found, wanted.roll(1, dims=0), mask)
        return health_metrics(self.contrast(found, wanted, mask), swapped, tokens[:, 1:], found[mask], wanted[mask])


def no_decay(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 1 or name.endswith(".bias") or name in ("pos_embed", "cls_token")


def build(config: ConMIMConfig, context: BuildContext) -> ConMIMPretext:
    """A fresh `ConMIMPretext` on the CPU, the same for the same `context.seed`; the teacher starts as a copy of the student."""
    pretext = uninitialised(lambda: ConMIMPretext(config))
    initialise(pretext.student, config.model, weight_rng("conmim", context.seed))
    pretext.teacher.load_state_dict(pretext.student.state_dict())
    for network in (pretext.student, pretext.teacher):
        network.backbone.fill_index()
    return pretext


@torch.no_grad()
def initialise(network: nn.Module, model: ConMIMModel, generator: torch.Generator) -> None:
    """Matrices, convolution, tokens and position table: normal(0, `STD`), cut at one standard deviation. Biases and bias tables 0, norms
    1 / 0, branch factors `layer_scale`. Then the last matrices of both branches of block i, from 1, are divided by sqrt(2 i)."""
    for name, tensor in network.state_dict(keep_vars=True).items():
        last = name.rpartition(".")[2]
        if last in ("bias", "q_bias", "v_bias", "relative_position_bias_table", "running_mean", "num_batches_tracked"):
            tensor.zero_()
        elif last in ("gamma_1", "gamma_2"):
            tensor.fill_(model.layer_scale or 0.0)
        elif tensor.ndim == 1:  # norms and their running variances
            tensor.fill_(1)
        else:
            _cut_normal(tensor, generator)
    for i, block in enumerate(network.backbone.blocks, start=1):  # type: ignore[union-attr, arg-type]
        block.attn.proj.weight.div_((2 * i) ** 0.5)
        block.mlp.fc2.weight.div_((2 * i) ** 0.5)


def _cut_normal(tensor: Tensor, generator: torch.Generator) -> None:
    """By the inverse of the distribution: PyTorch's own draws the whole tensor again until every element is inside, ten times here."""
    inside = math.erf(1 / 2**0.5)  # of the normal distribution, within one standard deviation
    tensor.uniform_(-inside, inside, generator=generator).erfinv_().mul_(STD * 2**0.5).clamp_(-STD, STD)
