"""The whole network: `Dims` describe it, `AVSR` is it, `Memory` is what it hears and sees.

    log-mel (B, 100/s, n_mels) -> audio blocks ─┐ Exchange in the top layers
    mouths  (B, 25/s, 88, 88)  -> lip blocks   ─┘ -> Memory (B, 50/s, D) -> Decoder -> logits (N, L, V)
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from avsr.models.audio import AudioEncoder
from avsr.models.blocks import length_mask
from avsr.models.decoder import Decoder, Network
from avsr.models.fusion import Exchange, Heed, Trust
from avsr.models.video import BLOCKS, FRONTS, LipEncoder
from avsr.rates import MEMORY_PER_FRAME, MEMORY_RATE
from avsr.schema import Between, OneOf
from avsr.text import CTC_LETTERS

Width = Annotated[int, Between(4, 2**14)]                   # sinusoids need 4; Whisper's largest has 1280
Heads = Annotated[int, Between(1, 2**10)]
Layers = Annotated[int, Between(0, 2**8)]
Hidden = Annotated[int, Between(0, 2**14)]
Vocabulary = Annotated[int, Between(1, 2**20)]


@dataclass(frozen=True)
class Dims:
    """Everything needed to build the network; with its weights it is a model. `lips` None: a network without eyes."""

    width: Width = 256
    n_heads: Heads = 4
    n_mels: Annotated[int, Between(0, 2**10)] = 80          # 0: it hears the waveform itself, see audio.WaveFront
    n_audio_layers: Layers = 4
    n_video_layers: Layers = 4
    n_fusion_layers: Layers = 2                             # of the audio layers, from the top
    n_decoder_layers: Layers = 3
    n_vocab: Vocabulary = 51_864
    n_context: Annotated[int, Between(1, 2**16)] = 448      # tokens
    n_ctc: Annotated[int, Between(0, len(CTC_LETTERS) + 1)] = 29    # blank, space, a-z, apostrophe; 0: no CTC heads
    lips: Annotated[str, OneOf(FRONTS)] | None = "resnet18"  # see video.FRONTS
    video_blocks: Annotated[str, OneOf(BLOCKS)] = "transformer"
    video_width: Width | None = None                        # of the video blocks; None: as wide as the rest
    n_local: Layers = 0                                     # convolutions over time below the audio blocks; Whisper has none
    n_trust: Hidden = 0                                     # hidden units of the judge of the lips; 0: always believed
    n_heed: Hidden = 0                                      # of the judge of the sound, as far as lips are; 0: always heard

    def __post_init__(self):
        """Raises ValueError where the sizes do not go together; the bounds of each are for `schema` to check."""
        if self.n_fusion_layers > self.n_audio_layers:
            raise ValueError(f"{self.n_fusion_layers} fusion layers among {self.n_audio_layers} audio layers")
        if self.width % self.n_heads or self.width % 2:
            raise ValueError(f"width {self.width} in {self.n_heads} heads")
        head = self.width // self.n_heads
        if self.video_width is not None and (self.video_width % head or self.video_width % 2):
            raise ValueError(f"video width {self.video_width} in heads {head} wide")
        if self.n_heed and not self.n_trust:
            raise ValueError("sound is judged only where lips are: n_heed without n_trust")


@dataclass(frozen=True)
class Memory:
    """What the encoders made of B utterances, MEMORY_RATE positions a second.

    audio (B, S, D) or None; audio_mask (B, S) bool, None when all S positions count.
    video (B, Sv, D) or None; video_mask (B, Sv) bool, False for padding and for frames without a face.
    lips (B, Sv, D): the video before it heard anything. trust (B,) in [0, 1]: how far the lips are believed, from
    trust_logits (B,); None when nobody judges them: a network without a judge, or nothing to compare them with.
    familiar (B,) in [0, 1]: how far the mouths are like those learnt from; None without a judge. heed (B,) in [0, 1]: how far
    the decoder still listens, at most by `trust` less than 1; None where nobody judges the sound, or there is none, or no lips.
    ood_distance (B,): distance of the mouths from those of the training clips, of which 99 % are below 1 (fusion.Familiar);
    None without a judge.
    seconds (B,): how long each utterance is, padding not counted; None where whoever made the memory does not say.
    """

    audio: Tensor | None
    video: Tensor | None
    audio_mask: Tensor | None = None
    video_mask: Tensor | None = None
    lips: Tensor | None = None
    trust: Tensor | None = None
    trust_logits: Tensor | None = None
    familiar: Tensor | None = None
    heed: Tensor | None = None
    ood_distance: Tensor | None = None
    seconds: Tensor | None = None

    def select(self, utterances: Tensor) -> Memory:
        """The memory of these utterances (B',) only."""
        def keep(x):
            return None if x is None else x.index_select(0, utterances)

        return Memory(**{field.name: keep(getattr(self, field.name)) for field in fields(self)})

    @property
    def n_utterances(self) -> int:
        """B."""
        return len(self.audio if self.audio is not None else self.video)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return (self.audio if self.audio is not None else self.video).device


class AVSR(Network):
    """Hears, sees, and writes. Either input may be None."""

    memory_rate = MEMORY_RATE                               # positions of its Memory a second
    spells_tokens = False                                   # its CTC heads write letters, not the decoder's tokens

    def __init__(self, dims: Dims):
        super().__init__()
        self.dims = dims
        see = dims.lips is not None
        self.audio = AudioEncoder(dims.n_mels, dims.width, dims.n_heads, dims.n_audio_layers, dims.n_local)
        self.decoder = Decoder(dims.n_vocab, dims.n_context, dims.width, dims.n_heads, dims.n_decoder_layers, video=see)
        self.ctc = nn.ModuleDict({"audio": nn.Linear(dims.width, dims.n_ctc)} if dims.n_ctc else {})
        if see:
            self.video = LipEncoder(dims.lips, dims.width, dims.video_width or dims.width, dims.width // dims.n_heads,
                                    dims.n_video_layers, dims.video_blocks)
            self.trust = Trust(dims.width, dims.n_trust, self.video.front.width) if dims.n_trust else None
            self.heed = Heed(dims.width, dims.n_heed) if dims.n_heed else None
            self.exchanges = nn.ModuleList(Exchange(dims.width, dims.n_heads) for _ in range(dims.n_fusion_layers))
            if dims.n_ctc:
                self.ctc["video"] = nn.Linear(dims.width, dims.n_ctc)
                self.ctc["fused"] = nn.Linear(2 * dims.width, dims.n_ctc)

    def encode(self, mel: Tensor | None, mouths: Tensor | None = None, *, mel_lengths: Tensor | None = None,
               seen: Tensor | None = None, heard: Tensor | None = None) -> Memory:
        """Listen and look.

        mel: (B, columns, n_mels) float, FEATURE_RATE, or (B, samples, 1) where n_mels is 0: features.features gives both;
        mel_lengths (B,) columns that count, None for all of them.
        mouths: (B, T, 88, 88) float grey levels in [0, 1], VIDEO_FPS; seen (B, T) bool, None for all of them.
        An utterance that lacks a modality in a batch that has it comes with length 0, or nothing seen.
        heard: what `listen` made of the sound, in place of mel.
        """
        assert mel is not None or mouths is not None or heard is not None, "neither sound nor sight"
        assert mouths is None or self.dims.lips is not None, "this network has no eyes"
        memory = Memory(None, None)
        if mouths is not None:
            seen = torch.ones(mouths.shape[:2], dtype=torch.bool, device=mouths.device) if seen is None else seen
            looks = self.video.look(mouths, seen)
            video = self.video(looks, seen)
            lips = self.video.norm(video)
            memory = Memory(None, lips, None, seen.repeat_interleave(MEMORY_PER_FRAME, dim=1), lips)
            if self.trust is not None:
                distance = self.trust.familiar.relative_distance(looks, seen)
                memory = replace(memory, familiar=self.trust.familiar(distance), ood_distance=distance)
        if mel is None and heard is None:
            return memory
        audio = self.listen(mel, mel_lengths) if heard is None else heard
        audio_mask = None if mel_lengths is None else length_mask(self.audio.positions(mel_lengths), audio.shape[1])
        memory = replace(memory, audio=audio, audio_mask=audio_mask)
        if mouths is None:
            return self._fuse(memory, None)
        if self.trust is not None:
            logits = self.trust(audio, video, audio_mask, memory.video_mask)
            trust = self.trust.degree(logits) * memory.familiar.to(logits.dtype)
            memory = replace(memory, trust=trust, trust_logits=logits)
            if self.heed is not None:
                heed = self.heed.degree(self.heed(audio, video, audio_mask, memory.video_mask))
                memory = replace(memory, heed=1 - trust * (1 - heed))
        return self._fuse(memory, video)

    def listen(self, mel: Tensor, mel_lengths: Tensor | None = None) -> Tensor:
        """The audio blocks below the exchanges: mel (B, 2S, n_mels) -> (B, S, D), which `encode` takes as `heard`."""
        audio = self.audio.front(mel, mel_lengths)
        mask = None if mel_lengths is None else length_mask(self.audio.positions(mel_lengths), audio.shape[1])
        for block in self.audio.blocks[:self.dims.n_audio_layers - self.dims.n_fusion_layers]:
            audio = block(audio, mask)
        return audio

    def _fuse(self, memory: Memory, video: Tensor | None) -> Memory:
        """The top audio blocks, exchanging with the video (B, Sv, D) before its norm, where there is one."""
        audio, audio_mask, video_mask = memory.audio, memory.audio_mask, memory.video_mask
        if video is not None:
            heard = torch.ones(audio.shape[:2], dtype=torch.bool, device=audio.device) if audio_mask is None else audio_mask
        for i, block in enumerate(self.audio.blocks[self.dims.n_audio_layers - self.dims.n_fusion_layers:]):
            audio = block(audio, audio_mask)
            if video is not None:
                audio, video = self.exchanges[i](audio, video, heard, video_mask, memory.trust)
        return replace(memory, audio=self.audio.norm(audio), video=None if video is None else self.video.norm(video))

    def ctc_log_probs(self, memory: Memory) -> dict[str, Tensor]:
        """CTC log-probabilities (B, S, n_ctc) float32 by name: `audio`, `video`, and, where both exist, `fused`."""
        out = {}
        if memory.audio is not None:
            out["audio"] = self.ctc["audio"](memory.audio)
        if memory.video is not None:
            out["video"] = self.ctc["video"](memory.video)
        if len(out) == 2:
            length = memory.video.shape[1]                  # Whisper pads sound to 30 s: the rest holds nothing
            both = torch.cat([memory.audio[:, :length], memory.video[:, :memory.audio.shape[1]]], dim=-1)
            out["fused"] = self.ctc["fused"](both)
        return {name: logits.float().log_softmax(dim=-1) for name, logits in out.items()}

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it is able to go by: `a`, `v`, `av`."""
        return ("a",) if self.dims.lips is None else ("a", "v", "av")

    @property
    def doubts(self) -> bool:
        """Whether it judges how far lips are to be believed."""
        return self.dims.lips is not None and self.dims.n_trust > 0

    @property
    def gates(self) -> dict[str, float]:
        """How far each gate is open, tanh(g), by its name."""
        return {name: parameter.tanh().item() for name, parameter in self.named_parameters() if name.endswith("_gate")}


def without_lips(dims: Dims) -> Dims:
    """The same network, sound only."""
    return replace(dims, lips=None)
