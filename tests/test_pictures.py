"""Each picture shows the figures of the recording that it is given."""

import numpy as np
import pytest

from jaxprune._drawing import GREY
from jaxprune.dynamics import EDGES, Group, Layer, Recording, pictures
from jaxprune.stochastic import hazards

BINS = len(EDGES) - 1


def recording(seed=0, rows=5):
    """Make up a recording of two layers, one group of 8 nodes between them."""
    rng = np.random.default_rng(seed)
    sparsity = np.linspace(0, 0.9, rows)
    histogram = rng.integers(1, 50, (rows, BINS)).astype(float)
    layers = {}
    for name, size in (("a/kernel", 40), ("b/kernel", 24)):
        revived = np.arange(rows) * 1.0
        figures = (sparsity, 2 * revived, revived, sparsity, sparsity, 0.01 + sparsity)
        layers[name] = Layer._make([*figures, histogram, np.int32(size)])
    into, out = np.arange(rows), np.arange(rows)[::-1]
    both = np.minimum(into, out)
    either = np.minimum(into + out, 8)
    norms = rng.random((2, rows, 8))
    since = np.full((2, 8), 3)
    counts = (into, out, either, both, either, np.where(both > 0, 2.0, np.nan))
    groups = {"a/kernel:1": Group._make([*counts, *norms, since])}
    return Recording(np.int32(rows), np.int32(0), 10 * np.arange(1, rows + 1), layers, groups, {})


RUNS = {"none": [recording(0), recording(1)], "L2": [recording(2), recording(3)]}
PICTURES = {
    "sparsity": lambda: pictures.plot_sparsity(RUNS),
    "deaths": lambda: pictures.plot_deaths(RUNS),
    "nodes against weights": lambda: pictures.plot_nodes_against_weights(RUNS),
    "magnitudes": lambda: pictures.plot_magnitudes(RUNS),
    "accuracy": lambda: pictures.plot_accuracy({"L2": [pictures.Outcome(0.9, 0.5, 0.98)]}),
    "nodes kept": lambda: pictures.plot_nodes_kept(RUNS),
    "sides": lambda: pictures.plot_sides(RUNS),
    "revivals": lambda: pictures.plot_revivals(RUNS),
    "norms": lambda: pictures.plot_norms(RUNS),
}


@pytest.mark.parametrize("name", PICTURES)
def test_it_draws_a_png_with_labels_on_every_axis(name, tmp_path):
    figure = PICTURES[name]()
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
    for axes in figure.axes:
        assert axes.get_ylabel()


def test_the_deaths_of_a_deep_network_fit_on_a_page():
    one = recording()
    (group,) = one.groups.values()
    deep = one._replace(groups={f"layer_{n}/kernel:1": group for n in range(20)})
    figure = pictures.plot_deaths({"L1": [deep], "L2": [deep]})
    assert [axes.get_title("left") for axes in figure.axes[:2]] == ["L1: layer_0", "L1: layer_1"]
    assert len(figure.axes) == 40
    assert figure.get_figwidth() < 22


def curve(axes, label):
    (found,) = [line for line in axes.get_lines() if line.get_label() == label]
    return np.asarray(found.get_xdata(), float), np.asarray(found.get_ydata(), float)


def test_sparsity_is_over_all_kernels_and_seeds():
    steps, percent = curve(pictures.plot_sparsity(RUNS).axes[0], "L2")
    assert steps.tolist() == [10, 20, 30, 40, 50]
    np.testing.assert_allclose(percent, 100 * np.linspace(0, 0.9, 5), rtol=1e-6)


def test_the_key_figure_sets_closed_nodes_against_weights():
    x, y = curve(pictures.plot_nodes_against_weights(RUNS).axes[0], "none")
    np.testing.assert_allclose(x, 100 * np.linspace(0, 0.9, 5))
    np.testing.assert_allclose(y, 100 * np.full(5, 4) / 8)


def test_sides_are_told_as_a_ratio_and_a_lag_with_gaps_where_nothing_is_dead():
    figure = pictures.plot_sides(RUNS)
    np.testing.assert_allclose(curve(figure.axes[0], "L2")[1], [0, 0.25, 0.5, 0.25, 0])
    lag = curve(figure.axes[1], "L2")[1]
    assert np.isnan(lag[[0, 4]]).all() and (lag[1:4] == 2).all()


def test_revivals_are_counted_of_the_zeros_before():
    zeros = 64 * np.linspace(0, 0.9, 5)
    rate = curve(pictures.plot_revivals(RUNS).axes[0], "none")[1]
    assert np.isnan(rate[:2]).all()  # nothing was zero before
    np.testing.assert_allclose(rate[2:], 2 * np.arange(2, 5) / zeros[1:4])


def test_the_norms_of_many_groups_are_all_drawn_and_told_apart():
    one = recording()
    (group,) = one.groups.values()
    deep = one._replace(groups={f"layer_{n}/kernel:1": group for n in range(20)})
    (axes,) = pictures.plot_norms({"L2": [deep]}).axes
    lines = axes.get_lines()
    assert [line.get_label() for line in lines] == [f"layer_{n}" for n in range(20)]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 20


MANY = {f"variant {n}": [recording(n)] for n in range(16)}
OUTCOMES = {label: [pictures.Outcome(0.9, 0.5, 0.98)] for label in MANY}
LABELLED = {
    "sparsity": lambda: pictures.plot_sparsity(MANY),
    "nodes against weights": lambda: pictures.plot_nodes_against_weights(MANY),
    "accuracy": lambda: pictures.plot_accuracy(OUTCOMES),
}


@pytest.mark.parametrize("name", LABELLED)
def test_many_labels_are_told_apart_and_the_first_is_grey(name):
    lines = LABELLED[name]().axes[0].get_lines()
    shown = [line for line in lines if line.get_label() in MANY]
    assert [line.get_label() for line in shown] == list(MANY) and shown[0].get_color() == GREY
    assert len({(li.get_color(), li.get_linestyle(), li.get_marker()) for li in shown}) == 16


def test_the_bars_of_many_labels_are_told_apart():
    (axes,) = pictures.plot_nodes_kept(MANY).axes
    bars = [bar for (bar,) in axes.containers[1:]]  # after those of the dense network
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == 16


def test_ranks_have_no_chance_by_magnitude_to_draw():
    with pytest.raises(ValueError, match="`hazard=rank 2` knows ranks, not magnitudes; take"):
        pictures.plot_magnitudes(RUNS, hazard=hazards.rank(2.0))


def test_a_network_without_weights_left_has_empty_histograms():
    one = recording()
    gone = {n: layer._replace(histogram=0 * layer.histogram) for n, layer in one.layers.items()}
    (axes, _) = pictures.plot_magnitudes({"L2": [one._replace(layers=gone)]}).axes
    np.testing.assert_allclose(axes.get_xlim(), (EDGES[0], EDGES[-1]))


UNFIT = {
    "`runs` is empty": {},
    "`runs\\['L2'\\]` has no recording": {"L2": []},
    "`runs\\['L2'\\]` has a recording without rows": {"L2": [recording(), recording(rows=0)]},
    "5 up to step 50, 3 up to step 30": {"L2": [recording(), recording(rows=3)]},
}


@pytest.mark.parametrize("message", UNFIT)
def test_what_cannot_be_drawn_is_named(message):
    drawn = (getattr(pictures, name) for name in pictures.__all__ if name.startswith("plot_"))
    for plot in drawn:
        if plot is not pictures.plot_accuracy:
            with pytest.raises(ValueError, match=message):
                plot(UNFIT[message])


def test_pictures_of_nodes_ask_for_a_plan():
    bare = recording()._replace(groups={})
    with pytest.raises(ValueError, match="plan"):
        pictures.plot_nodes_kept({"none": [bare]})
    with pytest.raises(ValueError, match=r"`runs\['L2'\]` has other groups of nodes than 'none'"):
        pictures.plot_norms({"none": [recording()], "L2": [bare]})
