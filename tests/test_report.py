"""What `jaxprune.report` promises: right counts, and pictures that hold what they should."""

import io
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import report, schedules


def kernel(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return np.where(np.random.default_rng(seed + 1).random(shape) < 0.9, 0, values)


def by_loops(weights: np.ndarray) -> tuple[int, int, int]:
    *_, inputs, outputs = weights.shape
    empty_outputs = sum(not np.any(weights[..., j]) for j in range(outputs))
    empty_inputs = sum(not np.any(weights[..., i, :]) for i in range(inputs))
    return sum(value != 0 for value in weights.ravel()), empty_outputs, empty_inputs


@pytest.mark.parametrize("shape", [(12, 7), (3, 3, 4, 5), (1, 1)])
def test_counts_of_a_layer_are_those_of_plain_loops(shape: tuple[int, ...]) -> None:
    weights = kernel(shape)
    (layer,) = report.layers({"kernel": jnp.asarray(weights)})
    assert layer[2:] == by_loops(weights)


def test_only_kernels_are_layers_unless_asked() -> None:
    params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}}
    assert [layer.name for layer in report.layers(params)] == ["dense/kernel"]


def test_a_layer_of_no_weights_has_sparsity_zero() -> None:
    assert report.layers({"kernel": jnp.zeros((0, 3))})[0].sparsity == 0.0


def test_bfloat16_is_counted_too() -> None:
    assert report.layers({"kernel": jnp.eye(3, dtype=jnp.bfloat16)})[0].nonzeros == 3


def test_the_table_ends_in_the_sums() -> None:
    rows = [report.Layer("a", (10, 10), 5, 6, 7), report.Layer("b", (10, 30), 15, 1, 0)]
    assert report.table(rows).splitlines()[-1].split() == [
        "total",
        "400",
        "20",
        "95.0",
        "%",
        "7",
        "7",
    ]


def test_the_schedule_is_drawn_step_by_step() -> None:
    schedule = schedules.linear_sparsity(0.5, begin=2, end=4)
    line = report.plot_schedule(schedule, 5).axes[0].get_lines()[0]
    assert list(np.asarray(line.get_ydata())) == [0, 0, 0, 25, 50, 50]


def curves(seeds: int) -> dict:
    def rows(seed: int) -> list:
        return [
            {"step": step, "test_accuracy": 0.9 + seed / 100, "sparsity": step / 40}
            for step in (10, 20, 30)
        ]

    return {label: [rows(seed) for seed in range(seeds)] for label in ("dense", "pruned")}


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_run_is_drawn_with_a_line_for_each_label(seeds: int) -> None:
    figure = report.plot_run(curves(seeds), [report.Layer("a", (2, 2), 1, 1, 1)])
    assert len(figure.axes[0].get_lines()) == 2


def test_the_inputs_get_a_panel_of_their_own() -> None:
    rows = [report.Layer("a", (4, 2), 1, 1, 1)]
    figure = report.plot_run(curves(1), rows, inputs=np.arange(4).reshape(2, 2))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert "Weights left at each input" in titles


def test_a_tradeoff_shows_every_seed() -> None:
    points = {"L1": {0.0: [0.98, 0.99], 0.9: [0.97, 0.98], 0.95: [0.96, 0.97]}}
    figure = report.plot_tradeoff(points)
    dots = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert [list(np.round(np.asarray(line.get_ydata()), 6)) for line in dots] == [
        [97, 98],
        [96, 97],
    ]


def test_no_two_of_nine_methods_look_alike() -> None:
    nine = [f"method {number}" for number in range(9)]
    tradeoff = report.plot_tradeoff({name: {0.5: [0.9], 0.9: [0.8]} for name in nine})
    run = report.plot_run(
        dict.fromkeys(nine, curves(1)["dense"]), [report.Layer("a", (4, 2), 1, 1, 1)]
    )
    for figure, named in ((tradeoff, "method"), (run, "accuracy")):
        lines = [one for one in figure.axes[0].get_lines() if named in str(one.get_label())]
        assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 9


def test_a_figure_can_be_written_without_a_display() -> None:
    stream = io.BytesIO()
    report.plot_tradeoff({"": {0.0: [0.98], 0.9: [0.97]}}).savefig(stream, format="png")
    assert stream.getvalue().startswith(b"\x89PNG")


def test_importing_the_module_imports_no_matplotlib() -> None:
    code = "import sys, jaxprune.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
