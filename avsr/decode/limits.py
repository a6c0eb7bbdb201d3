"""How long a text can be for the duration of its utterance, and when it certainly repeats itself.

    tokens so far (N, L) of unfinished texts -> the rows that are not worth going on with

Whisper writes up to 224 tokens for any sound, however short. Unintelligible sound makes it do so, and six
times over, one temperature after the other: 32 s on one core for 1.6 s of sound.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from avsr.arrays import Array
from avsr.decode.options import Hypothesis

# People say at most 8 words, or 10 syllables, a second: in English, with 5.1 letters to a word and its space, 41 characters
# (code points); at most 45 in any script with 4.5 to a syllable, such as French. One sentence in 18 languages, by espeak-ng's
# unhurried voices, has 2 to 22 a second, the most in French. In tokens no bound would hold: that sentence has 3 Whisper tokens
# a second in English and 29 in Georgian, where a letter may take three. The fastest
# sentence of 13 wild recordings has 35 characters in its one second, that of GRID's test clips 18.
CHARACTERS_PER_SECOND = 50
EXTRA_CHARACTERS = 20                                       # a short word, whose sound may have been cut, has its full stop too
CHECK_INTERVAL = 8                                          # tokens: 2 ms for 40 texts, a step takes 10 to 30
# A text certainly repeats itself if it compresses so well that the guard against loops refuses it in any case, and its
# last phrase is there LOOP_REPEATS times or more, over LOOP_TOKENS or more: a refrain, or "no, no, no", is shorter. Above this
# share of the possible characters, which is 25 a second or eight times "no", FAST_LOOP_REPEATS are enough.
LOOP_TOKENS, LOOP_REPEATS = 48, 6
FAST_LOOP_SHARE, FAST_LOOP_REPEATS = 0.5, 3
MAX_PHRASE = 30                                             # tokens


def compression_ratio(text: str) -> float:
    """Bytes over zlib-compressed bytes: about 1 to 2 for speech, above 2.4 for loops (Whisper's measure)."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


def max_characters(seconds: float) -> int:
    """The number of characters that nobody exceeds in so many seconds of speech."""
    return round(seconds * CHARACTERS_PER_SECOND) + EXTRA_CHARACTERS


def repeated(tokens: Sequence[int]) -> tuple[int, int]:
    """The phrase at the end that is repeated over the most tokens: its length, and how many tokens its repeats cover, of which
    the earliest may be incomplete. (0, 0) where nothing is repeated."""
    best, tokens = (0, 0), list(tokens)
    for length in range(1, min(MAX_PHRASE, len(tokens) // 2) + 1):
        if tokens[-length:] != tokens[-2 * length:-length]:
            continue
        covered = 2 * length
        while covered < len(tokens) and tokens[-covered - 1] == tokens[-covered - 1 + length]:
            covered += 1
        if covered > best[1]:
            best = length, covered
    return best


class TextLimits:
    """Which texts nobody can have said, for the utterances of a batch that are still searched.

    detokenize: tokens -> text.  characters: the most that each utterance can have, None where its duration is not known.
    loop_ratio: compression ratio above which a text may be a loop, None to allow loops.
    """

    def __init__(self, detokenize: Callable[[Sequence[int]], str], characters: Sequence[int | None], loop_ratio: float | None):
        self.detokenize, self.characters, self.loop_ratio = detokenize, list(characters), loop_ratio

    def select(self, utterances: Array | Sequence[int]) -> TextLimits:
        """The limits of these utterances."""
        return TextLimits(self.detokenize, [self.characters[int(i)] for i in utterances], self.loop_ratio)

    def reached(self, tokens: Array) -> list[int]:
        """Texts so far (N, L), equally many of each utterance -> the rows of those that have reached a limit.

        They are checked only at every CHECK_INTERVAL tokens.
        """
        if tokens.shape[1] == 0 or tokens.shape[1] % CHECK_INTERVAL:
            return []
        per_utterance = len(tokens) // len(self.characters)
        return [row for row, text in enumerate(tokens.tolist()) if self.exceeded(text, row // per_utterance)]

    def exceeded(self, tokens: Sequence[int], utterance: int) -> bool:
        """Whether a text is too long for the duration of its utterance, or certainly repeats itself."""
        text, characters = self.detokenize(tokens), self.characters[utterance]
        if characters is not None and len(text) > characters:
            return True
        length, covered = repeated(tokens)
        fast = characters is not None and len(text) > FAST_LOOP_SHARE * characters
        least = FAST_LOOP_REPEATS * length if fast else max(LOOP_TOKENS, LOOP_REPEATS * length)
        return length > 0 and covered >= least and self.loop_ratio is not None and compression_ratio(text) > self.loop_ratio

    def truncated(self, text: Hypothesis, utterance: int) -> Hypothesis:
        """A text that exceeds a limit, with the phrase that it repeats at its end kept once; empty if it is still too long.

        Its mean log-probability does not change.
        """
        length, covered = repeated(text.tokens)
        kept = text.tokens
        if covered >= FAST_LOOP_REPEATS * length:
            kept = kept[:len(kept) - covered + length]
        if self.exceeded(kept, utterance):
            kept = ()
        return replace(text, tokens=kept, logprob=text.avg_logprob * (len(kept) + 1))
