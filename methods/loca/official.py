"""The published LOCA layout, both ways: trees of Flax parameters in, flat dicts of them out. Reads and writes no file.

The authors' file holds `params` (student), `ema_params` (teacher) and what training needs besides, which is not taken. A file with one
tree alone, under whatever of the known roots or bare, fills student *and* teacher, as training starts; what was not found is reported
missing, what found no place unexpected, both by the names of the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, cat

from ..contract import Content, LoadReport, Sections
from ..errors import SightlineError
from ..layers.positions import squeeze_table
from ..state_dicts import fitted, unwrapped
from .config import LocaConfig, LocaModel
from .flax_layout import CONV, GRID, HEAD, PREDICTOR, PROTOTYPES, Leaf, leaves, to_flax, to_torch

STUDENT_ROOTS = (("params",), ("optimizer", "target"), ("target",))
TEACHER_ROOT = ("ema_params",)
SAME = {
    "patch_size": ("model", "patch_size"),
    "hidden_size": ("model", "encoder_dim"),
    "num_layers": ("model", "encoder_depth"),
    "num_heads": ("model", "encoder_heads"),
    "stochastic_depth": ("model", "drop_path"),
    "reference_size": ("model", "image_size"),
    "focal_size": ("augment", "focal_size"),
    "n_focal_queries": ("pretext", "focal_queries"),
    "reference_seqlen_selection": ("pretext", "reference_selection"),
    "query_max_seqlen": ("pretext", "query_tokens"),
    "apply_cluster_loss": ("pretext", "clustering"),
    "head_hidden_dim": ("pretext", "head_hidden"),
    "head_bottleneck_dim": ("pretext", "head_bottleneck"),
    "head_output_dim": ("pretext", "prototypes"),
    "temperature": ("pretext", "temperature"),
    "sharpening": ("pretext", "sharpening"),
    "sinkhorn_iterations": ("pretext", "sinkhorn_iterations"),
}
"""Their setting -> ours, where the values are the same. `mlp_dim` and `reference_seqlen` are translated."""


class Found(NamedTuple):
    """One network's tree: tensors by path, and where it lies in the file."""

    root: str
    tensors: dict[str, Tensor]


def settings_of(content: Content) -> Sections:
    """Our settings, from the shapes of the tensors and from those of the authors' settings that lie beside the trees."""
    found = networks(content)
    tensors = {canonical(path): tensor for path, tensor in next(iter(found.values())).tensors.items()}

    def shape(name: str) -> tuple[int, ...]:
        return next((tuple(t.shape) for path, t in tensors.items() if path == name or path.endswith(f"/{name}")), ())

    kernel, grid, query = shape(CONV), shape(GRID), shape("encoderblock_0/MultiHeadDotProductAttention_0/query/kernel")
    hidden = shape("encoderblock_0/MlpBlock_0/Dense_0/kernel")
    if not (kernel and query and hidden):
        raise SightlineError(*_nothing(tensors))
    blocks = {s for path in tensors for s in path.split("/") if re.fullmatch(r"encoderblock_\d{1,9}", s)}
    depth = len(blocks)
    if (last := max(int(s.removeprefix("encoderblock_")) for s in blocks)) != depth - 1:
        raise SightlineError(f"the file names block {last} and has {depth} blocks", "get the whole file")
    theirs: dict[str, Any] = {
        "patch_size": kernel[0],
        "hidden_size": kernel[3],
        "num_layers": depth,
        "num_heads": query[1],
        "mlp_dim": hidden[1],
        "apply_cluster_loss": bool(shape(PROTOTYPES)),
    }
    if grid:
        rows, columns = _grid(grid, None)
        theirs["reference_size"] = (rows * kernel[0], columns * kernel[0])
    if shape(PROTOTYPES):
        theirs["head_bottleneck_dim"], theirs["head_output_dim"] = shape(PROTOTYPES)
    if first := shape(f"{HEAD}/Dense_0/kernel"):
        theirs["head_hidden_dim"] = first[1]
    beside = {name: content[name] for name in (*SAME, "reference_seqlen") if name in content}
    return settings_from_official({**beside, **theirs})


def settings_from_official(theirs: Mapping[str, Any]) -> Sections:
    """Our settings from the authors' names and values, as far as they are given."""
    ours: Sections = {}
    for name, (section, key) in SAME.items():
        if name in theirs:
            value = theirs[name]
            ours.setdefault(section, {})[key] = tuple(value) if isinstance(value, list) else value
    if "mlp_dim" in theirs:
        ours["model"]["mlp_ratio"] = _share(theirs["mlp_dim"], theirs["hidden_size"])
    if "reference_seqlen" in theirs:
        patches = LocaModel(**{k: v for k, v in ours["model"].items() if k in ("image_size", "patch_size")}).patches
        ours["pretext"]["reference_keep"] = _share(theirs["reference_seqlen"], patches)
    return ours


def _share(part: int, whole: int) -> float:
    """The ratio whose product with `whole`, truncated, is `part` again."""
    ratio = part / whole
    return ratio if int(ratio * whole) == part else math.nextafter(ratio, math.inf)


def load(content: Content, into: Mapping[str, Tensor], config: LocaConfig) -> tuple[dict[str, Tensor], LoadReport]:
    """State for a pretext of `config` whose present state is `into`, from a file's content.

    Names of older releases are understood, further ones by the end of their path and their shape, if both leave one candidate. A grid of
    positions of another size is resized, and the position predictor, which belongs to its size, then left out. Tensors take the type of
    ours. Missing ones are left out, so load with `strict=False` after reading the report. Raises `SightlineError` where nothing matches
    or a shape differs.
    """
    found = networks(content)
    state: dict[str, Tensor] = {}
    matched, missing, resized = [], [], []
    taken: dict[str, set[str]] = {tree.root: set() for tree in found.values()}
    for network in ("student", "teacher"):
        ours = {name.removeprefix(f"{network}."): t for name, t in into.items() if name.startswith(f"{network}.")}
        if not ours:
            continue
        tree = found.get(network) or next(iter(found.values()))
        places = _places(tree.tensors, [leaf for leaf in leaves(config) if leaf.ours in ours], ours, config)
        parts: dict[str, dict[int, Tensor]] = {}
        for leaf, path in places.items():
            tensor = tree.tensors[path]
            if leaf.kind == "grid" and (old := _grid(tuple(tensor.shape), config.model)) != config.model.grid:
                tensor = squeeze_table(tensor.reshape(-1, tensor.shape[-1]), old, config.model.grid)
                resized.append(_named(tree.root, path))
            parts.setdefault(leaf.ours, {})[leaf.part] = to_torch(leaf.kind, fitted(path, tensor, ours[leaf.ours]))
        whole = {name: p for name, p in parts.items() if sum(t.shape[0] for t in p.values()) == ours[name].shape[0]}
        state |= {f"{network}.{name}": cat([p[i] for i in sorted(p)]).contiguous() for name, p in whole.items()}
        for leaf in leaves(config):
            if leaf.ours in whole:
                taken[tree.root].add(places[leaf])
                matched.append(_named(tree.root, places[leaf]))
            elif leaf.ours in ours:
                missing.append(_named(tree.root, leaf.path))
    if not matched:
        raise SightlineError(*_nothing(next(iter(found.values())).tensors))
    inside = [_named(tree.root, path) for tree in found.values() for path in tree.tensors if path not in taken[tree.root]]
    roots = {tree.root.split("/")[0] for tree in found.values()}
    beside = [name for name, value in _nested(content).items() if roots != {""} and name not in roots and any(_tensors(value))]
    one, two, three, four = (tuple(sorted(set(names))) for names in (matched, missing, inside + beside, resized))
    return state, LoadReport(one, two, three, four, taken=" and ".join(root or "the file itself" for root in taken))


def _places(theirs: Mapping[str, Tensor], wanted: list[Leaf], ours: Mapping[str, Tensor], config: LocaConfig) -> dict[Leaf, str]:
    """The path in the file of each leaf: by name, then by the end of the path and the shape."""
    heads = config.model.encoder_heads
    shapes = {leaf: tuple(to_flax(leaf, ours[leaf.ours], config).shape) for leaf in wanted}
    places: dict[Leaf, str] = {}
    by_name: dict[str, str] = {}
    for path in theirs:
        by_name.setdefault(canonical(path), path)
    for leaf in wanted:
        if (path := by_name.get(leaf.path, "")) and _fits(leaf, path, tuple(theirs[path].shape), shapes[leaf], heads):
            places[leaf] = path
    left = [leaf for leaf in wanted if leaf not in places]
    free = {name: path for name, path in by_name.items() if path not in places.values()}
    fits = {
        leaf: [path for name, path in free.items() if _ends(name, leaf.path) and tuple(theirs[path].shape) == shapes[leaf]] for leaf in left
    }
    for leaf, paths in fits.items():
        if len(paths) == 1 and sum(paths[0] in others for others in fits.values()) == 1:
            places[leaf] = paths[0]
    return places


def _fits(leaf: Leaf, path: str, theirs: tuple[int, ...], ours: tuple[int, ...], heads: int) -> bool:
    if theirs == ours or (leaf.kind == "grid" and len(theirs) in (3, 4) and theirs[-1] == ours[-1]):
        return True
    if leaf.path.startswith(f"{PREDICTOR}/"):
        return False  # made for another number of patches
    raise SightlineError(
        f"{path} has shape {theirs} in the checkpoint, {ours} in the model of {heads} heads",
        "give the settings the checkpoint was trained with: model.encoder_dim, model.encoder_depth, model.patch_size, ...",
    )


def save(state: Mapping[str, Tensor], config: LocaConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by Flax path behind `params/` and `ema_params/`, in Flax's shapes; the authors' settings) of a pretext's state."""
    tensors = {
        f"{root}/{leaf.path}": to_flax(leaf, state[f"{network}.{leaf.ours}"], config).contiguous()
        for network, root in (("student", "params"), ("teacher", "ema_params"))
        for leaf in leaves(config)
        if f"{network}.{leaf.ours}" in state
    }
    settings = {theirs: config.model_dump(mode="json")[section][key] for theirs, (section, key) in SAME.items()}
    settings["mlp_dim"] = int(config.model.encoder_dim * config.model.mlp_ratio)
    settings["reference_seqlen"] = config.reference_tokens
    return tensors, settings


def networks(content: Content) -> dict[str, Found]:
    """The trees of a file: `student`, `teacher` or both; a bare tree is a student's."""
    tree = _nested(content)
    found = {}
    for network, roots in (("student", STUDENT_ROOTS), ("teacher", (TEACHER_ROOT,))):
        for root in roots:
            part: Any = tree
            for key in root:
                part = part.get(key) if isinstance(part, Mapping) else None
            path = list(root)
            while isinstance(part, Mapping) and set(part) == {"params"}:
                part = part["params"]
                path.append("params")
            if isinstance(part, Mapping) and any(_tensors(part)):
                found[network] = Found("/".join(path), dict(_tensors(part)))
                break
    return found or {"student": Found("", dict(_tensors(tree)))}


def canonical(path: str) -> str:
    """Today's path of a leaf that an older release named otherwise."""
    parts = [part for part in path.split("/") if part != "Transformer"]
    if "output_projection" in parts:
        parts = [*([] if HEAD in parts else [HEAD]), *("prototypes" if part == "output_projection" else part for part in parts)]
    return "/".join(parts)


def _nested(content: Content) -> dict[str, Any]:
    """Names with slashes, as files of single tensors have them, become maps; what lies under `model` or `state_dict` is taken out."""
    for wrapper in ("model", "state_dict"):
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tree: dict[str, Any] = {}
    named = unwrapped({name: value for name, value in content.items() if isinstance(value, Tensor)})
    for name, value in {**{n: v for n, v in content.items() if not isinstance(v, Tensor)}, **named}.items():
        *parents, last = str(name).split("/")
        here = tree
        for parent in parents:
            inner = here.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise SightlineError(f"{name} lies below {parent!r}, which is no tree", "get the file from its publisher")
            here = inner
        here[last] = value
    return tree


def _tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _tensors(part, _named(path, str(name)))


def _named(root: str, path: str) -> str:
    return f"{root}/{path}" if root else path


def _ends(one: str, other: str) -> bool:
    """Whether one path is the end of the other, in whole parts."""
    return f"/{one}".endswith(f"/{other}") or f"/{other}".endswith(f"/{one}")


def _grid(shape: tuple[int, ...], model: LocaModel | None) -> tuple[int, int]:
    """(rows, columns) of a position grid, 1 x rows x columns x d or 1 x n x d."""
    if len(shape) == 4:
        return shape[1], shape[2]
    if model is not None and shape[1] == model.patches:
        return model.grid
    side = math.isqrt(shape[1])
    if side**2 != shape[1]:
        raise SightlineError(
            f"the position grid of {shape[1]} cells is no square", "give the checkpoint's own size: model.image_size=[h,w]"
        )
    return side, side


def _nothing(tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    return (
        f"none of the {len(tensors)} tensors has a LOCA name; the first is {next(iter(tensors), 'absent')!r}",
        f"pass the content of a LOCA checkpoint: trees with names like {CONV!r}, bare or under 'params' and 'ema_params'",
    )
