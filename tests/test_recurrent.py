"""LSTM blocks and networks that CTC alone writes for: the published equations, indifference to padding, exact probabilities."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from test_models import TOLERANCE, make, mel_of, mouths_of
from torch.nn import functional as F

from avsr import decode
from avsr.checkpoint import Checkpoint
from avsr.decode import DecodeOptions
from avsr.decode.ctc_only import CTCFrames, CTCScorer, ctc_token_log_probs
from avsr.models.avsr import Dims
from avsr.models.recurrent import LSTMBlock, sequence_lengths
from avsr.recogniser import Recogniser
from avsr.text import write_characters

SMALL = Dims(width=32, n_heads=2, n_audio_layers=2, n_video_layers=1, n_fusion_layers=1, n_decoder_layers=0, n_context=40,
             video_frontend="compact", audio_blocks="lstm", video_blocks="lstm")
ONCE = DecodeOptions(temperatures=(0.0,), compression_ratio_threshold=None, logprob_threshold=None, no_speech_threshold=None)


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    tokenizer = write_characters(tmp_path_factory.mktemp("letters") / "tokenizer.json")
    model = make(replace(SMALL, n_vocab=tokenizer.no_timestamps + 1), gates=0.5)
    return Recogniser(Checkpoint("lstm", model, tokenizer, pad_seconds=None))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def test_a_direction_computes_the_equations_in_the_docstring():
    torch.manual_seed(0)
    block = LSTMBlock(8, 1)
    x = torch.randn(1, 5, 8)
    h = c = torch.zeros(4)
    for x_t in block.norm(x)[0]:
        both = block.lstm.weight_ih_l0 @ x_t + block.lstm.bias_ih_l0 + block.lstm.weight_hh_l0 @ h + block.lstm.bias_hh_l0
        i, f, g, o = both.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    torch.testing.assert_close((block(x, None) - x)[0, -1, :4], h)


def test_sequence_lengths_end_at_the_last_position_that_counts():
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    assert sequence_lengths(mask).tolist() == [2, 3, 1, 4]


@pytest.mark.parametrize("modality", ["a", "v", "av"])
def test_padding_does_not_change_what_is_encoded(recogniser, modality):
    model, lengths = recogniser.model, torch.tensor([60, 34])
    mel, mouths, seen = mel_of(2, 60), mouths_of(2, 15), torch.ones(2, 15, dtype=torch.bool)
    seen[1, 8:] = False
    mel_of_both = {"mel": mel, "mel_lengths": lengths} if "a" in modality else {"mel": None}
    both = model.encode(**mel_of_both, **({"mouths": mouths, "seen": seen} if "v" in modality else {}))
    alone = model.encode(mel[1:, :34] if "a" in modality else None, mouths[1:, :8] if "v" in modality else None)
    for one, other in ((both.audio, alone.audio), (both.video, alone.video)):
        if other is not None:
            torch.testing.assert_close(one[1:, :other.shape[1]], other, **TOLERANCE)


def frames(n=6, letters=3, seed=0):
    """Log-probabilities of tokens 0 .. letters - 1, of the end, which CTC never writes, and of the blank."""
    values = torch.randn(1, n, letters + 2, generator=torch.Generator().manual_seed(seed))
    values[:, :, letters] = -1e3
    return CTCFrames(values.log_softmax(dim=-1), torch.tensor([n]), blank=letters + 1)


def test_the_scores_of_all_next_tokens_sum_to_one():
    made = frames()
    scorer = CTCScorer(made, end=3)
    for tokens in ([], [1], [1, 1], [1, 1, 2]):
        scores = scorer.score(torch.tensor([tokens], dtype=torch.long))
        torch.testing.assert_close(scores[:, :4].logsumexp(dim=1), torch.zeros(1), atol=1e-4, rtol=0)


def test_the_scores_of_a_text_sum_to_its_probability_over_all_alignments():
    made = frames()
    for text in [text for n in range(1, 4) for text in product(range(3), repeat=n)]:
        ours = ctc_token_log_probs(made, [text], 3)[0].sum()
        loss = F.ctc_loss(made.log_probs.transpose(0, 1), torch.tensor([text]), made.lengths, torch.tensor([len(text)]),
                          blank=made.blank, reduction="none")
        torch.testing.assert_close(ours, -loss[0], atol=1e-3, rtol=0)


def test_a_batch_of_two_is_written_as_two_batches_of_one(recogniser):
    memory = recogniser.model.encode(mel_of(2, 60), mel_lengths=torch.tensor([60, 34]))
    both = recogniser.decode(memory, ONCE)
    for i in range(2):
        (alone,) = recogniser.decode(memory.select(torch.tensor([i])), ONCE)
        assert alone.tokens == both[i].tokens
        assert alone.logprob == pytest.approx(both[i].logprob, abs=1e-3)


def test_the_written_text_is_scored_and_aligned_by_the_same_network(recogniser):
    memory = recogniser.model.encode(mel_of(1, 60), mouths_of(1, 15))
    text = recogniser.tokenizer.encode("bin blue")
    scores = recogniser.score(memory, [text])[0]
    assert len(scores) == len(text) + 1
    (words,) = recogniser.align(memory, [text], [0.6])
    assert [word.text.strip() for word in words] == ["bin", "blue"]
    assert 0 <= words[0].start <= words[0].end <= words[1].end <= 0.7


def test_a_beam_that_holds_every_prefix_finds_the_most_probable_text():
    made = frames(n=4)
    strategy = decode.BeamSearch(1, replace(ONCE, beam_size=120, patience=1.0), end=3)
    (best,) = decode.search([CTCScorer(made, end=3)], torch.zeros(1, 0, dtype=torch.long), strategy, length_penalty=0.0,
                            max_tokens=5)
    texts = [text for n in range(5) for text in product(range(3), repeat=n)]
    scores = {text: ctc_token_log_probs(made, [text], 3)[0].sum().item() for text in texts}
    assert scores[best[0]] == pytest.approx(max(scores.values()), abs=1e-4)


