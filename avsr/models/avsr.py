"""The whole network: `Dims` describe it, `AVSR` is it, `Memory` is what its encoders make of an utterance.

    log-mel (B, 100/s, n_mels) -> audio blocks ─┐ BidirectionalCrossAttention in the top layers
    mouths  (B, 25/s, 88, 88)  -> video blocks ─┘ -> Memory (B, 50/s, D) -> Decoder -> logits (N, L, V)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from avsr.memory import Memory
from avsr.models.audio import AUDIO_BLOCKS, AudioEncoder
from avsr.models.blocks import length_mask
from avsr.models.decoder import Decoder, Network
from avsr.models.fusion import BidirectionalCrossAttention, ReliabilityEstimator
from avsr.models.video import BLOCKS, FRONTENDS, VideoEncoder
from avsr.rates import MEMORY_PER_FRAME, MEMORY_RATE
from avsr.schema import Between, OneOf
from avsr.text import CTC_LETTERS

Width = Annotated[int, Between(4, 2**14)]                   # sinusoids need 4; Whisper's largest has 1280
Heads = Annotated[int, Between(1, 2**10)]
Layers = Annotated[int, Between(0, 2**8)]
Vocabulary = Annotated[int, Between(1, 2**20)]


@dataclass(frozen=True)
class Dims:
    """Everything needed to build the network; with its weights it is a model. `video_frontend` None: an audio-only network."""

    width: Width = 256
    n_heads: Heads = 4
    n_mels: Annotated[int, Between(0, 2**10)] = 80          # 0: the input is the waveform, see audio.WaveformFrontend
    n_audio_layers: Layers = 4
    n_video_layers: Layers = 4
    n_fusion_layers: Layers = 2                             # of the audio layers, from the top
    n_decoder_layers: Layers = 3                            # 0: no decoder; the CTC heads write the text
    n_vocab: Vocabulary = 51_864
    n_context: Annotated[int, Between(1, 2**16)] = 448      # tokens
    n_ctc: Annotated[int, Between(0, len(CTC_LETTERS) + 1)] = 29    # blank, space, a-z, apostrophe; 0: no CTC heads
    video_frontend: Annotated[str, OneOf(FRONTENDS)] | None = "resnet18"
    video_blocks: Annotated[str, OneOf(BLOCKS)] = "transformer"
    audio_blocks: Annotated[str, OneOf(AUDIO_BLOCKS)] = "transformer"
    video_width: Width | None = None                        # of the video blocks; None: as wide as the rest
    n_local: Layers = 0                                     # convolutions over time below the audio blocks; Whisper has none
    n_reliability: Annotated[int, Between(0, 2**14)] = 0    # hidden units of the reliability estimator; 0: there is none

    def __post_init__(self):
        """Raises ValueError where the sizes do not go together; the bounds of each are checked by `schema`."""
        if self.n_fusion_layers > self.n_audio_layers:
            raise ValueError(f"{self.n_fusion_layers} fusion layers among {self.n_audio_layers} audio layers")
        if self.width % self.n_heads or self.width % 2:
            raise ValueError(f"width {self.width} in {self.n_heads} heads")
        head = self.width // self.n_heads
        if not self.n_decoder_layers and not self.n_ctc:
            raise ValueError("neither decoder layers nor CTC heads")
        if self.video_width is not None and (self.video_width % head or self.video_width % 2):
            raise ValueError(f"video width {self.video_width} in heads {head} wide")


class AVSR(Network):
    """Our own network. It transcribes audio, video, or both: either input may be None."""

    memory_rate = MEMORY_RATE
    joint_ctc = False

    def __init__(self, dims: Dims):
        super().__init__()
        self.dims = dims
        self.audio = AudioEncoder(dims.n_mels, dims.width, dims.n_heads, dims.n_audio_layers, dims.n_local,
                                  dims.audio_blocks)
        self.decoder = Decoder(dims.n_vocab, dims.n_context, dims.width, dims.n_heads, dims.n_decoder_layers,
                               video=dims.video_frontend is not None)
        self.ctc = nn.ModuleDict({"audio": nn.Linear(dims.width, dims.n_ctc)} if dims.n_ctc else {})
        if dims.video_frontend is not None:
            self.video = VideoEncoder(dims.video_frontend, dims.width, dims.video_width or dims.width,
                                      dims.width // dims.n_heads, dims.n_video_layers, dims.video_blocks)
            if dims.n_reliability:
                self.reliability = ReliabilityEstimator(dims.width, dims.n_reliability, self.video.frontend.width)
            self.fusion_layers = nn.ModuleList(BidirectionalCrossAttention(dims.width, dims.n_heads)
                                               for _ in range(dims.n_fusion_layers))
            if dims.n_ctc:
                self.ctc["video"] = nn.Linear(dims.width, dims.n_ctc)
                self.ctc["fused"] = nn.Linear(2 * dims.width, dims.n_ctc)

    def encode(self, mel: Tensor | None, mouths: Tensor | None = None, *, mel_lengths: Tensor | None = None,
               seen: Tensor | None = None, audio_states: Tensor | None = None) -> Memory:
        """Encode audio, video, or both.

        mel: (B, columns, n_mels) float, or (B, samples, 1) where n_mels is 0, see features.features; mel_lengths (B,): how many
        of them count. mouths: (B, T, 88, 88) float grey levels in [0, 1]; seen (B, T) bool. None: all of them. An utterance
        that lacks a modality of its batch has length 0, or nothing seen. audio_states: from `encode_audio`, in place of mel.
        """
        assert mel is not None or mouths is not None or audio_states is not None, "neither audio nor video"
        assert mouths is None or self.dims.video_frontend is not None, "this network has no video encoder"
        memory, video = Memory(None, None), None
        if mouths is not None:
            seen = torch.ones(mouths.shape[:2], dtype=torch.bool, device=mouths.device) if seen is None else seen
            features = self.video.features(mouths, seen)
            video = self.video(features, seen)
            unfused = self.video.norm(video)
            memory = Memory(None, unfused, None, seen.repeat_interleave(MEMORY_PER_FRAME, dim=1), unfused)
            if self.reliability is not None:
                distance = self.reliability.detector.relative_distance(features, seen)
                memory = replace(memory, in_distribution=self.reliability.detector(distance), ood_distance=distance)
        if audio_states is None and mel is None:
            return memory
        audio = audio_states
        if audio is None:
            assert mel is not None
            audio = self.encode_audio(mel, mel_lengths)
        audio_mask = None if mel_lengths is None else length_mask(self.audio.positions(mel_lengths), audio.shape[1])
        memory = replace(memory, audio=audio, audio_mask=audio_mask)
        if video is not None and self.reliability is not None:
            assert memory.video_mask is not None
            assert memory.in_distribution is not None
            logits = self.reliability(audio, video, audio_mask, memory.video_mask)
            reliability = self.reliability.degree(logits) * memory.in_distribution.to(logits.dtype)
            memory = replace(memory, reliability=reliability, reliability_logits=logits)
        return self._fuse(memory, video)

    def encode_audio(self, mel: Tensor, mel_lengths: Tensor | None = None) -> Tensor:
        """The audio blocks below the fusion layers: mel (B, 2S, n_mels) -> (B, S, D), `audio_states` of `encode`."""
        audio = self.audio.frontend(mel, mel_lengths)
        mask = None if mel_lengths is None else length_mask(self.audio.positions(mel_lengths), audio.shape[1])
        for block in self.audio.blocks[:self.dims.n_audio_layers - self.dims.n_fusion_layers]:
            audio = block(audio, mask)
        return audio

    def _fuse(self, memory: Memory, video: Tensor | None) -> Memory:
        """The top audio blocks, each followed by its fusion layer where there is video (B, Sv, D) before its norm."""
        audio, audio_mask, video_mask = memory.audio, memory.audio_mask, memory.video_mask
        assert audio is not None
        whole = torch.ones(audio.shape[:2], dtype=torch.bool, device=audio.device) if audio_mask is None else audio_mask
        for i, block in enumerate(self.audio.blocks[self.dims.n_audio_layers - self.dims.n_fusion_layers:]):
            audio = block(audio, audio_mask)
            if video is not None:
                audio, video = self.fusion_layers[i](audio, video, whole, video_mask, memory.reliability)
        return replace(memory, audio=self.audio.norm(audio), video=None if video is None else self.video.norm(video))

    def ctc_log_probs(self, memory: Memory) -> dict[str, Tensor]:
        """CTC log-probabilities (B, S, n_ctc) float32 by name: `audio`, `video`, and, where both exist, `fused`."""
        out = {}
        if memory.audio is not None:
            out["audio"] = self.ctc["audio"](memory.audio)
        if memory.video is not None:
            out["video"] = self.ctc["video"](memory.video)
        if memory.audio is not None and memory.video is not None:
            length = memory.video.shape[1]                  # Whisper pads audio to 30 s: the rest is empty
            both = torch.cat([memory.audio[:, :length], memory.video[:, :memory.audio.shape[1]]], dim=-1)
            out["fused"] = self.ctc["fused"](both)
        return {name: logits.float().log_softmax(dim=-1) for name, logits in out.items()}

    @property
    def modalities(self) -> tuple[str, ...]:
        """See protocol.SpeechModel."""
        return ("a",) if self.dims.video_frontend is None else ("a", "v", "av")

    @property
    def ctc_only(self) -> bool:
        """See protocol.SpeechModel."""
        return not self.dims.n_decoder_layers

    @property
    def gates(self) -> dict[str, float]:
        """The opening tanh(g) of each gate, by its name."""
        return {name: parameter.tanh().item() for name, parameter in self.named_parameters() if name.endswith("_gate")}


def without_video(dims: Dims) -> Dims:
    """The same network for audio only."""
    return replace(dims, video_frontend=None)
