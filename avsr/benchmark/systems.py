"""The systems that a benchmark measures, as one protocol; our checkpoints are one, baselines.py has others.

    audio (S,) and mouths of B utterances  ->  System.recognise  ->  Result of each task: texts, losses, seconds
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from avsr.benchmark.conditions import BenchmarkSettings
from avsr.checkpoint import SHIPPED, Checkpoint, shipped
from avsr.checkpoint.kept import kept_folder
from avsr.combine import JOINED_BY, open_recogniser
from avsr.combine.memory import CombinedMemory
from avsr.correct import corrected, open_corrector
from avsr.corrupt import Mouth
from avsr.decode import HELPS, DecodeOptions, Hypothesis, open_external
from avsr.errors import AvsrError
from avsr.memory import Memory
from avsr.models.avsr import AVSR
from avsr.recogniser import EncodedAudio, Recogniser
from avsr.runtime import Progress, n_parallel_batches, pick_device
from avsr.text import target_tokens
from avsr.transcribe.run import load_models

NOTHING = Hypothesis((), 0.0)


@dataclass(frozen=True)
class Request:
    """B utterances as one task shows them. mouths: None for an utterance without one."""

    modality: str
    mouths: Sequence[Mouth | None]


@dataclass(frozen=True)
class Recognition:
    """What a system made of one utterance; see the fields of the same names in results.ResultRow."""

    hypothesis: str
    video_reliability: float | None = None
    gate: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Result:
    """What a system made of the B utterances of a request, and how long it took."""

    recognitions: list[Recognition]
    seconds: float


class System(Protocol):
    """What a benchmark measures.

    name: `system` of its rows.  facts: their sha256 and search.  about: what else run.json says of it.  device: cpu or cuda.
    modalities: those it can be measured by.
    """

    name: str
    facts: dict[str, Any]
    about: dict[str, Any]
    modalities: tuple[str, ...]
    n_parallel_batches: int
    device: str

    def recognise(self, audio: Sequence[np.ndarray], references: Sequence[str], requests: Sequence[Request]) -> list[Result]:
        """The result of each request about B utterances. audio: (S,) float32 each."""
        ...


class CheckpointSystem:
    """One of our models, or the sound by one and the lips by another.

    By modality `none` it writes nothing; only the loss of the reference is computed.
    """

    def __init__(self, name: str, *, lips: str | None = None, settings: BenchmarkSettings, progress: Progress):
        self.torch_device, modalities = pick_device(settings.device), settings.modalities
        uses_video = any("v" in one for one in modalities)
        self.checkpoint = load_models(name, lips, "auto" if uses_video else "a", self.torch_device, progress)
        names = [name] if lips is None else [name, lips]
        helps = open_external(settings, self.checkpoint.tokenizer, progress)
        self.name = ", ".join([JOINED_BY.join(map(_short_name, names)), *_help_names(settings)])
        # An imported network has one modality, so `none` tells nothing; neither does it of two models.
        able = self.checkpoint.modalities
        if isinstance(self.checkpoint.model, AVSR) and lips is None:
            able = ("none", *able)
        self.modalities = tuple(one for one in modalities if one in able)
        corrector = None if settings.correct is None else open_corrector(settings.correct)
        self.recognisers = {one: corrected(open_recogniser(self.checkpoint, one), corrector, one) for one in self.modalities}
        # No fallback temperatures, which are random: one result for one sound.
        # What helps the search of a pair helps that of the audio model, whose tokens it was checked with.
        self.options = {one: recogniser.search_options(beam_size=settings.beam_size, temperatures=(0.0,),
                                                       **({} if lips is not None and one == "v" else helps))
                        for one, recogniser in self.recognisers.items()}
        sums = [_sha256(one) for one in names]
        self.facts = {"sha256": sums[0] if lips is None else JOINED_BY.join(map(str, sums)),
                      "search": _search(self.checkpoint,
                                        Recogniser(self.checkpoint).search_options(beam_size=settings.beam_size, **helps))}
        if corrector is not None:
            self.facts["search"] += f", corrected by {corrector.sha256[:12]}"
        helped = {one: str(value) for one in (*HELPS, "correct") if (value := getattr(settings, one)) is not None}
        self.about = {"model": name, **helped, **({} if lips is None else {"lips": lips}), "training": self.checkpoint.training}
        self.needs_video = {"v"} if "a" in able else {"v", "av"}
        self.n_parallel_batches, self.device = n_parallel_batches(self.torch_device), self.torch_device.type
        self.gate = _mean_gate(self.checkpoint)

    @torch.inference_mode()
    def recognise(self, audio: Sequence[np.ndarray], references: Sequence[str], requests: Sequence[Request]) -> list[Result]:
        """See System."""
        encoded, encoding, out = audio, Timer(self.torch_device), []
        if heard := [request.modality for request in requests if "a" in request.modality]:
            with encoding:
                encoded = self.recognisers[heard[0]].encode_audio(audio)
        for request in requests:
            timer = Timer(self.torch_device)
            with timer:
                memory, texts = self._recognise(request, encoded)
            reliabilities = [None] * len(texts)
            if memory.reliability is not None:
                reliabilities = [round(one, 4) for one in memory.reliability.tolist()]
            shares = [text.lips and round(text.lips.share, 4) for text in texts]
            gates = [self._gate(request.modality, *pair) for pair in zip(request.mouths, reliabilities, strict=True)]
            gates = [share if gate is None else gate for share, gate in zip(shares, gates, strict=True)]
            written = [self.recognisers[request.modality].detokenize(text.tokens) for text in texts]
            losses = self._losses(request.modality, memory, references)
            recognitions = [Recognition(*fields) for fields in zip(written, reliabilities, gates, losses, strict=True)]
            out.append(Result(recognitions, timer.seconds + ("a" in request.modality) * encoding.seconds))
        return out

    def _recognise(self, request: Request, audio: Sequence[np.ndarray] | EncodedAudio) -> tuple[Memory, list[Hypothesis]]:
        """The memory and the texts; empty where video is needed and no face is seen, as in `transcribe`."""
        recogniser, needs_video = self.recognisers[request.modality], request.modality in self.needs_video
        memory = recogniser.encode(audio, request.mouths, request.modality)
        if request.modality == "none" or (needs_video and not any(one is not None for one in request.mouths)):
            return memory, [NOTHING] * memory.n_utterances
        texts = recogniser.decode(memory, self.options[request.modality])
        if needs_video:
            texts = [text if mouth is not None else NOTHING for text, mouth in zip(texts, request.mouths, strict=True)]
        return memory, texts

    def _losses(self, modality: str, memory: Memory, references: Sequence[str]) -> list[float | None]:
        """The loss of each reference, nats a token; None by two models, whose tokens differ."""
        recogniser = self.recognisers[modality]
        if isinstance(memory, CombinedMemory):
            return [None] * len(references)
        tokens = [target_tokens(recogniser.tokenizer, text) for text in references]
        return [-round(one.mean().item(), 4) for one in recogniser.score(memory, tokens)]

    def _gate(self, modality: str, mouth: Mouth | None, reliability: float | None) -> float | None:
        """How far the gates let this mouth in; None where the model or the modality has no video."""
        if "v" not in modality or self.gate is None:
            return None
        return round(self.gate * (mouth is not None) * (1.0 if reliability is None else reliability), 4)


class Timer:
    """Seconds spent inside `with`; it waits for a GPU to finish."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, 0.0

    def __enter__(self) -> Timer:
        self.start = self._now()
        return self

    def __exit__(self, *_) -> None:
        self.seconds += self._now() - self.start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _short_name(name: str) -> str:
    """A model's name in rows: that of the run for its folder `model`."""
    return Path(name).resolve().parent.name if Path(name).name == "model" else Path(name).name


def _help_names(settings: BenchmarkSettings) -> list[str]:
    """What helps the search, and what follows it, as the name of a system says it: `lm grid-3gram`, `corrected`."""
    models = [f"{name} {_short_name(path.removesuffix('.gz').removesuffix('.arpa'))}" for name in ("lm", "rescore")
              if (path := getattr(settings, name)) is not None]
    return [*models, *(name for name, value in (("hotwords", settings.hotwords), ("corrected", settings.correct))
                       if value is not None)]


def _search(checkpoint: Checkpoint, options: DecodeOptions) -> str:
    """The `search` of rows."""
    weights = [f", {name} {getattr(options, weight):g}" for name, weight in HELPS.items() if getattr(options, name) is not None]
    ctc = [f", CTC {options.ctc_weight:g}"] if checkpoint.model.joint_ctc else []
    return "".join([f"beam {options.beam_size}", *ctc, *weights])


def _mean_gate(checkpoint: Checkpoint) -> float | None:
    """Mean opening, |tanh g|, of the gates through which video reaches the words; None without a video encoder."""
    gates = checkpoint.model.gates if isinstance(checkpoint.model, AVSR) else {}
    opened = [abs(value) for name, value in gates.items() if name.endswith("attention_gate") and "into_video" not in name]
    return float(np.mean(opened)) if opened else None


def _sha256(name: str) -> str | None:
    """The sha256 of a model's weights, from its model.json; None for a Whisper of the hub, whose name is enough."""
    folder = SHIPPED / name if name in shipped() else (not Path(name).is_dir() and kept_folder(name)) or Path(name)
    try:
        return json.loads((folder / "model.json").read_bytes())["sha256"]["model.safetensors"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AvsrError(f"{folder / 'model.json'}: it does not say what its weights are ({error}).  Copy the model "
                        "again.") from error
