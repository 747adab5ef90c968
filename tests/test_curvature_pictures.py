"""Pictures of curvature show what they were given."""

import jax.numpy as jnp
import numpy as np

from jaxprune.curvature import Verification
from jaxprune.curvature import pictures as curvature_pictures


def test_a_panel_a_score_and_a_colour_a_leaf():
    found = Verification(
        names=("a/kernel", "b/kernel"),
        leaf=jnp.array([0, 1, 1]),
        unit=jnp.array([0, 0, 1]),
        predicted=jnp.array([1.0, 2.0, 3.0]),
        measured=jnp.array([2.0, 1.0, -3.0]),
        correlation=jnp.float32(0.5),
    )
    figure = curvature_pictures.plot_verification({"one": found, "two": found})
    axes = figure.axes
    assert [panel.get_title("left") for panel in axes] == [
        "one\nrank correlation 0.50", "two\nrank correlation 0.50"
    ]  # fmt: skip
    shown = {line.get_label(): line.get_xydata().tolist() for line in axes[0].lines[1:]}
    assert shown == {"a": [[1, 2]], "b": [[2, 1], [3, -3]]}
    assert axes[0].get_xscale() == "linear"


def test_separation_is_drawn_over_the_strength_for_each_unit_and_for_all():
    scores = np.array([[1.0, 2.0], [0.5, 2.0], [0.1, 2.0]])
    figure = curvature_pictures.plot_separation([0, 1, 2], scores, doomed=[True, False])
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [0.5, 0.25, 0.05])
    want = scores.std(axis=1) / scores.mean(axis=1)
    np.testing.assert_allclose(right.lines[0].get_ydata(), want)
    assert [text.get_text() for text in left.get_legend().get_texts()] == [
        "smallest at the start", "the others"
    ]  # fmt: skip
