"""Noise: exact ratios, P.56's levels, honest babble, chance as an argument."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from avsr import media
from avsr.errors import AvsrError, BadMedia
from avsr.noise import (
    Babble,
    Coloured,
    NoiseMixer,
    Recordings,
    SpeechShaped,
    Talker,
    active_level,
    mix,
    open_sources,
    rms_level,
)
from avsr.noise.mixing import FADE, MARGIN, joined
from avsr.noise.sources import _Shelf, _speech_only
from avsr.rates import SAMPLE_RATE

SECOND = SAMPLE_RATE


def gaussian(n, seed, gain=0.1):
    return (gain * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def tone(hertz, seconds=2.0, gain=0.1):
    return (gain * np.sin(2 * np.pi * hertz * np.arange(round(seconds * SECOND)) / SECOND)).astype(np.float32)


def voices(n, seconds=2.0):
    """Talkers who can be told apart: number i hums at 200 * (i + 1) Hz."""
    return {f"t{i}": [tone(200 * (i + 1), seconds)] for i in range(n)}


def heard(audio, n):
    """Which of `voices(n)` hum in it."""
    power = np.abs(np.fft.rfft(audio * np.hanning(len(audio)))) ** 2
    bins = np.array([round(200 * (i + 1) * len(audio) / SECOND) for i in range(n)])
    loud = np.array([power[b - 3: b + 4].sum() for b in bins])
    return {f"t{i}" for i in np.flatnonzero(loud > 0.05 * loud.max())}


def p56_by_the_book(audio):
    """Method B sample by sample, as the recommendation's flow chart has it: 15 thresholds for 16 bits."""
    g = np.exp(-1 / (SECOND * 0.03))
    thresholds = [2.0 ** -j for j in range(15, 0, -1)]
    active, since = np.zeros(15), np.full(15, 3200)
    p = q = 0.0
    for x in np.abs(np.asarray(audio, np.float64)):
        p = g * p + (1 - g) * x
        q = g * q + (1 - g) * p
        for j, threshold in enumerate(thresholds):
            if q >= threshold:
                active[j] += 1
                since[j] = 0
            elif since[j] < 3200:
                active[j] += 1
                since[j] += 1
    energy = np.square(np.asarray(audio, np.float64)).sum()
    levels = [10 * np.log10(energy / a) if a else None for a in active]
    for j in range(1, 15):
        low, high = (levels[k] - 20 * np.log10(thresholds[k]) for k in (j - 1, j))
        if high <= MARGIN:
            return levels[j - 1] + (low - MARGIN) / (low - high) * (levels[j] - levels[j - 1])
    raise AssertionError


# --- levels ---

@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_active_level_is_that_of_the_recommendation_step_by_step(share):
    n = SECOND
    audio = gaussian(n, 1, 0.05) * (np.arange(n) < share * n) + gaussian(n, 2, 0.0005)
    assert active_level(audio) == pytest.approx(p56_by_the_book(audio), abs=1e-9)


def test_active_level_of_steady_sound_is_its_rms():
    assert active_level(gaussian(10 * SECOND, 0)) == pytest.approx(rms_level(gaussian(10 * SECOND, 0)), abs=0.05)


def test_half_silence_puts_the_active_level_three_db_above_rms():
    audio = np.concatenate([gaussian(20 * SECOND, 0), np.zeros(20 * SECOND, np.float32)])
    assert active_level(audio) - rms_level(audio) == pytest.approx(10 * np.log10(2), abs=0.08)   # hangover: 0.3 of 40 s


def test_short_pauses_count_as_speech_and_long_ones_do_not():
    burst = gaussian(SECOND, 0)
    short, long = (np.tile(np.concatenate([burst, np.zeros(round(s * SECOND), np.float32)]), 8) for s in (0.15, 2.0))
    assert active_level(short) - rms_level(short) < 0.1
    assert active_level(long) - rms_level(long) == pytest.approx(10 * np.log10(3 / 1.35), abs=0.3)


@settings(deadline=None)
@given(st.integers(-40, 30), st.integers(0, 5))
def test_active_level_follows_the_gain_exactly(exponent, seed):
    audio = gaussian(8000, seed) * (np.arange(8000) % 4000 < 2500)
    assert active_level(audio * 2.0 ** exponent) == pytest.approx(active_level(audio) + 20 * exponent * np.log10(2), abs=1e-9)


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(0, 100))
def test_active_level_is_finite_and_no_lower_than_rms(n, seed):
    audio = gaussian(n, seed)
    assert rms_level(audio) - 1e-9 <= active_level(audio) < 20 * np.log10(np.abs(audio).max()) + 40


def test_levels_of_silence_and_of_a_click():
    assert rms_level(np.zeros(100)) == active_level(np.zeros(100)) == -np.inf
    click = np.eye(1, 3 * SECOND, SECOND)[0]
    assert np.isfinite(active_level(click))


# --- mixing ---

@settings(deadline=None)
@given(st.floats(-20, 40), st.integers(800, 40_000), st.integers(2, 60_000), st.floats(-60, 10), st.floats(-60, 10),
       st.sampled_from(["active", "rms"]), st.integers(0, 1000))
def test_the_ratio_asked_for_is_the_ratio_achieved(snr_db, n_speech, n_noise, speech_db, noise_db, level, seed):
    speech = gaussian(n_speech, seed, 10 ** (speech_db / 20))
    noise = gaussian(n_noise, seed + 1, 10 ** (noise_db / 20))
    mixed = mix(speech, noise, snr_db, rng=np.random.default_rng(seed), level=level)
    added = mixed.audio.astype(np.float64) - speech
    measured = {"active": active_level, "rms": rms_level}[level](speech) - rms_level(added)
    assert mixed.snr_db == pytest.approx(snr_db, abs=0.001)
    assert measured == pytest.approx(snr_db, abs=0.01)
    assert mixed.audio.shape == speech.shape
    assert mixed.audio.dtype == np.float32


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(-10, 20), st.integers(100, 30_000))
def test_the_same_seed_gives_the_same_mix_bit_for_bit(seed, snr_db, n_noise):
    speech, noise = gaussian(9000, 1), gaussian(n_noise, 2)
    one, two = (mix(speech, noise, snr_db, rng=np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(one.audio, two.audio)
    assert one.offset == two.offset


def test_the_noise_added_is_the_stretch_at_the_offset_times_the_gain():
    speech, noise = gaussian(8000, 1), gaussian(30_000, 2)
    offsets = set()
    for seed in range(20):
        mixed = mix(speech, noise, 0.0, rng=np.random.default_rng(seed))
        offsets.add(mixed.offset)
        wanted = noise[mixed.offset: mixed.offset + 8000] * mixed.gain
        np.testing.assert_allclose(mixed.audio - speech, wanted, atol=1e-6)
    assert len(offsets) == 20


def test_none_leaves_speech_alone_and_zero_is_a_level():
    speech = gaussian(8000, 1)
    clean = mix(speech, np.zeros(0, np.float32), None, rng=np.random.default_rng(0))
    assert np.array_equal(clean.audio, speech)
    assert clean.audio is not speech
    assert clean.snr_db is None
    assert mix(speech, gaussian(8000, 2), 0, rng=np.random.default_rng(0)).snr_db == pytest.approx(0, abs=1e-6)


def test_loud_mixes_are_not_clipped():
    speech = gaussian(8000, 1, 0.5)
    mixed = mix(speech, gaussian(8000, 2), -20, rng=np.random.default_rng(0))
    assert np.abs(mixed.audio).max() > 5


@pytest.mark.parametrize(("speech", "noise", "says"), [
    (np.zeros(8000, np.float32), gaussian(8000, 1), "speech: it is silent over all 8000 samples (0.50 s)"),
    (gaussian(8000, 1), np.zeros(9000, np.float32), "noise: it is silent over all 8000 samples"),
    (gaussian(8000, 1), np.zeros(0, np.float32), "noise: it is silent"),
    (np.full(8000, np.nan, np.float32), gaussian(8000, 1), "speech: it holds samples that are not numbers"),
])
def test_what_has_no_ratio_is_said(speech, noise, says):
    with pytest.raises(BadMedia) as error:
        mix(speech, noise, 0.0, rng=np.random.default_rng(0))
    assert says in str(error.value)
    assert ".  Leave it out" in str(error.value)


def test_repeats_are_crossfaded_without_a_dip_or_a_jump():
    hum = tone(100, 1.005)                                   # ends in mid-wave
    looped = joined(hum[5000:], lambda: hum, 5 * SECOND)
    assert np.abs(np.diff(looped)).max() < 2 * np.abs(np.diff(hum)).max()
    noise = gaussian(SECOND, 3)
    looped = joined(noise, lambda: gaussian(SECOND, 4), 2 * SECOND - FADE)
    seam = looped[SECOND - FADE: SECOND]
    assert rms_level(seam) == pytest.approx(rms_level(noise), abs=2)


# --- sources ---

def talkers_of(draw, n, **options):
    return heard(draw(4 * SECOND, np.random.default_rng(options.pop("seed", 0)), **options), n)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 10), st.integers(0, 1000), st.data())
def test_babble_is_of_different_people_without_the_speaker(n, seed, data):
    speaker = f"t{data.draw(st.integers(0, n - 1))}"
    fewest = data.draw(st.integers(1, n - 1))
    babble = Babble(voices(n), (fewest, n))
    chosen = babble.choose(np.random.default_rng(seed), without=speaker)
    assert len(set(chosen)) == len(chosen) >= fewest
    assert speaker not in chosen
    assert talkers_of(babble.draw, n, seed=seed, without=speaker) == set(chosen)


def test_babble_has_each_talker_at_the_same_level_whatever_was_recorded():
    loud_and_soft = {name: [sounds[0] * 10 ** (-i)] for i, (name, sounds) in enumerate(voices(4).items())}
    audio = Babble(loud_and_soft, 4).draw(4 * SECOND, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(audio * np.hanning(len(audio)))) ** 2
    levels = [10 * np.log10(power[round(f * 4) - 8: round(f * 4) + 9].sum()) for f in (200, 400, 600, 800)]
    assert np.ptp(levels) < 1


def test_babble_goes_on_without_pauses_though_utterances_have_them():
    quiet = np.zeros(SECOND, np.float32)
    audio = Talker({"a": [np.concatenate([quiet, gaussian(SECOND, 1), quiet])]}).draw(10 * SECOND, np.random.default_rng(0))
    blocks = np.square(audio).reshape(-1, 1600).mean(axis=1)
    assert blocks.min() > 0.5
    assert active_level(audio) == pytest.approx(0.8, abs=0.4)             # 1 s of speech with 0.2 s of hangover made it 0


def test_trimming_keeps_the_speech():
    speech = np.concatenate([gaussian(SECOND, 0, 0.001), gaussian(SECOND, 1), gaussian(SECOND, 2, 0.001)])
    assert len(_speech_only(speech)) == pytest.approx(SECOND, abs=1600)


def test_one_talker_is_one_and_never_the_speaker():
    rival = Talker(voices(3))
    assert {name for seed in range(30) for name in rival.choose(np.random.default_rng(seed), without="t1")} == {"t0", "t2"}


def test_too_few_talkers_is_said_at_once():
    with pytest.raises(AvsrError, match=r"babble: 3 talkers, but 4 are to be heard at once\.  Add talkers"):
        Babble(voices(3))
    with pytest.raises(AvsrError, match="babble: 3 talkers beside t0, but 4"):
        Babble(voices(4)).draw(100, np.random.default_rng(0), without="t0")
    with pytest.raises(AvsrError, match="talker b has 0 recordings"):
        Babble({"a": [tone(200)], "b": []}, 1)


@pytest.mark.parametrize("make", [
    lambda: Recordings([gaussian(5 * SECOND, 1), gaussian(SECOND, 2)]), lambda: Babble(voices(6)),
    lambda: Talker(voices(2)), lambda: Coloured(1.0), lambda: SpeechShaped([gaussian(SECOND, 1)]),
], ids=["recordings", "babble", "talker", "pink", "speech-shaped"])
@pytest.mark.parametrize("n", [1, 7, 47_717])
def test_a_draw_is_as_long_as_asked_and_depends_on_the_generator_alone(make, n):
    warm = make()
    for seed in range(3):
        warm.draw(SECOND, np.random.default_rng(seed))
    one, two = make().draw(n, np.random.default_rng(7)), warm.draw(n, np.random.default_rng(7))
    assert one.shape == (n,)
    assert one.dtype == np.float32
    assert np.array_equal(one, two)
    assert not np.array_equal(one, warm.draw(n, np.random.default_rng(8)))


@pytest.mark.parametrize(("exponent", "slope"), [(0.0, 0.0), (1.0, -3.01), (2.0, -6.02)])
def test_colours_fall_by_their_decibels_an_octave(exponent, slope):
    audio = Coloured(exponent).draw(60 * SECOND, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(audio)) ** 2
    octaves = [10 * np.log10(power[f * 60: 2 * f * 60].mean()) for f in (125, 250, 500, 1000, 2000)]
    assert np.diff(octaves) == pytest.approx([slope] * 4, abs=0.3)
    assert rms_level(audio) == pytest.approx(0, abs=0.5)


def test_speech_shaped_noise_has_the_spectrum_of_the_speech():
    shaped = lfilter([1], [1, -0.95], gaussian(20 * SECOND, 0)).astype(np.float32)
    audio = SpeechShaped([shaped]).draw(20 * SECOND, np.random.default_rng(0))
    powers = [np.abs(np.fft.rfft(one)) ** 2 for one in (shaped, audio)]
    bands = [[10 * np.log10(p[f * 20: 2 * f * 20].mean()) for f in (125, 250, 500, 1000, 2000, 4000 - 1)] for p in powers]
    assert np.diff(bands[0]) == pytest.approx(np.diff(bands[1]), abs=0.7)
    assert rms_level(audio) == pytest.approx(0, abs=0.2)


def test_padding_in_a_recording_is_never_drawn():
    padded = np.concatenate([gaussian(SECOND, 1), np.zeros(4 * SECOND, np.float32)])
    source = Recordings([padded])
    assert all(np.any(source.draw(1600, np.random.default_rng(seed))) for seed in range(30))
    with pytest.raises(BadMedia, match="waveform: it is silent"):
        Recordings([np.zeros(SECOND, np.float32)]).draw(10, np.random.default_rng(0))


def test_the_shelf_keeps_to_its_bound(monkeypatch):
    monkeypatch.setattr("avsr.noise.sources.CACHE_SECONDS", 3)
    shelf = _Shelf(lambda audio: audio)
    for key in range(6):
        shelf.get(key, gaussian(SECOND, key))
    assert list(shelf._sounds) == [3, 4, 5]
    assert shelf._n_samples == 3 * SECOND


def test_babble_of_three_seconds_takes_under_three_milliseconds():
    babble = Babble(voices(8, 3.0), 8)
    rng = np.random.default_rng(0)
    took = []
    for _ in range(40):
        start = time.perf_counter()
        babble.draw(3 * SECOND, rng)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.003                                 # 0.8 ms; the least of 40, as other work shares the cores


# --- descriptions and the mixer ---

@pytest.fixture
def folder(tmp_path):
    for name in ["esc/rain/1-a.wav", "esc/rain/5-b.wav", "esc/fire/2-c.wav", "talk/s1/x.wav", "talk/s2/y.wav", "talk/s3/z.wav"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        media.write(None, tmp_path / name, audio=gaussian(SECOND, len(name)))
    (tmp_path / "talk/s1/x.align").write_text("not sound")
    return tmp_path


def names(paths):
    return [path.name for path in paths]


def test_a_description_opens_what_it_names(folder):
    sources = open_sources({
        "natural": "esc/*/[1-4]-*.wav", "both": ["esc/rain", "esc/fire"], "white": True, "pink": False,
        "babble": {"talkers": "talk", "n_talkers": [1, 2], "exclude": "s3"}, "grey": {"colour": 1.5},
        "rival": {"talkers": "talk/s[12]", "n_talkers": 1, "prefix": "lombard-"}, "ssn": {"shaped": "talk"},
        "unheard": {"files": "esc", "exclude": ["[1-4]-*"]},
    }, base=folder)
    assert list(sources) == ["natural", "both", "white", "babble", "grey", "rival", "ssn", "unheard"]
    assert names(sources["natural"].sources) == ["2-c.wav", "1-a.wav"]
    assert names(sources["unheard"].sources) == ["5-b.wav"]
    assert len(sources["both"].sources) == 3
    assert {name: names(files) for name, files in sources["babble"].talkers.items()} == {"s1": ["x.wav"], "s2": ["y.wav"]}
    assert list(sources["rival"].talkers) == ["lombard-s1", "lombard-s2"]
    for source in sources.values():
        assert np.any(source.draw(1000, np.random.default_rng(0)))


@pytest.mark.parametrize(("config", "says"), [
    ({"rain": "nowhere/*.wav"}, "nowhere/*.wav matches 0 files or folders.  Check the path"),
    ({"rain": "talk/s1/x.align"}, "holds 0 recordings.  Known endings"),
    ({"rain": True}, "only white, pink, brown need no more"),
    ({"rain": {"files": "esc", "n_talkers": 3}}, "'files', 'n_talkers'.  Give one of"),
    ({"rain": {}}, "it has nothing.  Give one of"),
    ({"rain": 3}, "noise 'rain' = 3: "),
    ({"babble": {"talkers": "talk"}}, "3 talkers, but 4"),
    ({"babble": {"talkers": "talk/s1"}}, "1 talkers, but 4"),
])
def test_a_wrong_description_is_said(folder, config, says):
    with pytest.raises(AvsrError) as error:
        open_sources(config, base=folder)
    assert says in str(error.value)


def test_the_mixer_draws_sources_levels_and_clean():
    mixer = NoiseMixer({"white": Coloured(0), "babble": Babble(voices(6))}, snrs=(-5.0, 0.0, None), p_clean=0.1)
    rng = np.random.default_rng(0)
    drawn = [mixer(gaussian(2000, 0), "t3", rng) for _ in range(400)]
    found = [(one.source, one.snr_db if one.snr_db is None else round(one.snr_db)) for one in drawn]
    assert set(found) == {("white", -5), ("white", 0), ("babble", -5), ("babble", 0), (None, None)}
    assert 0.32 < np.mean([one.source is None for one in drawn]) < 0.48        # 0.1 + 0.9 / 3


def test_the_mixer_draws_from_a_range_by_weight_and_is_repeatable():
    mixer = NoiseMixer({"white": Coloured(0), "pink": Coloured(1)}, snr_range=(-5, 20), weights={"white": 3, "pink": 1})
    drawn = [mixer(gaussian(2000, 0), None, np.random.default_rng(seed)) for seed in range(300)]
    levels = [one.snr_db for one in drawn]
    assert -5.01 < min(levels) < -3 < 18 < max(levels) < 20.01
    assert 0.65 < np.mean([one.source == "white" for one in drawn]) < 0.85
    again = mixer(gaussian(2000, 0), None, np.random.default_rng(5))
    assert np.array_equal(again.audio, drawn[5].audio)


def test_the_mixer_leaves_silence_as_it_is_and_checks_weights():
    mixer = NoiseMixer({"white": Coloured(0)}, snrs=(0.0,))
    assert mixer(np.zeros(100, np.float32), None, np.random.default_rng(0)).source is None
    with pytest.raises(AvsrError, match=r"weights name \['pink'\], the sources are \['white'\]"):
        replace(mixer, weights={"pink": 1.0})


def test_real_babble_in_real_speech(real_data):
    sources = open_sources({"babble": {"talkers": "lombard_audio/*", "exclude": ["s38", "s39", "s40"]},
                            "natural": "noise/esc10/*/[1-4]-*.ogg"}, base=real_data)
    speech = media.read(next((real_data / "grid" / "s1").glob("*.mkv")), want_video=False).audio
    assert sorted(sources["babble"].talkers) == [f"s{i}" for i in range(30, 38)]
    assert not any(path.name.startswith("5-") for path in sources["natural"].sources)
    rng = np.random.default_rng(0)
    for source in sources.values():
        mixed = mix(speech, source.draw(len(speech), rng), 0.0, rng=rng)
        assert active_level(speech) - rms_level(mixed.audio.astype(float) - speech) == pytest.approx(0, abs=0.01)
