"""Pieces on their way to the network: whole, in order, with the sound and the mouths of their own frames."""

import threading

import numpy as np
import pytest

from avsr import media
from avsr.lips import LipRecipe
from avsr.listen import Listener, ahead
from avsr.rates import frames_to_samples


def pieces(source, **options):
    with media.open_recording(source) as recording:
        return list(Listener(recording, **options))


def test_pieces_hold_the_sound_of_their_frames(hello):
    sound = np.concatenate([hello, np.zeros(80_000, np.float32)] * 3)
    heard = pieces(sound, recipe=None)
    assert len(heard) == 3
    for one in heard:
        start = frames_to_samples(one.piece.start_frame)
        assert np.array_equal(one.audio, sound[start:start + len(one.audio)])
        assert len(one.audio) <= frames_to_samples(one.piece.end_frame - one.piece.start_frame)


def test_mouths_come_with_the_piece_and_nobody_means_none(tmp_path):
    import talking_face

    talking_face.write(tmp_path / "a.mp4", "My mama made me a poem.", silence_s=(1.0, 1.0))
    (one,) = pieces(tmp_path / "a.mp4", recipe=LipRecipe())
    assert len(one.mouths.images) == one.piece.end_frame - one.piece.start_frame
    assert not one.mouths.missing.any()
    clip = media.read(tmp_path / "a.mp4")
    blank = media.Clip(np.full_like(clip.video, 80), clip.shown, clip.audio)
    assert pieces(blank, recipe=LipRecipe())[0].mouths is None


def test_without_vad_nothing_is_left_out(hello):
    heard = pieces(np.tile(hello, 7), recipe=None, vad=False)
    assert [one.piece.start_frame for one in heard] == [0, 750]
    assert sum(len(one.audio) for one in heard) == 7 * len(hello)


def test_ahead_keeps_order_passes_errors_on_and_stops_its_thread():
    assert list(ahead(range(100), 3)) == list(range(100))

    def broken():
        yield 1
        raise ValueError("two")

    items = ahead(broken(), 3)
    assert next(items) == 1
    with pytest.raises(ValueError, match="two"):
        next(items)
    before = threading.active_count()
    endless = ahead(iter(int, 1), 2)
    next(endless)
    endless.close()
    assert threading.active_count() == before
