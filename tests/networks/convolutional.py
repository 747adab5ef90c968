"""Convolutional networks at small widths: `net(layers, x)`, x of shape (batch, H, W, C)."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def flat(x):
    return x.reshape(x.shape[0], -1)


def lenet5(L, x):
    x = nn.avg_pool(nn.tanh(L.conv(x, 6, 5)), (2, 2), (2, 2))
    x = nn.avg_pool(nn.tanh(L.conv(x, 8, 5, padding="VALID")), (2, 2), (2, 2))
    return L.dense(nn.tanh(L.dense(nn.tanh(L.dense(flat(x), 10)), 7)), 3)


def vgg(L, x, plan=(4, 4, "M", 6, 6, "M", 8)):
    for width in plan:
        if width == "M":
            x = nn.max_pool(x, (2, 2), (2, 2))
        else:
            x = nn.relu(L.batch_norm(L.conv(x, width)))
    return L.dense(nn.relu(L.dense(flat(x), 10)), 3)


VGG16 = (4, 4, "M", 5, 5, "M", 6, 6, 6, "M", 6, 7, 6, 7, 6, 6)


def vgg16(L, x):
    return vgg(L, x, VGG16)


def vgg19(L, x):
    return vgg(L, x, (4, 4, "M", 5, 5, "M", 6, 6, 6, 6, "M", 6, 7, 6, 5, 7, 6, 6, 6))


def _shortcut(L, x, width, stride, option):
    if stride == 1 and x.shape[-1] == width:
        return x
    if option == "A":
        low = (width - x.shape[-1]) // 2
        return jnp.pad(
            x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (low, width - x.shape[-1] - low))
        )
    return L.batch_norm(L.conv(x, width, 1, stride=stride, bias=False))


def _basic(L, x, width, stride, option):
    y = nn.relu(L.batch_norm(L.conv(x, width, stride=stride, bias=False)))
    y = L.batch_norm(L.conv(y, width, bias=False))
    return nn.relu(y + _shortcut(L, x, width, stride, option))


def _bottleneck(L, x, width, stride, option):
    y = nn.relu(L.batch_norm(L.conv(x, width, 1, bias=False)))
    y = nn.relu(L.batch_norm(L.conv(y, width, stride=stride, bias=False)))
    y = L.batch_norm(L.conv(y, 2 * width, 1, bias=False))
    return nn.relu(y + _shortcut(L, x, 2 * width, stride, option))


def _resnet(L, x, block, depths, widths, option):
    x = nn.relu(L.batch_norm(L.conv(x, widths[0], bias=False)))
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        for i in range(depth):
            x = block(L, x, width, 2 if stage and i == 0 else 1, option)
    return L.dense(x.mean((1, 2)), 3)


def resnet18(L, x):
    return _resnet(L, x, _basic, (2, 2, 2, 2), (4, 5, 6, 8), "B")


def resnet50(L, x):
    return _resnet(L, x, _bottleneck, (3, 4, 6, 3), (3, 4, 3, 4), "B")


def resnet56(L, x, option="A"):
    return _resnet(L, x, _basic, (9, 9, 9), (4, 6, 10), option)


def resnet56_b(L, x):
    return resnet56(L, x, "B")


def densenet(L, x):
    x = L.conv(x, 4)
    for block in range(2):
        for _ in range(3):
            y = L.conv(nn.relu(L.batch_norm(x)), 6, 1)
            y = L.conv(nn.relu(L.batch_norm(y)), 3)
            x = jnp.concatenate([x, y], axis=-1)
        if block == 0:
            x = nn.avg_pool(L.conv(nn.relu(L.batch_norm(x)), 6, 1), (2, 2), (2, 2))
    return L.dense(nn.relu(L.batch_norm(x)).mean((1, 2)), 3)


def mobilenet_v2(L, x):
    x = nn.relu6(L.batch_norm(L.conv(x, 4, stride=2)))
    for width, stride in ((4, 1), (6, 2), (6, 1)):
        wide = 3 * x.shape[-1]
        y = nn.relu6(L.batch_norm(L.conv(x, wide, 1)))
        y = nn.relu6(L.batch_norm(L.conv(y, wide, stride=stride, groups=wide)))
        y = L.batch_norm(L.conv(y, width, 1))
        x = x + y if x.shape == y.shape else y
    return L.dense(nn.relu6(L.conv(x, 10, 1)).mean((1, 2)), 3)


def unet(L, x):
    skips = []
    for width in (4, 6):
        x = nn.relu(L.batch_norm(L.conv(x, width)))
        skips.append(x)
        x = nn.max_pool(x, (2, 2), (2, 2))
    x = nn.relu(L.conv(x, 8))
    for width, skip in zip((6, 4), reversed(skips), strict=True):
        x = (
            L.conv_transpose(x, width)
            if width == 6
            else jax.image.resize(x, (*skip.shape[:3], x.shape[-1]), "nearest")
        )
        x = nn.relu(L.conv(jnp.concatenate([skip, x], axis=-1), width))
    return L.conv(x, 2, 1)


def squeeze_excitation(L, x):
    x = nn.relu(L.conv(x, 8))
    gate = L.dense(nn.relu(L.dense(x.mean((1, 2)), 4)), 8)
    x = x * nn.sigmoid(gate)[:, None, None, :]
    return L.dense(nn.swish(L.conv(x, 6)).mean((1, 2)), 3)


def group_normed(L, x):
    x = nn.relu(L.group_norm(L.conv(x, 8), 4))
    y = nn.relu(L.group_norm(L.conv(x, 8, groups=2), 2))
    return L.dense(L.layer_norm(x + y).mean((1, 2)), 3)


CONVOLUTIONAL = {
    net.__name__: net
    for net in (
        lenet5,
        vgg16,
        vgg19,
        resnet18,
        resnet50,
        resnet56,
        resnet56_b,
        densenet,
        mobilenet_v2,
        unet,
        squeeze_excitation,
        group_normed,
    )
}
