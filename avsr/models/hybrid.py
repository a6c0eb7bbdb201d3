"""The field's published network: Conformers over lips, the waveform or both, with a CTC head and a Transformer decoder.

    waveform (B, samples, 1) -> ResNet over time -> Conformer ─┐
    mouths (B, T, 88, 88)  -> conv3d + ResNet-18 -> Conformer ─┴ MLP where there are both -> Memory (B, 25/s, D) -> Decoder
It is auto_avsr's (Ma et al. 2023) and that of Visual Speech Recognition for Multiple Languages (Ma et al. 2022); one network
goes by one modality, which its weights decide. It answers like `AVSR`: encode, start, step, ctc_log_probs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsr.models.audio import WaveFront
from avsr.models.avsr import Heads, Layers, Memory, Vocabulary, Width
from avsr.models.blocks import length_mask
from avsr.models.conformer import EPS, KERNEL, ConformerBlock, interleaved_sinusoids
from avsr.models.decoder import Decoder, DecoderBlock, Network
from avsr.models.video import GREY_MEAN, GREY_STD, ResNet18Front
from avsr.rates import SAMPLES_PER_FRAME, VIDEO_FPS
from avsr.schema import Between, OneOf

PLACES = 1024                                               # rows by which the decoder's table of positions grows


@dataclass(frozen=True)
class HybridDims:
    """Everything needed to build the network. Of n_audio_layers and n_video_layers, 0 leaves that stream out."""

    width: Width = 768
    n_heads: Heads = 12
    n_inside: Annotated[int, Between(1, 2**16)] = 3072      # of the feed-forwards
    n_audio_layers: Layers = 0
    n_video_layers: Layers = 0
    n_decoder_layers: Layers = 6
    n_vocab: Vocabulary = 5049                              # of CTC and decoder alike: blank first, end last
    kernel: Annotated[int, Between(1, 2**10)] = KERNEL
    n_fusion: Annotated[int, Between(1, 2**16)] = 8192      # hidden units where two streams are joined
    fusion_norm: Annotated[str, OneOf(("batch", "layer"))] = "batch"
    grey_mean: Annotated[float, Between(0, 1)] = GREY_MEAN  # of grey levels / 255 that the lips were trained on
    grey_std: Annotated[float, Between(1e-3, 1)] = GREY_STD
    n_mels: Annotated[int, Between(0, 0)] = 0               # it hears the waveform, see features.standardise, and nothing else

    def __post_init__(self):
        """Raises ValueError where the sizes do not go together, or one is 0; upper bounds are for `schema` to check."""
        sizes = ("width", "n_heads", "n_inside", "n_vocab", "kernel", "n_fusion")
        if empty := [name for name in sizes if getattr(self, name) < 1]:
            raise ValueError(f"{', '.join(empty)} 0")
        if self.width % self.n_heads or self.width % 2:
            raise ValueError(f"width {self.width} and {self.n_heads} heads")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel}")
        if not self.n_audio_layers and not self.n_video_layers:
            raise ValueError("neither audio layers nor video layers")
        assert self.n_mels == 0, "its ears take waveforms"


class Stream(nn.Module):
    """A front end and its Conformer: what the front end takes -> (B, T, D)."""

    def __init__(self, front: nn.Module, dims: HybridDims, n_layers: int):
        super().__init__()
        self.front = front
        self.project = nn.Linear(front.width, dims.width)
        self.blocks = nn.ModuleList(ConformerBlock(dims.width, dims.n_heads, dims.n_inside, dims.kernel)
                                    for _ in range(n_layers))
        self.norm = nn.LayerNorm(dims.width, EPS)

    def forward(self, x: Tensor, inside: Tensor | None, mask: Tensor | None) -> Tensor:
        """x and `inside` as the front end takes them; mask (B, T) of the frames that count, None for all."""
        x = self.project(self.front(x, inside))
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
        self.blocks = nn.ModuleList(DecoderBlock(dims.width, dims.n_heads, video=False, eps=EPS, feed=nn.Sequential(
            nn.Linear(dims.width, dims.n_inside), nn.ReLU(), nn.Linear(dims.n_inside, dims.width)))
            for _ in range(dims.n_decoder_layers))
        self.norm = nn.LayerNorm(dims.width, EPS)
        self.out = nn.Linear(dims.width, dims.n_vocab)
        self.places: Tensor | None = None                   # (rows, D), made when they are needed

    def embed(self, tokens: Tensor, past: int) -> Tensor:
        """See Decoder. There is no last position."""
        x, n_tokens = self.embedding(tokens), past + tokens.shape[1]
        places = self.places
        if places is None or len(places) < n_tokens or (places.device, places.dtype) != (x.device, x.dtype):
            with torch.inference_mode(False):               # kept: a training may use what an inference has made
                numbers = torch.arange(-(-n_tokens // PLACES) * PLACES, device=x.device)
                self.places = places = interleaved_sinusoids(numbers, x.shape[2]).to(x.dtype)
        return x + places[past:n_tokens]

    def logits(self, x: Tensor) -> Tensor:
        """(N, L, D) -> (N, L, V) float32."""
        return self.out(x).float()


class Hybrid(Network):
    """Hears, or sees, or both at once; and writes. The scale sqrt(D) that the originals put on what enters encoder and
    decoder is in the weights of `project` and `embedding`; a key's bias, which no softmax sees, is left out."""

    memory_rate = VIDEO_FPS
    spells_tokens = True
    doubts = False
    gates: ClassVar[dict[str, float]] = {}

    def __init__(self, dims: HybridDims):
        super().__init__()
        self.dims = dims
        self.audio = self.video = self.fusion = None
        if dims.n_audio_layers:
            self.audio = Stream(WaveFront(), dims, dims.n_audio_layers)
        if dims.n_video_layers:
            self.video = Stream(ResNet18Front(nn.SiLU), dims, dims.n_video_layers)
        if self.audio is not None and self.video is not None:
            self.fusion = StreamFusion(dims.width, dims.n_fusion, dims.fusion_norm)
        self.ctc = nn.Linear(dims.width, dims.n_vocab)
        self.decoder = HybridDecoder(dims)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The one modality it goes by: `a`, `v` or `av`."""
        return ("av" if self.fusion is not None else "a" if self.video is None else "v",)

    def listen(self, mel: Tensor, mel_lengths: Tensor | None = None) -> Tensor:
        """The waveform as it is: nothing can be heard before it is known how long the picture lasts."""
        return mel

    def encode(self, mel: Tensor | None, mouths: Tensor | None = None, *, mel_lengths: Tensor | None = None,
               seen: Tensor | None = None, heard: Tensor | None = None) -> Memory:
        """Listen, look, or both.

        mel: (B, samples, 1) waveform of zero mean and unit variance; mel_lengths (B,) samples that count, None for all.
        mouths: (B, T, 88, 88) float grey levels in [0, 1]; seen (B, T): an utterance ends with its last frame that is
        seen, or its sound, if that is longer. Frames without a face before that are taken as they are.
        heard: mel again, see `listen`. Returns a Memory whose `audio` is what the decoder looks at, VIDEO_FPS positions
        a second, whatever it was made of.
        """
        sound = mel if heard is None else heard
        frames = self._frames(sound, mouths, mel_lengths, seen)
        n_frames, short = int(frames.max()), bool((frames != frames.max()).any())
        mask = length_mask(frames, n_frames) if short else None
        streams = []
        if self.video is not None:
            assert mouths is not None, "this network goes by the lips"
            streams.append(self.video(self._grey(mouths, frames, n_frames), None, mask))
        if self.audio is not None:
            assert sound is not None, "this network goes by the sound"
            lengths = frames * SAMPLES_PER_FRAME if short else None
            streams.append(self.audio(_fitted(sound, n_frames * SAMPLES_PER_FRAME), lengths, mask))
        return Memory(streams[0] if self.fusion is None else self.fusion(*streams), None, mask)

    def _frames(self, sound: Tensor | None, mouths: Tensor | None, lengths: Tensor | None, seen: Tensor | None) -> Tensor:
        """Video frames (B,) of each utterance, one at least."""
        first, frames = sound if mouths is None else mouths, []
        if mouths is not None and self.video is not None:
            numbers = torch.arange(1, mouths.shape[1] + 1, device=mouths.device).expand(mouths.shape[:2])
            frames.append((numbers if seen is None else numbers * seen).amax(dim=1))
        if sound is not None and self.audio is not None:
            samples = torch.full(sound.shape[:1], sound.shape[1], device=sound.device) if lengths is None else lengths
            # Alone it is cut to whole frames, as the originals do; beside mouths none of it may be lost.
            frames.append(samples // SAMPLES_PER_FRAME if mouths is None else -(-samples // SAMPLES_PER_FRAME))
        return torch.stack(frames).amax(dim=0).clamp_min(1).to(first.device)

    def _grey(self, mouths: Tensor, frames: Tensor, n_frames: int) -> Tensor:
        """Normed grey levels, nothing (0) beyond each utterance: (B, T, 88, 88) -> (B, n_frames, 88, 88)."""
        grey = _fitted(mouths, n_frames)
        there = length_mask(frames, n_frames)[:, :, None, None]
        return (grey - self.dims.grey_mean) / self.dims.grey_std * there

    def ctc_log_probs(self, memory: Memory) -> dict[str, Tensor]:
        """CTC log-probabilities (B, T, V) float32 of the decoder's tokens, under the name of what they were made from."""
        name = {"a": "audio", "v": "video", "av": "fused"}[self.modalities[0]]
        return {name: self.ctc(memory.audio).float().log_softmax(dim=-1)}


def _fitted(x: Tensor, n: int) -> Tensor:
    """(B, L, ...) cut, or filled up with zeros, to (B, n, ...)."""
    missing = n - x.shape[1]
    return x[:, :n] if missing <= 0 else F.pad(x, (0, 0) * (x.ndim - 2) + (0, missing))
