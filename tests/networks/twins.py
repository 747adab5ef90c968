"""Twins in torch of some of the networks: the same layers in the same order, so the same names."""

from collections import Counter

import torch
from torch import nn
from torch.nn import functional as F

from tests.networks.convolutional import VGG16


class Twin(nn.Module):
    """A network `net(layers, x)`; layers are made in the first call and found again in the next."""

    def __init__(self, net, x):
        super().__init__()
        self.net, self.layers, self.count = net, nn.ModuleDict(), Counter()
        self(x)
        self.eval()

    def forward(self, x):
        self.count.clear()
        return self.net(self, x)

    def _layer(self, kind, make):
        name = f"{kind}_{self.count[kind]}"
        self.count[kind] += 1
        if name not in self.layers:
            self.layers[name] = make()
        return self.layers[name]

    def conv(self, x, width, size=3, *, stride=1, groups=1, padding=None, bias=True):
        pad = size // 2 if padding is None else padding
        sizes = x.shape[1], width, size, stride, pad
        return self._layer("Conv", lambda: nn.Conv2d(*sizes, groups=groups, bias=bias))(x)

    def batch_norm(self, x):
        return self._layer("BatchNorm", lambda: nn.BatchNorm2d(x.shape[1]))(x)

    def layer_norm(self, x):
        return self._layer("LayerNorm", lambda: nn.LayerNorm(x.shape[-1]))(x)

    def dense(self, x, width):
        return self._layer("Dense", lambda: nn.Linear(x.shape[-1], width))(x)

    def attention(self, x, heads):
        kind = "MultiHeadDotProductAttention"
        layer = self._layer(
            kind, lambda: nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)
        )
        return layer(x, x, x, need_weights=False)[0]


def vgg16(L, x):
    for width in VGG16:
        x = F.max_pool2d(x, 2) if width == "M" else F.relu(L.batch_norm(L.conv(x, width)))
    return L.dense(F.relu(L.dense(x.flatten(1), 10)), 3)


def _shortcut(L, x, width, stride, projects):
    if not projects:
        return x
    return L.batch_norm(L.conv(x, width, 1, stride=stride, bias=False))


def _basic(L, x, width, stride, projects):
    y = F.relu(L.batch_norm(L.conv(x, width, stride=stride, bias=False)))
    y = L.batch_norm(L.conv(y, width, bias=False))
    return F.relu(y + _shortcut(L, x, width, stride, projects))


def _bottleneck(L, x, width, stride, projects):
    y = F.relu(L.batch_norm(L.conv(x, width, 1, bias=False)))
    y = F.relu(L.batch_norm(L.conv(y, width, stride=stride, bias=False)))
    y = L.batch_norm(L.conv(y, 2 * width, 1, bias=False))
    return F.relu(y + _shortcut(L, x, 2 * width, stride, projects))


def _resnet(L, x, block, depths, widths):
    x = F.relu(L.batch_norm(L.conv(x, widths[0], bias=False)))
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        for i in range(depth):
            projects = i == 0 and (stage > 0 or block is _bottleneck)
            x = block(L, x, width, 2 if stage and i == 0 else 1, projects)
    return L.dense(x.mean((2, 3)), 3)


def resnet18(L, x):
    return _resnet(L, x, _basic, (2, 2, 2, 2), (4, 5, 6, 8))


def resnet50(L, x):
    return _resnet(L, x, _bottleneck, (3, 4, 6, 3), (3, 4, 3, 4))


def densenet(L, x):
    x = L.conv(x, 4)
    for block in range(2):
        for _ in range(3):
            y = L.conv(F.relu(L.batch_norm(x)), 6, 1)
            y = L.conv(F.relu(L.batch_norm(y)), 3)
            x = torch.cat([x, y], dim=1)
        if block == 0:
            x = F.avg_pool2d(L.conv(F.relu(L.batch_norm(x)), 6, 1), 2)
    return L.dense(F.relu(L.batch_norm(x)).mean((2, 3)), 3)


def mobilenet_v2(L, x):
    x = F.relu6(L.batch_norm(L.conv(x, 4, stride=2)))
    for width, stride in ((4, 1), (6, 2), (6, 1)):
        wide = 3 * x.shape[1]
        y = F.relu6(L.batch_norm(L.conv(x, wide, 1)))
        y = F.relu6(L.batch_norm(L.conv(y, y.shape[1], stride=stride, groups=y.shape[1])))
        y = L.batch_norm(L.conv(y, width, 1))
        x = x + y if x.shape == y.shape else y
    return L.dense(F.relu6(L.conv(x, 10, 1)).mean((2, 3)), 3)


def vit(L, x):
    """Mean pooling, no raw parameter: what torch-pruning finds by itself."""
    x = L.conv(x, 8, 4, stride=4, padding=0).flatten(2).transpose(1, 2)
    for _ in range(2):
        x = x + L.attention(L.layer_norm(x), 2)
        x = x + L.dense(F.gelu(L.dense(L.layer_norm(x), 10)), x.shape[-1])
    return L.dense(L.layer_norm(x).mean(1), 3)


def macs(model, x):
    """Count the multiply-adds of convolutions, dense layers and attention in one call."""
    counts = []

    def convolved(layer, inputs, out):
        counts.append(out.numel() * layer.weight[0].numel())

    def attended(layer, inputs, out):
        batch, tokens, width = inputs[0].shape
        inner = layer.in_proj_weight.shape[0] // 3
        counts.append(batch * tokens * (4 * inner * width + 2 * tokens * inner))

    kinds = {nn.Conv2d: convolved, nn.Linear: convolved, nn.MultiheadAttention: attended}
    hooks = [m.register_forward_hook(kinds[type(m)]) for m in model.modules() if type(m) in kinds]
    model(x)
    for hook in hooks:
        hook.remove()
    return sum(counts)


TWINS = {net.__name__: net for net in (vgg16, resnet18, resnet50, densenet, mobilenet_v2, vit)}
