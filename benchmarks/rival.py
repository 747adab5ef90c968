"""What Torch-Pruning gets wrong or refuses, and what removal from a jaxpr makes of the same nets.

Run with `python -m benchmarks.rival`; it needs torch and torch-pruning, and prints two tables. The
first says groups and costs of networks that both know, a pair of figures where they differ. For
the second, half of the units of one layer are removed, together with all that the tool says must
go with them, without hints. Compared are the smaller network and the network in which exactly
these entries are zero: the difference is relative to the largest output.
"""

import copy
import warnings

import flax.linen as flax
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional as F

from jaxprune import structure
from tests.structure.test_structure_rival import (
    NETS,
    our_groups,
    our_half,
    planned,
    their_groups,
    their_half,
    their_model,
)

WIDTH, TOKENS, BATCH = 8, 5, 4


class Case(nn.Module):
    """A network of torch from a function of layers and raw parameters."""

    def __init__(self, fn, **parts):
        super().__init__()
        self.fn = fn
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, torch.Tensor) else part)

    def forward(self, x):
        return self.fn(self, x)


def drawn(*shape):
    return 0.5 * torch.randn(*shape)


def attend(q, k, v, heads, softmax):
    """Attend by hand; torch and jax alike."""
    q, k, v = (a.reshape(*a.shape[:2], heads, -1) for a in (q, k, v))
    scores = (q[:, :, None] * k[:, None]).sum(-1)
    return (softmax(scores)[..., None] * v[:, None]).sum(2).reshape(*v.shape[:2], -1)


def raw(m, x):
    return m.out(F.relu(m.into(x) @ m.weight))


def einsum(m, x):
    return m.out(F.relu(torch.einsum("bti,ij->btj", m.into(x), m.weight)))


def position(m, x):
    return m.out(F.relu(m.into(x) + m.weight))


def library(m, x):
    h = m.into(x)
    return m.out(m.attention(h, h, h, need_weights=False)[0])


def normed(m, x):
    return m.out(m.norm(m.into(x)))


def soft(m, x):
    return m.out(m.into(x).softmax(-1))


def gated(m, x):
    return m.out(torch.sigmoid(m.into(x)).sum(-1, keepdim=True) * x)


def shuffled(m, x):
    h = F.relu(m.into(x[..., None]))
    b, c, t, one = h.shape
    return m.out(h.reshape(b, 2, c // 2, t, one).transpose(1, 2).reshape(b, c, t, one))


def stream(m, x):
    return m.out(by_hand(m, m.into(x)))


def by_hand(m, h):
    return attend(m.query(h), m.key(h), m.value(h), 2, lambda s: s.softmax(2))


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def jax_library(p, x):
    h = dense(p["into"], x)
    return dense(p["out"], ATTENTION.apply({"params": p["attention"]}, h, h))


def jax_stream(p, x):
    h = dense(p["into"], x)
    h = attend(*(dense(p[name], h) for name in ("query", "key", "value")), 2, jax_softmax)
    return dense(p["out"], h)


def jax_softmax(scores):
    return jax.nn.softmax(scores, axis=2)


def jax_normed(fast):
    norm = flax.LayerNorm(use_fast_variance=fast)
    return lambda p, x: dense(p["out"], norm.apply({"params": p["norm"]}, dense(p["into"], x)))


def jax_shuffled(groups):
    def conv(p, x, groups=1):
        numbers = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(
            x, p["kernel"], (1, 1), "VALID", dimension_numbers=numbers, feature_group_count=groups
        )
        return out + p["bias"]

    def fn(p, x):
        h = jax.nn.relu(conv(p["into"], x.swapaxes(1, 2)[:, :, None]))
        h = h.reshape(*h.shape[:3], 2, -1).swapaxes(3, 4).reshape(h.shape)
        return conv(p["out"], h, groups)

    return fn


ATTENTION = flax.MultiHeadDotProductAttention(2)
LINEAR = {"into": (3, WIDTH), "out": (WIDTH, 2)}
PROJECTIONS = {name: (WIDTH, WIDTH) for name in ("query", "key", "value")}
RAW = {"into": (3, WIDTH), "out": (6, 2)}


def twins(fn, jax_fn, sizes, root="into", **raw):
    """Pair the two networks: layers of these sizes, and raw parameters of these shapes."""

    def make():
        layers = {name: nn.Linear(*size) for name, size in sizes.items()}
        case = Case(fn, **layers, **{name: drawn(*shape) for name, shape in raw.items()})
        case.root = root
        return case

    shapes = {n: {"kernel": size, "bias": size[1:]} for n, size in sizes.items()} | raw
    return make, jax_fn, shapes, root


def built(fn, jax_fn, shapes, **parts):
    def make():
        case = Case(fn, **{name: part() for name, part in parts.items()})
        case.root = "into"
        return case

    return make, jax_fn, shapes, "into"


def dense_shapes(**sizes):
    return {name: {"kernel": size, "bias": size[-1:]} for name, size in sizes.items()}


CASES = {
    "raw parameter in a product": twins(
        raw,
        lambda p, x: dense(p["out"], jax.nn.relu(dense(p["into"], x) @ p["weight"])),
        RAW,
        weight=(WIDTH, 6),
    ),
    "the same by einsum": twins(
        einsum,
        lambda p, x: dense(
            p["out"], jax.nn.relu(jnp.einsum("bti,ij->btj", dense(p["into"], x), p["weight"]))
        ),
        RAW,
        weight=(WIDTH, 6),
    ),
    "position code (a raw parameter added)": twins(
        position,
        lambda p, x: dense(p["out"], jax.nn.relu(dense(p["into"], x) + p["weight"])),
        LINEAR,
        weight=(1, TOKENS, WIDTH),
    ),
    "attention of the library, its width": built(
        library,
        jax_library,
        dense_shapes(**LINEAR) | {"attention": None},
        into=lambda: nn.Linear(3, WIDTH),
        attention=lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True),
        out=lambda: nn.Linear(WIDTH, 2),
    ),
    "attention by hand, the stream": twins(stream, jax_stream, LINEAR | PROJECTIONS),
    "attention by hand, the keys": twins(stream, jax_stream, LINEAR | PROJECTIONS, "key"),
    "attention by hand, the values": twins(stream, jax_stream, LINEAR | PROJECTIONS, "value"),
    "layer norm by E[x^2] - E[x]^2, as Flax": built(
        None, jax_normed(fast=True), dense_shapes(**LINEAR) | {"norm": None}
    ),
    "layer norm in two passes, as torch": built(
        normed,
        jax_normed(fast=False),
        dense_shapes(**LINEAR) | {"norm": None},
        into=lambda: nn.Linear(3, WIDTH),
        norm=lambda: nn.LayerNorm(WIDTH),
        out=lambda: nn.Linear(WIDTH, 2),
    ),
    "softmax over the units": twins(
        soft, lambda p, x: dense(p["out"], jax.nn.softmax(dense(p["into"], x))), LINEAR
    ),
    "a sum over sigmoid gates": twins(
        gated,
        lambda p, x: dense(p["out"], jax.nn.sigmoid(dense(p["into"], x)).sum(-1)[..., None] * x),
        {"into": (3, WIDTH), "out": (3, 2)},
    ),
    "channel shuffle": built(
        shuffled,
        jax_shuffled(1),
        {
            "into": {"kernel": (1, 1, TOKENS, WIDTH), "bias": (WIDTH,)},
            "out": {"kernel": (1, 1, WIDTH, 2), "bias": (2,)},
        },
        into=lambda: nn.Conv2d(TOKENS, WIDTH, 1),
        out=lambda: nn.Conv2d(WIDTH, 2, 1),
    ),
    "channel shuffle before a grouped convolution": built(
        shuffled,
        jax_shuffled(2),
        {
            "into": {"kernel": (1, 1, TOKENS, WIDTH), "bias": (WIDTH,)},
            "out": {"kernel": (1, 1, WIDTH // 2, 4), "bias": (4,)},
        },
        into=lambda: nn.Conv2d(TOKENS, WIDTH, 1),
        out=lambda: nn.Conv2d(WIDTH, 4, 1, groups=2),
    ),
}


def half_removed(model, x):
    """Remove the first half of the root layer's units, and what goes with them."""
    root = getattr(model, model.root)
    conv = isinstance(root, nn.Conv2d)
    remove = tp.prune_conv_out_channels if conv else tp.prune_linear_out_channels
    graph = tp.DependencyGraph().build_dependency(model, x)
    graph.get_pruning_group(root, remove, idxs=list(range(WIDTH // 2))).prune()
    return model


def tagged(model):
    """Number the entries of every parameter, so that the survivors say who they are."""
    model = copy.deepcopy(model)
    for leaf in model.parameters():
        leaf.data = torch.arange(leaf.numel(), dtype=leaf.dtype).reshape(leaf.shape)
    return model


def theirs(make):
    """Return a word on what Torch-Pruning makes of the network."""
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(BATCH, TOKENS, 3)
    try:
        left = dict(half_removed(tagged(model), x).named_parameters())
        masked = copy.deepcopy(model)
        for name, leaf in masked.named_parameters():
            stays = torch.zeros(leaf.numel())
            stays[left[name].detach().flatten().long()] = 1
            leaf.data *= stays.reshape(leaf.shape)
        wide, small = masked(x), half_removed(model, x)(x)
    except Exception as error:
        return f"breaks the network ({type(error).__name__})"
    if sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in masked.parameters()):
        return "removes nothing"
    gap = float((small - wide).abs().max() / wide.abs().max())
    return f"exact ({_spelt(gap)})" if gap < 1e-5 else f"wrong by {gap:.0%}, says nothing"


def ours(jax_fn, shapes, root):
    """Return a word on what removal makes of it."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(BATCH, TOKENS, 3)), jnp.float32)
    wide = jnp.ones((BATCH, TOKENS, WIDTH))
    inner = {
        "attention": lambda: ATTENTION.init(jax.random.key(0), wide, wide)["params"],
        "norm": lambda: {"scale": (WIDTH,), "bias": (WIDTH,)},
    }
    shapes = {n: inner[n]() if shape is None else shape for n, shape in shapes.items()}
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.5, getattr(leaf, "shape", leaf)), jnp.float32),
        shapes,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )
    plan = structure.plan(jax_fn, params, x)
    makes = (f"{root}/kernel", np.ndim(params[root]["kernel"]) - 1)
    for name, group in plan.groups.items():
        if makes in {(m.leaf, m.axis) for m in group.members}:
            keep = {name: np.arange(group.size) >= group.size // 2}
            size = float(jnp.max(jnp.abs(jax_fn(params, x))))
            gap = structure.verify(plan, params, keep, x) / size
            because = "".join(f", named: {reason.split(' at ')[0]}" for reason in group.because[:1])
            units = "" if group.size == WIDTH else f", {group.size} units"
            return f"{group.status} ({_spelt(gap)}){units}{because}"
    why = next(pin.why for pin in plan.pinned if (pin.leaf, pin.axis) == makes)
    return f"refused: {why.split(' at ')[0]}"


def _spelt(gap):
    return f"{gap:.0e}" if gap else "0"


def main():
    warnings.simplefilter("ignore")
    print("| network | groups | parameters left | multiply-adds left |\n|---|---|---|---|")
    for name in NETS:
        groups = [our_groups(planned(name)[0]), their_groups(*their_model(name))]
        costs = zip(our_half(name), their_half(name), strict=True)
        pairs = [tuple(sum(found.values()) for found in groups), *costs]
        same = [groups[0] == groups[1], *(a == b for a, b in pairs[1:])]
        cells = [
            f"{a:,}" if ok else f"{a:,} / {b:,}" for (a, b), ok in zip(pairs, same, strict=True)
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    print("\n| network | Torch-Pruning 1.6.1 | `structure` |\n|---|---|---|")
    for name, (make, jax_fn, shapes, root) in CASES.items():
        word = "not there" if name.endswith("Flax") else theirs(make)
        print(f"| {name} | {word} | {ours(jax_fn, shapes, root)} |")


if __name__ == "__main__":
    main()
