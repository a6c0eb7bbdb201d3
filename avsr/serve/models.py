"""The one model of a server: loaded in the background, under its name and those that OpenAI's clients send."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from avsr.checkpoint import Checkpoint
from avsr.combine import CombinedCheckpoint
from avsr.combine.checkpoint import JOINED_BY
from avsr.decode import DecodeOptions
from avsr.serve.problems import ApiError, as_api_error

OPENAI_NAMES = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-4o-transcribe-diarize")
PATIENCE_S = 120.0                                          # for which a request waits while the model is loaded


class ServedModel:
    """A checkpoint, perhaps of two models (--lips), that may still be loading.

    name: what the model is asked for by. load: gives the checkpoint; called once, in a thread.
    """

    def __init__(self, name: str, load: Callable[[], Checkpoint]):
        self.name, self.created = name, int(time.time())
        self._load, self._there = load, threading.Event()
        self._checkpoint: Checkpoint | None = None
        self._failure: BaseException | None = None
        threading.Thread(target=self._run, name="loading", daemon=True).start()

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> ServedModel:
        """One that is loaded already."""
        model = cls(checkpoint.name, lambda: checkpoint)
        model._there.wait()
        return model

    def _run(self) -> None:
        try:
            self._checkpoint = self._load()
        except BaseException as error:                       # told to whoever asks
            self._failure = error
        self._there.set()

    @property
    def state(self) -> str:
        """`loading`, `ok` or `failed`."""
        return "loading" if not self._there.is_set() else "failed" if self._failure is not None else "ok"

    @property
    def failure(self) -> str | None:
        """Why it could not be loaded."""
        return None if self._failure is None else as_api_error(self._failure).message

    def get(self) -> Checkpoint:
        """The checkpoint; waits while it is loaded. Raises ApiError where it cannot be had."""
        if not self._there.wait(PATIENCE_S):
            raise ApiError(503, f"The model {self.name} is still being loaded.  Try again in 10 s.", code="loading", retry_s=10)
        if self._failure is not None:
            raise as_api_error(self._failure)
        assert self._checkpoint is not None
        return self._checkpoint

    def for_request(self, lips: str | None, modality: str) -> Checkpoint:
        """The checkpoint for a request. lips: the second model's name, `none` to do without it, None for as the server was
        started. Raises ApiError for another name."""
        checkpoint = self.get()
        if not isinstance(checkpoint, CombinedCheckpoint):
            if lips not in (None, "", "none"):
                raise ApiError(400, f"lips {lips[:40]!r}: this server was started without a second model.  Start it with "
                                    "--lips.", code="invalid_value", param="lips")
            return checkpoint
        if lips in (None, "", checkpoint.lips.name):
            return checkpoint.lips if modality == "v" else checkpoint
        if lips == "none":
            return self._alone(checkpoint)
        raise ApiError(400, f"lips {lips[:40]!r}: this server has {checkpoint.lips.name}.  Use that, or none.",
                       code="invalid_value", param="lips")

    def _alone(self, checkpoint: CombinedCheckpoint) -> Checkpoint:
        """The audio model without the lips of the other. The same object each time, so that its windows meet in batches."""
        if not hasattr(self, "_sound"):
            values: dict[str, Any] = {one.name: getattr(checkpoint, one.name) for one in fields(Checkpoint)}
            values |= {"name": self.name.partition(JOINED_BY)[0], "video_trained": False}
            self._sound = Checkpoint(**values)
        return self._sound

    def check_name(self, name: str) -> None:
        """Raises ApiError for a model that this server does not have."""
        if name not in (self.name, *OPENAI_NAMES) and name != self.name.partition(JOINED_BY)[0]:
            raise ApiError(404, f"The model {name[:80]!r} is not served here.  Use {self.name}.", code="model_not_found",
                           param="model")

    def row(self) -> dict[str, Any]:
        """As OpenAI's interface lists a model, with what it can do."""
        row: dict[str, Any] = {"id": self.name, "object": "model", "created": self.created, "owned_by": "avsr",
                               "status": self.state}
        if self.state == "ok":
            checkpoint = self.get()
            able = checkpoint.modalities if checkpoint.video_trained else checkpoint.model.modalities
            translates = len(checkpoint.languages) > 1 and bool(checkpoint.tokenizer.languages)
            row |= {"modalities": list(able), "reads_lips": checkpoint.video_trained, "languages": list(checkpoint.languages),
                    "lips": checkpoint.lips.name if isinstance(checkpoint, CombinedCheckpoint) else None,
                    "tasks": ["transcribe", *(["translate"] if translates else [])],
                    "beam_size": DecodeOptions().beam_size}
        return row
