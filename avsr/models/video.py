"""The video encoder: mouths (B, T, 88, 88) -> a frontend per frame -> blocks -> (B, 50/s, D).

`resnet18` is the field's frontend (Stafylakis and Tzimiropoulos 2017; auto_avsr): Conv3d 5x7x7, max-pool, ResNet-18 per
frame; `resnet18-silu` has auto_avsr's activation. `compact` is ours, for machines without a GPU: it needs 87 times
fewer multiplications. The blocks are Whisper's, Conformer blocks as in the field's best lip readers, or bidirectional LSTMs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsr.models.blocks import Block, sinusoids
from avsr.models.conformer import ConformerBlock
from avsr.models.recurrent import LSTMBlock
from avsr.models.resnet import WIDTH, stages
from avsr.rates import MEMORY_PER_FRAME

GREY_MEAN, GREY_STD = 0.421, 0.165                          # of grey levels / 255 over LRS mouths (auto_avsr)
FRAMES_AT_ONCE = 128                                        # of the ResNet without gradients: bounds its memory to 0.2 GB


class ResNet18Frontend(nn.Module):
    """mouths (B, T, 88, 88) -> (B, T, 512). About 20 GMAC for 3 s; 11.2 M parameters. auto_avsr's has nn.SiLU throughout."""

    width = WIDTH

    def __init__(self, activation: Callable[..., nn.Module] = nn.ReLU):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv3d(1, 64, kernel_size=(5, 7, 7), stride=(1, 2, 2), padding=(2, 3, 3), bias=False),
            nn.BatchNorm3d(64),
            activation(inplace=True),
            nn.MaxPool3d(kernel_size=(1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
        )
        self.trunk = nn.Sequential(*stages(2, activation), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, mouths: Tensor, seen: Tensor) -> Tensor:
        """`seen` is not needed: frames without a face are grey already."""
        batch, n_frames = mouths.shape[:2]
        if torch.is_grad_enabled():
            maps = self.conv(mouths[:, None]).transpose(1, 2).flatten(0, 1)      # (B * T, 64, 22, 22)
            return self.trunk(maps).view(batch, n_frames, self.width)
        return torch.stack([self._one(utterance) for utterance in mouths])

    def _one(self, mouths: Tensor) -> Tensor:
        """One utterance in chunks that overlap by the 2 frames that the convolution spans: (T, 88, 88) -> (T, 512)."""
        reach = 2
        padded = F.pad(mouths, (0, 0, 0, 0, reach, reach))
        conv = self.conv[0]
        assert isinstance(conv, nn.Conv3d)
        # Channels last suits a GPU; on a CPU it gains 5 % and rounds four times as coarsely.
        layout = torch.channels_last if mouths.is_cuda else torch.contiguous_format
        parts = []
        for start in range(0, mouths.shape[0], FRAMES_AT_ONCE):
            chunk = padded[start:start + FRAMES_AT_ONCE + 2 * reach][None, None]
            maps = F.conv3d(chunk, conv.weight, stride=conv.stride, padding=(0, 3, 3))
            maps = self.conv[1:3](maps)[0].transpose(0, 1).contiguous(memory_format=layout)
            maps = F.max_pool2d(maps, kernel_size=3, stride=2, padding=1)    # in 3-D it takes 9 times as long
            parts.append(self.trunk(maps))
        return torch.cat(parts)


class CompactFrontend(nn.Module):
    """mouths (B, T, 88, 88) -> (B, T, 256). About 0.27 GMAC for 3 s; 0.7 M parameters.

    Its input is each frame at half the resolution and its differences from the two neighbours, so that 2-D convolutions see
    motion as a 3-D one does; one convolution over time follows. The first stride is 4, because large early maps are slow on a
    CPU (42 ms a clip, forward and backward on one core, against 68 ms for a stride of 2 and as many multiplications).
    """

    width = 256

    def __init__(self):
        super().__init__()
        stages = []
        for n_in, n_out, size, stride in ((3, 48, 6, 4), (48, 96, 3, 2), (96, 128, 3, 2)):     # 44 -> 11 -> 6 -> 3 pixels
            conv = nn.Conv2d(n_in, n_out, kernel_size=size, stride=stride, padding=(size - 1) // 2, bias=False)
            stages += [conv, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]
        self.stages = nn.Sequential(*stages, nn.Flatten(), nn.Linear(9 * 128, self.width), nn.GELU())
        self.over_time = nn.Conv1d(self.width, self.width, kernel_size=3, padding=1)

    def forward(self, mouths: Tensor, seen: Tensor) -> Tensor:
        """seen (B, T) bool: frames without a face do not influence their neighbours."""
        batch, n_frames = mouths.shape[:2]
        small = F.avg_pool2d(mouths, 2)                                          # (B, T, 44, 44)
        steps = F.pad(small, (0, 0, 0, 0, 1, 1)).diff(dim=1)                     # (B, T + 1, 44, 44)
        frames = torch.stack([small, steps[:, :-1], steps[:, 1:]], dim=2).flatten(0, 1)
        frames = frames.contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled() or len(frames) <= FRAMES_AT_ONCE:
            x = self.stages(frames)
        else:
            x = torch.cat([self.stages(some) for some in frames.split(FRAMES_AT_ONCE)])
        x = x.view(batch, n_frames, self.width) * seen[:, :, None]
        return x + F.gelu(self.over_time(x.transpose(1, 2))).transpose(1, 2)


FRONTENDS = {"resnet18": ResNet18Frontend, "resnet18-silu": partial(ResNet18Frontend, nn.SiLU), "compact": CompactFrontend}
BLOCKS = {"transformer": Block, "conformer": ConformerBlock, "lstm": LSTMBlock}


class VideoEncoder(nn.Module):
    """Mouths -> video at the rate of the audio memory. The blocks are `inside` wide, the output is `width` wide."""

    def __init__(self, frontend: str, width: int, inside: int, head_width: int, n_layers: int, blocks: str = "transformer"):
        super().__init__()
        self.frontend = FRONTENDS[frontend]()
        self.project = nn.Linear(self.frontend.width, inside)
        self.blocks = nn.ModuleList(BLOCKS[blocks](inside, inside // head_width) for _ in range(n_layers))
        self.has_positions = blocks == "transformer"        # a Conformer attends by distance, an LSTM reads in order
        self.lift = nn.Identity() if inside == width else nn.Linear(inside, width)
        self.norm = nn.LayerNorm(width)

    def features(self, mouths: Tensor, seen: Tensor) -> Tensor:
        """The frontend's features of each frame, (B, T, F), of mouths (B, T, 88, 88) float, grey levels in [0, 1].

        seen: (B, T) bool, False for padding and frames without a face.
        """
        return self.frontend(((mouths - GREY_MEAN) / GREY_STD) * seen[:, :, None, None], seen)

    def forward(self, features: Tensor, seen: Tensor) -> Tensor:
        """The output of `features` -> (B, 2T, D) before the last norm: each frame twice, at positions 2t and 2t + 1."""
        x = self.project(features)
        if self.has_positions:
            x = x + sinusoids(x.shape[1], x.shape[2], stride=MEMORY_PER_FRAME, device=x.device).to(x.dtype)
        for block in self.blocks:
            x = block(x, seen)
        return self.lift(x).repeat_interleave(MEMORY_PER_FRAME, dim=1)
