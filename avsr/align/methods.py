"""Forced alignment of one section by one method: its sound or mouths and its words in, the times of each word out.

    stream.Window + words -> attention of Whisper's alignment heads | CTC | phones of a hidden Markov model -> Words
All times that come out are in seconds from the start of the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import nn

from avsr.errors import AvsrError
from avsr.hmm.alignment import PhoneAligner
from avsr.memory import Memory
from avsr.rates import SAMPLE_RATE, SEGMENT_SECONDS
from avsr.recogniser import Recogniser
from avsr.stream import Window
from avsr.text import ctc_classes, normalise, target_tokens
from avsr.timing import ctc_path, is_trained
from avsr.transcript import Phone, Word

METHODS = ("attention", "ctc", "hmm")
PHONE_MARGIN_S = 0.2                                        # sound on each side of a word whose phones are found
SPACE = 1                                                   # the CTC class of the space between words


class Method(Protocol):
    """A way to time words. name: of METHODS. longest_s: seconds of a window that it can take."""

    name: str
    longest_s: float

    def align(self, window: Window, words: Sequence[str]) -> list[Word | None]:
        """A Word for each of `words`, which are said in this order in the window; None for a word that the method cannot spell.

        Raises DoesNotFit where there is no path through the words.
        """
        ...


class DoesNotFit(Exception):
    """The words of a section take more time than it has; the message says how much of both."""


class Attention:
    """By the attention of a recogniser's decoder while it is given the text (teacher forcing), see timing.py."""

    name, longest_s = "attention", float(SEGMENT_SECONDS)

    def __init__(self, recogniser: Recogniser, modality: str, language: str):
        self.recogniser, self.modality, self.language = recogniser, modality, language

    def align(self, window: Window, words: Sequence[str]) -> list[Word | None]:
        """See Method. Raises AvsrError for more tokens than the decoder has room for."""
        tokenizer = self.recogniser.tokenizer
        spelt = [target_tokens(tokenizer, word) for word in words]
        tokens = [token for one in spelt for token in one]
        room = self.recogniser.model.dims.n_context
        needed = len(tokens) + len(tokenizer.prompt(self.language)) + 1
        if room is not None and needed > room:
            raise AvsrError(f"{self.recogniser.checkpoint.name}: its decoder takes {room} tokens at once, and "
                            f"{window.segment.duration_s:.1f} s of the text have {needed}.  Use --by ctc or --by hmm, or a "
                            "Whisper.")
        memory = encoded(self.recogniser, window, self.modality)
        found, = self.recogniser.align(memory, [tokens], [window.segment.duration_s], self.language)
        return _regrouped([len("".join(tokenizer.decode(one).split())) for one in spelt], words, found)


class CTC:
    """By the most likely path of CTC through the letters of the text (Graves et al. 2006), or through the decoder's tokens
    where CTC writes those. Raises AvsrError for a model without a trained CTC head for this modality."""

    name, longest_s = "ctc", float(SEGMENT_SECONDS)

    def __init__(self, recogniser: Recogniser, modality: str, language: str):
        self.recogniser, self.modality, self.language = recogniser, modality, language
        self.head = {"a": "audio", "v": "video", "av": "fused"}[modality]
        self.of_tokens = recogniser.model.joint_ctc
        heads = recogniser.model.ctc
        if isinstance(heads, nn.ModuleDict) and not (
                self.head in heads and isinstance(head := heads[self.head], nn.Linear) and is_trained(head)):
            raise AvsrError(f"{recogniser.checkpoint.name}: it has no trained CTC head for this modality ({modality}).  Use "
                            "--model grid or an imported model, or --by attention.")

    def align(self, window: Window, words: Sequence[str]) -> list[Word | None]:
        """See Method."""
        if self.of_tokens:                                  # timing.align takes CTC of itself where it writes the tokens
            return Attention(self.recogniser, self.modality, self.language).align(window, words)
        memory = encoded(self.recogniser, window, self.modality)
        log_probs = self.recogniser.model.ctc_log_probs(memory)[self.head][0].double().cpu().numpy()
        rate = self.recogniser.model.memory_rate
        log_probs = log_probs[:max(1, round(window.segment.duration_s * rate))]
        classes, owners = _letters(words)
        if not classes:
            return [None] * len(words)
        if len(classes) > len(log_probs):
            raise DoesNotFit(f"{len(classes)} letters in {len(log_probs) / rate:.2f} s")
        first, last = ctc_path(log_probs, classes)
        out: list[Word | None] = []
        for number, text in enumerate(words):
            own = np.flatnonzero(owners == number)
            if not len(own):
                out.append(None)
                continue
            a, b = own[0], own[-1]
            surest = [float(np.exp(log_probs[first[i]:last[i] + 1, classes[i]].max())) for i in own]
            out.append(Word(text, float(first[a] / rate), float((last[b] + 1) / rate), float(np.mean(surest))))
        return out


class HMM:
    """By the phones of a hidden Markov model on the sound, see hmm/alignment.py."""

    name, longest_s = "hmm", 120.0                          # a minute takes 3 s, and 400 MB at two

    def __init__(self):
        self.aligner = PhoneAligner.open()

    def align(self, window: Window, words: Sequence[str]) -> list[Word | None]:
        """See Method. The confidence is the mean probability of the states, given the sound and all states alike."""
        from avsr.hmm.alignment import TextDoesNotFit

        assert window.audio is not None, "phones are aligned with sound"
        try:
            found = self.aligner.align(window.audio, words)
        except TextDoesNotFit as error:
            raise DoesNotFit(str(error).split("  ")[0]) from error
        return [None if not one.phones else
                Word(text, one.start, one.end, None if one.logprob is None else float(np.exp(min(0.0, one.logprob))),
                     phones=tuple(Phone(phone.name, phone.start, phone.end) for phone in one.phones))
                for text, one in zip(words, found, strict=True)]

    def phones(self, window: Window, word: Word) -> tuple[Phone, ...]:
        """The phones of a word that another method timed. word: with times from the start of the window."""
        assert window.audio is not None, "phones are aligned with sound"
        first = max(0, round((word.start - PHONE_MARGIN_S) * SAMPLE_RATE))
        sound = window.audio[first:max(first + 1, round((word.end + PHONE_MARGIN_S) * SAMPLE_RATE))]
        start = first / SAMPLE_RATE
        found = self.aligner.within(sound, word.text.strip(), word.start - start, word.end - start)
        return tuple(Phone(one.name, one.start + start, one.end + start) for one in found)


def open_method(name: str, recogniser: Recogniser, modality: str, language: str) -> Method:
    """The method of a name of METHODS or `auto`. Raises AvsrError where model, modality or language rule it out."""
    name = _best(recogniser, modality, language) if name == "auto" else name
    if name == "hmm":
        if "a" not in modality:
            raise AvsrError("--by hmm: phones are aligned with the sound, and only the lips are used.  Use --by ctc or --by "
                            "attention.")
        if language != "en":
            raise AvsrError(f"--by hmm: its phones are those of English, and the language is {language!r}.  Use --by "
                            "attention.")
        return HMM()
    if name == "attention":
        if recogniser.model.joint_ctc or recogniser.model.ctc_only:
            raise AvsrError(f"{recogniser.checkpoint.name}: this model's words are timed by its CTC.  Use --by ctc.")
        return Attention(recogniser, modality, language)
    return CTC(recogniser, modality, language)


def _best(recogniser: Recogniser, modality: str, language: str) -> str:
    """What `auto` stands for, chosen on GRID's valid clips (experiments/history/alignment): phones where there is English
    sound, the decoder's attention anywhere else."""
    if "a" in modality and language == "en":
        return "hmm"
    return "ctc" if recogniser.model.joint_ctc or recogniser.model.ctc_only else "attention"


@torch.inference_mode()
def encoded(recogniser: Recogniser, window: Window, modality: str) -> Memory:
    """The memory of one window."""
    audio = None if "a" not in modality or window.audio is None else [window.audio]
    return recogniser.encode(audio, [window.mouths], modality, seconds=[window.segment.duration_s])


def _letters(words: Sequence[str]) -> tuple[list[int], np.ndarray]:
    """The CTC classes (L,) of words with a space between two, and the number of the word each belongs to, -1 for a space."""
    classes: list[int] = []
    owners: list[int] = []
    for number, word in enumerate(words):
        own = ctc_classes(normalise(word))
        if not own:
            continue
        if classes:
            classes.append(SPACE)
            owners.append(-1)
        classes += own
        owners += [number] * len(own)
    return classes, np.array(owners)


def _regrouped(lengths: Sequence[int], words: Sequence[str], found: Sequence[Word]) -> list[Word | None]:
    """Words as they were given from the words of a tokenizer, which may be others: `F2` is ` f`, ` two` where it has no digits.

    lengths: the letters of each given word as the tokenizer spells it; 0 for one that it cannot spell.
    """
    borders = np.cumsum([0, *(len("".join(one.text.split())) for one in found)])
    out: list[Word | None] = []
    at = 0
    for text, length in zip(words, lengths, strict=True):
        own = [one for one, a, b in zip(found, borders, borders[1:], strict=False) if a < at + length and b > at]
        at += length
        if not length or not own:
            out.append(None)
            continue
        confidences = [one.confidence for one in own if one.confidence is not None]
        out.append(Word(text, own[0].start, own[-1].end, float(np.mean(confidences)) if confidences else None))
    return out
