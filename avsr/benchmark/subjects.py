"""Whom the benchmark asks: a model of ours by each of its senses, or another recogniser by sound.

    sounds (S,) and mouths of B utterances -> for each task, what was written, how likely the truth was, how long it took
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from avsr.benchmark.against import Rival
from avsr.cache import Cached
from avsr.checkpoint import SHIPPED, Checkpoint, may_see, shipped
from avsr.decode import DecodeOptions
from avsr.errors import AvsrError
from avsr.models.avsr import AVSR
from avsr.models.decoder import Memory
from avsr.recogniser import Recogniser
from avsr.runtime import Progress, n_parallel_batches, pick_device
from avsr.text import target_tokens
from avsr.transcribe import load_model


@dataclass(frozen=True)
class Answer:
    """What came of B utterances by one modality: a dict for each, to go into its row, and the seconds it took."""

    rows: list[dict[str, Any]]
    seconds: float


@dataclass(frozen=True)
class Question:
    """B utterances as one task shows them. mouths: None where there is none; texts: what was really said."""

    modality: str
    mouths: Sequence[Cached | None]


class Subject(Protocol):
    """name: the row's `system`. facts: sha256 and search, as rows have them. about: what else run.json tells of it.
    modalities: what it can be asked by. workers: how many batches it takes side by side."""

    name: str
    facts: dict[str, Any]
    about: dict[str, Any]
    modalities: tuple[str, ...]
    n_parallel_batches: int
    device: str

    def answer(self, sounds: Sequence[np.ndarray], texts: Sequence[str], questions: Sequence[Question]) -> list[Answer]:
        """The answer to each question about B utterances: sounds (S,) float32, texts as they were really said."""


class Own:
    """A model of ours. `none` writes nothing; it only tells how likely it finds each text without hearing or seeing."""

    def __init__(self, name: str, *, beam_size: int | None, device: str, modalities: Sequence[str], progress: Progress):
        self.torch_device = pick_device(device)
        looks = any("v" in one for one in modalities) and may_see(name)
        self.checkpoint: Checkpoint = load_model(name, "av" if looks else "a", self.torch_device, progress)
        self.name = Path(name).resolve().parent.name if Path(name).name == "model" else Path(name).name
        # No second tries by chance: one answer to one sound.
        self.recogniser = Recogniser(self.checkpoint)
        self.options = self.recogniser.search_options(beam_size=beam_size, temperatures=(0.0,))
        self.facts = {"sha256": _sha256(name), "search": _search(self.checkpoint, self.options)}
        self.about = {"model": name, "training": self.checkpoint.training}
        able = self.checkpoint.modalities
        if self.checkpoint.model.ctc_units != "tokens":         # a published network goes by one: nothing to set against `none`
            able = ("none", *able)
        self.modalities = tuple(one for one in modalities if one in able)
        self.needs_lips = {"v"} if "a" in able else {"v", "av"}
        self.workers, self.device = n_parallel_batches(self.torch_device), self.torch_device.type
        self.gate = _gate(self.checkpoint)

    @torch.inference_mode()
    def answer(self, sounds: Sequence[np.ndarray], texts: Sequence[str], questions: Sequence[Question]) -> list[Answer]:
        """See Subject."""
        spelled = [target_tokens(self.checkpoint.tokenizer, text) for text in texts]
        audio, hearing, out = sounds, Watch(self.torch_device), []
        if any("a" in question.modality for question in questions):
            with hearing:
                audio = self.recogniser.encode_audio(sounds)
        for question in questions:
            watch = Watch(self.torch_device)
            with watch:
                memory = self.recogniser.encode(audio, question.mouths, question.modality)
                written = self._written(question, memory)
            losses = [-round(one.mean().item(), 4) for one in self.recogniser.score(memory, spelled)]
            trust = _listed(memory.reliability, len(texts))
            rows = [{"hypothesis": text, "video_reliability": believed, "gate": self._opening(question, i, believed),
                     "loss": loss} for i, (text, believed, loss) in enumerate(zip(written, trust, losses, strict=True))]
            out.append(Answer(rows, watch.seconds + ("a" in question.modality) * hearing.seconds))
        return out

    def _written(self, question: Question, memory: Memory) -> list[str]:
        """Texts; nothing where lips are needed and there is no face, as `transcribe` has it."""
        needs_lips = question.modality in self.needs_lips
        if question.modality == "none" or (needs_lips and not any(one is not None for one in question.mouths)):
            return [""] * memory.n_utterances
        texts = [self.recogniser.detokenize(one.tokens) for one in self.recogniser.decode(memory, self.options)]
        if needs_lips:
            texts = [text if mouth is not None else "" for text, mouth in zip(texts, question.mouths, strict=True)]
        return texts

    def _opening(self, question: Question, number: int, trust: float | None) -> float | None:
        if "v" not in question.modality or self.gate is None:
            return None
        there = question.mouths[number] is not None
        return round(self.gate * there * (1.0 if trust is None else trust), 4)


class Watch:
    """Seconds spent inside `with`; a GPU is waited for."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, 0.0

    def __enter__(self) -> Watch:
        self.start = self._now()
        return self

    def __exit__(self, *_) -> None:
        self.seconds += self._now() - self.start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Other:
    """Another recogniser, see against.py: by sound alone, one batch after the other."""

    modalities = ("a",)
    n_parallel_batches = 1

    def __init__(self, rival: Rival):
        self.rival, self.name, self.device = rival, rival.name, rival.device
        self.facts, self.about = {"sha256": rival.sha256, "search": rival.search}, dict(rival.facts)

    def answer(self, sounds: Sequence[np.ndarray], texts: Sequence[str], questions: Sequence[Question]) -> list[Answer]:
        """See Subject."""
        (question,) = questions
        assert question.modality == "a"
        start = time.perf_counter()
        written = self.rival.recognise(sounds)
        return [Answer([{"hypothesis": text} for text in written], time.perf_counter() - start)]


@contextmanager
def own_threads(n: int) -> Iterator[None]:
    """So many torch threads to an operation while it lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _listed(values: torch.Tensor | None, n: int) -> list[float | None]:
    return [None] * n if values is None else [round(one, 4) for one in values.tolist()]


def _search(checkpoint: Checkpoint, options: DecodeOptions) -> str:
    """How texts are searched, as rows tell it."""
    return f"beam {options.beam_size}" + (f", CTC {options.ctc_weight:g}" if checkpoint.model.ctc_units == "tokens" else "")


def _gate(checkpoint: Checkpoint) -> float | None:
    """Mean opening, |tanh g|, of the gates through which the video reaches what becomes words; None without eyes."""
    model = checkpoint.model
    gates = [abs(value) for name, value in (model.gates.items() if isinstance(model, AVSR) else ())
             if name.endswith("attention_gate") and "into_video" not in name]
    return float(np.mean(gates)) if gates else None


def _sha256(name: str) -> str | None:
    """Of a model's weights, as its model.json has it; None for Whispers by name, whose name says it."""
    folder = SHIPPED / name if name in shipped() else Path(name)
    try:
        return json.loads((folder / "model.json").read_bytes())["sha256"]["model.safetensors"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AvsrError(f"{folder / 'model.json'}: it does not say what its weights are ({error}).  Copy the model "
                        "again.") from error
