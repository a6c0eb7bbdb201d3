"""The mouth: tokens and memories -> next-token scores, a step at a time, with an explicit cache."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from avsr.models.blocks import Attention, feed_forward, over_keys
from avsr.models.fusion import GatedCrossAttention

ROOM = 32                                                   # tokens by which the cache grows


@dataclass
class Cache:
    """What the decoder remembers between steps.

    own: per layer, keys and values of the tokens so far, each (N, H, L, D / H).
    audio, video: per layer, keys and values of the memories, each (B, H, S, D / H); None without that modality.
    audio_mask, video_mask: (B, S) bool; audio_mask None when every position counts. trust, heed: see `Memory`.

    From the second step on `own` are views of rooms (2, N, H, places, D / H) with places to spare, and one room more than
    there are layers takes turns: so a step moves each key once, into memory that is there already (of 40 hypotheses of 60
    tokens in 2 ms a layer, where picking and appending into new memory took 20).
    """

    own: list[tuple[Tensor, Tensor]]
    audio: list[tuple[Tensor, Tensor]] | None
    video: list[tuple[Tensor, Tensor]] | None
    audio_mask: Tensor | None
    video_mask: Tensor | None
    trust: Tensor | None = None
    heed: Tensor | None = None
    rooms: list[Tensor] = field(default_factory=list)
    spare: Tensor | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens taken in so far."""
        return self.own[0][0].shape[2] if self.own else 0

    def extended(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, given those of the next tokens, (N, H, L, D / H) each."""
        if not self.own:
            return keys, values
        past = self.n_tokens
        n_tokens = past + keys.shape[2]
        if layer == len(self.rooms) or self.rooms[layer].shape[3] < n_tokens:
            places = -(-n_tokens // ROOM) * ROOM
            room = keys.new_empty(2, *keys.shape[:2], places, keys.shape[3])
            for side in (0, 1):
                room[side, :, :, :past] = self.own[layer][side]
            self.rooms[layer:layer + 1] = [room]
        room = self.rooms[layer]
        room[0, :, :, past:n_tokens], room[1, :, :, past:n_tokens] = keys, values
        return room[0, :, :, :n_tokens], room[1, :, :, :n_tokens]

    def select_rows(self, rows: Tensor) -> None:
        """Keep these hypotheses (N',) in this order; they must stay with their utterances."""
        n_tokens = self.n_tokens
        if not self.rooms:
            self.own = [(keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in self.own]
            return
        for layer, room in enumerate(self.rooms):
            shape = (2, len(rows), *room.shape[2:])
            if self.spare is None or self.spare.shape != shape:
                self.spare = room.new_empty(shape)
            torch.index_select(room[:, :, :, :n_tokens], 1, rows, out=self.spare[:, :, :, :n_tokens])
            self.rooms[layer], self.spare = self.spare, room
            self.own[layer] = (self.rooms[layer][0, :, :, :n_tokens], self.rooms[layer][1, :, :, :n_tokens])

    def select_utterances(self, utterances: Tensor) -> None:
        """Keep the memories of these utterances (B',), in this order; `select_rows` must keep their rows alike."""
        def keep(pairs):
            return pairs and [(keys.index_select(0, utterances), values.index_select(0, utterances))
                              for keys, values in pairs]

        self.audio, self.video = keep(self.audio), keep(self.video)
        self.audio_mask = None if self.audio_mask is None else self.audio_mask[utterances]
        self.video_mask = None if self.video_mask is None else self.video_mask[utterances]
        self.trust = None if self.trust is None else self.trust[utterances]
        self.heed = None if self.heed is None else self.heed[utterances]


class DecoderBlock(nn.Module):
    """Gated look at the video, then Whisper's decoder block: self-attention, cross-attention to audio, feed-forward.

    feed: another feed-forward than Whisper's; eps: of the layer norms."""

    def __init__(self, width: int, n_heads: int, *, video: bool, feed: nn.Module | None = None, eps: float = 1e-5):
        super().__init__()
        self.video = GatedCrossAttention(width, n_heads) if video else None
        self.attention_norm = nn.LayerNorm(width, eps)
        self.attention = Attention(width, n_heads)
        self.audio_norm = nn.LayerNorm(width, eps)
        self.audio = Attention(width, n_heads)
        self.feed_norm = nn.LayerNorm(width, eps)
        self.feed = feed_forward(width) if feed is None else feed


class Decoder(nn.Module):
    """Whisper's text decoder with video. Logits share the embedding's weights."""

    def __init__(self, n_vocab: int, n_context: int, width: int, n_heads: int, n_layers: int, *, video: bool):
        super().__init__()
        self.embedding = nn.Embedding(n_vocab, width)
        self.positions = nn.Parameter(torch.randn(n_context, width) * 0.01)
        self.blocks = nn.ModuleList(DecoderBlock(width, n_heads, video=video) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)

    def start(self, memory) -> Cache:
        """A cache over a `Memory`, holding no tokens yet. The memories' keys and values are computed here, once."""
        audio = video = None
        if memory.audio is not None:
            audio = [block.audio.keys_values(memory.audio) for block in self.blocks]
        if memory.video is not None:
            video = [block.video.attention.keys_values(memory.video) for block in self.blocks]
        return Cache([], audio, video, memory.audio_mask, memory.video_mask, memory.trust, memory.heed)

    def forward(self, tokens: Tensor, cache: Cache, *, last_only: bool = False) -> Tensor:
        """The next tokens (N, L) int64 after what the cache holds -> logits (N, L, V) float32; the cache grows by L.

        N is a multiple of the cache's utterances: row n belongs to utterance n // (N / B).
        """
        x = self.hidden(tokens, cache)
        return self.logits(x[:, -1:] if last_only else x)

    def embed(self, tokens: Tensor, past: int) -> Tensor:
        """Tokens (N, L), of which `past` went before, -> (N, L, D) with their positions."""
        n_tokens = past + tokens.shape[1]
        assert n_tokens <= self.positions.shape[0], f"{n_tokens} tokens, room for {self.positions.shape[0]}"
        return self.embedding(tokens) + self.positions[past:n_tokens]

    def logits(self, x: Tensor) -> Tensor:
        """(N, L, D) -> (N, L, V) float32."""
        return (x @ self.embedding.weight.T).float()

    def hidden(self, tokens: Tensor, cache: Cache, looks: list[Tensor] | None = None) -> Tensor:
        """As `forward`, before the logits: (N, L, D). `looks` collects what each block looks at the audio
        with, or at the video where there is no audio: (N, L, D) per block."""
        past, length = cache.n_tokens, tokens.shape[1]
        x = self.embed(tokens, past)
        causal = None                                                       # one new token may look at everything
        if length > 1:
            causal = torch.ones(length, past + length, dtype=torch.bool, device=x.device).tril(past)[None, None]
        heed = None if cache.heed is None else cache.heed.repeat_interleave(len(x) // len(cache.heed))[:, None, None]
        own = []
        for i, block in enumerate(self.blocks):
            if cache.video is not None:
                if looks is not None and cache.audio is None:
                    looks.append(block.video.attention_norm(x))
                x = block.video(x, *cache.video[i], cache.video_mask, cache.trust)
            normed = block.attention_norm(x)
            keys, values = cache.extended(i, *block.attention.keys_values(normed))
            own.append((keys, values))
            x = x + block.attention(normed, keys, values, causal)
            if cache.audio is not None:
                normed = block.audio_norm(x)
                if looks is not None:
                    looks.append(normed)
                heard = block.audio(normed, *cache.audio[i], over_keys(cache.audio_mask))
                x = x + (heard if heed is None else heed * heard)
            x = x + block.feed(block.feed_norm(x))
        cache.own = own
        return self.norm(x)


class Network(nn.Module):
    """What every network of ours can do once it has made a Memory by `encode`: write from it, a step at a time."""

    decoder: Decoder

    def start(self, memory) -> Cache:
        """An empty cache for decoding from a `Memory`."""
        return self.decoder.start(memory)

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """The next tokens (N, L) of all hypotheses -> logits (N, V) float32 for what follows the last; grows the cache."""
        return self.decoder(tokens, cache, last_only=True)[:, 0]

    def forward(self, tokens: Tensor, mel: Tensor | None, mouths: Tensor | None = None, *,
                mel_lengths: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """Teacher forcing: tokens (B, L) and inputs as in `encode` -> logits (B, L, V) float32."""
        memory = self.encode(mel, mouths, mel_lengths=mel_lengths, seen=seen)
        return self.decoder(tokens, self.start(memory))
