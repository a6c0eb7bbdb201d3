"""What Whisper is told before it writes: the task, an initial prompt, the text so far; and who refuses it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from talking_voice import speak

from avsr import checkpoint, decode
from avsr.combine import combine
from avsr.decode import DecodeOptions, Hypothesis
from avsr.errors import AvsrError
from avsr.rates import SAMPLE_RATE
from avsr.recogniser import Recogniser
from avsr.segment import SpeechSegment
from avsr.stream import Window
from avsr.transcribe import transcribe
from avsr.transcribe.prompts import Prompts
from avsr.transcribe.run import TranscribeSettings
from avsr.transcribe.windows import WrittenWindow, WrittenWord
from avsr.transcript import Word, format_transcript

SOUND = np.zeros(SAMPLE_RATE, np.float32)


def window(start, end):
    return Window(SpeechSegment(start, end), None, None)


def written(start, end, *words, temperature=0.0):
    """A window of these (end in seconds, tokens)."""
    text = Hypothesis((), 0.0, temperature=temperature)
    return WrittenWindow(SpeechSegment(start, end), tuple(
        WrittenWord(Word(" x", end_s - 0.2, end_s, 1.0), tokens, text, 0.0) for end_s, tokens in words))


class Letters:
    """A tokenizer whose tokens are the characters' own numbers."""

    def encode(self, text):
        return [ord(letter) for letter in text]


def prompts(room=6, **settings):
    recogniser = SimpleNamespace(tokenizer=Letters(), task="transcribe", checkpoint=SimpleNamespace(name="x"),
                                 model=SimpleNamespace(dims=SimpleNamespace(n_context=2 * room + 2)))
    return Prompts(recogniser, TranscribeSettings(**settings))


def previous(one, at, *, is_first=False):
    return list(one._previous(at, is_first))


# The rules of openai/whisper

def test_the_initial_prompt_is_of_the_first_window_alone_and_its_end_counts():
    one = prompts(initial_prompt="ab")
    assert previous(one, window(0, 50), is_first=True) == [ord(letter) for letter in " ab"]
    one.add([written(0, 50, (1.0, (7,)))])
    assert previous(one, window(50, 75)) == []
    assert (one.only_first, one.in_order, one.problems("clip")) == (True, False, [])
    long = prompts(initial_prompt="abcdefgh")
    assert previous(long, window(0, 50), is_first=True) == [ord(letter) for letter in "cdefgh"]
    assert long.problems("clip.wav") == [
        "clip.wav: the initial prompt has 9 tokens, and x takes 6, so only the end of it counts.  Shorten it."]


def test_conditioned_windows_have_the_end_of_all_before_them():
    one = prompts(initial_prompt="ab", condition_on_previous_text=True)
    assert previous(one, window(0, 50), is_first=True) == [32, 97, 98]
    one.add([written(0, 50, (1.0, (1, 2)), (2.0, (3,)))])
    assert previous(one, window(50, 75)) == [32, 97, 98, 1, 2, 3]
    one.add([written(50, 75, (2.5, (4, 5)))])
    assert previous(one, window(75, 90)) == [98, 1, 2, 3, 4, 5]
    # A window that overlaps the one before it hears its last words itself.
    assert previous(one, window(60, 90)) == [32, 97, 98, 1, 2, 3]


def test_a_text_drawn_at_a_high_temperature_empties_the_prompt():
    one = prompts(initial_prompt="ab", condition_on_previous_text=True)
    one.add([written(0, 50, (1.0, (1,)), temperature=0.6)])
    assert previous(one, window(50, 75)) == []
    one.add([written(50, 75, (2.5, (4,)), temperature=0.4)])
    assert previous(one, window(75, 90)) == [4]


def test_a_carried_prompt_is_of_every_window_and_comes_first():
    one = prompts(initial_prompt="ab", carry_initial_prompt=True)
    assert previous(one, window(75, 90)) == [32, 97, 98]
    assert not one.only_first
    one = prompts(initial_prompt="ab", carry_initial_prompt=True, condition_on_previous_text=True)
    one.add([written(0, 50, (1.0, (1, 2, 3, 4, 5)))])
    assert previous(one, window(50, 75)) == [32, 97, 98, 3, 4, 5]
    one.add([written(50, 75, (2.5, (6,)), temperature=1.0)])
    assert previous(one, window(75, 90)) == [32, 97, 98]
    full = prompts(initial_prompt="abcdefgh", carry_initial_prompt=True, condition_on_previous_text=True)
    full.add([written(0, 50, (1.0, (1,)))])
    assert previous(full, window(50, 75)) == [ord(letter) for letter in "cdefgh"]


def test_the_tokens_are_in_whispers_order(base):
    names = {token: name for name, token in base.tokenizer._ids.items()}
    prompt = base.tokenizer.prompt("de", task="translate", previous=[11, 12])
    assert [names.get(token, token) for token in prompt] == [
        "<|startofprev|>", 11, 12, "<|startoftranscript|>", "<|de|>", "<|translate|>", "<|notimestamps|>"]


# The same tokens as transformers

@pytest.mark.slow
def test_tokens_after_a_prompt_are_those_of_transformers(base, tmp_path):
    """A small network of random weights, told a task and a previous text."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    theirs = WhisperForConditionalGeneration(WhisperConfig(
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=128, decoder_ffn_dim=128, vocab_size=51_865, max_target_positions=40)).eval()
    with torch.no_grad():                                   # small random weights repeat the last token for ever
        for parameter in theirs.model.decoder.parameters():
            parameter.mul_(3)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(base.tokenizer.path.read_bytes())
    ours = Recogniser(checkpoint.load(tmp_path), task="translate", previous=base.tokenizer.encode(" Anna met Kaitlyn."))
    prompt = ours.tokenizer.prompt("de", task=ours.task, previous=ours.previous)
    mel = torch.randn(1, 3000, 80, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        memory = ours.model.encode(mel)
        scorer = decode.DecoderScorer(ours.model, memory, no_speech_token=ours.tokenizer.no_speech,
                                      start_token=ours.tokenizer.start)
        (tokens, _), = decode.search([scorer], torch.tensor([prompt]), decode.BeamSearch(
            1, DecodeOptions(beam_size=1), ours.tokenizer.end), max_tokens=10)
        heard, wanted = theirs.model.encoder(mel.transpose(1, 2)), []
        while len(wanted) < 10 and ours.tokenizer.end not in wanted:
            logits = theirs(encoder_outputs=heard, decoder_input_ids=torch.tensor([[*prompt, *wanted]])).logits[0]
            wanted.append(int(logits[-1].argmax()))
    assert list(tokens) == wanted
    assert len(set(wanted)) > 2
    at = prompt.index(ours.tokenizer.start)
    assert scorer.no_speech.item() == pytest.approx(logits[at].softmax(-1)[ours.tokenizer.no_speech].item(), rel=1e-3)


# Real weights

@pytest.mark.slow
def test_speech_in_spanish_is_written_in_english_and_json_says_so(base):
    sound = speak("Mañana vamos a la playa con nuestros amigos.", voice="es").samples
    made = transcribe(sound, model=base, modality="a", task="translate", language="es", beam_size=1)
    found = json.loads(format_transcript(made, "json", word_timestamps=True))
    assert (found["language"], found["task"]) == ("es", "translate")
    assert ("beach" in found["text"], "friends" in found["text"]) == (True, True), found["text"]
    times = [time for one in found["segments"][0]["words"] for time in (one["start"], one["end"])]
    assert times == sorted(times)


@pytest.mark.slow
def test_the_prompts_spelling_of_a_name_is_followed(tiny_en):
    sound = speak("My friend Kaitlyn is here.").samples
    told = [transcribe(sound, model=tiny_en, modality="a", beam_size=1, initial_prompt=prompt).text
            for prompt in ("Yesterday I met Kaytlinn.", "Yesterday I met Caitlin.")]
    assert ["Kaytlinn" in told[0], "Caitlin" in told[1]] == [True, True], told


# Who refuses

@pytest.mark.parametrize(("model", "asked", "says"), [
    ("tiny_en", {"task": "translate"}, "tiny.en: writes only the language that it hears (1 known: en), and does not translate."
     "  Use a multilingual Whisper, such as --model base, or leave out --task."),
    ("grid", {"initial_prompt": "bin", "condition_on_previous_text": True}, "grid: is no Whisper, and never learnt to go on "
     "from a text before.  Leave out --initial-prompt and --condition-on-previous-text, or use a Whisper, such as --model "
     "base."),
    ("both", {"initial_prompt": "bin"}, "tiny.en+grid: the lips' model compares whole texts with the sound's, and knows no "
     "--initial-prompt.  Leave out --lips, or --initial-prompt."),
    ("tiny_en", {"initial_prompt": "a <|endoftext|>"}, 'initial_prompt "a <|endoftext|>": it holds 1 of the model\'s special '
     'tokens, such as <|endoftext|>, which are no text.  Leave them out.'),
    ("tiny_en", {"initial_prompt": " "}, "initial_prompt: it is empty.  Leave it out, or write what could come before."),
    ("tiny_en", {"initial_prompt": "M\udcfcller"}, 'initial_prompt "M\\udcfcller": it holds bytes that are no text in UTF-8.  '
     "Write it in UTF-8."),
    ("tiny_en", {"task": "sing"}, "task 'sing': not known.  Use one of transcribe, translate."),
    ("tiny_en", {"carry_initial_prompt": True}, "carry_initial_prompt: there is no prompt to carry.  Give one with "
     "--initial-prompt."),
])
def test_what_cannot_be_done_is_one_sentence(tiny_en, model, asked, says):
    models = {"tiny_en": lambda: tiny_en, "grid": lambda: checkpoint.load("grid"),
              "both": lambda: combine(tiny_en, checkpoint.load("grid"))}
    with pytest.raises(AvsrError) as caught:
        transcribe(SOUND, model=models[model](), **asked)
    assert str(caught.value) == says
