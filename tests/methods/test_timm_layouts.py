"""Files in the layouts of DINO, DINOv2, CLIP, open_clip and MAE, written by hand, compute what their authors' networks do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear, multi_head_attention_forward, silu

from sightline.methods.contract import BuildContext
from sightline.methods.errors import SightlineError
from sightline.methods.timm_encoder import method
from sightline.methods.timm_encoder.config import TimmConfig
from sightline.methods.timm_encoder.pretext import build

pytestmark = pytest.mark.filterwarnings("ignore")  # timm warns of its own
WIDTH, HEADS, PATCH, GRID = 128, 2, 8, 3
IMAGENET = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
OPENAI = (
    torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1),
    torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1),
)


class Drawn(dict[str, Tensor]):
    """Tensors by name, each drawn when it is first written down."""

    def __init__(self) -> None:
        self.rng = torch.Generator().manual_seed(0)

    def add(self, name: str, *shape: int, about: float = 0.0) -> None:
        self[name] = about + 0.1 * torch.randn(shape, generator=self.rng)

    def layer(self, name: str, out: int, into: int, bias: bool = True) -> None:
        self.add(f"{name}.weight", out, into)
        if bias:
            self.add(f"{name}.bias", out)

    def norm(self, name: str, width: int = WIDTH) -> None:
        self.add(f"{name}.weight", width, about=1.0)
        self.add(f"{name}.bias", width)


def vit(blocks: int = 2, scale: bool = False, gated: bool = False, registers: int = 0, prefix: str = "blocks.") -> Drawn:
    """A ViT as DINO, MAE and DINOv2 name it: the layouts differ in layer scale, registers and the gated MLP."""
    made = Drawn()
    made.add("cls_token", 1, 1, WIDTH)
    made.add("pos_embed", 1, 1 + GRID * GRID, WIDTH)
    if registers:
        made.add("register_tokens", 1, registers, WIDTH)
    made.add("patch_embed.proj.weight", WIDTH, 3, PATCH, PATCH)
    made.add("patch_embed.proj.bias", WIDTH)
    for block in range(blocks):
        name = f"{prefix}{block}"
        made.norm(f"{name}.norm1")
        made.layer(f"{name}.attn.qkv", 3 * WIDTH, WIDTH)
        made.layer(f"{name}.attn.proj", WIDTH, WIDTH)
        made.norm(f"{name}.norm2")
        if gated:
            made.layer(f"{name}.mlp.w12", 2 * 344, WIDTH)
            made.layer(f"{name}.mlp.w3", WIDTH, 344)
        else:
            made.layer(f"{name}.mlp.fc1", 4 * WIDTH, WIDTH)
            made.layer(f"{name}.mlp.fc2", WIDTH, 4 * WIDTH)
        if scale:
            made.add(f"{name}.ls1.gamma", WIDTH, about=0.5)
            made.add(f"{name}.ls2.gamma", WIDTH, about=0.5)
    made.norm("norm")
    return made


def vit_by_hand(state: dict[str, Tensor], images: Tensor, blocks: int = 2, whole: bool = False) -> Tensor:
    """Patch tokens of a ViT (`whole`: the class token), from the papers: pre-norm blocks, eps 1e-6, the class token first, registers
    behind it without a place."""
    mean, std = IMAGENET
    x = torch.conv2d((images - mean) / std, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    x = torch.cat([state["cls_token"].expand(len(images), -1, -1), x.flatten(2).transpose(1, 2)], dim=1) + state["pos_embed"]
    registers = state.get("register_tokens", torch.zeros(1, 0, WIDTH))
    x = torch.cat([x[:, :1], registers.expand(len(images), -1, -1), x[:, 1:]], dim=1)
    for block in range(blocks):

        def own(name: str, block: int = block) -> Tensor:
            return state[f"blocks.{block}.{name}"]

        def of(name: str, y: Tensor, own: Any = own) -> Tensor:
            return linear(y, own(f"{name}.weight"), own(f"{name}.bias"))

        q, k, v = of("attn.qkv", layer_norm(x, (WIDTH,), own("norm1.weight"), own("norm1.bias"), 1e-6)).chunk(3, dim=-1)
        heads = [
            (qh @ kh.transpose(1, 2) / (WIDTH // HEADS) ** 0.5).softmax(dim=-1) @ vh
            for qh, kh, vh in zip(*(t.split(WIDTH // HEADS, dim=-1) for t in (q, k, v)), strict=True)
        ]
        scaled = f"blocks.{block}.ls1.gamma" in state
        x = x + of("attn.proj", torch.cat(heads, dim=-1)) * (own("ls1.gamma") if scaled else 1)
        y = layer_norm(x, (WIDTH,), own("norm2.weight"), own("norm2.bias"), 1e-6)
        if f"blocks.{block}.mlp.w12.weight" in state:
            gate, value = of("mlp.w12", y).chunk(2, dim=-1)
            y = of("mlp.w3", silu(gate) * value)
        else:
            y = of("mlp.fc2", gelu(of("mlp.fc1", y)))
        x = x + y * (own("ls2.gamma") if scaled else 1)
    x = layer_norm(x, (WIDTH,), state["norm.weight"], state["norm.bias"], 1e-6)
    return x[:, 0] if whole else x[:, 1 + registers.shape[1] :]


def clip(blocks: int = 2) -> Drawn:
    """OpenAI's whole state dict: the visual tower and that of texts."""
    made = Drawn()
    made.add("visual.class_embedding", WIDTH)
    made.add("visual.positional_embedding", 1 + GRID * GRID, WIDTH)
    made.add("visual.proj", WIDTH, 24)
    made.add("visual.conv1.weight", WIDTH, 3, PATCH, PATCH)
    for norm in ("visual.ln_pre", "visual.ln_post"):
        made.norm(norm)
    for tower, width in (("visual.transformer", WIDTH), ("transformer", 64)):
        for block in range(blocks):
            name = f"{tower}.resblocks.{block}"
            made.add(f"{name}.attn.in_proj_weight", 3 * width, width)
            made.add(f"{name}.attn.in_proj_bias", 3 * width)
            made.layer(f"{name}.attn.out_proj", width, width)
            made.layer(f"{name}.mlp.c_fc", 4 * width, width)
            made.layer(f"{name}.mlp.c_proj", width, 4 * width)
            made.norm(f"{name}.ln_1", width)
            made.norm(f"{name}.ln_2", width)
    made.add("positional_embedding", 77, 64)
    made.add("text_projection", 64, 24)
    made.add("token_embedding.weight", 100, 64)
    made.norm("ln_final", 64)
    made["logit_scale"] = torch.tensor(4.6)
    return made


def clip_by_hand(state: dict[str, Tensor], images: Tensor, quick: bool) -> tuple[Tensor, Tensor]:
    """(tokens after `ln_post`, what the projection makes of them); eps 1e-5, torch's own attention."""
    mean, std = OPENAI
    own = {name.removeprefix("visual."): tensor for name, tensor in state.items() if name.startswith("visual.")}

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (WIDTH,), own[f"{name}.weight"], own[f"{name}.bias"], 1e-5)

    x = torch.conv2d((images - mean) / std, own["conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([own["class_embedding"].expand(len(images), 1, -1), x], dim=1) + own["positional_embedding"]
    x = norm(x, "ln_pre").transpose(0, 1)
    for block in range(2):
        name = f"transformer.resblocks.{block}"
        y = norm(x, f"{name}.ln_1")
        weights = own[f"{name}.attn.in_proj_weight"], own[f"{name}.attn.in_proj_bias"]
        out = own[f"{name}.attn.out_proj.weight"], own[f"{name}.attn.out_proj.bias"]
        x = x + multi_head_attention_forward(y, y, y, WIDTH, HEADS, *weights, None, None, False, 0.0, *out, training=False)[0]
        y = linear(norm(x, f"{name}.ln_2"), own[f"{name}.mlp.c_fc.weight"], own[f"{name}.mlp.c_fc.bias"])
        y = y * torch.sigmoid(1.702 * y) if quick else gelu(y)
        x = x + linear(y, own[f"{name}.mlp.c_proj.weight"], own[f"{name}.mlp.c_proj.bias"])
    x = norm(x.transpose(0, 1), "ln_post")
    return x, x @ own["proj"]


def images(side: int = GRID * PATCH) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def read(layout: str, content: dict[str, Any], **model: Any) -> tuple[Any, Any]:
    """(the encoder, the report) as `sightline import` makes them."""
    official = method.layouts[layout]()
    told = official.settings_of(content)["model"]
    arguments = {**told["arguments"], **model.pop("arguments", {})}
    config = TimmConfig.model_validate({"model": {**told, **model, "arguments": arguments}})
    made = build(config, BuildContext(seed=9)).eval()
    state, report = official.load(content, made.state_dict(), config)
    made.load_state_dict(state)
    return made.encoder(), report


def prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def dino_training() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(a whole checkpoint of DINO's training, its teacher)."""
    teacher, head = vit(), Drawn()
    for place, sizes in ((0, (16, WIDTH)), (2, (16, 16))):
        head.layer(f"head.mlp.{place}", *sizes)
    head.add("head.last_layer.weight_g", 32, 1)
    head.add("head.last_layer.weight_v", 32, 16)
    student = {name: tensor + 1 for name, tensor in teacher.items()}
    content = {
        "student": {**prefixed(student, "module.backbone."), **prefixed(head, "module.")},
        "teacher": {**prefixed(teacher, "backbone."), **head},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []},
        "epoch": 100,
        "args": {"arch": "vit_small"},
        "dino_loss": {"center": torch.zeros(1, 32)},
    }
    return content, teacher


def test_dinos_training_gives_the_teacher_and_by_key_the_student() -> None:
    from sightline.methods.state_dicts import below

    content, teacher = dino_training()
    encoder, report = read("dino", content)
    with torch.no_grad():
        expected = vit_by_hand(teacher, images())
        torch.testing.assert_close(encoder.tokens(images()), expected, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(encoder.image_feature(images()), vit_by_hand(teacher, images(), whole=True), atol=2e-5, rtol=1e-4)
        student, _ = read("dino", below(content, "student"))
        assert (student.tokens(images()) - expected).abs().max() > 0.1
    assert report.taken.startswith("teacher") and not report.unexpected and "head.last_layer.weight_g" in report.left_out
    assert (encoder.name, encoder.image_size) == ("vit_small_patch16_224.dino", (24, 24))
    assert "attention heads" in report.notes[0]


@pytest.mark.parametrize(("registers", "gated", "mask"), [(0, False, True), (4, True, True), (2, False, False)])
def test_dinov2_with_and_without_registers_and_the_gated_mlp(registers: int, gated: bool, mask: bool) -> None:
    tensors = vit(scale=True, gated=gated, registers=registers)
    content = {**tensors, "mask_token": torch.zeros(1, WIDTH)} if mask else dict(tensors)
    encoder, report = read("dinov2", content)
    with torch.no_grad():
        torch.testing.assert_close(encoder.tokens(images()), vit_by_hand(tensors, images()), atol=2e-5, rtol=1e-4)
    assert not report.missing and not report.unexpected and encoder.prefix == 1 + registers


def test_the_chunked_blocks_of_dinov2s_training_are_put_in_a_row() -> None:
    tensors = vit(scale=True, blocks=4)
    chunked = {
        name.replace("blocks.", f"blocks.{int(name.split('.')[1]) // 2}.") if "blocks." in name else name: t for name, t in tensors.items()
    }
    assert "blocks.1.3.norm1.weight" in chunked
    encoder, _ = read("dinov2", {"teacher": {**prefixed(chunked, "backbone."), "dino_head.mlp.0.weight": torch.zeros(4, 4)}})
    with torch.no_grad():
        torch.testing.assert_close(encoder.tokens(images()), vit_by_hand(tensors, images(), 4), atol=2e-5, rtol=1e-4)


def test_maes_pretraining_leaves_the_decoder() -> None:
    tensors = vit()
    decoder = {
        "mask_token": torch.zeros(1, 1, 64),
        "decoder_pos_embed": torch.zeros(1, 10, 64),
        "decoder_embed.weight": torch.zeros(64, WIDTH),
    }
    encoder, report = read("mae", {"model": {**tensors, **decoder, "decoder_blocks.0.norm1.weight": torch.ones(64)}})
    with torch.no_grad():
        torch.testing.assert_close(encoder.tokens(images()), vit_by_hand(tensors, images()), atol=2e-5, rtol=1e-4)
    assert not report.unexpected and len(report.left_out) == 4


def test_maes_fine_tuned_form_has_its_norm_behind_the_mean() -> None:
    tensors = vit()
    fine = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: tensor for name, tensor in tensors.items()}
    encoder, report = read("mae", {"model": {**fine, "head.weight": torch.zeros(7, WIDTH), "head.bias": torch.zeros(7)}})
    with torch.no_grad():
        tokens = encoder.tokens(images())
        normed = layer_norm(tokens, (WIDTH,), fine["fc_norm.weight"], fine["fc_norm.bias"], 1e-6)
    torch.testing.assert_close(normed, vit_by_hand(tensors, images()), atol=2e-5, rtol=1e-4)
    assert torch.equal(encoder.network.fc_norm.weight, fine["fc_norm.weight"]) and report.left_out == ("head.weight", "head.bias")


@pytest.mark.parametrize(("layout", "quick", "wrap", "project"), [("clip", True, "", True), ("open_clip", False, "module.", False)])
def test_clips_visual_tower(layout: str, quick: bool, wrap: str, project: bool) -> None:
    tensors = clip()
    content: dict[str, Any] = {"epoch": 32, "name": "x", "state_dict": prefixed(tensors, wrap)} if wrap else dict(tensors)
    encoder, report = read(layout, content, project=project)
    with torch.no_grad():
        expected = clip_by_hand(tensors, images(), quick)[project]
        torch.testing.assert_close(encoder.tokens(images()), expected[:, 1:], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(encoder.image_feature(images()), expected[:, 0], atol=2e-5, rtol=1e-4)
    assert "token_embedding.weight" in report.left_out and not report.unexpected


def test_half_precision_and_another_size_of_images_come_in() -> None:
    tensors = vit(scale=True)
    encoder, report = read("dinov2", {n: t.half() for n, t in tensors.items()}, arguments={"img_size": 32})
    assert report.resized == ("pos_embed",) and encoder.image_size == (32, 32)
    resized = {**tensors, "pos_embed": encoder.network.pos_embed}
    with torch.no_grad():
        torch.testing.assert_close(encoder.tokens(images(32)), vit_by_hand(resized, images(32)), atol=1e-2, rtol=1e-2)


PUBLISHED = [
    ("dino", (384, 12, 16, 0, 14), "vit_small_patch16_224.dino"),
    ("dino", (768, 12, 8, 0, 28), "vit_base_patch8_224.dino"),
    ("dinov2", (768, 12, 14, 0, 37), "vit_base_patch14_dinov2.lvd142m"),
    ("dinov2", (1536, 40, 14, 4, 37), "vit_giant_patch14_reg4_dinov2.lvd142m"),
    ("mae", (1280, 32, 14, 0, 16), "vit_huge_patch14_224.mae"),
    ("clip", (1024, 24, 14, 0, 24), "vit_large_patch14_clip_quickgelu_224.openai"),
    ("open_clip", (1408, 40, 14, 0, 16), "vit_giant_patch14_clip_224.laion2b"),
]
"""(layout, (width, blocks, patch, registers, grid), timm's model)"""


def told_by_shapes(layout: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """What a layout makes of tensors without values."""
    width, depth, patch, registers, grid = shape
    with torch.device("meta"):
        tensors = {f"blocks.{depth - 1}.norm1.weight": torch.empty(width)}
        tensors |= {"cls_token": torch.empty(1, 1, width), "pos_embed": torch.empty(1, 1 + grid**2, width)}
        tensors |= {"patch_embed.proj.weight": torch.empty(width, 3, patch, patch)}
        if registers:
            tensors["register_tokens"] = torch.empty(1, registers, width)
        if "clip" in layout:
            tensors = {f"visual.transformer.resblocks.{depth - 1}.ln_1.weight": torch.empty(width)}
            tensors |= {"visual.class_embedding": torch.empty(width), "visual.positional_embedding": torch.empty(1 + grid**2, width)}
            tensors |= {"visual.conv1.weight": torch.empty(width, 3, patch, patch), "visual.ln_pre.weight": torch.empty(width)}
    return dict(method.layouts[layout]().settings_of(tensors)["model"])


def test_the_published_sizes_are_known_by_their_shapes() -> None:
    import timm

    for layout, shape, name in PUBLISHED:
        told = told_by_shapes(layout, shape)
        assert told == {"name": name, "arguments": {"img_size": 336} if layout == "clip" else {}}
    for layout in ("dino", "dinov2", "mae", "clip", "open_clip"):
        made: Any = method.layouts[layout]()
        for name in made.models.values():
            assert timm.get_pretrained_cfg(name).input_size[1] == made.side and timm.get_pretrained_cfg(name).mean != (0.5, 0.5, 0.5)


@pytest.mark.long
@pytest.mark.parametrize("published", [*PUBLISHED, *((layout, (), "") for layout in ("dino", "dinov2", "mae", "clip", "open_clip"))])
def test_timms_models_have_the_published_sizes(published: tuple[str, tuple[int, ...], str]) -> None:
    import timm

    layout, shape, _ = published
    made: Any = method.layouts[layout]()
    for (width, depth, patch, registers), grid in [(shape[:4], shape[4])] if shape else [(k, made.side // k[2]) for k in made.models]:
        told = told_by_shapes(layout, (width, depth, patch, registers, grid))
        with torch.device("meta"):
            model: Any = timm.create_model(told["name"], num_classes=0, **told["arguments"])
        assert model.patch_embed.grid_size == (grid, grid) and model.patch_embed.patch_size == (patch, patch)
        assert (model.embed_dim, len(model.blocks), model.num_prefix_tokens) == (width, depth, 1 + registers)
        assert isinstance(model.norm, nn.LayerNorm) and model.norm.eps == (1e-5 if "clip" in layout else 1e-6)


def test_a_wrong_or_partial_file_is_refused_by_its_names() -> None:
    whole = vit(scale=True, registers=4)
    for layout, content, said, hint in (
        ("dino", whole, "no register tokens", "--method dinov2"),
        ("dino", vit(scale=True), "ls1.gamma", "--method dinov2"),
        ("mae", clip(), "has no cls_token, pos_embed, patch_embed.proj.weight", "--method clip"),
        ("clip", vit(), "has a CLIP name", "--key"),
        ("dinov2", {n: t for n, t in whole.items() if n != "blocks.1.attn.qkv.weight"}, "blocks.1.attn.qkv.weight", "model.name"),
        ("dino", {n: t for n, t in vit().items() if n != "pos_embed"}, "the file has no pos_embed", "model.name"),
        ("dino", {**vit(), "blocks.0.attn.extra": torch.zeros(3)}, "blocks.0.attn.extra", "model.name"),
        ("dino", {**vit(), "other.weight": torch.zeros(3)}, "no place in vit_small_patch16_224.dino: other.weight", "model.name"),
    ):
        with pytest.raises(SightlineError, match=said) as caught:
            read(layout, dict(content))
        assert hint in caught.value.hint


def test_a_width_that_does_not_tell_its_heads_asks_for_them() -> None:
    tensors = {n: t[..., :96] if n.endswith(("cls_token", "pos_embed")) else t[:96] for n, t in vit().items()}
    with pytest.raises(SightlineError, match="number of attention heads") as caught:
        method.layouts["dino"]().settings_of(tensors)
    assert "num_heads: ..." in caught.value.hint


def test_as_a_model_of_timm_such_a_file_is_noted_or_refused() -> None:
    from sightline.methods.timm_encoder import official

    small = {"img_size": 24, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS}
    config = TimmConfig.model_validate({"model": {"name": "vit_tiny_patch16_224", "arguments": small}})
    into = build(config, BuildContext(seed=9)).state_dict()
    _, report = official.load({"model": {**vit(), "decoder_embed.weight": torch.zeros(3)}}, into, config)
    assert "mean and std 0.5" in report.notes[0] and "--method mae" in report.notes[0]
    for content, said in ((vit(scale=True), "--method dinov2"), (vit(blocks=3), "model.name")):
        with pytest.raises(SightlineError, match="no place in vit_tiny_patch16_224: blocks") as caught:
            official.load(dict(content), into, config)
        assert said in caught.value.hint
    with pytest.raises(SightlineError, match=r"12 of the 30 tensors .* are missing from the file: blocks\.1\.norm1\.weight"):
        official.load(dict(vit(blocks=1)), into, config)
