"""What a step does to its images before it learns from them, on the device."""

import jax
import jax.numpy as jnp

__all__ = ["crop_and_flip", "crop_at_scale", "turn_and_flip"]


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


def crop_at_scale(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    side: int = 224,
    areas: tuple[float, float] = (0.08, 1.0),
) -> tuple[jax.Array, jax.Array]:
    """Cut a part of random size, shape and place out of each image, scale it, mirror every other.

    Args:
        key: PRNG key.
        images: uint8 `(batch, height, width, channels)`.
        labels: int32 `(batch,)`.
        side: of what comes out, in pixels.
        areas: smallest and largest fraction of an image that a part covers; its sides are in a
            ratio of 3 : 4 to 4 : 3, and a side that would not fit is as long as the image's.

    Returns:
        uint8 `(batch, side, side, channels)`, and the labels.

    References:
        Szegedy et al., "Going deeper with convolutions", 2015, section 6; theirs draws again where
        a part does not fit.

    Example:
        >>> images = jnp.ones((2, 16, 16, 3), jnp.uint8)
        >>> crop_at_scale(jax.random.key(0), images, jnp.zeros(2, int), side=8)[0].shape
        (2, 8, 8, 3)
    """
    count, height, width, channels = images.shape
    whole = jnp.array([height, width], jnp.float32)
    of_areas, of_ratios, of_places, of_mirrors = jax.random.split(key, 4)
    low, high = areas
    area = height * width * jax.random.uniform(of_areas, (count, 1), minval=low, maxval=high)
    ratio = (4 / 3) ** jax.random.uniform(of_ratios, (count, 1), minval=-1, maxval=1)
    sides = jnp.minimum(jnp.sqrt(area * jnp.concatenate([ratio, 1 / ratio], axis=1)), whole)
    corners = jax.random.uniform(of_places, (count, 2)) * (whole - sides)
    mirrored = jax.random.bernoulli(of_mirrors, shape=(count,))

    def one(image: jax.Array, part: jax.Array, corner: jax.Array, mirror: jax.Array) -> jax.Array:
        scale = side / part
        cut = jax.image.scale_and_translate(
            image.astype(jnp.float32),
            (side, side, channels),
            (0, 1),
            scale,
            -corner * scale,
            "linear",
        )
        cut = jnp.clip(jnp.round(cut), 0, 255).astype(image.dtype)
        return jnp.where(mirror, cut[:, ::-1], cut)

    return jax.vmap(one)(images, sides, corners, mirrored), labels


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
