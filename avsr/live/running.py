"""Recognise what comes from a LiveSource until it ends or the user has enough."""

from __future__ import annotations

import time
from collections.abc import Callable

from avsr.live.recogniser import LiveRecogniser, LiveUpdate
from avsr.live.sources import LiveSource

POLL_S = 0.02                         # how long to wait where nothing has come
AT_ONCE_S = 2.0                       # of what has come, so much is taken in before the text is looked at again


def recognise(source: LiveSource, live: LiveRecogniser, on_update: Callable[[LiveUpdate, float], None], *,
              enough: Callable[[], bool] = lambda: False) -> None:
    """Recognise a source from its start on, and finish: all words are committed then.

    on_update: called with each update, and by how many seconds it is behind the source. enough: asked often; True ends it.
    Capture goes on in threads of its own meanwhile, and waits in queues that are bounded.
    """
    while not (source.ended or enough()):
        came = _take_in(source, live)
        if live.due:
            update = live.update()
            on_update(update, source.now_s() - update.end_s)
        elif not came:
            time.sleep(POLL_S)
    for clip in source.rest():
        live.add(clip)
    update = live.finish()
    on_update(update, source.now_s() - update.end_s)


def _take_in(source: LiveSource, live: LiveRecogniser) -> float:
    """Give the recogniser what has come, at most AT_ONCE_S and one piece; the seconds that it were."""
    came = 0.0
    while came < AT_ONCE_S and (clip := source.take()) is not None:
        live.add(clip)
        came += clip.duration_s
    return came
