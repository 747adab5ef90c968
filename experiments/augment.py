"""What a step does to its images before it learns from them, on the device."""

import jax
import jax.numpy as jnp

__all__ = ["crop_and_flip"]


def crop_and_flip(key: jax.Array, images: jax.Array, *, margin: int = 4) -> jax.Array:
    """Shift each image by up to `margin` pixels, black beyond its edge, and mirror every other one.

    Args:
        key: PRNG key.
        images: uint8 `(batch, height, width, channels)`.
        margin: pixels.

    Returns:
        Images of the same shape and dtype.

    References:
        He et al., "Deep residual learning for image recognition", 2016, section 4.2.

    Example:
        >>> images = jnp.ones((2, 8, 8, 1), jnp.uint8)
        >>> crop_and_flip(jax.random.key(0), images).shape
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

    return jax.vmap(one)(padded, shifts, mirrored)
