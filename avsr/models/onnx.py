"""A network that ONNX Runtime runs from the graphs that `avsr export` wrote, on NumPy arrays and without torch.

    folder of graphs -> OnnxModel: encode_audio, encode -> Memory -> start -> OnnxCache -> step -> logits
It has the interface of the networks that torch runs, see protocol.SpeechModel, so that the search, the times of words and the
recogniser are the same code. A graph is loaded when it is first used.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from avsr.arrays import log_softmax
from avsr.errors import BadCheckpoint
from avsr.memory import Memory
from avsr.models.protocol import Followed
from avsr.rates import MEMORY_PER_FRAME, MEMORY_RATE
from avsr.runtime import Processor, import_onnxruntime, n_cores
from avsr.schema import Between

Size = Annotated[int, Between(1, 2**20)]
Pairs = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class OnnxDims:
    """The sizes of an exported network that its users ask for; see avsr.Dims. samples: of the input for each position that the
    audio encoder returns: 2 columns of log-mel, or 320 samples of the waveform."""

    width: Size
    n_heads: Size
    n_mels: Annotated[int, Between(0, 2**10)]
    n_decoder_layers: Size
    n_vocab: Size
    n_context: Size
    samples: Size


@dataclass
class OnnxCache:
    """What the decoder keeps between steps: keys and values of each layer, (N, H, L, D / H) of the tokens so far, and
    (B, H, S, D / H) of the memories. rows: the hypotheses (N,) that go on, which the next step takes from `own`."""

    modality: str
    own: Pairs
    memories: dict[str, Pairs]
    rest: dict[str, np.ndarray] = field(default_factory=dict)
    rows: np.ndarray | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens processed so far."""
        return self.own[0][0].shape[2]

    def again(self) -> OnnxCache:
        """The same memory, without any tokens, for another search."""
        n_utterances = next(iter(self.memories.values()))[0][0].shape[0]
        own = [(keys[:1, :, :0].repeat(n_utterances, axis=0), values[:1, :, :0].repeat(n_utterances, axis=0))
               for keys, values in self.own]
        return OnnxCache(self.modality, own, self.memories, self.rest)

    def truncate(self, n_tokens: int) -> None:
        """Forget all tokens after the first `n_tokens`."""
        self.own = [(keys[:, :, :n_tokens], values[:, :, :n_tokens]) for keys, values in self.own]

    def select_rows(self, rows: np.ndarray) -> None:
        """Keep these hypotheses (N',) in this order; they must stay with their utterances."""
        self.rows = rows if self.rows is None else self.rows[rows]

    def select_utterances(self, utterances: np.ndarray) -> None:
        """Keep the memories of these utterances (B',), in this order; `select_rows` must keep their rows alike."""
        self.memories = {name: [(keys[utterances], values[utterances]) for keys, values in pairs]
                         for name, pairs in self.memories.items()}
        self.rest = {name: array[utterances] for name, array in self.rest.items()}


class OnnxModel:
    """A network of our own that was exported. Several threads may use it."""

    memory_rate = MEMORY_RATE
    joint_ctc = ctc_only = False
    device = Processor()

    def __init__(self, dims: OnnxDims, modalities: Sequence[str], open_graph: Callable[[str], Path], *, pads: bool,
                 estimates_reliability: bool):
        """open_graph: returns the file of a graph, which was compared with its sha256. pads: whether sound is always padded to
        one length, so that none of it is masked."""
        self.dims, self.modalities, self.pads = dims, tuple(modalities), pads
        self.reliability = True if estimates_reliability else None
        self._open_graph, self._lock = open_graph, threading.Lock()
        self._sessions: dict[str, tuple[Any, list[str]]] = {}        # with the names of their outputs

    def array(self, x: np.ndarray) -> np.ndarray:
        """The array itself."""
        return x

    def no_gradients(self) -> AbstractContextManager:
        """A context that does nothing: there are never gradients."""
        return nullcontext()

    def without_video(self) -> OnnxModel:
        """The same network for audio only."""
        return OnnxModel(self.dims, ("a",), self._open_graph, pads=self.pads, estimates_reliability=False)

    def encode_audio(self, mel: np.ndarray, mel_lengths: np.ndarray | None = None) -> np.ndarray:
        """See AVSR.encode_audio."""
        return self._one_by_one("encode_audio", {"mel": mel} | self._lengths(mel.shape[:2], mel_lengths))["states"]

    def encode(self, mel: np.ndarray | None, mouths: np.ndarray | None = None, *, mel_lengths: np.ndarray | None = None,
               seen: np.ndarray | None = None, audio_states: np.ndarray | None = None) -> Memory:
        """See AVSR.encode."""
        states = self.encode_audio(mel, mel_lengths) if audio_states is None and mel is not None else audio_states
        given: dict[str, np.ndarray] = {}
        masks: dict[str, np.ndarray] = {}
        if states is not None:
            given["states"] = states
        if mouths is not None:
            seen = np.ones(mouths.shape[:2], bool) if seen is None else seen
            given |= {"mouths": mouths, "seen": seen}
            masks["video_mask"] = seen.repeat(MEMORY_PER_FRAME, axis=1)
        if states is not None:
            shape = (len(states), states.shape[1] * self.dims.samples)
            given |= self._lengths(shape, mel_lengths)
            if mel_lengths is not None:
                positions = -(-mel_lengths // self.dims.samples) if self.dims.n_mels else mel_lengths // self.dims.samples
                masks["audio_mask"] = np.arange(states.shape[1]) < positions[:, None]
        found = self._one_by_one(f"encode_{_modality(states, mouths)}", given)
        return Memory(**{"audio": None, "video": None} | found | masks)

    def ctc_log_probs(self, memory: Memory) -> dict[str, np.ndarray]:
        """See AVSR.ctc_log_probs."""
        given = {name: x for name, x in (("audio", memory.audio), ("video", memory.video)) if x is not None}
        found = self._run(f"ctc_{_modality(memory.audio, memory.video)}", **given)
        return {name.removeprefix("ctc_"): x for name, x in found.items()}

    def start(self, memory: Memory) -> OnnxCache:
        """See protocol.SpeechModel."""
        if self.pads and memory.audio_mask is not None:      # its graphs have no such mask; a video of nothing is the same
            assert not memory.audio_mask.any(), "sound is padded to one length, or there is none of it"
            memory = Memory(None, memory.audio, None, memory.audio_mask)
        memories: dict[str, Pairs] = {}
        rest: dict[str, np.ndarray] = {}
        for name, letter in (("audio", "a"), ("video", "v")):
            states = getattr(memory, name)
            if states is None:
                continue
            memories[name] = _pairs(list(self._run(f"start_{letter}", **{name: states}).values()))
            mask = getattr(memory, f"{name}_mask")
            if name == "video" or not self.pads:
                rest[f"{name}_mask"] = np.ones(states.shape[:2], bool) if mask is None else mask
        modality = _modality(memory.audio, memory.video)
        if modality == "av" and memory.reliability is not None:
            rest["reliability"] = memory.reliability
        heads, inside = self.dims.n_heads, self.dims.width // self.dims.n_heads
        nothing = np.zeros((memory.n_utterances, heads, 0, inside), np.float32)
        return OnnxCache(modality, [(nothing, nothing)] * self.dims.n_decoder_layers, memories, rest)

    def step(self, tokens: np.ndarray, cache: OnnxCache) -> np.ndarray:
        """See protocol.SpeechModel."""
        return self.read(tokens, cache, [tokens.shape[1] - 1])[:, 0]

    def read(self, tokens: np.ndarray, cache: OnnxCache, positions: Sequence[int]) -> np.ndarray:
        """See protocol.SpeechModel."""
        return self._decode(tokens, cache, positions)["logits"]

    def follow(self, texts: Sequence[Sequence[int]], memory: Memory,
               heads: Sequence[tuple[int, int]] = ()) -> list[Followed]:
        """See protocol.SpeechModel. One text at a time, because the scores of all tokens at all positions are large."""
        return [self._follow(list(text), memory.select([i]), heads) for i, text in enumerate(texts)]

    def _follow(self, text: list[int], memory: Memory, heads: Sequence[tuple[int, int]]) -> Followed:
        cache = self.start(memory)
        found = self._decode(np.array([text]), cache, range(len(text) - 1))
        log_probs = log_softmax(found["logits"][0])[np.arange(len(text) - 1), text[1:]]
        keys = cache.memories["audio" if "audio" in cache.memories else "video"]
        scale = np.float32((self.dims.width // self.dims.n_heads) ** -0.5)
        attention = [found[f"queries_{layer}"][0, head] @ keys[layer][0][0, head].T * scale for layer, head in heads]
        return Followed(log_probs, np.stack(attention) if attention else np.zeros((0, len(text), 0), np.float32))

    def _decode(self, tokens: np.ndarray, cache: OnnxCache, positions: Sequence[int]) -> dict[str, np.ndarray]:
        """Read the next tokens (N, L) of all hypotheses; the cache grows by them."""
        given = {"tokens": tokens.astype(np.int64, copy=False), "positions": np.array(positions, np.int64),
                 "rows": np.arange(len(cache.own[0][0])) if cache.rows is None else cache.rows.astype(np.int64, copy=False)}
        for name, pairs in (("past", cache.own), *cache.memories.items()):
            for layer, (keys, values) in enumerate(pairs):
                given[f"{name}_keys_{layer}"], given[f"{name}_values_{layer}"] = keys, values
        found = self._run(f"decode_{cache.modality}", **given, **cache.rest)
        cache.own = [(found.pop(f"present_keys_{layer}"), found.pop(f"present_values_{layer}"))
                     for layer in range(self.dims.n_decoder_layers)]
        cache.rows = None
        return found

    def _lengths(self, shape: tuple[int, ...], lengths: np.ndarray | None) -> dict[str, np.ndarray]:
        """The input `lengths` of a graph, where it has one: how much of (B, S) counts."""
        if self.pads:
            return {}
        return {"lengths": np.full(shape[0], shape[1]) if lengths is None else lengths.astype(np.int64, copy=False)}

    def _one_by_one(self, graph: str, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of a graph for each utterance by itself, joined. All heads' attention over 30 s takes 54 MB for one
        utterance, and several at once are no faster on a processor."""
        n_utterances = len(next(iter(given.values())))
        found = [self._run(graph, **{name: x[i:i + 1] for name, x in given.items()}) for i in range(n_utterances)]
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def _run(self, graph: str, **given: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of a graph by name."""
        session, names = self._sessions.get(graph) or self._load(graph)
        return dict(zip(names, session.run(names, given), strict=True))

    def _load(self, graph: str) -> tuple[Any, list[str]]:
        """Load a graph, once. Raises BadCheckpoint where ONNX Runtime cannot."""
        with self._lock:
            if graph not in self._sessions:
                session = open_session(self._open_graph(graph))
                self._sessions[graph] = session, [one.name for one in session.get_outputs()]
            return self._sessions[graph]


def open_session(path: Path) -> Any:
    """A session of ONNX Runtime for a graph. Raises BadCheckpoint where it cannot read it."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")     # waiting threads would take a core each
    options.log_severity_level = 3
    # What an encoder needs is large and short-lived: kept for the next time it takes 0.4 GB. A step of the decoder is brief.
    options.enable_cpu_mem_arena = path.name.startswith("decode")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:                               # onnxruntime's errors have no common class but Exception
        raise BadCheckpoint(f"{path}: onnxruntime {onnxruntime.__version__} cannot read it "
                            f"({str(error).splitlines()[0][:200]}).  Run avsr export again.") from error


def _modality(audio: np.ndarray | None, video: np.ndarray | None) -> str:
    """`a`, `v` or `av`, by what there is."""
    assert audio is not None or video is not None, "neither audio nor video"
    return ("a" if audio is not None else "") + ("v" if video is not None else "")


def _pairs(arrays: Sequence[np.ndarray]) -> Pairs:
    """Keys and values by layer, from a list of both in turn."""
    return list(zip(arrays[::2], arrays[1::2], strict=True))
