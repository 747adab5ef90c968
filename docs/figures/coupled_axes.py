"""Draw the coupled axes of a residual block, as `structure.plan` finds them.

Run with `python docs/figures/coupled_axes.py`; it writes `coupled_axes.png` beside itself.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from jaxprune import structure

SHAPES = {"stem": (5, 8), "conv_1": (8, 6), "norm": (1, 6), "conv_2": (6, 8), "head": (8, 4)}
PLACES = {"stem": (0, 0), "conv_1": (12, 6), "norm": (22, 8), "conv_2": (31, 6), "head": (44, 0)}
ARROWS = (
    ("stem", "head", "the stream, to which is added"),
    ("stem", "conv_1", ""),
    ("conv_1", "norm", ""),
    ("norm", "conv_2", ""),
    ("conv_2", "head", ""),
)
COLOURS, PALE = ("#d55e00", "#0072b2"), "#e8e8e8"
UNIT = 2


def block(params, x):
    """Return what a residual block makes of pixels; its convolutions are of 1 x 1."""
    stream = x @ params["stem"]
    inner = jax.nn.relu(stream @ params["conv_1"] * params["norm"])
    return (stream + inner @ params["conv_2"]) @ params["head"]


def draw():
    """Return a figure: each kernel a grid, inputs down and outputs across, a unit of each group."""
    params = {name: jnp.ones(shape) for name, shape in SHAPES.items()}
    plan = structure.plan(block, params, jnp.ones((3, 5)))
    figure, axes = plt.subplots(figsize=(9, 3.9), layout="constrained")
    for name, (rows, columns) in SHAPES.items():
        left, top = PLACES[name]
        colours = {(r, c): PALE for r in range(rows) for c in range(columns)}
        for colour, group in zip(COLOURS, plan.groups.values(), strict=True):
            for member in (m for m in group.members if m.leaf == name):
                mine = member.indices[UNIT]
                colours |= {at: colour for at in colours if at[member.axis] in mine}
        for (row, column), colour in colours.items():
            axes.add_patch(plt.Rectangle((left + column, -top - row - 1), 0.9, 0.9, color=colour))
        axes.text(left, -top + 0.4, f"{name}, {rows} x {columns}", fontsize=9, weight="bold")
    for start, end, label in ARROWS:
        (left, top), (right, low) = PLACES[start], PLACES[end]
        # The stream runs straight to the head; the branch from middle to middle.
        down, up = (SHAPES[start][0] / 2, SHAPES[end][0] / 2) if not label else (2.5, 2.5)
        tail = (left + SHAPES[start][1] + 0.3, -top - down)
        tip = (right - 0.4, -low - up)
        axes.annotate("", tip, tail, arrowprops={"arrowstyle": "->", "color": "#555555"})
        axes.text((tail[0] + tip[0]) / 2 - 4, tip[1] + 0.4, label, fontsize=8)
    for colour, group, at in zip(COLOURS, plan.groups.values(), (-15.5, -16.7), strict=True):
        places = ", ".join(f"axis {m.axis} of {m.leaf}" for m in group.members)
        text = f"unit {UNIT} of group {group.name}: {places}"
        axes.text(0, at, text, fontsize=9, color=colour, weight="bold")
    axes.set(xlim=(-0.5, 49), ylim=(-17.2, 1.6), aspect="equal")
    axes.axis("off")
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_suffix(".png"), dpi=130)
