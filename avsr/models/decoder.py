"""The text decoder: a `Memory` and the tokens so far -> scores of the next token, a step at a time, with an explicit cache."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from avsr.arrays import to_numpy
from avsr.memory import Memory
from avsr.models.blocks import Attention, attention_logits, feed_forward, over_keys, stack
from avsr.models.fusion import GatedCrossAttention, ReliabilityEstimator
from avsr.models.protocol import Followed

CACHE_STEP = 32                                             # tokens by which the cache grows
# Rows of logits up to which MKL is faster with the large matrix on the left, and numbers in it from which that matters.
# 5 rows of 51,864 logits from a width of 512 took 15 ms, not 31; 20 rows took 48 and 54. In this order the last bits of
# logits depend on where the matrix lies in memory.
FEW_ROWS, LARGE = 12, 2**22


@dataclass
class Cache:
    """What the decoder keeps between steps; audio_mask, video_mask and reliability are those of the `Memory`.

    own: per layer, keys and values of the tokens so far, each (N, H, L, D / H).
    audio, video: per layer, keys and values of the memories, each (B, H, S, D / H); None without that modality.

    From the second step on `own` are views of `buffers` (2, N, H, places, D / H) that have places to spare, and a spare buffer
    is swapped in as hypotheses are selected. A step thus copies each key once, into memory that is already there (40
    hypotheses of 60 tokens take 2 ms a layer; selecting and appending into new memory took 20).
    """

    own: list[tuple[Tensor, Tensor]]
    audio: list[tuple[Tensor, Tensor]] | None
    video: list[tuple[Tensor, Tensor]] | None
    audio_mask: Tensor | None
    video_mask: Tensor | None
    reliability: Tensor | None = None
    buffers: list[Tensor] = field(default_factory=list)
    spare: Tensor | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens processed so far."""
        return self.own[0][0].shape[2] if self.own else 0

    def again(self) -> Cache:
        """The same memory, without any tokens, for another search."""
        return Cache([], self.audio, self.video, self.audio_mask, self.video_mask, self.reliability)

    def extended(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, given those of the next tokens, (N, H, L, D / H) each."""
        if not self.own:
            return keys, values
        past = self.n_tokens
        n_tokens = past + keys.shape[2]
        if layer == len(self.buffers) or self.buffers[layer].shape[3] < n_tokens:
            places = -(-n_tokens // CACHE_STEP) * CACHE_STEP
            buffer = keys.new_empty(2, *keys.shape[:2], places, keys.shape[3])
            for side in (0, 1):
                buffer[side, :, :, :past] = self.own[layer][side]
            self.buffers[layer:layer + 1] = [buffer]
        buffer = self.buffers[layer]
        buffer[0, :, :, past:n_tokens], buffer[1, :, :, past:n_tokens] = keys, values
        return buffer[0, :, :, :n_tokens], buffer[1, :, :, :n_tokens]

    def truncate(self, n_tokens: int) -> None:
        """Forget all tokens after the first `n_tokens`."""
        self.own = [(keys[:, :, :n_tokens], values[:, :, :n_tokens]) for keys, values in self.own]

    def select_rows(self, rows: Tensor) -> None:
        """Keep these hypotheses (N',) in this order; they must stay with their utterances."""
        n_tokens = self.n_tokens
        if not self.buffers:
            self.own = [(keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in self.own]
            return
        for layer, buffer in enumerate(self.buffers):
            shape = (2, len(rows), *buffer.shape[2:])
            if self.spare is None or self.spare.shape != shape:
                self.spare = buffer.new_empty(shape)
            torch.index_select(buffer[:, :, :, :n_tokens], 1, rows, out=self.spare[:, :, :, :n_tokens])
            self.buffers[layer], self.spare = self.spare, buffer
            self.own[layer] = (self.buffers[layer][0, :, :, :n_tokens], self.buffers[layer][1, :, :, :n_tokens])

    def select_utterances(self, utterances: Tensor) -> None:
        """Keep the memories of these utterances (B',), in this order; `select_rows` must keep their rows alike."""
        def keep(pairs):
            return pairs and [(keys.index_select(0, utterances), values.index_select(0, utterances))
                              for keys, values in pairs]

        self.audio, self.video = keep(self.audio), keep(self.video)
        self.audio_mask = None if self.audio_mask is None else self.audio_mask[utterances]
        self.video_mask = None if self.video_mask is None else self.video_mask[utterances]
        self.reliability = None if self.reliability is None else self.reliability[utterances]


class DecoderBlock(nn.Module):
    """Gated cross-attention to the video, then Whisper's decoder block: self-attention, cross-attention to the audio,
    feed-forward. feed: a feed-forward in place of Whisper's; eps: of the layer norms."""

    def __init__(self, width: int, n_heads: int, *, video: bool, feed: nn.Module | None = None, eps: float = 1e-5):
        super().__init__()
        self.video = GatedCrossAttention(width, n_heads) if video else None
        self.attention_norm = nn.LayerNorm(width, eps)
        self.attention = Attention(width, n_heads)
        self.audio_norm = nn.LayerNorm(width, eps)
        self.audio = Attention(width, n_heads)
        self.feed_norm = nn.LayerNorm(width, eps)
        self.feed = feed_forward(width) if feed is None else feed

    def memory_keys(self, audio: Tensor | None,
                    video: Tensor | None) -> tuple[tuple[Tensor, Tensor] | None, tuple[Tensor, Tensor] | None]:
        """Keys and values, (B, H, S, D / H) each, of the two memories (B, S, D); None for what is not there."""
        return (None if audio is None else self.audio.keys_values(audio),
                None if video is None or self.video is None else self.video.attention.keys_values(video))

    def forward(self, x: Tensor, layer: int, cache: Cache, causal: Tensor | None,
                queries: list[Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (N, L, D) -> the same after the block, and the keys and values of its self-attention for all tokens so far.

        layer: of this block in `cache`; causal (1, 1, L, past + L) bool: which tokens attend to which; queries: see
        Decoder.hidden.
        """
        if cache.video is not None and self.video is not None:
            assert cache.video_mask is not None
            if queries is not None and cache.audio is None:
                queries.append(self.video.attention.queries(self.video.attention_norm(x)))
            x = self.video(x, *cache.video[layer], cache.video_mask, cache.reliability)
        normed = self.attention_norm(x)
        keys, values = cache.extended(layer, *self.attention.keys_values(normed))
        x = x + self.attention(normed, keys, values, causal)
        if cache.audio is not None:
            normed = self.audio_norm(x)
            if queries is not None:
                queries.append(self.audio.queries(normed))
            x = x + self.audio(normed, *cache.audio[layer], over_keys(cache.audio_mask))
        return x + self.feed(self.feed_norm(x)), (keys, values)


class Decoder(nn.Module):
    """Whisper's text decoder with video. Logits share the embedding's weights."""

    def __init__(self, n_vocab: int, n_context: int, width: int, n_heads: int, n_layers: int, *, video: bool):
        super().__init__()
        self.embedding = nn.Embedding(n_vocab, width)
        self.positions = nn.Parameter(torch.randn(n_context, width) * 0.01)
        self.blocks = stack(DecoderBlock(width, n_heads, video=video) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)

    def start(self, memory: Memory) -> Cache:
        """A cache over a `Memory`, holding no tokens yet. The memories' keys and values are computed here, once."""
        keys = [block.memory_keys(memory.audio, memory.video) for block in self.blocks]
        audio = None if memory.audio is None else [pair for pair, _ in keys if pair is not None]
        video = None if memory.video is None else [pair for _, pair in keys if pair is not None]
        return Cache([], audio, video, memory.audio_mask, memory.video_mask, memory.reliability)

    def forward(self, tokens: Tensor, cache: Cache) -> Tensor:
        """The next tokens (N, L) int64 after those in the cache -> logits (N, L, V) float32; the cache grows by L.

        N is a multiple of the cache's utterances: row n belongs to utterance n // (N / B).
        """
        return self.logits(self.hidden(tokens, cache))

    def embed(self, tokens: Tensor, past: int) -> Tensor:
        """Tokens (N, L), which follow `past` others, -> (N, L, D) with their positions."""
        n_tokens = past + tokens.shape[1]
        assert n_tokens <= self.positions.shape[0], f"{n_tokens} tokens, room for {self.positions.shape[0]}"
        return self.embedding(tokens) + self.positions[past:n_tokens]

    def logits(self, x: Tensor) -> Tensor:
        """(N, L, D) -> (N, L, V) float32."""
        weight = self.embedding.weight
        if (weight.numel() >= LARGE and x.device.type == "cpu" and not torch.compiler.is_compiling()
                and x.shape[0] * x.shape[1] <= FEW_ROWS):
            return (weight @ x.flatten(0, 1).T).T.contiguous().float().unflatten(0, x.shape[:2])
        return (x @ weight.T).float()

    def hidden(self, tokens: Tensor, cache: Cache, queries: list[Tensor] | None = None) -> Tensor:
        """As `forward`, before the logits: (N, L, D). `queries` collects each block's queries (N, H, L, D / H) to the audio, or
        to the video where there is no audio."""
        past, length = cache.n_tokens, tokens.shape[1]
        x = self.embed(tokens, past)
        causal = None                                                       # one new token attends to everything
        if length > 1:
            causal = torch.ones(length, past + length, dtype=torch.bool, device=x.device).tril(past)[None, None]
        before = cache if cache.own else cache.again()      # is left as it is, for a block that training computes again
        own = []
        for i, block in enumerate(self.blocks):
            x, pair = block(x, i, before, causal, queries)
            own.append(pair)
        cache.own = own
        return self.norm(x)


class Writer(nn.Module):
    """A network that writes from a Memory by its `decoder`."""

    decoder: Decoder

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return next(self.parameters()).device

    def array(self, x: np.ndarray) -> Tensor:
        """An array as the network takes it: on its device, and real numbers in the precision of its weights."""
        weight = next(self.parameters())
        return torch.from_numpy(x).to(weight.device, weight.dtype if x.dtype.kind == "f" else None)

    def no_gradients(self) -> AbstractContextManager:
        """A context in which no gradients are kept."""
        return torch.inference_mode()

    def start(self, memory: Memory) -> Cache:
        """An empty cache for decoding from a `Memory`."""
        return self.decoder.start(memory)

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """The next tokens (N, L) of all hypotheses -> logits (N, V) float32 of what follows the last; the cache grows."""
        return self.read(tokens, cache, [-1])[:, 0]

    def read(self, tokens: Tensor, cache: Cache, positions: Sequence[int]) -> Tensor:
        """As `step`, with the logits (N, K, V) of what follows the tokens at K positions."""
        return self.decoder.logits(self.decoder.hidden(tokens, cache)[:, list(positions)])

    def follow(self, texts: Sequence[Sequence[int]], memory: Memory,
               heads: Sequence[tuple[int, int]] = ()) -> list[Followed]:
        """See protocol.SpeechModel."""
        rows = pad_sequence([torch.tensor(list(text)) for text in texts], batch_first=True, padding_value=texts[0][-1])
        tokens, cache, queries = rows.to(memory.device), self.start(memory), []
        hidden = self.decoder.hidden(tokens, cache, queries if heads else None)
        keys = [pair[0] for pair in cache.video or []] if cache.audio is None else [pair[0] for pair in cache.audio]
        out = []
        for i, text in enumerate(texts):
            logits = self.decoder.logits(hidden[i, :len(text) - 1])
            log_probs = logits.log_softmax(dim=-1).gather(1, tokens[i, 1:len(text), None])[:, 0]
            attention = [attention_logits(queries[layer][i, head, :len(text)], keys[layer][i, head]) for layer, head in heads]
            out.append(Followed(log_probs.cpu(), np.stack([to_numpy(one.float()) for one in attention])
                                if attention else np.zeros((0, len(text), 0), np.float32)))
        return out


class Network(Writer):
    """What our networks share: they write from the Memory that their `encode` makes."""

    memory_rate: int
    joint_ctc: bool
    reliability: ReliabilityEstimator | None

    def __init__(self):
        super().__init__()
        self.reliability = None

    def encode(self, mel: Tensor | None, mouths: Tensor | None = None, *, mel_lengths: Tensor | None = None,
               seen: Tensor | None = None, audio_states: Tensor | None = None) -> Memory:
        """See protocol.SpeechModel."""
        raise NotImplementedError

    def forward(self, tokens: Tensor, mel: Tensor | None, mouths: Tensor | None = None, *,
                mel_lengths: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """Teacher forcing: tokens (B, L) and inputs as in `encode` -> logits (B, L, V) float32."""
        memory = self.encode(mel, mouths, mel_lengths=mel_lengths, seen=seen)
        return self.decoder(tokens, self.start(memory))
