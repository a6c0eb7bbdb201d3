"""The eye: mouths (B, T, 88, 88) -> 3-D convolution + ResNet-18 -> blocks -> (B, 50/s, D).

The front end is the field's (Stafylakis and Tzimiropoulos 2017; auto_avsr): Conv3d 5x7x7, max-pool, ResNet-18 per frame.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avsr.models.blocks import Block, sinusoids
from avsr.rates import MEMORY_PER_FRAME

GREY_MEAN, GREY_STD = 0.421, 0.165                          # of grey levels / 255 over LRS mouths (auto_avsr)
FRAMES_AT_ONCE = 128                                        # through the ResNet without gradients: bounds its memory to 0.2 GB


class ResNet18Front(nn.Module):
    """mouths (B, T, 88, 88) -> (B, T, 512). About 20 GMAC for 3 s; 11.2 M parameters."""

    width = 512

    def __init__(self):
        super().__init__()
        from torchvision.models import resnet18  # 3 s to import: only networks with lips pay for it

        self.conv = nn.Sequential(
            nn.Conv3d(1, 64, kernel_size=(5, 7, 7), stride=(1, 2, 2), padding=(2, 3, 3), bias=False),
            nn.BatchNorm3d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(kernel_size=(1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
        )
        trunk = resnet18(weights=None)
        self.trunk = nn.Sequential(trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4, trunk.avgpool, nn.Flatten())

    def forward(self, mouths: Tensor) -> Tensor:
        batch, n_frames = mouths.shape[:2]
        if torch.is_grad_enabled():
            maps = self.conv(mouths[:, None]).transpose(1, 2).flatten(0, 1)      # (B * T, 64, 22, 22)
            return self.trunk(maps).view(batch, n_frames, self.width)
        return torch.stack([self._one(utterance) for utterance in mouths])

    def _one(self, mouths: Tensor) -> Tensor:
        """One utterance in stretches that overlap by the convolution's reach of 2 frames: (T, 88, 88) -> (T, 512)."""
        reach = 2
        padded = nn.functional.pad(mouths, (0, 0, 0, 0, reach, reach))
        conv = self.conv[0]
        parts = []
        for start in range(0, mouths.shape[0], FRAMES_AT_ONCE):
            stretch = padded[start:start + FRAMES_AT_ONCE + 2 * reach][None, None]
            maps = nn.functional.conv3d(stretch, conv.weight, stride=conv.stride, padding=(0, 3, 3))
            maps = self.conv[1:3](maps)[0].transpose(0, 1).contiguous(memory_format=torch.channels_last)
            maps = nn.functional.max_pool2d(maps, kernel_size=3, stride=2, padding=1)    # in 3-D it takes 9 times as long
            parts.append(self.trunk(maps))
        return torch.cat(parts)


FRONTS = {"resnet18": ResNet18Front}


class LipEncoder(nn.Module):
    """mouths -> video stream at the rate of the audio memory."""

    def __init__(self, front: str, width: int, n_heads: int, n_layers: int):
        super().__init__()
        self.front = FRONTS[front]()
        self.project = nn.Linear(self.front.width, width)
        self.blocks = nn.ModuleList(Block(width, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, mouths: Tensor, seen: Tensor) -> Tensor:
        """mouths (B, T, 88, 88) float grey levels in [0, 1]; seen (B, T) bool, False for padding and faceless frames.

        Returns (B, 2T, D): each frame twice, at positions 2t of the audio memory's clock, before the last norm.
        """
        mouths = ((mouths - GREY_MEAN) / GREY_STD) * seen[:, :, None, None]
        x = self.project(self.front(mouths))
        x = x + sinusoids(x.shape[1], x.shape[2], stride=MEMORY_PER_FRAME, device=x.device).to(x.dtype)
        for block in self.blocks:
            x = block(x, seen)
        return x.repeat_interleave(MEMORY_PER_FRAME, dim=1)
