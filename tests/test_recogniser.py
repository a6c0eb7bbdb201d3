"""By neither sense, by sound, by sight and by both: one preparation, and what is shared changes nothing."""

from dataclasses import replace

import pytest
import torch
from made_corpus import say

from avsr.checkpoint import Checkpoint
from avsr.decode import DecodeOptions
from avsr.errors import BadCheckpoint
from avsr.models.avsr import AVSR, Dims
from avsr.rates import SAMPLE_RATE, VIDEO_FPS
from avsr.recogniser import Recogniser, batch_audio, batch_video
from avsr.text import target_tokens, write_characters


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    tokenizer = write_characters(tmp_path_factory.mktemp("letters") / "tokenizer.json")
    torch.manual_seed(0)
    model = AVSR(Dims(width=32, n_heads=2, n_audio_layers=2, n_video_layers=1, n_fusion_layers=1, n_decoder_layers=1,
                      n_vocab=tokenizer.no_timestamps + 1, n_context=32, video_frontend="compact", video_width=32,
                      n_reliability=8)).eval()
    torch.nn.init.normal_(model.decoder.embedding.weight, std=0.3)
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.7)
    model.requires_grad_(False)
    return Checkpoint("random", model, tokenizer, pad_seconds=None, video_trained=True)


@pytest.fixture(scope="module")
def said():
    return [say(["ab"], seed=1), say(["cd", "ef", "ab"], seed=2)]


def test_what_is_shared_changes_nothing(checkpoint, said):
    sounds = [one.audio for one in said]
    recogniser = Recogniser(checkpoint)
    audio = recogniser.encode_audio(sounds)
    found = {modality: recogniser.encode(audio, said, modality) for modality in ("none", "a", "v", "av")}
    mel, lengths, mouths, seen = map(torch.from_numpy, (*batch_audio(sounds, 80, None), *batch_video(said)))
    alone = {"a": checkpoint.model.encode(mel, mel_lengths=lengths), "v": checkpoint.model.encode(None, mouths, seen=seen),
             "av": checkpoint.model.encode(mel, mouths, mel_lengths=lengths, seen=seen)}
    for modality, memory in alone.items():
        for name in ("audio", "video", "reliability"):
            one, other = getattr(memory, name), getattr(found[modality], name)
            assert (one is None) == (other is None), (modality, name)
            assert one is None or torch.allclose(one, other, atol=1e-5), (modality, name)


def test_neither_sense_depends_on_nothing(checkpoint, said):
    recogniser, text = Recogniser(checkpoint), [target_tokens(checkpoint.tokenizer, "ab cd")]
    losses = [recogniser.score(recogniser.encode([case.audio], [case], "none"), text)[0] for case in said]
    assert torch.equal(*losses)
    heard = recogniser.score(recogniser.encode([said[0].audio], None, "a"), text)[0]
    assert not torch.allclose(losses[0], heard, atol=1e-3)


def test_no_face_is_sound_alone_and_by_sight_nothing(checkpoint, said):
    sounds, recogniser = [one.audio for one in said], Recogniser(checkpoint)
    text = [target_tokens(checkpoint.tokenizer, "ab")] * 2
    losses = {name: recogniser.score(recogniser.encode(sounds, [None, None], name), text) for name in ("none", "a", "v", "av")}
    for one, other in (("a", "av"), ("none", "v")):
        assert all(map(torch.equal, losses[one], losses[other])), (one, other)
    one_face = {name: recogniser.encode(sounds, [None, said[1]], name) for name in ("v", "av")}
    assert torch.allclose(recogniser.score(one_face["v"], text)[0], losses["none"][0], atol=1e-5)
    assert torch.allclose(recogniser.score(one_face["av"], text)[0], losses["a"][0], atol=1e-5)


def test_encoded_audio_serves_several_videos(checkpoint, said, monkeypatch):
    recogniser = Recogniser(checkpoint)
    audio = recogniser.encode_audio([one.audio for one in said])
    monkeypatch.setattr(checkpoint.model, "encode_audio", None)   # not called again
    assert recogniser.encode_audio(audio) is audio
    one, other = (recogniser.encode(audio, video, "av") for video in (said, said[::-1]))
    assert not torch.equal(one.unfused_video[0], other.unfused_video[0])
    assert torch.equal(one.seconds, other.seconds)
    assert one.seconds.tolist() == pytest.approx([len(each.audio) / SAMPLE_RATE for each in said])


def test_one_sound_with_several_videos_is_that_sound_with_each(checkpoint, said):
    recogniser = Recogniser(checkpoint)
    audio = recogniser.encode_audio([said[1].audio])
    together = recogniser.encode(audio.expand(2), said, "av")
    for i, video in enumerate(said):
        alone, one = recogniser.encode(audio, [video], "av"), together.select(torch.tensor([i]))
        assert torch.allclose(alone.audio, one.audio, atol=1e-5)
        assert torch.equal(alone.seconds, one.seconds)


def test_durations_are_those_given_or_of_the_audio_or_else_of_the_video(checkpoint, said):
    recogniser, sounds = Recogniser(checkpoint), [one.audio for one in said]
    of_audio = [len(one) / SAMPLE_RATE for one in sounds]
    assert recogniser.encode(sounds, said, "v").seconds.tolist() == pytest.approx(of_audio)
    assert recogniser.encode(None, [None, said[1]], "v").seconds.tolist() == pytest.approx([0, len(said[1].images) / VIDEO_FPS])
    assert recogniser.encode(sounds, said, "av", seconds=[1.5, 2.5]).seconds.tolist() == [1.5, 2.5]


def test_log_probabilities_of_tokens_are_those_of_the_search(checkpoint, said):
    """Step by step as the search goes; which then leaves out what may not be written, and so finds its text likelier."""
    recogniser = Recogniser(checkpoint)
    memory = recogniser.encode([said[1].audio], [said[1]], "av")
    options = DecodeOptions(beam_size=3, temperatures=(0.0,), max_tokens=12, compression_ratio_threshold=None,
                            logprob_threshold=None, no_speech_threshold=None)
    (found,) = recogniser.decode(memory, options)
    assert found.tokens
    assert recogniser.detokenize(found.tokens) == checkpoint.tokenizer.decode(found.tokens).strip()
    model, end, cache = checkpoint.model, checkpoint.tokenizer.end, checkpoint.model.start(memory)
    read, free, allowed = checkpoint.tokenizer.prompt("en"), [], []
    for token in [*found.tokens, end]:
        logits = model.step(torch.tensor([read]), cache)[0]
        free.append(logits.log_softmax(dim=0)[token].item())
        allowed.append(logits[:end + 1].log_softmax(dim=0)[token].item())
        read = [token]
    (forced,) = recogniser.score(memory, [found.tokens])
    assert forced.tolist() == pytest.approx(free, abs=1e-4)
    whole = sum(allowed[:-1]) if len(found.tokens) == options.max_tokens else sum(allowed)
    assert found.logprob == pytest.approx(whole, abs=1e-3)
    assert found.logprob > sum(free)


def test_the_company_in_a_batch_changes_nothing(checkpoint, said):
    recogniser = Recogniser(checkpoint)
    texts = [target_tokens(checkpoint.tokenizer, "ab"), target_tokens(checkpoint.tokenizer, "cd ef ab")]
    together = recogniser.encode([one.audio for one in said], said, "av")
    for i, log_probs in enumerate(recogniser.score(together, texts)):
        alone = recogniser.encode([said[i].audio], [said[i]], "av")
        assert torch.allclose(log_probs, recogniser.score(alone, [texts[i]])[0], atol=1e-4)
    assert together.reliability.isfinite().all()


def test_what_a_model_wants_of_the_search_gives_way_to_what_is_asked(checkpoint):
    wants = replace(checkpoint, search={"beam_size": 40, "ctc_weight": 0.2})
    assert Recogniser(checkpoint).search_options() == DecodeOptions()
    found = Recogniser(wants).search_options(beam_size=3, ctc_weight=None, lm_weight=None)
    assert (found.beam_size, found.ctc_weight, found.lm_weight) == (3, 0.2, DecodeOptions().lm_weight)
    with pytest.raises(BadCheckpoint, match="its search settings bean_size are not known"):
        Recogniser(replace(checkpoint, search={"bean_size": 3})).search_options()
