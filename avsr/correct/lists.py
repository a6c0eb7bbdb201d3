"""N-best lists: what a recogniser finds for an utterance by sound, by lips and by both; and files of them.

    Recogniser, memory -> read_lists -> FoundLists: own text, NBest
    LabelledLists <-> JSON Lines: id, reference, noise, snr_db, own, lists
HyPoradise (arXiv 2309.15701) corrects from n-best lists, and DualHyp (arXiv 2510.13281) from one of sound and one of lips.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch

from avsr import decode
from avsr.combine.memory import CombinedMemory
from avsr.combine.recogniser import CombinedRecogniser, Comparison
from avsr.combine.scores import n_letters
from avsr.decode import DecodeOptions, Hypothesis, TextLimits
from avsr.decode.limits import max_characters
from avsr.errors import BadManifest
from avsr.memory import Memory
from avsr.names import INPUT_MODALITIES
from avsr.recogniser import Recogniser
from avsr.schema import Between, InvalidValue, validate_table
from avsr.text import normalise

REMEDY = "Make the file again with avsr correct nbest."


@dataclass(frozen=True)
class NBest:
    """The texts of one search, normalised, each once, the most likely first. scores: nats a letter, see combine.scores."""

    texts: tuple[str, ...]
    scores: tuple[float, ...]


Lists = Mapping[str, NBest]
"""N-best lists by modality: `a` by sound, `v` by lips, `av` by both. A list that was not made is absent."""


@dataclass(frozen=True)
class FoundLists:
    """own: what the recogniser writes. lists: of the same search; empty where nobody speaks."""

    own: Hypothesis
    lists: Lists


@dataclass(frozen=True)
class LabelledLists:
    """The lists of an utterance whose text is known, in noise of a level in dB; both None where clean. own: normalised."""

    id: str
    reference: str
    own: str
    lists: Lists = field(default_factory=dict)
    noise: str | None = None
    snr_db: Annotated[float, Between(-100, 100)] | None = None


def read_lists(recogniser: Recogniser, memory: Memory | CombinedMemory, modality: str, options: DecodeOptions,
               language: str = "en") -> list[FoundLists]:
    """What the recogniser writes for each utterance, as by `decode`, and its n-best lists.

    modality: the mark of the lists of a single model. Of two models (`--lips`) there are three lists.
    """
    if isinstance(recogniser, CombinedRecogniser):
        assert isinstance(memory, CombinedMemory)
        return _of_both(recogniser, memory, options, language)
    assert isinstance(memory, Memory)
    found = recogniser.nbest(memory, options, language)
    own = [texts[0] for texts in found]                     # `decode` begins with this search: only what fails needs another
    if again := [i for i, text in enumerate(own) if _is_refused(recogniser, memory, i, text, options)]:
        part = memory.select(torch.tensor(again, device=memory.device))
        for i, text in zip(again, recogniser.decode(part, options, language), strict=True):
            own[i] = text
    return [FoundLists(text, {modality: list_of(recogniser, texts)} if text.tokens else {})
            for text, texts in zip(own, found, strict=True)]


def _is_refused(recogniser: Recogniser, memory: Memory, i: int, text: Hypothesis, options: DecodeOptions) -> bool:
    """Whether a guard of `decode` objects to the first text of utterance i."""
    if recogniser.model.joint_ctc:
        return False
    longest = None if memory.seconds is None else max_characters(memory.seconds[i].item())
    limits = TextLimits(recogniser.tokenizer.decode, [longest], options.compression_ratio_threshold)
    return (limits.exceeded(text.tokens, 0) or decode.fails(text, recogniser.tokenizer, options)
            or decode.is_silence(text, options))


def _of_both(recogniser: CombinedRecogniser, memory: CombinedMemory, options: DecodeOptions, language: str) -> list[FoundLists]:
    compared = recogniser.compare(memory, options, language)
    own = recogniser.decide(memory, compared, options, language)
    out = [FoundLists(text, {} if one is None else lists_of(one)) for text, one in zip(own, compared, strict=True)]
    if alone := [i for i, one in enumerate(compared) if one is None]:
        sound = memory.sound.select(torch.tensor(alone, device=recogniser.device))
        for i, one in zip(alone, read_lists(recogniser.sound, sound, "a", options, language), strict=True):
            out[i] = replace(one, own=own[i])
    return [one if one.own.tokens else replace(one, lists={}) for one in out]


def list_of(recogniser: Recogniser, texts: Sequence[Hypothesis]) -> NBest:
    """The n-best list of one search; of several spellings of the same words the most likely."""
    scores: dict[str, float] = {}
    for one in texts:
        words = normalise(recogniser.detokenize(one.tokens))
        scores[words] = max(scores.get(words, -torch.inf), one.logprob / n_letters(tuple(words.split())))
    return _sorted(scores)


def lists_of(compared: Comparison) -> dict[str, NBest]:
    """The lists by sound, by lips, and by both together."""
    scores: dict[str, dict[str, float]] = {"a": {}, "v": {}, "av": {}}
    for one in compared.texts:
        text = " ".join(one.words)
        if one.origin in ("sound", "both"):
            scores["a"][text] = one.sound
        if one.origin in ("lips", "both"):
            scores["v"][text] = one.lips
        if one.total > -torch.inf:
            scores["av"][text] = one.total
    return {modality: _sorted(found) for modality, found in scores.items() if found}


def _sorted(scores: Mapping[str, float]) -> NBest:
    texts = sorted(scores, key=lambda text: -scores[text])
    return NBest(tuple(texts), tuple(round(scores[text], 4) for text in texts))


def line_of(one: LabelledLists) -> str:
    """A line of JSON, without its end."""
    return json.dumps(asdict(one), ensure_ascii=False)


def read_file(path: Path) -> list[LabelledLists]:
    """The lists in a file. Raises BadManifest."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadManifest(f"{path}: these n-best lists cannot be read ({reason}).  {REMEDY}") from error
    found = list(_read(path, text.splitlines()))
    if not found:
        raise BadManifest(f"{path}: there are no n-best lists in it.  {REMEDY}")
    return found


def _read(path: Path, lines: Iterable[str]) -> Iterator[LabelledLists]:
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            values = json.loads(line)
            lists = {modality: NBest(**validate_table(NBest, one, f"lists.{modality}."))
                     for modality, one in values.pop("lists").items()}
            yield LabelledLists(**validate_table(LabelledLists, values), lists=lists)
        except InvalidValue as error:
            raise BadManifest(f"{where}: {error}.  {REMEDY}") from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise BadManifest(f"{where}: has no id, reference, own and lists ({error}).  {REMEDY}") from error
        if unknown := sorted(lists.keys() - set(INPUT_MODALITIES)):
            raise BadManifest(f"{where}: its lists are of modality {unknown[0]!r}; known are {', '.join(INPUT_MODALITIES)}.  "
                              f"{REMEDY}")
        if any(len(one.texts) != len(one.scores) or not one.texts for one in lists.values()):
            raise BadManifest(f"{where}: a list has no text, or not one score for each.  {REMEDY}")
