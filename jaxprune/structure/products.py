"""The matrix products and convolutions on a tape, and the axes that they sum over."""

from jaxprune.structure.graph import Step, Tape

__all__ = ["depthwise", "products", "summed"]

_PRODUCTS = {"dot_general", "conv_general_dilated"}


def products(tape: Tape) -> list[tuple[Tape, Step]]:
    """List the matrix products and convolutions, each with the tape that it is on.

    Args:
        tape: of a walk along a jaxpr; of jaxprs inside, the first of each equation is looked into.

    Returns:
        Pairs, those of the tape itself first.
    """
    found = [(tape, step) for step in tape.steps if step.eqn.primitive.name in _PRODUCTS]
    return found + [pair for step in tape.steps for t in step.inner[:1] for pair in products(t)]


def summed(step: Step) -> list[tuple[int, int]]:
    """Pair the axes of image and kernel that a product sums over; a window pairs with its space.

    Args:
        step: one of `products`.

    Returns:
        Pairs (axis of the first operand, axis of the second).
    """
    numbers = step.eqn.params["dimension_numbers"]
    if step.eqn.primitive.name == "dot_general":
        return list(zip(*numbers[0], strict=True))
    _, *image = numbers.lhs_spec
    _, *kernel = numbers.rhs_spec
    return list(zip(image, kernel, strict=True))


def depthwise(step: Step) -> bool:
    """Say whether a product passes its image on channel by channel, and sums over none of them.

    Args:
        step: one of `products`.

    Returns:
        Whether it is a convolution in groups of one input channel.
    """
    params = step.eqn.params
    if params.get("feature_group_count", 1) == 1:
        return False
    return len(step.ins[1].axes[params["dimension_numbers"].rhs_spec[1]]) == 1
