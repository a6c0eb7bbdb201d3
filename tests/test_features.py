"""Log-mel: the same numbers as Whisper's own extractor."""

from functools import lru_cache

import numpy as np
import pytest

from avsr import media
from avsr.features import FLOOR, MEL_FILTERS, RANGE, log_mel, mel_filters
from avsr.rates import HOP, N_FFT, SAMPLE_RATE, SEGMENT_FEATURES, SEGMENT_SAMPLES

WAVEFORMS = {
    "noise": lambda rng: rng.normal(0, 0.1, 48_000),
    "sweep": lambda rng: np.sin(np.cumsum(np.linspace(0.01, 3, 80_000))) * 0.5,
    "silence": lambda rng: np.zeros(16_000),
    "click": lambda rng: np.eye(1, 32_000, 9_000)[0],
    "full 30 s": lambda rng: rng.uniform(-1, 1, SEGMENT_SAMPLES),
    "longer than 30 s": lambda rng: rng.uniform(-1, 1, SEGMENT_SAMPLES + 12_345),
    "quiet": lambda rng: rng.normal(0, 1e-5, 30_001),
}


@lru_cache
def extractor(n_mels):
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=n_mels)


def theirs(audio, n_mels):
    """(3000, n_mels) float32."""
    features = extractor(n_mels)(audio, sampling_rate=16_000, return_tensors="np", padding="max_length")
    return features.input_features[0].T


def test_stored_mel_filters_are_librosas_to_the_last_bit():
    from librosa.filters import mel

    with np.load(MEL_FILTERS) as stored:
        assert sorted(stored) == ["128", "80"]
        for name, filters in stored.items():
            theirs = mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=int(name))
            assert filters.dtype == theirs.dtype == np.float32
            assert filters.shape == (int(name), N_FFT // 2 + 1)
            assert filters.tobytes() == theirs.tobytes()
            assert np.array_equal(mel_filters(int(name)), theirs)


def test_librosa_makes_mel_filters_of_other_sizes():
    from librosa.filters import mel

    np.testing.assert_array_equal(mel_filters(40), mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=40))


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("name", WAVEFORMS)
def test_equals_whispers_extractor_on_made_up_sound(name, n_mels):
    audio = WAVEFORMS[name](np.random.default_rng(0)).astype(np.float32)
    ours = log_mel(audio, n_mels=n_mels, n_samples=SEGMENT_SAMPLES)
    assert ours.shape == (SEGMENT_FEATURES, n_mels)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs(audio, n_mels), atol=1e-4)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("clip", ["grid/s1/bbaf3s.mpg", "grid/s1/bbaf2n.mkv", "wild/sadtalker__RD_Radio34_000.mp4"])
def test_equals_whispers_extractor_on_real_sound(real_data, clip, n_mels):
    audio = media.read(real_data / clip, want_video=False).audio
    ours = log_mel(audio, n_mels=n_mels, n_samples=SEGMENT_SAMPLES)
    np.testing.assert_allclose(ours, theirs(audio, n_mels), atol=1e-4)


def test_a_batch_equals_its_members():
    loud_and_quiet = np.random.default_rng(1).normal(0, [[0.3], [0.001], [0.0]], (3, 20_000)).astype(np.float32)
    batch = log_mel(loud_and_quiet)
    for one, audio in zip(batch, loud_and_quiet, strict=True):
        np.testing.assert_allclose(one, log_mel(audio), atol=1e-6, rtol=0)


@pytest.mark.parametrize("n_samples", [1, 159, 160, 399, 400, 401, 16_000, 16_001])
def test_one_column_for_each_begun_hop(n_samples):
    features = log_mel(np.full(n_samples, 0.1, np.float32))
    assert features.shape == (max(-(-n_samples // HOP), 3), 80)     # Whisper's window alone takes 400 samples
    assert np.isfinite(features).all()


def test_without_padding_only_the_edge_differs():
    audio = np.random.default_rng(2).normal(0, 0.1, 32_000).astype(np.float32)
    np.testing.assert_allclose(log_mel(audio)[:-2], log_mel(audio, n_samples=SEGMENT_SAMPLES)[:198], atol=1e-5, rtol=0)


def test_any_type_of_numbers_is_taken_and_the_input_is_left_alone():
    audio = np.random.default_rng(3).normal(0, 0.1, 5_000)
    before = audio.copy()
    np.testing.assert_array_equal(log_mel(audio), log_mel(audio.astype(np.float32)))
    np.testing.assert_array_equal(audio, before)


@pytest.mark.parametrize("name", WAVEFORMS)
def test_equals_the_same_sums_in_double_precision(name):
    audio = WAVEFORMS[name](np.random.default_rng(0)).astype(np.float32)
    padded = np.pad(audio.astype(np.float64), (0, -len(audio) % HOP))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(padded, N_FFT // 2, mode="reflect"), N_FFT)[:-1:HOP] * window
    log_power = np.log10(np.maximum(np.abs(np.fft.rfft(frames)) ** 2 @ mel_filters(80).T, FLOOR))
    exact = (np.maximum(log_power, log_power.max() - RANGE) + 4) / 4
    np.testing.assert_allclose(log_mel(audio), exact, atol=1e-5, rtol=0)
