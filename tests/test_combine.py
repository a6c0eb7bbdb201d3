"""The sound by one model and the lips by another: spelling, candidates, weights, and one text of both."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avsr import media, noise, transcribe
from avsr.checkpoint import Checkpoint, load
from avsr.combine import combine, open_recogniser
from avsr.combine.candidates import candidates, mixtures
from avsr.combine.recogniser import CombinedRecogniser
from avsr.combine.scores import score_by_lips
from avsr.combine.spelling import Candidate, Known, SpellingSearch
from avsr.combine.times import merged
from avsr.combine.weights import Evidence, lips_reliability, lips_score
from avsr.corpora.grid import sentence
from avsr.corrupt import Mouth
from avsr.decode import DecodeOptions
from avsr.errors import BadCheckpoint
from avsr.lips import MouthCropSettings
from avsr.metrics import word_errors
from avsr.models.avsr import AVSR
from avsr.recogniser import Recogniser
from avsr.stream import StreamReader, StreamSettings, Window
from avsr.text import normalise, target_tokens
from avsr.transcript import Word, format_transcript

ONCE = DecodeOptions(temperatures=(0.0,))
WORDS = st.lists(st.sampled_from(["bin", "blue", "at", "f", "two", "now"]), max_size=7).map(tuple)


@pytest.fixture(scope="module")
def grid() -> Checkpoint:
    return load("grid")


@pytest.fixture(scope="module")
def random_lips(grid) -> Checkpoint:
    torch.manual_seed(0)
    return replace(grid, name="random", model=AVSR(grid.model.dims).eval().requires_grad_(False))


@pytest.fixture(scope="module")
def face() -> Mouth:
    """Three seconds of a mouth that changes all the time."""
    pictures = np.random.default_rng(0).integers(0, 255, (75, 12, 12), dtype=np.uint8)
    return Mouth(pictures.repeat(8, axis=1).repeat(8, axis=2), np.zeros(75, bool))


# --- spelling ---

def test_the_best_spelling_has_the_words_and_the_score_of_its_tokens(tiny_en, hello):
    recogniser = Recogniser(tiny_en)
    memory = recogniser.encode([hello], None, "a")
    (own,) = recogniser.decode(memory, ONCE)
    words = tuple(normalise(recogniser.detokenize(own.tokens)).split())
    given = [words, words[:4], ("bin", "blue", "at", "f", "two", "now"), ("twenty", "one", "dogs")]
    known = Known([[recogniser.detokenize(own.tokens)]])
    (found,) = SpellingSearch(recogniser).spell(memory, [list(map(Candidate, given))], known=known)
    for one, of in zip(found, given, strict=True):
        assert normalise(recogniser.detokenize(one.tokens)).split() == list(of)
        # The search gives nothing to tokens that are never written, so its scores are somewhat higher.
        score = recogniser.score(memory, [one.tokens])[0].sum().item()
        assert score - 0.01 <= one.log_prob <= score + 4
        lower = target_tokens(recogniser.tokenizer, " ".join(of))
        assert one.log_prob >= recogniser.score(memory, [lower])[0].sum().item() - 1e-2, of
    assert found[0].log_prob >= own.logprob - 1e-2              # capitals and full stops as Whisper writes them
    assert recogniser.detokenize(found[0].tokens)[0].isupper()


def test_a_spelling_does_not_depend_on_the_other_candidates_or_utterances(tiny_en, hello):
    recogniser, one, other = Recogniser(tiny_en), Candidate(("hello", "f", "two")), Candidate(("good", "day"))
    search = SpellingSearch(recogniser)
    (alone,) = search.spell(recogniser.encode([hello], None, "a"), [[one]])
    both = search.spell(recogniser.encode([hello, hello[::-1].copy()], None, "a"), [[other, one], [other]])
    assert both[0][1].tokens == alone[0].tokens
    assert both[0][1].log_prob == pytest.approx(alone[0].log_prob, abs=1e-2)
    assert len(both[1]) == 1


def test_a_model_without_capitals_and_digits_spells_in_letters(grid, hello):
    recogniser = Recogniser(grid)
    (found,) = SpellingSearch(recogniser).spell(recogniser.encode([hello], None, "a"), [[Candidate(("f", "two", "now"))]])
    assert recogniser.detokenize(found[0].tokens) == "f two now"


# --- candidates, weights, times ---

@given(WORDS, WORDS)
def test_mixtures_contain_both_texts_and_only_their_words(first, second):
    mixed = mixtures(first, second)
    assert {first, second} <= {*mixed, first, second}
    assert len(first) == 0 or first in mixed
    assert all(set(text) <= {*first, *second} for text in mixed)
    assert len(mixed) <= 16 + len(first) + len(second)


def test_words_of_both_are_mixed_and_each_text_is_there_once():
    by_sound, by_lips = ("been", "blue", "at", "f", "two"), ("bin", "blue", "at", "s", "two")
    found = candidates([by_sound], [by_lips, (), by_sound])
    assert ("bin", "blue", "at", "f", "two") in found
    assert len(found) == len(set(found)) == 4
    assert found[0] == by_sound


@given(st.floats(0, 1), st.floats(-5, 0), st.floats(0.01, 1))
def test_the_weight_of_lips_grows_with_doubt_about_the_sound_and_with_their_reliability(no_speech, sound, reliability):
    evidence = Evidence(no_speech, sound, reliability)
    assert replace(evidence, sound=sound - 1).weight > evidence.weight
    assert replace(evidence, no_speech=no_speech / 2).weight <= evidence.weight
    assert replace(evidence, reliability=reliability / 2).weight < evidence.weight
    assert 0 <= evidence.share <= 1


def test_lips_that_find_a_text_impossible_count_no_more_than_the_floor():
    assert lips_score(-1000.0, -1000.0) == lips_score(-10.0, -10.0) < lips_score(-0.1, -0.1) < 0
    assert lips_reliability(0.05, missing=0.0) == 1
    assert lips_reliability(0.05, missing=0.2) == pytest.approx(0.8)
    assert lips_reliability(3.2, missing=0.0) == 0


def test_words_get_the_times_of_the_surer_model_and_the_higher_confidence():
    by_sound = [Word(" Bin", 0.0, 0.5, 0.2), Word(" at F2.", 0.5, 1.0, 0.9)]
    by_lips = [Word(" bin", 0.1, 0.4, 0.8), Word(" at", 0.4, 0.5, 0.9), Word(" f", 0.5, 0.7, 0.9), Word(" two", 0.7, 0.9, 0.7)]
    assert merged(by_sound, by_lips) == [Word(" Bin", 0.1, 0.4, 0.8), Word(" at F2.", 0.4, 0.9, 0.9)]
    assert merged(by_sound, by_lips[:2]) == by_sound
    doubtful = [replace(word, confidence=0.1) for word in by_lips]
    assert merged(by_sound, doubtful) == by_sound


# --- both ---

def test_lips_that_say_nothing_change_nothing(tiny_en, random_lips, hello, face):
    recogniser, alone = CombinedRecogniser(combine(tiny_en, random_lips)), Recogniser(tiny_en)
    sound = alone.encode([hello], None, "a")
    expected = alone.decode(sound, ONCE)
    for mouths in (face, None, Mouth(face.images, ~face.missing)):
        memory = replace(recogniser.encode([hello[:16_000]], [mouths], "av"), sound=sound)
        assert memory.with_lips == []
    assert recogniser.decode(memory, ONCE) == expected
    texts = [one.tokens for one in expected]
    assert recogniser.align(memory, texts, [3.0]) == alone.align(sound, texts, [3.0])


def test_by_one_sense_it_is_the_model_of_that_sense(tiny_en, grid):
    both = combine(tiny_en, grid)
    assert (both.name, both.modalities, both.mouth_crop) == ("tiny.en+grid", ("a", "v", "av"), grid.mouth_crop)
    assert open_recogniser(both, "a").model is tiny_en.model
    assert open_recogniser(both, "v").model is grid.model
    assert isinstance(open_recogniser(both, "av"), CombinedRecogniser)
    assert type(open_recogniser(grid, "av")) is Recogniser


def test_models_that_cannot_do_their_part_are_refused(tiny_en, grid):
    with pytest.raises(BadCheckpoint, match=r"tiny\.en: this model has no trained video encoder.*--lips"):
        combine(grid, tiny_en)
    seer = replace(grid, name="seer", model=type("Seer", (), {"modalities": ("v",)})())
    with pytest.raises(BadCheckpoint, match=r"seer: this model reads lips alone.*--model"):
        combine(seer, grid)
    with pytest.raises(BadCheckpoint, match="together, so it cannot read lips"):
        combine(tiny_en, replace(seer, model=type("Pair", (), {"modalities": ("av",)})()))


def test_a_text_for_which_the_lips_have_no_room_is_left_to_the_sound(grid, face):
    lips = Recogniser(grid)
    memory = lips.encode(None, [face], "v")
    long, short = ("again",) * 40, ("bin", "blue")
    found = score_by_lips(lips, memory, [long, short])
    assert (found[0].ctc, found[0].decoder) == (-np.inf, -np.inf)
    assert found[1] == score_by_lips(lips, memory, [short])[0]
    assert -np.inf < found[1].decoder < 0


def test_another_language_is_left_to_the_sound(tiny_en, grid, hello, face):
    recogniser = CombinedRecogniser(combine(tiny_en, grid))
    memory = replace(recogniser.encode([hello], [face], "av"), reliability=torch.ones(1))
    found = recogniser.decode(memory, ONCE, "de")
    assert found == recogniser.sound.decode(memory.sound, ONCE, "de")
    assert found[0].lips is None




def window_of(path) -> Window:
    """The sound and the mouths of a whole clip."""
    with media.open_recording(path) as recording:
        return next(iter(StreamReader(recording, MouthCropSettings(), StreamSettings(vad=False))))


@pytest.mark.slow
def test_both_are_not_worse_than_the_better_one_on_people_whom_the_lips_do_not_know(real_data, tiny_en, grid):
    """The no-harm criterion, on clips of GRID's unseen speakers, clean and in babble at 0 dB."""
    clips = [(window_of(path), sentence(path.stem)) for speaker in ("s23", "s30", "s33")
             for path in sorted((real_data / "grid" / speaker).glob("*.mpg"))[:1]]
    babble = noise.open_sources({"babble": str(real_data / "noise" / "noisex" / "babble.flac")})["babble"]
    recogniser = CombinedRecogniser(combine(tiny_en, grid))
    for snr_db in (None, 0.0):
        rng = np.random.default_rng(3)
        sounds = [noise.mix(one.audio, babble.draw(len(one.audio), rng), snr_db, rng=rng).audio for one, _ in clips]
        memory = recogniser.encode(sounds, [one.mouths for one, _ in clips], "av")
        texts = {"sound": recogniser.sound.decode(memory.sound, ONCE), "lips": recogniser.lips.decode(memory.lips),
                 "both": recogniser.decode(memory, ONCE)}
        by = {"sound": recogniser.sound, "lips": recogniser.lips, "both": recogniser}
        errors = {name: sum(word_errors(normalise(said), normalise(by[name].detokenize(one.tokens))).errors
                            for one, (_, said) in zip(found, clips, strict=True)) for name, found in texts.items()}
        assert errors["both"] <= min(errors["sound"], errors["lips"]), (snr_db, errors)


def test_a_transcript_says_what_the_lips_had_to_do_with_it(real_data, tiny_en, grid):
    path = sorted((real_data / "grid" / "s1").glob("*.mpg"))[0]
    found = transcribe(path, model=tiny_en, lips=grid)
    assert (found.model, found.modality) == ("tiny.en+grid", "av")
    (segment, *_) = json.loads(format_transcript(found, "json"))["segments"]
    assert set(segment["lips"]) == {"chosen", "share", "by_sound", "by_lips"}
    assert segment["lips"]["chosen"] in ("both", "sound", "lips", "mixed")
    assert 0 < segment["lips"]["share"] < 1
    alone = transcribe(path, model=tiny_en, lips=grid, modality="a")
    assert json.loads(format_transcript(alone, "json")) == json.loads(format_transcript(
        transcribe(path, model=tiny_en, modality="a"), "json")) | {"model": "tiny.en+grid"}
    assert transcribe(path, model=tiny_en, lips=grid, modality="v").model == "grid"
