"""Fits the reliability estimator after the rest of the network is trained: when does the video help?

    model + rows -> pairs: each sound and its own mouth      ->  contrastive pre-training of the two projections
                 -> samples: a sound, several mouths, the word errors by audio, by video and by both  ->  fit of the classifier
The rest of the network stays as it is, so every input is encoded once.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsr.augment import make_unreadable
from avsr.batch import collate
from avsr.cache import read_entry
from avsr.checkpoint import Checkpoint
from avsr.config import Config, ReliabilityConfig
from avsr.corrupt import FRAME_MS, Corruption, Mouth, corrupt, fitted, occlude
from avsr.dataset import Examples, ExampleSpec, ManifestRow
from avsr.errors import BadConfig
from avsr.memory import Memory
from avsr.metrics import word_errors
from avsr.models.avsr import AVSR, Dims
from avsr.models.fusion import TEMPERATURE, ReliabilityEstimator
from avsr.rates import MEMORY_PER_FRAME
from avsr.recogniser import Recogniser
from avsr.runtime import Progress, no_progress
from avsr.text import normalise, target_tokens
from avsr.train.valid import GREEDY

P_MISMATCHED, P_UNREADABLE = 0.3, 0.1                       # shares of the mouths
OOD_ROWS, AT_ONCE = 512, 16                                 # utterances
CLASSIFIER_BATCH, CONTRASTIVE_BATCH = 128, 48               # mouths, pairs
DROPOUT, WEIGHT_DECAY = 0.1, 0.05
DAMAGE = {"occlusion": (0.02, 0.6), "blur": (1.0, 8.0), "lowres": (6.0, 32.0), "dropped": (0.1, 0.9), "shift": (-280.0, 280.0)}


@dataclass(frozen=True)
class ReliabilitySample:
    """One sound with K mouths: audio (S, D) and video (K, S, D) float16, the estimator's inputs; seen (K, S) bool; word errors
    by modality, (), (K,) and (K,), as a share of the words, at most 1."""

    audio: Tensor
    video: Tensor
    seen: Tensor
    audio_errors: Tensor
    video_errors: Tensor
    both_errors: Tensor


@dataclass(frozen=True)
class Pair:
    """A sound and its own mouth, one position per frame: audio (T, D), video (T, D) float16, seen (T,) bool."""

    audio: Tensor
    video: Tensor
    seen: Tensor


def check_reliability(dims: Dims, config: Config) -> None:
    """Raises BadConfig where the config wants an estimator fitted that the network does not have, or that cannot be fitted."""
    wanted = config.reliability.variants
    if wanted and not dims.n_reliability:
        raise BadConfig(f"{config.name}: reliability.variants is {wanted}, but the network has no reliability estimator.  Set "
                        "model.dims.n_reliability.")
    if wanted and dims.n_fusion_layers:
        raise BadConfig(f"{config.name}: reliability.variants is {wanted}, but with {dims.n_fusion_layers} fusion layers the "
                        "encoded sound depends on the mouth.  Set model.dims.n_fusion_layers or reliability.variants to 0.")


def fit_reliability(checkpoint: Checkpoint, rows: Sequence[ManifestRow], examples: Examples, settings: ReliabilityConfig, *,
                    seed: int, progress: Progress = no_progress) -> int:
    """Fit the network's reliability estimator; return the number of samples it was fitted on."""
    estimator = checkpoint.model.eval().reliability
    assert estimator is not None, "see check_reliability"
    rows = [row for row in rows if row.cache.modality == "av"]
    reliable, known, samples = [row for row in rows if row.reliable], [], []
    examples = copy(examples)
    examples.p_speed = 0.0                                  # the mouths keep their speed, so the sounds must too
    for pair in pairs(checkpoint, reliable, examples):
        known.append(pair)
        progress("reliability: encoding", len(known), len(reliable), "utterances")
    for sample in reliability_samples(checkpoint, rows, examples, settings, seed=seed):
        samples.append(sample)
        progress("reliability: making samples", len(samples), min(len(rows), settings.rows), "utterances")
    progress("reliability: fitting", 0, None, None)
    if known:
        pretrain_contrastively(estimator, known, settings, seed=seed)
    if samples:
        fit(estimator, samples, settings, seed=seed)
    return len(samples)


def balanced(rows: Sequence[ManifestRow], n_rows: int, rng: np.random.Generator) -> list[ManifestRow]:
    """At most n_rows rows in random order, as evenly spread over the speakers as possible."""
    turn: Counter[str | None] = Counter()
    placed = []
    for row in (rows[i] for i in rng.permutation(len(rows))):
        placed.append((turn[row.utterance.speaker], row))
        turn[row.utterance.speaker] += 1
    chosen = [row for _, row in sorted(placed, key=lambda one: one[0])[:n_rows]]
    return [chosen[i] for i in rng.permutation(len(chosen))]


@torch.inference_mode()
def fit_ood(checkpoint: Checkpoint, rows: Sequence[ManifestRow], *, seed: int, progress: Progress = no_progress) -> None:
    """Fit the out-of-distribution detector (models.fusion.OODDetector) to the mouths of up to 512 training rows.

    Each mouth counts twice, as it is and partly covered, so that a hand does not make a known speaker unknown."""
    model, rng, recogniser = checkpoint.model.eval(), np.random.default_rng(seed), Recogniser(checkpoint)
    assert isinstance(model, AVSR)
    assert model.reliability is not None, "the network has no reliability estimator"
    detector = model.reliability.detector
    rows = balanced([row for row in rows if row.reliable and "v" in row.cache.modality], OOD_ROWS, rng)
    if len(rows) < 2 * len(detector.directions):
        return                                              # too few to fit: everything stays in distribution
    means: list[list[Tensor]] = [[], []]
    for start in range(0, len(rows), AT_ONCE):
        progress("reliability: known mouths", start, len(rows), "utterances")
        entries = [_read_mouths(row) for row in rows[start:start + AT_ONCE]]
        covered = [one._replace(images=occlude(one.images, rng.uniform(*DAMAGE["occlusion"]), rng)) for one in entries]
        for found, mouths in zip(means, (entries, covered), strict=True):
            images, seen = recogniser.batch_video(mouths)
            found.append(detector.pool(model.video.features(images, seen), seen))
    detector.fit(*(torch.cat(found) for found in means))


def corrupted(mouths: Mouth, rng: np.random.Generator) -> Mouth:
    """The mouths as they are, damaged in a random way and amount, or unreadable."""
    if rng.random() < P_UNREADABLE:
        return mouths._replace(images=make_unreadable(mouths.images, rng))
    kind = str(rng.choice(["none", *DAMAGE]))
    if kind == "none":
        return mouths
    amount = float(rng.uniform(*DAMAGE[kind]))
    if kind == "shift":
        amount = float(round(amount / FRAME_MS) * FRAME_MS)
    return corrupt(mouths.images, mouths.missing, Corruption(kind, amount), rng)


@torch.no_grad()
def pairs(checkpoint: Checkpoint, rows: Sequence[ManifestRow], examples: Examples) -> Iterator[Pair]:
    """The pairs of rows, which have sound and reliable mouths."""
    recogniser = Recogniser(checkpoint)
    for row in rows:
        video, seen = _video(recogniser, [_read_mouths(row)])
        audio = _audio(recogniser, row, examples)[0, ::MEMORY_PER_FRAME]
        n = min(len(audio), video.shape[1] // MEMORY_PER_FRAME)
        yield Pair(audio[:n].half().cpu(), video[0, ::MEMORY_PER_FRAME][:n].half().cpu(), seen[0, ::MEMORY_PER_FRAME][:n].cpu())


@torch.no_grad()
def reliability_samples(checkpoint: Checkpoint, rows: Sequence[ManifestRow], examples: Examples, settings: ReliabilityConfig,
                        *, seed: int) -> Iterator[ReliabilitySample]:
    """Samples of rows, which have sound and mouths: their own mouths and `settings.variants` corrupted or mismatched ones."""
    rng, recogniser = np.random.default_rng(seed), Recogniser(checkpoint)
    for row in balanced(rows, settings.rows, rng):
        own = _read_mouths(row)
        mouths = [own]
        for _ in range(settings.variants):
            other = rows[int(rng.integers(len(rows)))] if rng.random() < P_MISMATCHED else row
            variant = own if other is row else fitted(_read_mouths(other), len(own.images))
            mouths.append(corrupted(variant, rng))
        yield _sample(recogniser, _audio(recogniser, row, examples), mouths, row.utterance.text)


def _audio(recogniser: Recogniser, row: ManifestRow, examples: Examples) -> Tensor:
    """The encoded sound (1, S, D) of a row, in noise and altered as in training, the same each time."""
    rng = np.random.default_rng((0, zlib.crc32(row.utterance.id.encode())))
    tokenizer = recogniser.tokenizer
    batch = collate([examples.make(row, ExampleSpec("a"), rng)], tokenizer.prompt(None), tokenizer.end,
                    recogniser.checkpoint.pad_columns).to(recogniser.device)
    assert batch.mel is not None
    return recogniser.model.encode_audio(batch.mel, batch.mel_lengths)


def _read_mouths(row: ManifestRow) -> Mouth:
    cached = read_entry(row.base, row.cache)
    assert cached.images is not None, "its cache holds no mouths"
    assert cached.missing is not None
    return Mouth(cached.images, cached.missing)


def _video(recogniser: Recogniser, mouths: Sequence[Mouth]) -> tuple[Tensor, Tensor]:
    """Encoded mouths (K, S, D) before the last norm, and the positions that show a face (K, S)."""
    images, seen = recogniser.batch_video(mouths)
    assert isinstance(recogniser.model, AVSR)
    video = recogniser.model.video(recogniser.model.video.features(images, seen), seen)
    return video, seen.repeat_interleave(MEMORY_PER_FRAME, dim=1)


def _sample(recogniser: Recogniser, audio: Tensor, mouths: Sequence[Mouth], text: str) -> ReliabilitySample:
    model = recogniser.model
    assert isinstance(model, AVSR)
    video, seen = _video(recogniser, mouths)
    by_audio, by_video = Memory(model.audio.norm(audio), None), Memory(None, model.video.norm(video), None, seen)
    both = replace(by_video, audio=by_audio.states.expand(len(mouths), -1, -1))
    n = min(audio.shape[1], seen.shape[1])
    return ReliabilitySample(audio[0, :n].half().cpu(), video[:, :n].half().cpu(), seen[:, :n].cpu(),
                             *(_errors(recogniser, memory, text) for memory in (by_audio, by_video, both)))


def _errors(recogniser: Recogniser, memory: Memory, text: str) -> Tensor:
    """Word errors (N,) of greedy search, for utterances that all say `text`, as a share of its words, at most 1.

    The search ends after twice as many tokens as the text has, and four more."""
    options = replace(GREEDY, max_tokens=2 * len(target_tokens(recogniser.tokenizer, text)) + 4)
    reference, out = normalise(text), []
    for found in recogniser.decode(memory, options):
        score = word_errors(reference, normalise(recogniser.detokenize(found.tokens)))
        out.append(min(1.0, score.errors / max(1, score.words)))
    return torch.tensor(out)


def pretrain_contrastively(estimator: ReliabilityEstimator, known: Sequence[Pair], settings: ReliabilityConfig, *,
                           seed: int) -> None:
    """Contrastive pre-training: the projections learn to find each sound's own mouth in a batch, and each mouth's own sound
    (InfoNCE; van den Oord et al. 2018; CLIP's symmetric form). Word errors alone say too little about dubbed faces."""
    device, rng = next(estimator.parameters()).device, np.random.default_rng(seed)
    pad = nn.utils.rnn.pad_sequence

    def loss() -> Tensor:
        chosen = [known[i] for i in rng.choice(len(known), min(CONTRASTIVE_BATCH, len(known)), replace=False)]
        audio, video, seen = (pad([getattr(one, name) for one in chosen], batch_first=True).to(device)
                              for name in ("audio", "video", "seen"))
        audio, video = (project(F.dropout(one.float(), DROPOUT))
                        for project, one in ((estimator.audio, audio), (estimator.video, video)))
        agree = _agreements(audio, video, seen, estimator.lags(MEMORY_PER_FRAME))
        own = torch.arange(len(chosen), device=device)
        return (F.cross_entropy(agree / TEMPERATURE, own) + F.cross_entropy(agree.T / TEMPERATURE, own)) / 2

    parameters = [*estimator.audio.parameters(), *estimator.video.parameters()]
    _minimise(loss, parameters, settings.lr, settings.contrastive_steps, seed)


def _agreements(audio: Tensor, video: Tensor, seen: Tensor, lags: range) -> Tensor:
    """models.fusion.agreement of every sound (N, S, H) with every mouth (M, S, H), seen (M, S), by matrix products: (N, M)."""
    audio, video = F.normalize(audio, dim=-1), F.normalize(video, dim=-1) * seen[..., None]
    n, found = seen.shape[1], []
    for lag in (lag for lag in lags if abs(lag) < n):
        early, late = max(lag, 0), max(-lag, 0)
        total = audio[:, early:n - late].flatten(1) @ video[:, late:n - early].flatten(1).T
        found.append(total / seen[:, late:n - early].sum(dim=1).clamp_min(1))
    return torch.stack(found).amax(dim=0)


def fit(estimator: ReliabilityEstimator, samples: Sequence[ReliabilitySample], settings: ReliabilityConfig, *,
        seed: int) -> None:
    """Fit the classifier: video is reliable where the better of video and both has fewer word errors than audio.

    A wrong choice counts by what it costs: cross-entropy is weighted with the difference in word errors."""
    device, rng = next(estimator.parameters()).device, np.random.default_rng(seed)
    best = torch.cat([one.audio_errors - torch.minimum(one.video_errors, one.both_errors) for one in samples])
    gain = (best - settings.margin).to(device)
    with torch.no_grad():
        evidence = torch.cat([_evidence(estimator, one, device) for one in samples])

    def loss() -> Tensor:
        some = torch.from_numpy(rng.integers(0, len(gain), CLASSIFIER_BATCH)).to(device)
        logits = estimator.classifier(F.dropout(evidence[some], DROPOUT))[:, 0]
        cost = F.binary_cross_entropy_with_logits(logits, (gain[some] > 0).float(), reduction="none")
        return (cost * gain[some].abs()).mean()

    _minimise(loss, list(estimator.classifier.parameters()), settings.lr, settings.steps, seed)


def _evidence(estimator: ReliabilityEstimator, one: ReliabilitySample, device: torch.device) -> Tensor:
    audio, video, seen = one.audio.to(device).float()[None], one.video.to(device).float(), one.seen.to(device)
    return estimator.evidence(estimator.audio(audio).expand(len(video), -1, -1), estimator.video(video), None, seen)


def _minimise(loss: Callable[[], Tensor], parameters: Sequence[nn.Parameter], lr: float, n_steps: int, seed: int) -> None:
    """Minimise with AdamW over these parameters, also where they are frozen otherwise."""
    trainable = [one.requires_grad for one in parameters]
    torch.manual_seed(seed)                                 # of dropout
    with torch.enable_grad():
        for one in parameters:
            one.requires_grad_(True)
        optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=n_steps)
        for _ in range(n_steps):
            optimiser.zero_grad(set_to_none=True)
            loss().backward()
            optimiser.step()
            schedule.step()
    for one, before in zip(parameters, trainable, strict=True):
        one.requires_grad_(before)
