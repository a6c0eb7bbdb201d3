"""ResNet-18's blocks over pictures and over time, for the frontends of mouths and of waveforms.

The names of the weights are torchvision's, which published networks share. Importing torchvision takes 6 s of a core.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from avsr.models.blocks import zero_padding

STAGES = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))              # channels in and out, stride; two blocks each
WIDTH = STAGES[-1][1]
LAYERS_BY_DIMS = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d)}


class BasicBlock(nn.Module):
    """Two convolutions and a skip connection (He et al. 2016), over 1 or 2 dimensions: (N, C, ...) -> (N, C', ... / stride)."""

    def __init__(self, n_dims: int, n_in: int, n_out: int, stride: int, activation: Callable[..., nn.Module]):
        super().__init__()
        conv, norm = LAYERS_BY_DIMS[n_dims]
        self.conv1 = conv(n_in, n_out, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(n_out)
        self.conv2 = conv(n_out, n_out, kernel_size=3, padding=1, bias=False)
        self.bn2 = norm(n_out)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(conv(n_in, n_out, kernel_size=1, stride=stride, bias=False), norm(n_out))
        self.activation = activation(inplace=True)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """lengths (N,): output lengths of (N, C, S) where rows differ in length; the input is zero beyond them."""
        there = x if self.downsample is None else self.downsample(x)
        x = zero_padding(self.activation(self.bn1(self.conv1(x))), lengths)
        return zero_padding(self.activation(self.bn2(self.conv2(x)) + there), lengths)


def stages(n_dims: int, activation: Callable[..., nn.Module]) -> list[nn.Sequential]:
    """The four stages of a ResNet-18."""
    return [nn.Sequential(BasicBlock(n_dims, n_in, n_out, stride, activation), BasicBlock(n_dims, n_out, n_out, 1, activation))
            for n_in, n_out, stride in STAGES]
