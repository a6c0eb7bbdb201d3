"""By neither sense, by sound, by sight and by both: one preparation, and what is shared changes nothing."""

from dataclasses import replace

import pytest
import torch
from made_corpus import say

from avsr.checkpoint import Checkpoint
from avsr.decode import DecodeOptions
from avsr.errors import BadCheckpoint
from avsr.models.avsr import AVSR, Dims
from avsr.senses import Senses, hear, how_to_search, memories, recognise, see, spelt, token_log_probs
from avsr.text import spell, write_letters


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    tokenizer = write_letters(tmp_path_factory.mktemp("letters") / "tokenizer.json")
    torch.manual_seed(0)
    model = AVSR(Dims(width=32, n_heads=2, n_audio_layers=2, n_video_layers=1, n_fusion_layers=1, n_decoder_layers=1,
                      n_vocab=tokenizer.no_timestamps + 1, n_context=32, lips="compact", video_width=32, n_reliability=8)).eval()
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
    found = memories(checkpoint, ("none", "a", "v", "av"), sounds, said)
    mel, lengths = hear(sounds, 80, None)
    mouths, seen = see(said)
    alone = {"a": checkpoint.model.encode(mel, mel_lengths=lengths), "v": checkpoint.model.encode(None, mouths, seen=seen),
             "av": checkpoint.model.encode(mel, mouths, mel_lengths=lengths, seen=seen)}
    for modality, memory in alone.items():
        for name in ("audio", "video", "trust"):
            one, other = getattr(memory, name), getattr(found[modality], name)
            assert (one is None) == (other is None), (modality, name)
            assert one is None or torch.allclose(one, other, atol=1e-5), (modality, name)


def test_neither_sense_depends_on_nothing(checkpoint, said):
    text = [spell(checkpoint.tokenizer, "ab cd")]
    one, other = (memories(checkpoint, ("none",), [case.audio], [case])["none"] for case in said)
    losses = [token_log_probs(checkpoint, memory, text)[0] for memory in (one, other)]
    assert torch.equal(*losses)
    heard = token_log_probs(checkpoint, memories(checkpoint, ("a",), [said[0].audio], None)["a"], text)[0]
    assert not torch.allclose(losses[0], heard, atol=1e-3)


def test_no_face_is_sound_alone_and_by_sight_nothing(checkpoint, said):
    sounds, text = [one.audio for one in said], [spell(checkpoint.tokenizer, "ab")] * 2
    found = memories(checkpoint, ("none", "a", "v", "av"), sounds, [None, None])
    losses = {name: token_log_probs(checkpoint, memory, text) for name, memory in found.items()}
    for one, other in (("a", "av"), ("none", "v")):
        assert all(map(torch.equal, losses[one], losses[other])), (one, other)
    one_face = memories(checkpoint, ("v", "av"), sounds, [None, said[1]])
    assert torch.allclose(token_log_probs(checkpoint, one_face["v"], text)[0], losses["none"][0], atol=1e-5)
    assert torch.allclose(token_log_probs(checkpoint, one_face["av"], text)[0], losses["a"][0], atol=1e-5)


def test_another_face_keeps_what_was_heard(checkpoint, said):
    senses = Senses(checkpoint, [one.audio for one in said], said)
    heard, _ = senses.listen()
    other = senses.facing(said[::-1])
    assert other.listen()[0] is heard
    assert not torch.equal(other.memory("av").lips[0], senses.memory("av").lips[0])


def test_log_probabilities_of_tokens_are_those_of_the_search(checkpoint, said):
    """Step by step as the search goes; which then leaves out what may not be written, and so finds its text likelier."""
    memory = memories(checkpoint, ("av",), [said[1].audio], [said[1]])["av"]
    options = DecodeOptions(beam_size=3, temperatures=(0.0,), max_tokens=12, compression_ratio_threshold=None,
                            logprob_threshold=None, no_speech_threshold=None)
    (found,) = recognise(checkpoint, memory, options)
    assert found.tokens
    assert spelt(checkpoint, found) == checkpoint.tokenizer.decode(found.tokens).strip()
    model, end, cache = checkpoint.model, checkpoint.tokenizer.end, checkpoint.model.start(memory)
    read, free, allowed = checkpoint.tokenizer.prompt("en"), [], []
    for token in [*found.tokens, end]:
        logits = model.step(torch.tensor([read]), cache)[0]
        free.append(logits.log_softmax(dim=0)[token].item())
        allowed.append(logits[:end + 1].log_softmax(dim=0)[token].item())
        read = [token]
    (forced,) = token_log_probs(checkpoint, memory, [found.tokens])
    assert forced.tolist() == pytest.approx(free, abs=1e-4)
    whole = sum(allowed[:-1]) if len(found.tokens) == options.max_tokens else sum(allowed)
    assert found.logprob == pytest.approx(whole, abs=1e-3)
    assert found.logprob > sum(free)


def test_the_company_in_a_batch_changes_nothing(checkpoint, said):
    texts = [spell(checkpoint.tokenizer, "ab"), spell(checkpoint.tokenizer, "cd ef ab")]
    together = memories(checkpoint, ("av",), [one.audio for one in said], said)["av"]
    for i, log_probs in enumerate(token_log_probs(checkpoint, together, texts)):
        alone = memories(checkpoint, ("av",), [said[i].audio], [said[i]])["av"]
        assert torch.allclose(log_probs, token_log_probs(checkpoint, alone, [texts[i]])[0], atol=1e-4)
    assert together.trust.isfinite().all()


def test_what_a_model_wants_of_the_search_gives_way_to_what_is_asked(checkpoint):
    wants = replace(checkpoint, search={"beam_size": 40, "ctc_weight": 0.2})
    assert how_to_search(checkpoint) == DecodeOptions()
    found = how_to_search(wants, beam_size=3, ctc_weight=None, lm_weight=None)
    assert (found.beam_size, found.ctc_weight, found.lm_weight) == (3, 0.2, DecodeOptions().lm_weight)
    with pytest.raises(BadCheckpoint, match="its search settings bean_size are not known"):
        how_to_search(replace(checkpoint, search={"bean_size": 3}))
