"""What `jaxprune.checkpoint` promises: exact states back, damaged ones never."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import checkpoint


class State(NamedTuple):
    step: Any
    params: Any
    opt_state: Any
    masks: Any
    packed: Any
    key: Any


def state(seed: int) -> State:
    key = jax.random.key(seed)
    params = {
        "kernel": jax.random.normal(key, (5, 3)),
        "half": jax.random.normal(key, (4, 2), jnp.bfloat16),
        "bias": jnp.full(3, seed, jnp.float32),
    }
    return State(
        step=jnp.int32(seed),
        params=params,
        opt_state=optax.adam(0.1).init(params),
        masks={"kernel": jax.random.bernoulli(key, 0.5, (5, 3)), "half": jnp.array(True)},
        packed=jax.random.bits(key, (7,), jnp.uint8),
        key=key,
    )


def plain(tree: Any) -> list[tuple[str, bytes]]:
    def raw(leaf: Any) -> tuple[str, bytes]:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        return f"{leaf.dtype}{leaf.shape}", array.tobytes()

    return [raw(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.fixture(name="two", scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints")
    for step in (10, 20):
        checkpoint.save(directory, step, state(step))
    return directory


@pytest.fixture(name="copy")
def copy_of_two(two: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two, tmp_path / "copy"))


def payload(directory: Path) -> Path:
    arrays = [p for p in directory.glob("default/**/d/*") if p.is_file()]
    return max(arrays, key=lambda p: p.stat().st_size)


def test_every_leaf_comes_back_to_the_last_bit(two: Path) -> None:
    assert plain(checkpoint.restore(two, state(0)).state) == plain(state(20))


def test_the_tree_comes_back_with_its_own_containers(two: Path) -> None:
    restored = checkpoint.restore(two, state(0)).state
    assert jax.tree.structure(restored) == jax.tree.structure(state(0))


def test_the_newest_checkpoint_is_taken(two: Path) -> None:
    assert checkpoint.restore(two, state(0))[::2] == (20, [])


def test_without_checkpoints_the_given_state_comes_back(tmp_path: Path) -> None:
    given = state(0)
    assert checkpoint.restore(tmp_path / "nowhere", given) == (None, given, [])


def flip(place: Path) -> None:
    file = payload(place)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


def truncate(place: Path) -> None:
    file = payload(place)
    file.write_bytes(file.read_bytes()[:-1])


def lose(place: Path) -> None:
    payload(place).unlink()


def leave_unfinished(place: Path) -> None:
    (place / "digests.json").unlink()


def garble_digests(place: Path) -> None:
    (place / "digests.json").write_text("{")


def add_file(place: Path) -> None:
    (place / "default" / "stray").write_text("")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (flip, "has changed since it was written"),
        (truncate, "has changed since it was written"),
        (lose, "is missing"),
        (leave_unfinished, "it was not finished, for it has no digests"),
        (garble_digests, "its digests cannot be read"),
        (add_file, "does not belong to it"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_last_good_one_taken(
    copy: Path, damage: Any, sentence: str
) -> None:
    damage(copy / "20")
    restored = checkpoint.restore(copy, state(0))
    assert restored.step == 10 and plain(restored.state) == plain(state(10))
    assert len(restored.refused) == 1 and sentence in restored.refused[0]


def test_a_checkpoint_of_another_state_is_refused_by_the_first_leaf_that_differs(two: Path) -> None:
    other = state(0)._replace(packed=jnp.zeros(8, jnp.uint8))
    restored = checkpoint.restore(two, other)
    assert restored.step is None and restored.state is other
    assert "'packed' is uint8[7] there and uint8[8] here" in restored.refused[0]


@pytest.mark.parametrize("empty", [{}, None])
def test_a_state_that_differs_by_what_is_empty_is_refused_in_a_sentence(
    tmp_path: Path, empty: dict[str, Any] | None
) -> None:
    bare, more = {"a": jnp.ones(2)}, {"a": jnp.ones(2), "b": empty}
    for number, (saved, like) in enumerate([(bare, more), (more, bare)]):
        checkpoint.save(tmp_path / str(number), 1, saved)
        restored = checkpoint.restore(tmp_path / str(number), like)
        assert restored.step is None and restored.state is like
        assert "Orbax cannot restore it into this state" in restored.refused[0]


def test_saving_again_replaces_what_was_refused(copy: Path) -> None:
    flip(copy / "20")
    checkpoint.save(copy, 15, state(15))
    assert checkpoint.restore(copy, state(0))[::2] == (15, [])


def test_as_many_checkpoints_stay_as_asked_for(copy: Path) -> None:
    checkpoint.save(copy, 30, state(30), keep=2)
    assert sorted(p.name for p in copy.iterdir()) == ["20", "30"]


def test_a_save_that_dies_before_its_digests_leaves_the_one_before(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "_write_digests", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(copy, 30, state(30), keep=1)
    assert checkpoint.restore(copy, state(0)).step == 20


def test_a_whole_checkpoint_of_a_later_step_is_another_run_s_and_stays(two: Path) -> None:
    for step in (15, 20):
        with pytest.raises(ValueError, match="holds checkpoint 20, which is whole.*another dir"):
            checkpoint.save(two, step, state(15))
    assert checkpoint.restore(two, state(0)).step == 20


def test_a_damaged_checkpoint_of_the_same_step_goes_only_when_the_new_one_is_whole(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(copy / "20")
    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(checkpoint, "_write_digests", lambda *_: {}["a full disk"])
        checkpoint.save(copy, 20, state(21), keep=1)
    assert checkpoint.restore(copy, state(0)).step == 10
    checkpoint.save(copy, 20, state(21), keep=1)
    assert plain(checkpoint.restore(copy, state(0)).state) == plain(state(21))
    assert [p.name for p in copy.iterdir()] == ["20"]


def test_a_leaf_that_is_no_array_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'step' is 7, of type int.*jax.numpy.asarray"):
        checkpoint.save(tmp_path / "new", 7, {"step": 7})
    assert not (tmp_path / "new").exists()


def test_a_stray_file_is_no_checkpoint(copy: Path) -> None:
    (copy / "77").write_text("mine")
    checkpoint.save(copy, 30, state(30))
    assert checkpoint.restore(copy, state(0)).step == 30 and (copy / "77").exists()


def test_a_relative_directory_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint.save("here", 1, state(1))
    assert checkpoint.restore("here", state(0)).step == 1


def test_a_leaf_without_entries_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'b' has no entries"):
        checkpoint.save(tmp_path, 1, {"a": jnp.ones(2), "b": jnp.ones((0, 3))})


def test_leaves_that_would_be_one_file_are_refused(tmp_path: Path) -> None:
    state = {"a": {"b.c": jnp.zeros(2)}, "a.b": {"c": jnp.ones(2)}}
    with pytest.raises(ValueError, match=r"'a/b.c' and 'a.b/c' would be one file"):
        checkpoint.save(tmp_path, 1, state)
    assert not any(tmp_path.iterdir())


def test_keeping_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`keep=0` must be at least 1"):
        checkpoint.save(tmp_path, 1, state(1), keep=0)


def test_sharded_leaves_come_back_with_the_sharding_asked_for(two: Path) -> None:
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    restored = checkpoint.restore(two, jax.device_put(state(0), spread))
    assert restored.state.params["kernel"].sharding == spread


def test_a_scalar_of_numpy_s_comes_back(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {"n": np.int64(3), "x": np.float32(0.5)})
    found = checkpoint.restore(tmp_path, {"n": np.int64(0), "x": np.float32(0)})
    assert found.step == 1 and found.state == {"n": 3, "x": 0.5}


@pytest.mark.parametrize("step", [7.0, -1, True, "5", None])
def test_a_step_that_is_no_number_of_updates_is_refused(tmp_path: Path, step: Any) -> None:
    with pytest.raises(ValueError, match=f"`step={step!r}` must be an integer"):
        checkpoint.save(tmp_path / "new", step, state(1))
    assert not (tmp_path / "new").exists()


def test_directories_of_others_stay_whatever_their_names(copy: Path) -> None:
    others = [copy / name / "mine" for name in ("7", "007", "2024", "unfinished")]
    for other in others:
        other.mkdir(parents=True)
    checkpoint.save(copy, 30, state(30), keep=1)
    assert checkpoint.restore(copy, state(0)).step == 30 and all(p.exists() for p in others)
    assert not (copy / "20").exists()
    with pytest.raises(ValueError, match="2024 is there, and `save` did not write it; move it"):
        checkpoint.save(copy, 2024, state(31))


def test_a_single_array_is_named_before_orbax_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one leaf, which Orbax does not take; put it into a dict"):
        checkpoint.save(tmp_path, 1, jnp.ones(3))
