"""What a step does to its images before it learns from them, on the device."""

import jax
import jax.numpy as jnp

__all__ = ["crop_and_flip", "turn_and_flip"]


def crop_and_flip(
    key: jax.Array, images: jax.Array, labels: jax.Array, *, margin: int = 4
) -> tuple[jax.Array, jax.Array]:
    """Shift each image by up to `margin` pixels, black beyond its edge, and mirror every other one.

    Args:
        key: PRNG key.
        images: uint8 `(batch, height, width, channels)`.
        labels: int32 `(batch,)`.
        margin: pixels.

    Returns:
        Images of the same shape and dtype, and the labels.

    References:
        He et al., "Deep residual learning for image recognition", 2016, section 4.2.

    Example:
        >>> images = jnp.ones((2, 8, 8, 1), jnp.uint8)
        >>> crop_and_flip(jax.random.key(0), images, jnp.zeros(2, int))[0].shape
        (2, 8, 8, 1)
    """
    count, height, width, channels = images.shape
    of_shifts, of_mirrors = jax.random.split(key)
    shifts = jax.random.randint(of_shifts, (count, 2), 0, 2 * margin + 1)
    mirrored = jax.random.bernoulli(of_mirrors, shape=(count,))
    padded = jnp.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))

    def one(image: jax.Array, shift: jax.Array, mirror: jax.Array) -> jax.Array:
        cut = jax.lax.dynamic_slice(image, (*shift, 0), (height, width, channels))
        return jnp.where(mirror, cut[:, ::-1], cut)

    return jax.vmap(one)(padded, shifts, mirrored), labels


def turn_and_flip(
    key: jax.Array, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Turn and mirror each image at random, and its labels alike.

    Args:
        key: PRNG key.
        images: uint8 `(batch, side, side, channels)`.
        labels: int32 `(batch, side, side)`, or `(batch,)`, which stay.

    Returns:
        Images and labels of the same shapes and dtypes.

    Example:
        >>> images = jnp.arange(4, dtype=jnp.uint8).reshape(1, 2, 2, 1)
        >>> turned, labels = turn_and_flip(jax.random.key(0), images, images[..., 0])
        >>> bool((turned[..., 0] == labels).all())
        True
    """
    flips = jax.random.bernoulli(key, shape=(len(images), 3))

    def one(array: jax.Array, flip: jax.Array) -> jax.Array:
        if array.ndim < 2:
            return array
        # The eight symmetries of a square.
        array = jnp.where(flip[0], array[:, ::-1], array)
        array = jnp.where(flip[1], array[::-1], array)
        return jnp.where(flip[2], array.swapaxes(0, 1), array)

    turn = jax.vmap(one)
    return turn(images, flips), turn(labels, flips)
