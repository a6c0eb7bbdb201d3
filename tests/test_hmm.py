"""Hidden Markov models: training and search against enumeration of all paths, features, streams, files."""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest

from avsr.corrupt import Mouth
from avsr.errors import BadCheckpoint
from avsr.hmm import inference
from avsr.hmm.features import FeatureSettings, lip_features, sound_features, with_deltas, zigzag
from avsr.hmm.inference import forward_backward, viterbi
from avsr.hmm.mixtures import Mixtures
from avsr.hmm.model import HMM
from avsr.hmm.networks import Arc, Network, compiled, sentence, slots
from avsr.hmm.recogniser import WordRecogniser, estimated_snr
from avsr.hmm.training import Example, expect, flat_start, maximise, numbered, train
from avsr.lips import MouthCropSettings

UNITS = numbered({"sil": 1, "a": 1, "b": 2}, {"sp": ("sil", 0)})


def made(rng: np.random.Generator, n_states: int = 4, n_dims: int = 2, size: int = 2) -> HMM:
    """A random HMM with streams "sound" and "lips"."""
    def mixtures() -> Mixtures:
        weights = rng.dirichlet(np.ones(size), n_states)
        return Mixtures(weights.astype(np.float32), rng.standard_normal((n_states, size, n_dims)).astype(np.float32),
                        rng.uniform(0.5, 2, (n_states, size, n_dims)).astype(np.float32))
    return HMM(UNITS, {"sound": mixtures(), "lips": mixtures()}, rng.uniform(0.2, 0.8, n_states), {})


def paths(network: Network, log_b: np.ndarray, moves: np.ndarray) -> dict[tuple[int, ...], float]:
    """Every path of a network with its log probability, by enumeration."""
    table = np.full((network.n_positions,) * 2, -np.inf)
    table[network.source, network.target] = moves
    out = {}
    for path in product(range(network.n_positions), repeat=len(log_b)):
        total = network.entry[path[0]] + network.leave[path[-1]] + sum(log_b[t, one] for t, one in enumerate(path))
        total += sum(table[one, two] for one, two in pairwise(path))
        if total > -np.inf:
            out[path] = total
    return out


@pytest.mark.parametrize("seed", range(3))
def test_posteriors_and_the_best_path_are_those_of_all_paths(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    model = made(rng)
    networks = [compiled(sentence([[("a",)], [("b",)]], ["a", "b"]), UNITS), compiled([Arc(0, 1, "a", ("a",))], UNITS),
                compiled(slots([["a", "b"]]), UNITS)]
    lengths = [4, 3, 5]                                     # of different lengths in one batch
    log_b = [rng.standard_normal((n, one.n_positions)) for n, one in zip(lengths, networks, strict=True)]
    moves = [model.log_moves(one) for one in networks]
    monkeypatch.setattr(inference, "BLOCK", 2)              # the path crosses blocks
    for network, table, arcs, found in zip(networks, log_b, moves, forward_backward(networks, log_b, moves), strict=True):
        every = paths(network, table, arcs)
        total = np.logaddexp.reduce(list(every.values()))
        gamma, stays = np.zeros(table.shape), np.zeros(network.n_positions)
        for path, value in every.items():
            gamma[np.arange(len(path)), path] += np.exp(value - total)
            for one, two in pairwise(path):
                stays[one] += np.exp(value - total) * (one == two)
        assert found.log_likelihood == pytest.approx(total)
        np.testing.assert_allclose(found.gamma, gamma, atol=1e-6)
        np.testing.assert_allclose(found.stays, stays, atol=1e-6)
        best = viterbi(network, table, np.arange(network.n_positions), arcs)
        assert best.log_probability == pytest.approx(max(every.values()))
        assert every[tuple(best.positions)] == pytest.approx(max(every.values()))
        assert network.shortest() == min(n for n in range(1, 6) if paths(network, np.zeros((n, network.n_positions)), arcs))


def test_the_choices_that_leave_a_position_are_probabilities():
    network = compiled(slots([["a", "b"], ["b", "a"]]), UNITS)
    for position in range(network.n_positions):
        away = (network.source == position) & (network.target != position)
        assert np.exp(network.log_choice[away]).sum() + np.exp(network.leave[position]) == pytest.approx(1.0)
    assert np.exp(network.entry).sum() == pytest.approx(1.0)


def examples(rng: np.random.Generator, n: int = 12) -> list[Example]:
    out = []
    quiet = [-3.0] * 5
    for _ in range(n):
        words = [str(rng.choice(["a", "b"])) for _ in range(3)]
        level = np.concatenate([quiet, *([2.0] * 6 if word == "a" else [0.0] * 4 + [4.0] * 4 for word in words), quiet])
        sound = (level[:, None] + rng.standard_normal((len(level), 2))).astype(np.float32)
        lips = (-level[:, None] + rng.standard_normal((len(level), 2))).astype(np.float32)
        lips[:3] = np.nan
        network = compiled(sentence([[(word,)] for word in words], words), UNITS)
        out.append(Example(network, tuple(words), {"sound": sound, "lips": lips}, [("noisy", sound + 1)]))
    return out


def test_em_never_lowers_the_likelihood_and_teaches_every_stream():
    taught = examples(np.random.default_rng(0))
    model, floors = flat_start(UNITS, taught)
    found = []
    for _ in range(6):
        expected = expect(model, taught, {"sound": 1.0})
        found.append(expected.log_likelihood)
        model = maximise(model, expected, floors)
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(found)), found
    assert expected.n_left_out == 0
    # Streams without a weight in the E-step follow the states of the one that has it.
    assert np.corrcoef(model.streams["sound"].means[:, 0, 0], model.streams["lips"].means[:, 0, 0])[0, 1] < -0.9
    np.testing.assert_allclose(model.streams["noisy"].means, model.streams["sound"].means + 1, atol=1e-4)


def test_a_split_keeps_the_density_nearly_and_training_reaches_the_number_of_components():
    taught = examples(np.random.default_rng(1), 20)
    lines: list[str] = []
    model = train(UNITS, taught, {"sound": 1.0}, n_components=2, rounds=(2, 2), say=lines.append)
    assert model.streams["sound"].n_components == 2
    assert [line.partition(":")[0] for line in lines][::2] == ["1 components, round 1", "2 components, round 1"]
    np.testing.assert_allclose(model.streams["sound"].weights.sum(axis=1), 1, atol=1e-5)


def test_an_utterance_too_short_for_its_words_is_left_out_and_counted():
    taught = examples(np.random.default_rng(2))
    short = replace(taught[0], observed={name: one[:2] for name, one in taught[0].observed.items()}, variants=())
    model, _ = flat_start(UNITS, taught)
    with_it, without = (expect(model, group, {"sound": 1.0}) for group in ([*taught, short], taught))
    assert with_it.n_left_out == 1
    assert with_it.log_likelihood == pytest.approx(without.log_likelihood)


def test_a_stream_of_weight_0_counts_nothing_nor_does_what_was_not_seen():
    rng = np.random.default_rng(3)
    model, network = made(rng), compiled(slots([["a", "b"]]), UNITS)
    observed = {name: rng.standard_normal((9, 2)).astype(np.float32) for name in ("sound", "lips")}
    alone, _ = model.log_b({"sound": observed["sound"]}, {"sound": 1.0}, network)
    both, _ = model.log_b(observed, {"sound": 1.0, "lips": 0.0}, network)
    np.testing.assert_array_equal(alone, both)
    observed["lips"][4:] = np.nan
    masked, _ = model.log_b(observed, {"sound": 1.0, "lips": 0.7}, network)
    np.testing.assert_allclose(masked[4:], alone[4:], atol=1e-5)
    assert not np.allclose(masked[:4], alone[:4])


def test_a_model_comes_back_from_disk_and_damage_is_named(tmp_path):
    model = replace(made(np.random.default_rng(4)), about={"features": FeatureSettings().to_dict()})
    model.save(tmp_path)
    back = HMM.load(tmp_path)
    assert back.units == model.units
    np.testing.assert_allclose(back.streams["lips"].variances, model.streams["lips"].compact().variances, rtol=2e-3)
    with pytest.raises(BadCheckpoint, match="no recogniser of words"):
        WordRecogniser.open(tmp_path)
    (tmp_path / "hmm.json").write_text((tmp_path / "hmm.json").read_text().replace('"b": [', '"b": [99,'))
    with pytest.raises(BadCheckpoint, match="do not fit"):
        HMM.load(tmp_path)
    with pytest.raises(BadCheckpoint, match="no description of an HMM"):
        HMM.load(tmp_path / "nowhere")


def test_features_have_100_rows_a_second_and_hide_what_no_face_showed():
    rng = np.random.default_rng(5)
    settings = FeatureSettings()
    sound = sound_features(rng.standard_normal(16_000).astype(np.float32), settings)
    assert sound.shape == (100, 39)
    np.testing.assert_allclose(sound.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(sound_features(np.zeros(800, np.float32), settings), 0, atol=1e-3)
    assert np.isfinite(sound_features(np.zeros(0, np.float32), settings)).all()
    missing = np.zeros(25, bool)
    missing[10:12] = True
    mouths = rng.integers(0, 255, (25, 96, 96), np.uint8)
    lips = lip_features(mouths, missing, 100, settings)
    assert lips.shape == (100, 3 * settings.n_dct)
    assert np.flatnonzero(np.isnan(lips).any(axis=1)).tolist() == list(range(40, 48))
    mouths[10:12] = 0                                       # what was not seen changes nothing
    np.testing.assert_array_equal(lip_features(mouths, missing, 100, settings), lips)
    assert np.isnan(lip_features(mouths, np.ones(25, bool), 100, settings)).all()
    assert with_deltas(np.ones((2, 3)), 5).shape == (2, 9)


def test_zigzag_is_jpegs_order():
    rows, columns = zigzag(9)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2),
                                                                       (2, 1), (3, 0)]


def tones(words: list[str]) -> np.ndarray:
    """A sound in which "low" and "high" are tones."""
    pause = 0.001 * np.random.default_rng(0).standard_normal(3200)
    time = np.arange(3200) / 16_000
    parts = [np.sin(2 * np.pi * {"low": 300, "high": 2500}[word] * time) for word in words]
    return np.concatenate([pause, *parts, pause]).astype(np.float32)


def test_the_recogniser_reads_by_sound_by_lips_and_by_both(tmp_path):
    grammar, settings = [["low", "high"], ["low", "high"]], FeatureSettings(n_dct=6, variance=False)
    units = numbered({"sil": 1, "low": 2, "high": 2}, {"sp": ("sil", 0)})
    shapes = {"low": (slice(None), slice(48)), "high": (slice(48), slice(None))}       # the left half, the upper half
    def mouth(words: list[str]) -> Mouth:
        images = np.full((20, 96, 96), 90, np.uint8)
        for i, word in enumerate(words):
            images[5 + 5 * i:10 + 5 * i, *shapes[word]] = 200
        return Mouth(images, np.zeros(20, bool))
    taught = []
    for words in map(list, product(["low", "high"], repeat=2)):
        sound = sound_features(tones(words), settings)
        lips = lip_features(*mouth(words), len(sound), settings)
        taught += [Example(compiled(sentence([[(word,)] for word in words], words), units), tuple(words),
                           {"sound": sound, "lips": lips})] * 2
    model = train(units, taught, {"sound": 1.0}, n_components=1, rounds=(4, 0))
    about = {"features": settings.to_dict(), "grammar": grammar, "levels": ["sound"], "lip_weights": [[20, 0.8], [1000, 0.2]],
             "mouth_crop": MouthCropSettings().to_dict()}
    replace(model, about=about).save(tmp_path)
    recogniser = WordRecogniser.open(tmp_path)
    for words in map(list, product(["low", "high"], repeat=2)):
        sound, seen = tones(words), mouth(words)
        assert [recogniser.recognise(sound, seen, one) for one in ("a", "v", "av")] == [" ".join(words)] * 3
        assert recogniser.recognise(sound, None, "av") == recogniser.recognise(sound, None, "a") == " ".join(words)
        assert recogniser.recognise(sound, None, "v") == ""
    assert recogniser.lip_weight(5.0) == 0.8
    assert recogniser.lip_weight(2000.0) == 0.2


def test_the_estimated_snr_rises_with_the_snr():
    rng = np.random.default_rng(6)
    speech = tones(["low", "high"])
    found = [estimated_snr(speech + (level * rng.standard_normal(len(speech))).astype(np.float32)) for level in (1, 0.1, 0.01)]
    assert found == sorted(found)
    assert found[0] > 0
    assert estimated_snr(np.zeros(100, np.float32)) == estimated_snr(np.zeros(1600, np.float32)) == 100
