"""The matrix products and convolutions on a tape: which operand is the image, which the kernel."""

from jaxprune.structure.graph import Step, Tape
from jaxprune.structure.values import Value

__all__ = ["depthwise", "operands", "products"]

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


def operands(step: Step) -> tuple[Value, Value, list[tuple[int, int]]]:
    """Tell image and kernel of a product apart, and pair the axes that it sums over.

    Args:
        step: one of `products`.

    Returns:
        Image; kernel, the operand that no input moves, where the two differ; pairs (axis of the
        image, axis of the kernel). The window of a convolution pairs with the space.
    """
    (left, right), numbers = step.ins, step.eqn.params["dimension_numbers"]
    if step.eqn.primitive.name != "dot_general":
        return left, right, list(zip(numbers.lhs_spec[1:], numbers.rhs_spec[1:], strict=True))
    if left.fixed and not right.fixed:
        return right, left, list(zip(*numbers[0][::-1], strict=True))
    return left, right, list(zip(*numbers[0], strict=True))


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
