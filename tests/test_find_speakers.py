"""Who is seen where and who speaks when: the timeline, its JSON, the drawn frames, and the command."""

import json

import av
import numpy as np
import pytest
from click.testing import CliRunner
from places import ROOT

import avsr
from avsr import media
from avsr.cli import main
from avsr.find_speakers.drawing import SILENT, SPEAKS, annotated
from avsr.find_speakers.timeline import Person, SpeakerTimeline, Stretch, joined_stretches, joined_turns, labels_of
from avsr.speakers import SpeakerTurn

HELLO = ROOT / "data" / "demo" / "hello.mp4"


def stretch(start, n, *, x=10.0, y=60.0, side=40.0, score=np.nan, missing=False):
    box = np.tile(np.float32([x, y, side, side]), (n, 1))
    return Stretch(start, box, box[:, :2] + side / 2, np.full(n, side, np.float32), np.full(n, missing), np.ones(n, np.float32),
                   np.full(n, score, np.float32))


def timeline(*persons, turns=(), offset=0):
    return SpeakerTimeline("a.mp4", 4.0, (200, 120), persons, tuple(turns), offset)


def test_those_who_speak_are_numbered_in_the_order_of_their_first_turn():
    turns = [SpeakerTurn(0, 5, ()), SpeakerTurn(5, 9, (7,)), SpeakerTurn(9, 12, (2, 7))]
    assert labels_of([0, 2, 7, 9], turns) == {7: "SPEAKER_00", 2: "SPEAKER_01", 0: "PERSON_00", 9: "PERSON_01"}


def test_turns_of_the_same_persons_are_joined_and_pauses_stay():
    turns = [SpeakerTurn(0, 5, (1,)), SpeakerTurn(5, 9, (1,)), SpeakerTurn(12, 15, (1,)), SpeakerTurn(15, 20, ())]
    assert joined_turns(turns) == (SpeakerTurn(0, 9, (1,)), SpeakerTurn(12, 15, (1,)), SpeakerTurn(15, 20, ()))


def test_parts_that_follow_each_other_are_one_stretch_with_the_scores_of_its_frames():
    scores = {8: np.float32([1, 2, 3, 4]), 30: np.float32([-np.inf, 5])}
    first, second = joined_stretches([stretch(0, 6), stretch(6, 5), stretch(20, 12)], scores)
    assert (first.start_frame, first.end_frame, second.start_frame, second.end_frame) == (0, 11, 20, 32)
    assert np.array_equal(first.score[8:], [1, 2, 3])
    assert np.isnan(first.score[:8]).all()
    assert np.isnan(second.score[:-1]).all()
    assert second.score[-1] == 5


def test_json_has_columns_of_the_same_length_and_no_number_that_json_lacks():
    one = timeline(Person(3, "SPEAKER_00", 1.0, (stretch(25, 10, score=1.234), stretch(50, 1))),
                   turns=[SpeakerTurn(25, 50, (3,)), SpeakerTurn(50, 60, ())])
    table = json.loads(one.to_json(every=4), parse_constant=lambda name: pytest.fail(name))
    (person,) = table["persons"]
    first, second = person["stretches"]
    assert (first["start"], first["end"], first["time"]) == (1.0, 1.4, [1.0, 1.16, 1.32])
    assert first["box"] == [[10.0, 60.0, 40.0, 40.0]] * 3
    assert first["score"] == [1.23] * 3
    assert {len(first[name]) for name in ("time", "box", "mouth", "size", "missing", "quality", "score")} == {3}
    assert second["score"] == [None]
    assert [turn["persons"] for turn in table["turns"]] == [["SPEAKER_00"], []]
    assert (table["fps"], table["size"]) == (25, [200, 120])


def pixels(frame, colour):
    return int((np.abs(frame.astype(int) - colour).max(axis=-1) <= 8).sum())


def drawn(one, n=4, size=(360, 640), **options):
    clip = media.Clip(np.full((n, *size, 3), 128, np.uint8), np.ones(n, bool), np.zeros(n * 640, np.float32))
    return annotated(clip, one, **options).video


def test_whoever_speaks_has_another_colour_a_thicker_line_and_a_word():
    two = timeline(Person(0, "SPEAKER_00", 1, (stretch(0, 4, score=2.0),)),
                   Person(1, "PERSON_00", 0, (stretch(0, 4, x=400, score=-2.0),)), turns=[SpeakerTurn(2, 4, (0,))])
    before, after = drawn(two)[[0, 3]]
    assert pixels(before, SPEAKS) == 0
    assert pixels(after[:, :200], SPEAKS) > 1.3 * pixels(before[:, :200], SILENT)
    assert pixels(after[:, :200], SILENT) == 0
    assert np.array_equal(before[:, 390:], after[:, 390:])


def test_a_speaker_who_is_not_in_the_picture_is_noted_at_its_lower_edge():
    frames = drawn(timeline(turns=[SpeakerTurn(2, 4, ())]))
    assert pixels(frames[0], SPEAKS) == 0
    assert pixels(frames[3][-30:], SPEAKS) > 1000
    hidden = timeline(Person(0, "SPEAKER_00", 1, (stretch(0, 2),)), turns=[SpeakerTurn(0, 4, (0,))])
    first, last = drawn(hidden)[[0, 3]]
    assert pixels(first[-30:], SPEAKS) == 0
    assert pixels(last[-30:], SPEAKS) > 1000


def test_lips_that_come_late_are_drawn_late():
    late = timeline(Person(0, "SPEAKER_00", 1, (stretch(0, 8),)), turns=[SpeakerTurn(0, 2, (0,))], offset=3)
    assert [pixels(frame, SPEAKS) > 0 for frame in drawn(late, 8)] == [False] * 3 + [True] * 2 + [False] * 3


def test_small_pictures_are_enlarged_and_sides_are_even():
    one = timeline(Person(0, "PERSON_00", 0, (stretch(0, 1, x=-5, y=-5, side=300, missing=True),)))
    assert drawn(one, 1, (99, 160)).shape == (1, 298, 480, 3)
    assert drawn(one, 1, (721, 1281)).shape == (1, 722, 1282, 3)
    assert drawn(one, 1, (1, 1)).shape[1:3] == (480, 480)
    assert pixels(drawn(one, 1)[0], SILENT) > 100


def test_a_recording_without_a_picture_is_refused(hello):
    with pytest.raises(avsr.AvsrError, match=r"there is no picture in it, so nobody can be seen\.  Give a video"):
        avsr.find_speakers(hello)


@pytest.mark.slow
def test_the_command_writes_the_turns_json_and_a_video_with_its_sound(tmp_path):
    (tmp_path / "empty.mp4").touch()
    files = [str(HELLO), str(tmp_path / "empty.mp4")]
    done = CliRunner().invoke(main, ["faces", *files, "-o", str(tmp_path / "out"), "--every", "5"])
    assert done.exit_code == 1
    assert "empty.mp4: the file is empty" in done.stderr
    assert "1 of 2 files failed" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["hello.faces.json", "hello.faces.mp4"]
    table = json.loads((tmp_path / "out" / "hello.faces.json").read_text())
    (person,) = table["persons"]
    assert person["stretches"][0]["end"] == pytest.approx(table["duration"], abs=0.1)
    assert len(done.stdout.splitlines()) == len(table["turns"])
    with av.open(str(tmp_path / "out" / "hello.faces.mp4")) as video:
        assert video.streams.video[0].codec_context.name in ("h264", "mpeg4")
    again, original = media.read(tmp_path / "out" / "hello.faces.mp4"), media.read(HELLO)
    assert again.n_frames == pytest.approx(original.n_frames, abs=2)
    loud = [np.abs(clip.audio[: 640 * 140]).reshape(-1, 640).mean(axis=1) for clip in (again, original)]
    assert max(range(-5, 6), key=lambda k: float(np.roll(loud[0], k) @ loud[1])) == 0
    x, y, width, height = person["stretches"][0]["box"][0]
    mouth_x, mouth_y = person["stretches"][0]["mouth"][0]
    assert x < mouth_x < x + width
    assert y + height / 2 < mouth_y < y + height


def test_unknown_formats_and_folders_that_cannot_be_written_are_told_at_once(tmp_path):
    done = CliRunner().invoke(main, ["faces", str(HELLO), "--format", "jsn"])
    assert done.exit_code == 1
    assert done.stderr == "error: --format 'jsn': not known.  Use json, video, or both as json,video.\n"
    (tmp_path / "file").touch()
    done = CliRunner().invoke(main, ["faces", str(HELLO), "-o", str(tmp_path / "file" / "out")])
    assert "cannot be written to" in done.stderr
