"""The multilingual Whisper base on real weights: languages, and what faster-whisper makes of the same sounds."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from talking_voice import speak

from avsr import checkpoint, cli, media
from avsr.benchmark.baselines import packaged_whisper
from avsr.decode import BeamSearch, DecodeOptions, DecoderScorer, SuppressTokens, search
from avsr.errors import AvsrError, BadCheckpoint
from avsr.features import log_mel
from avsr.importers.ctranslate2 import floats, read_ctranslate2
from avsr.rates import SAMPLE_RATE, SEGMENT_SAMPLES
from avsr.text import LANGUAGE_NAMES, language_code
from avsr.transcribe import transcribe

# The first sentence of the Universal Declaration of Human Rights; by espeak-ng's voices, of which Whisper base hears the French
# one as Thai: so does faster-whisper.
SENTENCES = {
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
}


HEARD_RIGHT = ("de", "es")


@pytest.fixture(scope="module")
def theirs(base):
    """faster-whisper with the same files."""
    faster_whisper = pytest.importorskip("faster_whisper")
    return faster_whisper.WhisperModel(str(packaged_whisper("base")), device="cpu", compute_type="float32", cpu_threads=1)


@pytest.fixture(scope="module")
def said():
    """Function from a language to its sentence as sound, (S,) float32."""
    sounds = {}

    def say(language):
        if language not in sounds:
            sounds[language] = speak(SENTENCES[language], voice=language).samples
        return sounds[language]

    return say


def mel_of(sound):
    return torch.from_numpy(log_mel(sound, n_samples=SEGMENT_SAMPLES))[None]


def their_features(theirs, mel):
    return theirs.encode(mel[0].T.contiguous().numpy())


def test_base_is_what_it_should_be(base):
    dims = base.model.dims
    assert (dims.width, dims.n_heads, dims.n_mels, dims.n_audio_layers, dims.n_decoder_layers) == (512, 8, 80, 6, 6)
    assert (dims.n_vocab, dims.n_context, dims.video_frontend) == (51_865, 448, None)
    assert base.alignment_heads == ((3, 1), (4, 2), (4, 3), (4, 7), (5, 1), (5, 2), (5, 4), (5, 6))
    assert base.suppress_begin == (220, 50_257)             # a space, and the end
    assert len(base.suppress) == 88
    assert (base.name, base.video_trained, base.modalities) == ("base", False, ("a",))
    assert len(base.languages) == 99
    assert {"en", "de", "zh", "haw", "su"} <= set(base.languages)


def test_suppressed_tokens_are_those_that_faster_whisper_suppresses(base, theirs):
    from faster_whisper.tokenizer import Tokenizer
    from faster_whisper.transcribe import get_suppressed_tokens

    tokenizer = Tokenizer(theirs.hf_tokenizer, True, task="transcribe", language="de")
    specials = {tokenizer.no_speech, base.tokenizer.no_speech}              # suppressed as all special tokens are
    assert set(base.suppress) - specials == set(get_suppressed_tokens(tokenizer, [-1])) - specials


def test_the_prompt_names_language_and_task(base):
    names = {token: name for name, token in base.tokenizer._ids.items()}
    assert [names[token] for token in base.tokenizer.prompt("de")] == [
        "<|startoftranscript|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"]


def test_its_folder_gives_what_its_name_gives(base):
    loaded = checkpoint.load(packaged_whisper("base"), lips=False)
    assert (loaded.suppress, loaded.suppress_begin, loaded.alignment_heads) == (
        base.suppress, base.suppress_begin, base.alignment_heads)
    wanted = base.model.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in loaded.model.state_dict().items() if "ctc" not in name)


@pytest.mark.parametrize(("mine", "other", "says"), [
    ("base", "tiny.en", "is for 51864 tokens, but the model beside it has 51865"),
    ("tiny.en", "base", "is for 51865 tokens, but the model beside it has 51864"),
])
def test_the_tokenizer_of_another_whisper_is_refused(base, tiny_en_folder, tmp_path, mine, other, says):
    folders = {"base": packaged_whisper("base"), "tiny.en": tiny_en_folder}
    for name in ("config.json", "model.bin"):
        (tmp_path / name).symlink_to(folders[mine] / name)
    shutil.copyfile(folders[other] / "tokenizer.json", tmp_path / "tokenizer.json")
    with pytest.raises(BadCheckpoint, match=rf"tokenizer\.json: it {says}\.  Put the tokenizer\.json of that very model"):
        checkpoint.load(tmp_path, lips=False)


@pytest.mark.slow
def test_the_encoder_is_ctranslate2s(base, theirs, said, monkeypatch):
    mel = mel_of(said("de"))
    # Its file holds the sinusoids rounded to half precision, ours are exact; with the same ones nothing differs.
    places = floats(read_ctranslate2(packaged_whisper("base") / "model.bin"), "encoder/position_encodings/encodings")
    monkeypatch.setattr("avsr.models.audio.sinusoids", lambda length, width, device: places[:length])
    reference = torch.from_numpy(np.array(their_features(theirs, mel)))
    with torch.inference_mode():
        torch.testing.assert_close(base.model.encode(mel).audio, reference, atol=2e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("language", SENTENCES)
def test_languages_are_found_as_sure_as_ctranslate2_and_the_tokens_are_its_own(base, theirs, said, language):
    mel, tokenizer = mel_of(said(language)), base.tokenizer
    features = their_features(theirs, mel)
    their_chances = {name[2:-2]: chance for name, chance in theirs.model.detect_language(features)[0]}
    prompt = tokenizer.prompt(language)
    result = theirs.model.generate(features, [prompt], beam_size=1, return_scores=True, return_no_speech_prob=True,
                                   suppress_tokens=list(base.suppress))[0]
    with torch.inference_mode():
        memory = base.model.encode(mel)
        first = base.model.step(torch.tensor([[tokenizer.start]]), base.model.start(memory))[0]
        chances = first[list(tokenizer.languages.values())].softmax(dim=-1)
        scorer = DecoderScorer(base.model, memory, no_speech_token=tokenizer.no_speech, start_token=tokenizer.start)
        filters = [SuppressTokens(base.suppress, base.suppress_begin, len(prompt))]
        (tokens, logprob), = search([scorer], torch.tensor([prompt]), BeamSearch(1, DecodeOptions(beam_size=1), tokenizer.end),
                                    filters=filters)
    assert (max(their_chances, key=their_chances.get) == language) == (language in HEARD_RIGHT)
    for name, chance in zip(tokenizer.languages, chances.tolist(), strict=True):
        assert chance == pytest.approx(their_chances[name], abs=1e-3)
    assert list(tokens) == result.sequences_ids[0]
    assert len(tokens) > 10
    assert logprob / len(tokens) == pytest.approx(result.scores[0], abs=0.02)
    assert scorer.no_speech.item() == pytest.approx(result.no_speech_prob, abs=1e-3)


@pytest.mark.slow
def test_text_language_and_word_times_are_faster_whispers(base, theirs, said):
    differences = []
    for language in HEARD_RIGHT:
        found = transcribe(said(language), model=base, modality="a")
        segments, info = theirs.transcribe(said(language), beam_size=5, without_timestamps=True, word_timestamps=True)
        assert (found.language, info.language) == (language, language)
        # Its first text: for word times it listens once more to what comes after the last word, and may write that again.
        words = next(segments).words
        assert found.text == "".join(word.word for word in words).strip()
        assert [word.text for word in found.words] == [word.word for word in words]
        differences += [ours.start - theirs.start for ours, theirs in zip(found.words, words, strict=True)]
        ends = [0.0, *(word.end for word in found.words)]
        assert all(word.start >= before - 1e-6 for word, before in zip(found.words, ends, strict=False))
        assert ends[-1] <= len(said(language)) / SAMPLE_RATE + 0.01
    # Ours are set 0.04 s later, by which these heads are early, see align.LATENESS.
    assert abs(np.median(differences) - 0.04) < 0.03
    assert np.percentile(np.abs(differences), 90) < 0.3


@pytest.mark.slow
def test_what_nobody_says_is_not_written(base, theirs):
    """Without a speech detector before it: silence, noise and a hum, on which Whisper is known to invent."""
    rng, seconds = np.random.default_rng(0), np.arange(8 * SAMPLE_RATE) / SAMPLE_RATE
    sounds = {
        "silence": np.zeros(len(seconds)),
        "faint noise": rng.standard_normal(len(seconds)) * 1e-3,
        "noise": rng.standard_normal(len(seconds)) * 0.1,
        "hum": 0.1 * np.sin(2 * np.pi * 50 * seconds),
    }
    for name, sound in sounds.items():
        sound = sound.astype(np.float32)
        ours = transcribe(sound, model=base, modality="a", language="en", vad=False).text
        segments, _ = theirs.transcribe(sound, beam_size=5, language="en", condition_on_previous_text=False)
        invented = "".join(segment.text for segment in segments)
        assert len(ours.split()) <= len(invented.split()), (name, ours, invented)
        assert transcribe(sound, model=base, modality="a", language="en").text == "", name


@pytest.mark.slow
def test_real_speech_in_english_reads_as_by_faster_whisper(base, theirs, real_data):
    sound = media.read(real_data / "wild" / "sadtalker__RD_Radio34_000.mp4", want_video=False).audio
    found = transcribe(sound, model=base, modality="a")
    segments, info = theirs.transcribe(sound, beam_size=5, without_timestamps=True)
    assert found.language == info.language == "en"
    assert found.text == "".join(segment.text for segment in segments).strip()


@pytest.mark.slow
def test_the_command_line_writes_the_language_that_it_was_told_or_found(base, said, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "satz.wav", said("de"), SAMPLE_RATE)
    for asked, language in (([], "de"), (["--language", "German"], "de")):
        arguments = ["transcribe", str(tmp_path / "satz.wav"), "--model", str(packaged_whisper("base")), *asked,
                     "--beam-size", "1", "--format", "json", "--output-dir", str(tmp_path / "out")]
        result = CliRunner().invoke(cli.main, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        written = json.loads((tmp_path / "out" / "satz.json").read_text())
        assert written["language"] == language
        assert "sind frei und gleich" in written["text"]


@pytest.mark.parametrize(("asked", "nearest"), [("dee", "de (german)"), ("Germann", "de (german)"), ("zz", "zh (chinese)")])
def test_a_language_that_it_does_not_know_is_told_the_nearest(base, asked, nearest):
    with pytest.raises(AvsrError) as caught:
        transcribe(np.zeros(SAMPLE_RATE, np.float32), model=base, modality="a", language=asked)
    assert str(caught.value) == f"base: does not write language {asked!r}; it knows 99.  Use {nearest}."


def test_a_language_may_be_given_by_name():
    assert [language_code(name) for name in ("de", "DE", "German", " haitian creole ", "klingon")] == [
        "de", "de", "de", "ht", "klingon"]


def test_every_language_of_the_tokenizer_has_a_name(base):
    assert set(base.languages) <= set(LANGUAGE_NAMES)
    assert len(set(LANGUAGE_NAMES.values())) == len(LANGUAGE_NAMES) == 100
