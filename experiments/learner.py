"""The pure part of training any network: a state, a step. Nothing here touches the world."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

__all__ = [
    "Batches",
    "Learner",
    "Loss",
    "State",
    "counted",
    "fault",
    "learner",
    "mesh_of",
    "together",
]

_TOGETHER = 64
"""Steps a call of an accelerator, at most."""

_BYTES = 2**28
"""Of the batches of a call, about."""

Loss = Callable[..., tuple[jax.Array, Any]]
"""Params, statistics, PRNG key of the step, batch -> mean loss, and the statistics moved on."""


Batches = Iterator[tuple[Any, ...]]
"""Arrays of one batch after another, without an end."""


class State(NamedTuple):
    """Everything that moves; all of it is in a checkpoint. The step also says which data come next.

    Attributes:
        step: int32, updates so far.
        params: the network's.
        stats: the network's running statistics.
        key: of what a step draws for itself; it stays, and the step is folded in.
        opt_state: the optimizer's and the pruner's, with its masks and keys.
        loss: float32, sum of the batches' losses in this epoch so far.
        broken_at: int32, first step whose loss was not finite; 0 while there was none.
    """

    step: jax.Array
    params: Any
    stats: Any
    key: jax.Array
    opt_state: Any
    loss: jax.Array
    broken_at: jax.Array


class Learner(NamedTuple):
    """The compiled functions that train with one loss and one optimizer.

    Attributes:
        init: PRNG key, and the params and statistics to begin with where they are not drawn ->
            state.
        advance: state (donated), batches -> state `steps` later; a batch a step is taken.
        traces: how often each function was traced: once a shape of batches, whatever a run does.
        steps: how many a call takes; of several, the batches must be alike in their shapes.
    """

    init: Callable[..., State]
    advance: Callable[[State, Batches], State]
    traces: dict[str, int]
    steps: int = 1


def together(size: int, *milestones: int) -> int:
    """Return how many steps a call may take, so that none runs past a milestone.

    The launch of a small step takes longer than the step itself on an accelerator. On a CPU a step
    goes alone: convolutions are slow in a loop there.

    Args:
        size: of a batch, in bytes.
        milestones: every so many steps something is done in between.

    Returns:
        The largest number, up to 64 and to some 256 MiB of batches, that divides all milestones; on
        a CPU 1.

    Example:
        >>> together(100_352, 390, 500)
        1
    """
    if jax.default_backend() == "cpu":
        return 1
    common, most = math.gcd(*milestones), min(_TOGETHER, max(1, _BYTES // size))
    return max(steps for steps in range(1, most + 1) if common % steps == 0)


def mesh_of(devices: int) -> Mesh:
    """Return a mesh over the first local devices, whose one axis splits a batch.

    Args:
        devices: how many; 0 for all.

    Returns:
        The mesh.

    Raises:
        ValueError: if there are fewer.
    """
    there = jax.local_devices()
    if devices > len(there):
        raise ValueError(f"`devices={devices}`, but there are {len(there)} here; 0 takes them all.")
    chosen = there[: devices or None]
    return jax.make_mesh(
        (len(chosen),), ("batch",), axis_types=(jax.sharding.AxisType.Auto,), devices=chosen
    )


def learner(
    init: Callable[[jax.Array], tuple[Any, Any]],
    loss: Loss,
    optimizer: Callable[[jax.Array], optax.GradientTransformation],
    mesh: Mesh,
    *,
    per_epoch: int,
    steps: int = 1,
) -> Learner:
    """Return the functions that minimise any loss data-parallel over a mesh.

    Args:
        init: PRNG key -> params and statistics.
        loss: what is minimised; its key is that of the state with the step folded in.
        optimizer: PRNG key -> transform; the key may reach its state only.
        mesh: of `mesh_of`; it divides the first axis of a batch's arrays.
        per_epoch: steps over which losses are summed up.
        steps: of a call, as by `together`.

    Returns:
        The functions.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(*((None,) if steps > 1 else ()), "batch"))
    update = optax.with_extra_args_support(optimizer(jax.random.key(0))).update
    traces: dict[str, int] = {}
    one = _step(loss, update, per_epoch)
    whole_call = counted(one if steps == 1 else _scanned(one), traces)
    step = jax.jit(whole_call, donate_argnums=0, out_shardings=whole)

    def advance(state: State, batches: Batches) -> State:
        taken = list(itertools.islice(batches, steps))
        batch = taken[0] if steps == 1 else tuple(map(np.stack, zip(*taken, strict=True)))
        state = step(state, *jax.device_put(batch, split))
        if mesh.size > 1 and jax.default_backend() == "cpu":
            # Two steps under way would wait for each other's all-reduce in the one thread pool.
            jax.block_until_ready(state.step)
        return state

    return Learner(jax.jit(_init(init, optimizer), out_shardings=whole), advance, traces, steps)


def fault(state: State) -> str:
    """Say what is no number any more: such a state goes to no checkpoint.

    Args:
        state: after some steps.

    Returns:
        A clause that names the step; "" where loss and params are finite.
    """
    if state.broken_at:
        return f"The loss is not finite at step {state.broken_at}"
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params)):
        return f"A param is not finite after step {state.step}"
    return ""


def counted(fn: Callable[..., Any], traces: dict[str, int]) -> Callable[..., Any]:
    """Count how often JAX runs the Python of a function, which is once a compilation.

    Args:
        fn: what is compiled.
        traces: where it is counted, by the function's name.

    Returns:
        The function.
    """
    traces[fn.__name__] = 0

    def traced(*args: Any) -> Any:
        traces[fn.__name__] += 1
        return fn(*args)

    return traced


def _init(draw: Callable[..., Any], optimizer: Callable[..., Any]) -> Callable[..., State]:
    def init(key: jax.Array, begin: tuple[Any, Any] | None = None) -> State:
        of_params, of_optimizer = jax.random.split(key)
        params, stats = draw(of_params) if begin is None else begin
        opt_state = optimizer(of_optimizer).init(params)
        return State(
            step=jnp.int32(0),
            params=params,
            stats=stats,
            key=jax.random.fold_in(of_params, 1),
            opt_state=opt_state,
            loss=jnp.float32(0),
            broken_at=jnp.int32(0),
        )

    return init


def _step(loss_of: Loss, update: Callable[..., Any], per_epoch: int) -> Callable[..., State]:
    def step(state: State, *batch: jax.Array) -> State:
        example = (state.stats, jax.random.fold_in(state.key, state.step), *batch)
        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params, *example)
        given = {"grad": grads, "value": loss, "obj_fn": lambda p: loss_of(p, *example)[0]}
        updates, opt_state = update(grads, state.opt_state, state.params, **given)
        number = state.step + 1
        breaks = (state.broken_at == 0) & ~jnp.isfinite(loss)
        return State(
            step=number,
            params=optax.apply_updates(state.params, updates),
            stats=stats,
            key=state.key,
            opt_state=opt_state,
            loss=jnp.where(state.step % per_epoch == 0, 0, state.loss) + loss,
            broken_at=jnp.where(breaks, number, state.broken_at),
        )

    return step


def _scanned(one: Callable[..., State]) -> Callable[..., State]:
    def step(state: State, *batches: jax.Array) -> State:
        return jax.lax.scan(lambda state, batch: (one(state, *batch), None), state, batches)[0]

    return step
