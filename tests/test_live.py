"""Live recognition: pieces of any length, words that never change once committed, memory that does not grow, delays."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT

import avsr
from avsr import checkpoint, media
from avsr.benchmark.live import LiveRow, delays_of, read_live
from avsr.decode import Hypothesis
from avsr.errors import AvsrError, BadManifest, BadMedia
from avsr.lips import Mouths
from avsr.live import ClipAssembler, LiveRecogniser, LiveSettings
from avsr.live.agreement import Agreement
from avsr.live.playback import EmittedWord, play
from avsr.manifest import TimedWord, Utterance
from avsr.rates import SAMPLE_RATE, SAMPLES_PER_FRAME
from avsr.recogniser import Recogniser
from avsr.report.live import live_figure, live_table, summary
from avsr.stream import why_unreadable
from avsr.text import normalise
from avsr.transcribe.windows import WrittenWord
from avsr.transcript import Word

HELLO = ROOT / "data" / "demo" / "hello.mp4"


@pytest.fixture(scope="module")
def default():
    return checkpoint.load("default")


# --- pieces ---

@given(st.data())
@settings(max_examples=40)
def test_pieces_of_any_length_make_the_same_clips(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    sound = rng.normal(size=data.draw(st.integers(1, 30_000))).astype(np.float32)
    times = np.cumsum(data.draw(st.lists(st.floats(0.01, 0.09), min_size=1, max_size=40)))
    whole = assembled(sound, times, [0, len(sound)])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sound)), max_size=12)))
    pieces = assembled(sound, times, [0, *cuts, len(sound)])
    assert np.array_equal(whole.audio, pieces.audio)
    assert np.array_equal(whole.video, pieces.video)
    assert np.array_equal(whole.audio[: len(sound)], sound)


def assembled(sound, times, edges) -> media.Clip:
    """Sound in pieces, each after the pictures that were taken until then, as one clip."""
    assembler, clips, left = ClipAssembler(has_audio=True, has_video=True), [], list(enumerate(times))
    for low, high in pairwise(edges):
        while left and left[0][1] <= high / SAMPLE_RATE:
            number, time_s = left.pop(0)
            assembler.add_picture(np.full((2, 4, 3), number, np.uint8), time_s)
        assembler.add_sound(sound[low:high])
        clips.append(assembler.take())
    for number, time_s in left:
        assembler.add_picture(np.full((2, 4, 3), number, np.uint8), time_s)
    clips = [one for one in (*clips, assembler.finish()) if one is not None and one.video is not None]
    audio = np.concatenate([one.audio for one in clips])
    assert [one.start_frame for one in clips[1:]] == [one.start_frame + one.n_frames for one in clips[:-1]]
    return media.Clip(np.concatenate([one.video for one in clips]), None, audio)


def test_each_frame_shows_the_latest_picture_and_a_stopped_camera_shows_nothing():
    assembler = ClipAssembler(has_audio=True, has_video=True)
    for number in range(3):                                 # at 10 pictures a second, then the camera stops
        assembler.add_picture(np.full((2, 2, 3), number + 1, np.uint8), number / 10)
    assembler.add_sound(np.zeros(2 * SAMPLE_RATE, np.float32))
    clip = media.join([assembler.take(), assembler.finish()])
    assert clip.video[:8, 0, 0, 0].tolist() == [1, 1, 2, 2, 2, 3, 3, 3]
    assert clip.shown[:17].all()
    assert not clip.shown[18:].any()
    assert clip.n_frames == 50


def test_sound_waits_for_pictures_only_so_long_and_pictures_that_never_come_are_none():
    assembler = ClipAssembler(has_audio=True, has_video=True)
    assembler.add_sound(np.zeros(SAMPLE_RATE // 5, np.float32))
    assert assembler.take() is None
    assembler.add_sound(np.zeros(SAMPLE_RATE, np.float32))
    clip = assembler.take()
    assert clip.video is None
    assert clip.n_frames == 22                               # 1.2 s less 0.3


@pytest.mark.parametrize("piece", [np.zeros((2, 5), np.float32), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8),
                                   np.zeros((4, 4, 3), np.float32)])
def test_pieces_of_another_shape_are_refused(piece):
    assembler = ClipAssembler(has_audio=True, has_video=True)
    with pytest.raises(BadMedia, match=r"shape .*  \w"):
        assembler.add_sound(piece) if piece.shape == (2, 5) else assembler.add_picture(piece, 0.0)


# --- agreement ---

def look(text: str, start_s: float = 0.0, confidence: float = 1.0) -> list[WrittenWord]:
    return [WrittenWord(Word(f" {one}", start_s + i, start_s + i + 0.9, confidence), (i,), Hypothesis((), 0.0), 0.0)
            for i, one in enumerate(text.split())]


def words(found) -> str:
    return "".join(one.word.text for one in found).strip()


def test_a_word_is_committed_once_looks_agree_for_long_enough_away_from_the_edge():
    agreement = Agreement(stable_s=0.4)
    assert words(agreement.update(look("bin blue"), 2.0, 9.0)) == ""
    assert words(agreement.update(look("bin blew at"), 2.3, 9.0)) == ""
    assert words(agreement.update(look("Bin, blew at"), 2.4, 9.0)) == "Bin,"
    assert words(agreement.update(look("been blew at f"), 2.8, 2.5)) == "blew", "the end of `at` is beyond the edge"
    assert words(agreement.pending) == "at f"
    assert words(agreement.finish(look("bin blue at f two"))) == "at f two"
    assert words(agreement.committed) == "Bin, blew at f two"


def test_a_word_of_which_the_model_is_not_sure_waits_longer():
    agreement = Agreement(stable_s=0.4)
    agreement.update(look("bin", confidence=0.5), 1.0, 9.0)
    assert not agreement.update(look("bin", confidence=0.5), 1.4, 9.0)
    assert agreement.update(look("bin", confidence=0.5), 1.8, 9.0)


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=6), max_size=12), st.floats(0, 1))
@settings(max_examples=150)
def test_committed_words_never_change_and_their_times_rise(looks, stable_s):
    agreement, committed = Agreement(stable_s), []
    for number, text in enumerate(looks):
        new = agreement.update(look(" ".join(text), number % 3), 0.3 * number, 0.3 * number + 2)
        committed += new
        assert agreement.committed == committed
    committed += agreement.finish(look("a b"))
    edges = [time for one in committed for time in (one.word.start, one.word.end)]
    assert edges == sorted(edges)
    assert not agreement.pending


# --- the search ---

def test_a_draft_changes_nothing_but_the_time(tiny_en, hello):
    recogniser = Recogniser(replace(tiny_en, pad_seconds=10))
    options = replace(recogniser.search_options(), beam_size=1, temperatures=(0.0,))
    with torch.inference_mode():
        memory = recogniser.encode([hello[: 3 * SAMPLE_RATE]], None, "a")
        (alone,) = recogniser.decode(memory, options)
        for draft in (alone.tokens, (*alone.tokens[:3], 11, 11), (50, 60), (*alone.tokens, 50)):
            (found,) = recogniser.decode(memory, replace(options, draft=draft))
            assert found.tokens == alone.tokens
            assert found.logprob == pytest.approx(alone.logprob, abs=1e-2)
            assert found.no_speech_prob == pytest.approx(alone.no_speech_prob, abs=1e-4)
    assert len(alone.tokens) > 5


def test_frames_whose_faces_are_not_known_yet_do_not_count_as_missing():
    missing = np.arange(50) >= 30
    images = np.random.default_rng(0).integers(0, 255, (50, 96, 96), np.uint8)
    mouths = Mouths(images, missing, np.ones(50, np.float32), np.ones(50, np.float32), 0, 0)
    assert why_unreadable(mouths, 0.25) == "missing"
    assert why_unreadable(mouths, 0.25, n_unknown=20) == "still", "pictures of noise are no moving mouth"
    assert why_unreadable(mouths, 0.25, n_unknown=50) == "missing"


# --- recordings ---

def played(source, model, **options):
    updates = []
    with media.open_recording(source, want_video=options.get("has_video", True)) as recording, LiveRecogniser(
            model, has_audio=recording.has_audio, **options) as live:
        done = play(recording.windows(2, grey=True), live, on_update=lambda update, clock: updates.append(update))
    return done, updates, live


@pytest.mark.slow
def test_the_text_is_that_of_transcribe_and_comes_while_it_is_said(default):
    done, updates, live = played(HELLO, default)
    said = normalise(avsr.transcribe(HELLO, model=default).text)
    assert normalise(done.transcript.text) == said
    assert normalise("".join(word.text for update in updates for word in update.committed)) == said
    assert live.modality == "av"
    assert any(update.mouth is not None and update.mouth.shape == (96, 96) for update in updates)
    first = next(update for update in updates if update.committed)
    assert first.end_s < 3.5, "the first word was over after 0.7 s"
    assert all(one.unaware_s >= one.word.start and one.aware_s >= one.unaware_s for one in done.words)
    assert not updates[-1].pending
    assert done.transcript.words == tuple(one.word for one in done.words)


@pytest.mark.slow
def test_memory_does_not_grow_through_a_long_speech(tiny_en, hello):
    with LiveRecogniser(tiny_en, has_video=False, settings=LiveSettings(step_s=6.0)) as live:
        kept = []
        for number, start in enumerate(range(0, 31 * SAMPLE_RATE, 25 * SAMPLES_PER_FRAME)):
            piece = np.resize(np.roll(hello[:70_000], -start), 25 * SAMPLES_PER_FRAME)          # nobody pauses
            live.add(media.Clip(audio=piece, start_frame=25 * number))
            if live.due:
                live.update()
            kept.append(sum(len(samples) for _, samples in live.reader._sound.kept) / SAMPLE_RATE)
        live.finish()
    assert max(kept) < 20, "LONGEST_S, and a step"
    assert len(live.transcript().words) > 20


@pytest.mark.slow
def test_lips_alone_are_read_live(real_data):
    model = checkpoint.load("grid")
    done, updates, live = played(sorted((real_data / "grid" / "s1").glob("*.mpg"))[0], model, modality="v")
    assert live.modality == "v"
    assert len(done.transcript.text.split()) == 6
    assert updates[-1].end_s >= 2.9


def test_what_the_model_cannot_do_is_one_sentence(tiny_en):
    with pytest.raises(AvsrError, match="no trained video encoder"):
        LiveRecogniser(tiny_en, modality="v")
    with pytest.raises(AvsrError, match="no picture comes"):
        LiveRecogniser(tiny_en, has_video=False, settings=LiveSettings(speakers=True))
    with pytest.raises(AvsrError, match=r"step 0\.0"):
        LiveSettings(step_s=0.0)
    with pytest.raises(AvsrError, match="does not write language"):
        LiveRecogniser(tiny_en, language="de")


# --- the benchmark ---

UTTERANCE = Utterance("one", "a.mp4", "bin blue at", words=(TimedWord("bin", 0.1, 0.5), TimedWord("blue", 0.5, 0.9),
                                                           TimedWord("at", 0.9, 1.0)))


def test_a_delay_is_from_the_true_end_of_a_word_to_when_it_was_committed():
    emitted = [EmittedWord(Word(" Bin", 10.1, 10.6), 11.0, 11.5), EmittedWord(Word(" blew", 10.6, 10.9), 11.5, 12.0),
               EmittedWord(Word(" bin", 10.9, 11.1), 12.0, 12.2)]
    assert list(delays_of(UTTERANCE, 10.0, emitted)) == [(0.5, 1.0)]


def test_the_table_and_the_plot_of_rows():
    row = LiveRow("default", "av", 0.4, "one", "s1", "bin blue at", "bin blew at", "bin blue at", ((0.5, 1.0), (1.5, 2.0)), 0.3,
                  0.6, 3.0)
    rows = [row, replace(row, id="two", speaker="s2", hypothesis="bin blue at", delays=()), replace(row, agreement_s=0.8)]
    found = summary(rows[:2])
    assert (found.words, found.offline, found.unaware, found.aware) == (6, 0.0, 1.0, 1.5)
    assert found.live == pytest.approx(100 / 6)
    table = live_table(rows)
    assert [one["speaker"] for one in table.rows] == ["all", "s1", "s2", "all"]
    (axes,) = live_figure(rows).axes
    assert len(axes.lines[0].get_xdata()) == 2               # one point for each agreement


@pytest.mark.slow
def test_benchmark_live_measures_a_manifest(tmp_path, forked):
    spoken = [{"text": word.text.strip(), "start": word.start, "end": word.end} for word in
              avsr.transcribe(HELLO, model="tiny.en", modality="a").words]
    row = {"id": "hello", "media": str(HELLO), "text": HELLO.with_suffix(".txt").read_text(), "split": "test", "words": spoken}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    done = forked.run(["benchmark", "manifest.jsonl", "--live", "--model", "tiny.en", "--modality", "a", "--agreement",
                       "0.6", "-o", "out"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| tiny.en") == 1
    rows = read_live(tmp_path / "out")
    assert [one.agreement_s for one in rows] == [0.6]
    assert all(len(one.delays) >= 10 and min(one.delays)[0] > 0 for one in rows)
    assert (tmp_path / "out" / "live.png").read_bytes().startswith(b"\x89PNG")
    refused = forked.run(["benchmark", "manifest.jsonl", "--live", "--snr", "0"], tmp_path)
    assert (refused.returncode, "--snr has no meaning" in refused.stderr) == (1, True)
    (tmp_path / "manifest.jsonl").write_text(json.dumps({**row, "words": None}) + "\n")
    refused = forked.run(["benchmark", "manifest.jsonl", "--live"], tmp_path)
    assert (refused.returncode, "has times of words" in refused.stderr) == (1, True)
    with pytest.raises(BadManifest, match="cannot be read"):
        read_live(tmp_path)
