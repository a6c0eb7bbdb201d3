"""What Whisper is told before it writes: its task, and the text that came before, as in openai/whisper's `transcribe`.

    task, initial prompt, texts of the windows before -> Recogniser that begins with
    <|startofprev|> previous text <|startoftranscript|> <|language|> <|task|> <|notimestamps|>
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from avsr.checkpoint import Checkpoint
from avsr.combine import CombinedCheckpoint
from avsr.errors import AvsrError, quote
from avsr.recogniser import Recogniser
from avsr.stream import Window
from avsr.text import Tokenizer
from avsr.transcribe.windows import WrittenWindow, WrittenWord

if TYPE_CHECKING:
    from avsr.transcribe.run import TranscribeSettings

TASKS = ("transcribe", "translate")
RESET_TEMPERATURE = 0.5                                     # a text drawn above it is not trusted as a prompt (openai/whisper)


def check_settings(settings: TranscribeSettings) -> None:
    """Raises AvsrError for a task that does not exist, and for an initial prompt that is empty or no text."""
    if settings.task not in TASKS:
        raise AvsrError(f"task {settings.task!r}: not known.  Use one of {', '.join(TASKS)}.")
    prompt = settings.initial_prompt
    if prompt is None and settings.carry_initial_prompt:
        raise AvsrError("carry_initial_prompt: there is no prompt to carry.  Give one with --initial-prompt.")
    if prompt is not None and not prompt.strip():
        raise AvsrError("initial_prompt: it is empty.  Leave it out, or write what could come before.")
    if prompt is not None and not _is_unicode(prompt):
        raise AvsrError(f"initial_prompt {quote(prompt)}: it holds bytes that are no text in UTF-8.  Write it in UTF-8.")


def check_model(checkpoint: Checkpoint, modality: str, settings: TranscribeSettings) -> None:
    """Raises AvsrError where a model cannot do the task, or takes no prompt."""
    translates, prompted = settings.task == "translate", settings.initial_prompt is not None
    asked = [name for name, wanted in (("--task translate", translates), ("--initial-prompt", prompted),
                                       ("--condition-on-previous-text", settings.condition_on_previous_text)) if wanted]
    if not asked:
        return
    if isinstance(checkpoint, CombinedCheckpoint) and modality != "a":
        raise AvsrError(f"{checkpoint.name}: the lips' model compares whole texts with the sound's, and knows no {asked[0]}.  "
                        f"Leave out --lips, or {' and '.join(asked)}.")
    if settings.correct is not None:
        raise AvsrError(f"{checkpoint.name}: a corrector learnt without prompts, and knows no {asked[0]}.  Leave out "
                        f"--correct, or {' and '.join(asked)}.")
    if translates and not (checkpoint.tokenizer.languages and _takes_prompts(checkpoint)):
        raise AvsrError(f"{checkpoint.name}: writes only the language that it hears (1 known: {checkpoint.languages[0]}), and "
                        "does not translate.  Use a multilingual Whisper, such as --model base, or leave out --task.")
    if not _takes_prompts(checkpoint):
        raise AvsrError(f"{checkpoint.name}: is no Whisper, and never learnt to go on from a text before.  Leave out "
                        f"{' and '.join(asked)}, or use a Whisper, such as --model base.")
    if prompted:
        tokenizer, prompt = checkpoint.tokenizer, str(settings.initial_prompt)
        if special := [token for token in tokenizer.encode(prompt) if token >= tokenizer.end]:
            raise AvsrError(f"initial_prompt {quote(prompt)}: it holds {len(special)} of the model's special tokens, such as "
                            "<|endoftext|>, which are no text.  Leave them out.")


def _takes_prompts(checkpoint: Checkpoint) -> bool:
    """Whether it is a Whisper, or began as one: those take 30 s at a time, and learnt to go on from a previous text."""
    return (isinstance(checkpoint.tokenizer, Tokenizer) and checkpoint.pad_seconds is not None
            and not checkpoint.model.joint_ctc and not checkpoint.model.ctc_only)


def _is_unicode(text: str) -> bool:
    """Whether the text can be written in UTF-8; bytes that the command line could not read cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Prompts:
    """The recogniser for each window of a recording, which is told the task and what comes before.

    The rules are openai/whisper's. The previous text is the initial prompt and then, where the settings condition on it, the
    text of all windows so far; the end of it counts, half of the decoder's context less 1 token. A text that was drawn at a
    temperature above 0.5 empties it. Without conditioning only the first window has the initial prompt. Where the initial
    prompt is carried, each window has it, before what there is room for of the text so far.
    """

    def __init__(self, recogniser: Recogniser, settings: TranscribeSettings):
        self.base, self.settings = recogniser, settings
        prompt = settings.initial_prompt
        self.initial = [] if prompt is None else recogniser.tokenizer.encode(f" {prompt.strip()}")
        self.room = max(0, (recogniser.model.dims.n_context or 0) // 2 - 1)
        self._written: list[WrittenWord] = []
        self._has_initial = True

    @property
    def in_order(self) -> bool:
        """Whether each window must wait for the text of the one before."""
        return self.settings.condition_on_previous_text

    @property
    def only_first(self) -> bool:
        """Whether the first window alone has a prompt, so that it cannot share a batch with others."""
        return bool(self.initial) and not self.in_order and not self.settings.carry_initial_prompt

    def are_alike(self, other: Prompts) -> bool:
        """Whether neither has a prompt of its own, and the task is the same, so that one batch may hold windows of both."""
        return (not self.initial and not other.initial and not self.in_order and not other.in_order
                and self.settings.task == other.settings.task == self.base.task)

    def recogniser(self, window: Window, *, is_first: bool) -> Recogniser:
        """The recogniser for a window, and for what is in one batch with it. is_first: of the recording."""
        previous = self._previous(window, is_first)
        if self.settings.task == self.base.task and not previous:
            return self.base
        return Recogniser(self.base.checkpoint, task=self.settings.task, previous=previous)

    def _previous(self, window: Window, is_first: bool) -> Sequence[int]:
        initial = self.initial[-self.room:]
        # A window may begin before the one before it ends, where speech without a pause was cut.
        before = [token for one in self._written if one.word.end <= window.segment.start_s for token in one.tokens]
        if self.settings.carry_initial_prompt:
            n_more = self.room - len(initial)
            return (*initial, *(before[-n_more:] if n_more else ()))
        if not self.in_order:
            return initial if is_first else ()
        return [*(initial if self._has_initial else ()), *before][-self.room:]

    def add(self, windows: Iterable[WrittenWindow]) -> None:
        """Remember the text of windows, where later ones are conditioned on it."""
        if not self.in_order:
            return
        words = [word for window in windows for word in window.words]
        if any(word.text.temperature > RESET_TEMPERATURE for word in words):
            self._written, self._has_initial = [], False
        else:
            self._written = [*self._written, *words][-self.room:]

    def problems(self, name: str) -> list[str]:
        """What the user should know, a sentence each. name: of the recording."""
        n_tokens = len(self.initial)
        if n_tokens <= self.room:
            return []
        return [f"{name}: the initial prompt has {n_tokens} tokens, and {self.base.checkpoint.name} takes {self.room}, so only "
                "the end of it counts.  Shorten it."]
