"""The parts of a network as functions from arrays to arrays, which torch's exporter can turn into graphs.

    AVSR -> GraphMaker.graphs: Graph of encode_audio, encode_a, encode_v, encode_av, start_a, start_v, decode_*, ctc_*
models/onnx.py runs the graphs; the names of inputs and outputs here are those that it gives and asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avsr.memory import Memory
from avsr.models.avsr import AVSR
from avsr.models.decoder import Cache
from avsr.rates import HOP, MEMORY_PER_FRAME, MOUTH_INPUT

# Sizes of the example by which a graph is traced. No two are equal, so that no two axes are taken for one.
N_BEAM, N_UTTERANCES, N_COLUMNS, N_FRAMES, N_TOKENS, N_PAST = 3, 2, 96, 26, 5, 7
MEMORY_FIELDS = ("audio", "video", "unfused_video", "reliability", "reliability_logits", "in_distribution", "ood_distance")


@dataclass(frozen=True)
class Graph:
    """A part of a network. network: whose weights `run` uses. inputs: example arrays by name, in the order of the arguments of
    `run`. axes: of each input, those whose size may change. outputs: names of what `run` returns, in order."""

    name: str
    network: nn.Module
    run: Callable[..., tuple[Tensor, ...]]
    inputs: dict[str, Tensor]
    axes: dict[str, tuple[int, ...]]
    outputs: tuple[str, ...]

    def module(self) -> nn.Module:
        """The part as a module whose arguments are the inputs in order."""
        return _Part(self.network, self.run)


class _Part(nn.Module):
    """A function as a module. The network is a part of it, so that the exporter takes its weights for weights."""

    def __init__(self, network: nn.Module, run: Callable[..., tuple[Tensor, ...]]):
        super().__init__()
        self.network, self.run = network, run

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the function."""
        return self.run(*inputs)


class _Growing(Cache):
    """A cache whose keys and values are joined to new ones by a concatenation, which a graph can express."""

    def extended(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See Cache."""
        past_keys, past_values = self.own[layer]
        return torch.cat([past_keys, keys], dim=2), torch.cat([past_values, values], dim=2)


class GraphMaker:
    """Makes the graphs of one network. pads: whether its sound is always padded to one length, so that none is masked."""

    def __init__(self, model: AVSR, *, pads: bool):
        self.model, self.pads, self.dims = model, pads, model.dims

    def graphs(self) -> Iterator[Graph]:
        """All graphs, the encoders first."""
        yield self._encode_audio()
        for modality in self.model.modalities:
            yield self._encode(modality)
            if self.dims.n_ctc:
                yield self._ctc(modality)
        for modality in (one for one in self.model.modalities if one != "av"):
            yield self._start(modality)
        for modality in self.model.modalities:
            yield self._decode(modality)

    # --- the functions ---

    def encode_audio(self, mel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        """See AVSR.encode_audio."""
        return (self.model.encode_audio(mel, lengths),)

    def encode_a(self, states: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        """The audio memory of audio states (B, S, D)."""
        return _present(self.model.encode(None, mel_lengths=lengths, audio_states=states))

    def encode_v(self, mouths: Tensor, seen: Tensor) -> tuple[Tensor, ...]:
        """The memory of mouths (B, T, 88, 88), seen (B, T)."""
        return _present(self.model.encode(None, mouths, seen=seen))

    def encode_av(self, states: Tensor, mouths: Tensor, seen: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        """The memory of both."""
        return _present(self.model.encode(None, mouths, seen=seen, mel_lengths=lengths, audio_states=states))

    def ctc(self, *memory: Tensor) -> tuple[Tensor, ...]:
        """CTC log-probabilities of a memory: audio, video or both."""
        audio, video = memory if len(memory) == 2 else (memory[0], None)
        return tuple(self.model.ctc_log_probs(Memory(audio, video)).values())

    def ctc_v(self, video: Tensor) -> tuple[Tensor, ...]:
        """CTC log-probabilities of a memory of video alone."""
        return tuple(self.model.ctc_log_probs(Memory(None, video)).values())

    def start_a(self, audio: Tensor) -> tuple[Tensor, ...]:
        """The keys and values that the decoder's layers make of the audio memory (B, S, D)."""
        return tuple(one for pair in self.model.start(Memory(audio, None)).audio or [] for one in pair)

    def start_v(self, video: Tensor) -> tuple[Tensor, ...]:
        """The keys and values that the decoder's layers make of the video memory (B, Sv, D)."""
        return tuple(one for pair in self.model.start(Memory(None, video)).video or [] for one in pair)

    def decode_a(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """A step of the decoder over an audio memory, see `_step`."""
        return self._step(inputs, audio=True, video=False)

    def decode_v(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """A step of the decoder over a video memory, see `_step`."""
        return self._step(inputs, audio=False, video=True)

    def decode_av(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """A step of the decoder over both memories, see `_step`."""
        return self._step(inputs, audio=True, video=True)

    def _step(self, inputs: tuple[Tensor, ...], *, audio: bool, video: bool) -> tuple[Tensor, ...]:
        """tokens (N, L), the rows (N,) of the past that they follow, the positions (K,) whose logits are wanted, the past, the
        memories' keys and values, their masks, the reliability -> logits (N, K, V), the new past, the queries by layer."""
        given, n = iter(inputs), self.dims.n_decoder_layers
        tokens, rows, positions = next(given), next(given), next(given)

        def pairs(select: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
            found = [(next(given), next(given)) for _ in range(n)]
            return found if select is None else [(a.index_select(0, select), b.index_select(0, select)) for a, b in found]

        own = pairs(rows)
        of_audio, of_video = pairs() if audio else None, pairs() if video else None
        audio_mask = next(given) if audio and not self.pads else None
        video_mask = next(given) if video else None
        reliability = next(given) if audio and video and self.model.reliability is not None else None
        cache, queries = _Growing(own, of_audio, of_video, audio_mask, video_mask, reliability), []
        hidden = self.model.decoder.hidden(tokens, cache, queries)
        logits = self.model.decoder.logits(hidden.index_select(1, positions))
        return (logits, *(one for pair in cache.own for one in pair), *queries)

    # --- the graphs ---

    def _encode_audio(self) -> Graph:
        inputs = {"mel": torch.randn(N_UTTERANCES, int(self._lengths.max()), self.dims.n_mels or 1)}
        axes: dict[str, tuple[int, ...]] = {"mel": (0, 1)}
        if not self.pads:
            inputs["lengths"], axes["lengths"] = self._lengths, (0,)
        return Graph("encode_audio", self.model, self.encode_audio, inputs, axes, ("states",))

    @property
    def _lengths(self) -> Tensor:
        """How much of the sound of each utterance of the example counts: columns of log-mel, or samples."""
        return torch.tensor([N_COLUMNS, N_COLUMNS - 32]) * (1 if self.dims.n_mels else HOP)

    def _encode(self, modality: str) -> Graph:
        inputs: dict[str, Tensor] = {}
        axes: dict[str, tuple[int, ...]] = {}
        if "a" in modality:
            inputs["states"], axes["states"] = torch.randn(N_UTTERANCES, N_COLUMNS // 2, self.dims.width), (0, 1)
        if "v" in modality:
            inputs["mouths"], axes["mouths"] = torch.rand(N_UTTERANCES, N_FRAMES, MOUTH_INPUT, MOUTH_INPUT), (0, 1)
            inputs["seen"], axes["seen"] = torch.ones(N_UTTERANCES, N_FRAMES, dtype=torch.bool), (0, 1)
        if "a" in modality and not self.pads:
            inputs["lengths"], axes["lengths"] = self._lengths, (0,)
        with torch.no_grad():
            memory = self.model.encode(None, inputs.get("mouths"), audio_states=inputs.get("states"))
        return Graph(f"encode_{modality}", self.model, getattr(self, f"encode_{modality}"), inputs, axes, _names(memory))

    def _memories(self, modality: str) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
        sizes = {"audio": N_COLUMNS // 2, "video": N_FRAMES * MEMORY_PER_FRAME}
        names = [name for name in sizes if name[0] in modality]
        return ({name: torch.randn(N_UTTERANCES, sizes[name], self.dims.width) for name in names},
                {name: (0, 1) for name in names})

    def _ctc(self, modality: str) -> Graph:
        inputs, axes = self._memories(modality)
        outputs = tuple(f"ctc_{name}" for name in (*inputs, *(["fused"] if modality == "av" else [])))
        return Graph(f"ctc_{modality}", self.model, self.ctc_v if modality == "v" else self.ctc, inputs, axes, outputs)

    def _start(self, modality: str) -> Graph:
        inputs, axes = self._memories(modality)
        return Graph(f"start_{modality}", self.model, getattr(self, f"start_{modality}"), inputs, axes,
                     layer_names(next(iter(inputs)), self.dims.n_decoder_layers))

    def _decode(self, modality: str) -> Graph:
        n, heads = self.dims.n_decoder_layers, self.dims.n_heads
        n_rows, inside = N_UTTERANCES * N_BEAM, self.dims.width // heads
        inputs: dict[str, Tensor] = {"tokens": torch.randint(0, self.dims.n_vocab, (n_rows, N_TOKENS)),
                                     "rows": torch.arange(n_rows), "positions": torch.tensor([0, 2, 4])}
        axes: dict[str, tuple[int, ...]] = {"tokens": (0, 1), "rows": (0,), "positions": (0,)}
        for name in layer_names("past", n):
            inputs[name], axes[name] = torch.randn(n_rows, heads, N_PAST, inside), (0, 2)
        memories, _ = self._memories(modality)
        for memory, array in memories.items():
            for name in layer_names(memory, n):
                inputs[name], axes[name] = torch.randn(N_UTTERANCES, heads, array.shape[1], inside), (0, 2)
        for memory, array in memories.items():
            if memory == "video" or not self.pads:
                inputs[f"{memory}_mask"] = torch.ones(array.shape[:2], dtype=torch.bool)
                axes[f"{memory}_mask"] = (0, 1)
        if modality == "av" and self.model.reliability is not None:
            inputs["reliability"], axes["reliability"] = torch.rand(N_UTTERANCES), (0,)
        outputs = ("logits", *layer_names("present", n), *(f"queries_{layer}" for layer in range(n)))
        return Graph(f"decode_{modality}", self.model, getattr(self, f"decode_{modality}"), inputs, axes, outputs)


def _names(memory: Memory) -> tuple[str, ...]:
    """The arrays that a memory holds, apart from its masks."""
    return tuple(name for name in MEMORY_FIELDS if getattr(memory, name) is not None)


def _present(memory: Memory) -> tuple[Tensor, ...]:
    return tuple(getattr(memory, name) for name in _names(memory))


def layer_names(name: str, n_layers: int) -> tuple[str, ...]:
    """The names of the keys and values of each layer."""
    return tuple(f"{name}_{part}_{layer}" for layer in range(n_layers) for part in ("keys", "values"))
