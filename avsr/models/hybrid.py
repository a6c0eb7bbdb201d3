"""The field's published network: Conformers over mouths, the waveform or both, with a CTC head and a Transformer decoder.

    waveform (B, samples, 1) -> ResNet over time -> Conformer ─┐
    mouths (B, T, 88, 88)  -> conv3d + ResNet-18 -> Conformer ─┴ MLP where there are both -> Memory (B, 25/s, D) -> Decoder
It is auto_avsr's (Ma et al. 2023) and that of Visual Speech Recognition for Multiple Languages (Ma et al. 2022). A network
uses one modality, which its weights decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsr.memory import Memory
from avsr.models.audio import WaveformFrontend
from avsr.models.avsr import Heads, Layers, Vocabulary, Width
from avsr.models.blocks import length_mask, stack
from avsr.models.conformer import EPS, KERNEL, ConformerBlock, interleaved_sinusoids, relu_feed_forward
from avsr.models.decoder import Decoder, DecoderBlock, Network
from avsr.models.video import GREY_MEAN, GREY_STD, ResNet18Frontend
from avsr.rates import SAMPLES_PER_FRAME, VIDEO_FPS
from avsr.schema import Between, OneOf

TABLE_STEP = 1024                                           # rows by which the decoder's table of positions grows


@dataclass(frozen=True)
class HybridDims:
    """Everything needed to build the network. 0 audio layers, or 0 video layers: a network without that modality."""

    width: Width = 768
    n_heads: Heads = 12
    n_inside: Annotated[int, Between(1, 2**16)] = 3072      # of the feed-forwards
    n_audio_layers: Layers = 0
    n_video_layers: Layers = 0
    n_decoder_layers: Layers = 6
    n_vocab: Vocabulary = 5049                              # of CTC and decoder alike: blank first, end last
    kernel: Annotated[int, Between(1, 2**10)] = KERNEL
    n_fusion: Annotated[int, Between(1, 2**16)] = 8192      # hidden units where audio and video are joined
    fusion_norm: Annotated[str, OneOf(("batch", "layer"))] = "batch"
    grey_mean: Annotated[float, Between(0, 1)] = GREY_MEAN  # of the grey levels / 255 of its training clips
    grey_std: Annotated[float, Between(1e-3, 1)] = GREY_STD
    n_mels: Annotated[int, Between(0, 0)] = 0               # the input is the waveform, see features.standardise

    @property
    def n_context(self) -> None:
        """There is no limit, unlike in Dims."""

    def __post_init__(self):
        """Raises ValueError where the sizes do not go together, or one is 0; upper bounds are checked by `schema`."""
        sizes = ("width", "n_heads", "n_inside", "n_vocab", "kernel", "n_fusion")
        if empty := [name for name in sizes if getattr(self, name) < 1]:
            raise ValueError(f"{', '.join(empty)} 0")
        if self.width % self.n_heads or self.width % 2:
            raise ValueError(f"width {self.width} and {self.n_heads} heads")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel}")
        if not self.n_audio_layers and not self.n_video_layers:
            raise ValueError("neither audio layers nor video layers")
        assert self.n_mels == 0, "its audio encoder takes waveforms"


class Stream(nn.Module):
    """A frontend and its Conformer: the frontend's input -> (B, T, D)."""

    def __init__(self, frontend: ResNet18Frontend | WaveformFrontend, dims: HybridDims, n_layers: int):
        super().__init__()
        self.frontend = frontend
        self.project = nn.Linear(frontend.width, dims.width)
        self.blocks = stack(ConformerBlock(dims.width, dims.n_heads, dims.n_inside, dims.kernel)
                            for _ in range(n_layers))
        self.norm = nn.LayerNorm(dims.width, EPS)

    def forward(self, x: Tensor, inside: Tensor | None, mask: Tensor | None) -> Tensor:
        """x and `inside` as the frontend takes them; mask (B, T) of the frames that count, None for all."""
        x = self.project(self.frontend(x, inside))
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


class StreamFusion(nn.Module):
    """Two streams into one, frame by frame: (B, T, D) twice -> (B, T, D)."""

    def __init__(self, width: int, inside: int, norm: str):
        super().__init__()
        self.into = nn.Linear(2 * width, inside)
        self.norm = nn.BatchNorm1d(inside) if norm == "batch" else nn.LayerNorm(inside)
        self.out = nn.Linear(inside, width)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """The video comes first."""
        x = self.norm(self.into(torch.cat([video, audio], dim=-1)).flatten(0, 1))
        return self.out(F.relu(x)).view(video.shape)


class HybridDecoder(Decoder):
    """ESPnet's Transformer decoder (Watanabe et al. 2018): sines for positions, ReLU, logits with weights of their own."""

    def __init__(self, dims: HybridDims):
        nn.Module.__init__(self)
        self.embedding = nn.Embedding(dims.n_vocab, dims.width)
        self.blocks = stack(DecoderBlock(dims.width, dims.n_heads, video=False, eps=EPS,
                                         feed=relu_feed_forward(dims.width, dims.n_inside))
                            for _ in range(dims.n_decoder_layers))
        self.norm = nn.LayerNorm(dims.width, EPS)
        self.out = nn.Linear(dims.width, dims.n_vocab)
        self.table: Tensor | None = None                    # of positions (rows, D), made when needed

    def embed(self, tokens: Tensor, past: int) -> Tensor:
        """See Decoder. The number of positions is not limited."""
        x, n_tokens = self.embedding(tokens), past + tokens.shape[1]
        table = self.table
        if table is None or len(table) < n_tokens or (table.device, table.dtype) != (x.device, x.dtype):
            with torch.inference_mode(False):               # the table may later be used in training
                numbers = torch.arange(-(-n_tokens // TABLE_STEP) * TABLE_STEP, device=x.device)
                self.table = table = interleaved_sinusoids(numbers, x.shape[2]).to(x.dtype)
        return x + table[past:n_tokens]

    def logits(self, x: Tensor) -> Tensor:
        """(N, L, D) -> (N, L, V) float32."""
        return self.out(x).float()


class HybridAVSR(Network):
    """An imported network. The factor sqrt(D), by which the originals scale the input of encoder and decoder, is part of the
    weights of `project` and `embedding`; the biases of the keys, which no softmax sees, are left out."""

    memory_rate = VIDEO_FPS
    joint_ctc, ctc_only = True, False

    def __init__(self, dims: HybridDims):
        super().__init__()
        self.dims = dims
        self.audio = self.video = self.fusion = None
        if dims.n_audio_layers:
            self.audio = Stream(WaveformFrontend(), dims, dims.n_audio_layers)
        if dims.n_video_layers:
            self.video = Stream(ResNet18Frontend(nn.SiLU), dims, dims.n_video_layers)
        if self.audio is not None and self.video is not None:
            self.fusion = StreamFusion(dims.width, dims.n_fusion, dims.fusion_norm)
        self.ctc = nn.Linear(dims.width, dims.n_vocab)
        self.decoder = HybridDecoder(dims)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The one modality that it uses: `a`, `v` or `av`."""
        return ("av" if self.fusion is not None else "a" if self.video is None else "v",)

    def encode_audio(self, mel: Tensor, mel_lengths: Tensor | None = None) -> Tensor:
        """The waveform as it is: the encoder must know first how long the video is."""
        return mel

    def encode(self, mel: Tensor | None, mouths: Tensor | None = None, *, mel_lengths: Tensor | None = None,
               seen: Tensor | None = None, audio_states: Tensor | None = None) -> Memory:
        """See AVSR.encode. mel: (B, samples, 1), a waveform of zero mean and unit variance. An utterance ends with its last
        frame that shows a face, or with its sound where that is longer; earlier frames without a face are taken as they are.

        In the result `audio` holds the encoded utterance, VIDEO_FPS positions a second, whatever it was made of.
        """
        sound = mel if audio_states is None else audio_states
        frames = self._frames(sound, mouths, mel_lengths, seen)
        n_frames, short = int(frames.max()), bool((frames != frames.max()).any())
        mask = length_mask(frames, n_frames) if short else None
        streams = []
        if self.video is not None:
            assert mouths is not None, "this network needs mouths"
            streams.append(self.video(self._grey(mouths, frames, n_frames), None, mask))
        if self.audio is not None:
            assert sound is not None, "this network needs sound"
            lengths = frames * SAMPLES_PER_FRAME if short else None
            streams.append(self.audio(_fitted(sound, n_frames * SAMPLES_PER_FRAME), lengths, mask))
        return Memory(streams[0] if self.fusion is None else self.fusion(*streams), None, mask)

    def _frames(self, sound: Tensor | None, mouths: Tensor | None, lengths: Tensor | None, seen: Tensor | None) -> Tensor:
        """Video frames (B,) of each utterance, one at least."""
        first, frames = sound if mouths is None else mouths, []
        assert first is not None, "neither audio nor video"
        if mouths is not None and self.video is not None:
            numbers = torch.arange(1, mouths.shape[1] + 1, device=mouths.device).expand(mouths.shape[:2])
            frames.append((numbers if seen is None else numbers * seen).amax(dim=1))
        if sound is not None and self.audio is not None:
            samples = torch.full(sound.shape[:1], sound.shape[1], device=sound.device) if lengths is None else lengths
            # Alone it is cut to whole frames, as in the originals; beside mouths none of it may be lost.
            frames.append(samples // SAMPLES_PER_FRAME if mouths is None else -(-samples // SAMPLES_PER_FRAME))
        return torch.stack(frames).amax(dim=0).clamp_min(1).to(first.device)

    def _grey(self, mouths: Tensor, frames: Tensor, n_frames: int) -> Tensor:
        """Normalised grey levels, 0 beyond each utterance: (B, T, 88, 88) -> (B, n_frames, 88, 88)."""
        grey = _fitted(mouths, n_frames)
        there = length_mask(frames, n_frames)[:, :, None, None]
        return (grey - self.dims.grey_mean) / self.dims.grey_std * there

    def ctc_log_probs(self, memory: Memory) -> dict[str, Tensor]:
        """CTC log-probabilities (B, T, V) float32 of the decoder's tokens, by the name of the modality they were made from."""
        name = {"a": "audio", "v": "video", "av": "fused"}[self.modalities[0]]
        return {name: self.ctc(memory.audio).float().log_softmax(dim=-1)}


def _fitted(x: Tensor, n: int) -> Tensor:
    """(B, L, ...) cut, or filled up with zeros, to (B, n, ...)."""
    missing = n - x.shape[1]
    return x[:, :n] if missing <= 0 else F.pad(x, (0, 0) * (x.ndim - 2) + (0, missing))
