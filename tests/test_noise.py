"""Noise: exact ratios, P.56's levels, honest babble, chance as an argument."""

import os
import pickle
import tempfile
import time
from pathlib import Path

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
    Cut,
    NoiseMixer,
    NoisePlan,
    Recorded,
    Recordings,
    SpeechShaped,
    active_level,
    mix,
    open_families,
    open_sources,
    open_training_sources,
    render,
    rms_level,
)
from avsr.noise.mixing import FADE, MARGIN, joined
from avsr.noise.sources import DrawableAudio, RecordingCache, _speech_only, _without_padding
from avsr.rates import HOP, SAMPLE_RATE

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
    audio = Babble({"a": [np.concatenate([quiet, gaussian(SECOND, 1), quiet])]}, 1).draw(10 * SECOND, np.random.default_rng(0))
    blocks = np.square(audio).reshape(-1, 1600).mean(axis=1)
    assert blocks.min() > 0.5
    assert active_level(audio) == pytest.approx(0.8, abs=0.4)             # 1 s of speech with 0.2 s of hangover made it 0


def test_trimming_keeps_the_speech():
    speech = np.concatenate([gaussian(SECOND, 0, 0.001), gaussian(SECOND, 1), gaussian(SECOND, 2, 0.001)])
    usable = _speech_only(speech)
    ((start, stop),) = usable.spans
    assert [start, stop] == pytest.approx([SECOND, 2 * SECOND], abs=1600)
    assert active_level(usable.audio * usable.gain) == pytest.approx(0, abs=0.01)


def test_one_talker_is_one_and_never_the_speaker():
    rival = Babble(voices(3), 1)
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
    lambda: Babble(voices(2), 1), lambda: Coloured(1.0), lambda: SpeechShaped([gaussian(SECOND, 1)]),
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


LAYOUT = st.lists(st.tuples(st.integers(1, 2500), st.booleans()), min_size=1, max_size=6)    # samples, and whether loud


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1000), st.integers(1, 30_000),
       st.lists(LAYOUT.filter(lambda parts: any(loud for _, loud in parts)), min_size=1, max_size=3))
def test_a_plan_cuts_from_the_originals_what_the_trimmed_sounds_joined_would_be(seed, n, layouts):
    rng = np.random.default_rng(seed)
    sounds = [np.concatenate([rng.choice([-1, 1], length) * rng.uniform(0.5, 1, length) * loud for length, loud in parts])
              .astype(np.float32) for parts in layouts]
    trimmed = []
    for sound in sounds:
        blocks = np.split(sound, range(HOP, len(sound), HOP))
        trimmed.append(np.concatenate([block for block in blocks if np.any(block)]))
    source, rng = Recordings(sounds), np.random.default_rng(seed)
    first = trimmed[int(rng.integers(len(sounds)))]
    start = int(rng.integers(max(1, len(first) - n + 1)))
    wanted = joined(first[start:], lambda: trimmed[int(rng.integers(len(sounds)))], n)

    (cuts,) = source.plan(n, np.random.default_rng(seed)).streams
    drawn = source.draw(n, np.random.default_rng(seed))
    np.testing.assert_allclose(drawn, wanted, atol=1e-6)
    assert np.array_equal(render(NoisePlan(n, (cuts,)), lambda sound: sound), drawn)
    assert sum(cut.length - cut.fade for cut in cuts) == n
    assert cuts[0].fade == 0
    for cut in cuts:
        assert any(cut.sound is sound for sound in sounds)
        assert 0 <= cut.offset < cut.offset + cut.length <= len(cut.sound)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 90_000), st.sampled_from([None, "t1"]))
def test_a_plan_of_babble_says_who_speaks_from_where_and_how_loud(seed, n, without):
    quiet = np.zeros(8000, np.float32)
    talkers = {name: [np.concatenate([quiet, sound, quiet])] for name, (sound,) in voices(6).items()}
    babble, gains = Babble(talkers, (2, 5)), {name: 10 ** (-active_level(sound) / 20) for name, (sound,) in talkers.items()}
    plan = babble.plan(n, np.random.default_rng(seed), without=without)
    assert list(plan.talkers) == babble.choose(np.random.default_rng(seed), without=without)
    assert without not in plan.talkers
    for talker, cuts in zip(plan.talkers, plan.streams, strict=True):
        for cut in cuts:
            assert cut.sound is talkers[talker][0]
            assert 8000 - 800 <= cut.offset < cut.offset + cut.length <= len(cut.sound) - 8000 + 800
            assert cut.gain == pytest.approx(gains[talker], rel=1e-8)
    assert np.array_equal(babble.draw(n, np.random.default_rng(seed), without=without), render(plan, lambda sound: sound))


@pytest.mark.parametrize("make", [lambda: Coloured(1.5), lambda: SpeechShaped([gaussian(SECOND, 1)])])
def test_a_plan_of_computed_noise_is_a_seed(make):
    plan = make().plan(9000, np.random.default_rng(3))
    (stream,) = plan.streams
    assert 0 <= stream.seed < 2 ** 48
    assert stream.n_fft >= 9000
    assert np.array_equal(render(plan, lambda sound: sound), make().draw(9000, np.random.default_rng(3)))
    assert stream.seed != make().plan(9000, np.random.default_rng(4)).streams[0].seed


def test_gaps_in_a_recording_are_cut_out_and_told():
    part, gap = gaussian(1600, 1), np.zeros(480, np.float32)
    sound = np.concatenate([gap, part, gap, part, gap])
    assert _without_padding(sound).spans == ((480, 2080), (2560, 4160))
    (cuts,) = Recordings([sound]).plan(3200, np.random.default_rng(0)).streams
    assert [(cut.offset, cut.length, cut.gain, cut.fade) for cut in cuts] == [(480, 1600, 1.0, 0), (2560, 1600, 1.0, 0)]
    assert cuts[0] == Cut(sound, 480, 1600)


def test_the_cache_of_recordings_keeps_to_its_bound(monkeypatch):
    monkeypatch.setattr("avsr.noise.sources.CACHE_SECONDS", 3)
    kept, read = RecordingCache(lambda audio: DrawableAudio(audio, ((0, len(audio)),))), []

    def sound(key):
        return Recorded(str(key), lambda: read.append(key) or gaussian(SECOND, key))

    for key in range(6):
        kept.get(sound(key))
    assert list(kept._sounds) == [sound(key) for key in (3, 4, 5)]
    assert kept._n_samples == 3 * SECOND
    assert np.array_equal(kept.get(sound(3)).audio, gaussian(SECOND, 3))
    assert read == list(range(6))
    kept.get(sound(0))                                      # put away, so read again; 3 was used last, so 4 goes
    assert read[-1] == 0
    assert list(kept._sounds) == [sound(key) for key in (5, 3, 0)]


def test_babble_of_three_seconds_takes_under_three_milliseconds():
    babble = Babble(voices(8, 3.0), 8)
    rng = np.random.default_rng(0)
    took = []
    for _ in range(40):
        start = time.perf_counter()
        babble.draw(3 * SECOND, rng)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.003                                 # 0.8 ms; the least of 40, as other work shares the cores


# --- descriptions ---

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
    ({"rain": "talk/s1/x.align"}, "holds 0 recordings that can be read.  Put some there, or name another folder; known"),
    ({"rain": True}, "only white, pink, brown, babble, speech-shaped, talker need no more"),
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


def test_groups_of_talkers_have_their_prefixes_and_all_means_all_but_the_speaker(folder, monkeypatch):
    groups = {"talkers": [{"folders": "talk/s[12]", "prefix": "other-"}, "talk"], "n_talkers": "all"}
    babble = open_sources({"b": groups}, base=folder)["b"]
    assert list(babble.talkers) == ["other-s1", "other-s2", "s1", "s2", "s3"]
    for without, n in ((None, 5), ("s1", 4), ("stranger", 5)):
        assert len(babble.choose(np.random.default_rng(0), without=without)) == n
    monkeypatch.chdir(folder.parent)
    here = open_sources({"b": groups}, base=folder.name)["b"]                # a folder is relative once, not twice
    assert here.draw(100, np.random.default_rng(0)).shape == (100,)


@pytest.mark.parametrize(("config", "says"), [
    ({"talkers": ["talk/s1", {"folders": "more/s1"}]}, "would be one talker, s1.  Give one of them a prefix"),
    ({"talkers": [{"prefix": "x"}]}, "a group of talkers has 'prefix'.  Give folders"),
    ({"talkers": [{"folders": "talk", "prefixes": "x"}]}, "a group of talkers has 'folders', 'prefixes'.  Give folders"),
    ({"talkers": "talk", "n_talkers": 0}, "n_talkers = 0.  Give a number"),
    ({"talkers": "talk", "n_talkers": True}, "n_talkers = true.  Give a number"),
    ({"talkers": "talk", "n_talkers": [3, 2]}, "n_talkers = [3, 2].  Give a number"),
    ({"talkers": "talk", "n_talkers": "many"}, 'n_talkers = "many".  Give a number'),
    ({"talkers": "talk/s[12]", "n_talkers": "all"},
     "2 talkers, but 3 are to be heard at once.  Add talkers, or name a folder of babble (--noise NAME=FOLDER)."),
    ({"colour": "pink"}, 'colour = "pink" is no number from -10 to 10.  Give a number: 0 for white, 1 for pink'),
    ({"colour": 1e308}, "colour = 1e+308 is no number from -10 to 10"),
    ({"colour": float("nan")}, "colour = NaN is no number"),
    ({"talkers": "talk", "n_talkers": 10**9}, "n_talkers = 1000000000.  Give a number from 1 to 1000, [fewest, most], or"),
    ({"talkers": "talk", "prefix": 3}, "prefix = 3, but must be a text.  Put it in quotes"),
    ({"talkers": 3}, "talkers = 3, but must be a text or a list of texts"),
    ({"files": 3}, "files = 3, but must be a text or a list of texts"),
    ({"files": ["talk", [1]]}, 'files = ["talk", [1]], but must be a text or a list'),
    ({"files": "talk", "exclude": 3}, "exclude = 3, but must be a text or a list of texts"),
    ("", "this names no files.  Give a folder"),
    ([], "holds 0 recordings"),
])
def test_a_wrong_group_is_said(folder, config, says):
    (folder / "more" / "s1").mkdir(parents=True)
    media.write(None, folder / "more" / "s1" / "x.wav", audio=gaussian(SECOND, 0))
    with pytest.raises(AvsrError) as error:
        open_sources({"party": config}, base=folder)
    assert says in str(error.value)
    assert str(error.value).startswith(("noise 'party'", "babble: "))


# --- families by name ---

def corpus(n):
    """The recordings of a corpus of n speakers, each in two utterances."""
    return {name: [Recorded(f"{name}-{i}", lambda sound=sound: sound) for i in (0, 1)] for name, (sound,) in voices(n).items()}


def test_what_is_given_counts_before_what_is_configured_and_that_before_what_is_built_in(folder, tmp_path):
    config = tmp_path / "noise.toml"
    config.write_text(f"white = '{folder}/esc/fire'\nrain = 'nowhere'\npink = false\n"
                      f"babble = {{talkers = '{folder}/talk', n_talkers = 2}}\n")
    opened = open_families(["white", "rain", "pink", "babble", "talker", "speech-shaped"], config=config,
                           given={"rain": str(folder / "esc/fire"), "mine": str(folder / "esc")}, own=corpus(4))
    assert list(opened) == ["white", "rain", "pink", "babble", "talker", "speech-shaped", "mine"]
    assert names(opened["white"].sources) == ["2-c.wav"]
    assert names(opened["rain"].sources) == ["2-c.wav"]
    assert opened["pink"] == Coloured(1.0)
    assert list(opened["babble"].talkers) == ["s1", "s2", "s3"]
    assert list(opened["talker"].talkers) == ["t0", "t1", "t2", "t3"]
    for name, source in opened.items():
        assert np.any(source.draw(2000, np.random.default_rng(0), without="t1")), name


@pytest.mark.parametrize(("n", "heard_at_once"), [(4, 3), (6, 5), (9, 8), (12, 8)])
def test_babble_of_a_corpus_is_of_as_many_others_as_there_are(n, heard_at_once):
    babble = open_families(["babble"], own=corpus(n))["babble"]
    for seed in range(5):
        chosen = babble.choose(np.random.default_rng(seed), without="t2")
        assert len(set(chosen)) == len(chosen) == heard_at_once
        assert "t2" not in chosen


def test_too_few_speakers_or_none_known_make_no_babble():
    babble = open_families(["babble"], own=corpus(3))["babble"]
    assert len(babble.choose(np.random.default_rng(0), without="somebody else")) == 3
    with pytest.raises(AvsrError, match=r"babble: 2 talkers beside t0, but 3 are .*or name a folder .*--noise NAME=FOLDER"):
        babble.draw(100, np.random.default_rng(0), without="t0")
    with pytest.raises(AvsrError, match="babble: 2 talkers, but 3"):
        open_families(["babble"], own=corpus(2))
    with pytest.raises(AvsrError, match="babble: 0 talkers beside t0, but 1"):
        open_families(["talker"], own=corpus(1))["talker"].draw(100, np.random.default_rng(0), without="t0")
    for name in ("babble", "talker"):
        with pytest.raises(AvsrError, match=r"an utterance has no speaker.*Put speakers into the manifest, or name a folder"):
            open_families([name], own=corpus(9))[name].draw(100, np.random.default_rng(0))


def test_silent_utterances_of_a_corpus_are_passed_over_and_a_silent_talker_is_said():
    silent = [Recorded("none", lambda: None), Recorded("zeros", lambda: np.zeros(SECOND, np.float32))]
    own = corpus(5)
    own["t1"] = [silent[0], own["t1"][0], silent[1]]
    talker = open_families(["talker"], own={"t0": own["t0"], "t1": own["t1"]})["talker"]
    plans = [talker.plan(SECOND, np.random.default_rng(seed), without="t0") for seed in range(8)]
    assert {cut.sound.name for plan in plans for cut in plan.streams[0]} == {"t1-0"}
    talker = open_families(["talker"], own={"t0": own["t0"], "t1": silent})["talker"]
    with pytest.raises(BadMedia, match="all 2 recordings of t1 are silent"):
        talker.plan(SECOND, np.random.default_rng(0), without="t0")
    with pytest.raises(BadMedia, match="speech-shaped noise: 2 recordings, all silent"):
        open_families(["speech-shaped"], own={"t1": silent})["speech-shaped"].draw(100, np.random.default_rng(0))


def test_a_name_nobody_knows_lists_those_known_and_says_how_to_name_a_folder(tmp_path):
    with pytest.raises(AvsrError) as error:
        open_families(["rian"])
    assert str(error.value) == (
        "--noise rian: not known; known are brown, pink, white; with a corpus's own recordings also babble, speech-shaped, "
        "talker.  Correct the name, or name a folder of recordings: --noise rian=FOLDER.")
    (tmp_path / "noise.toml").write_text("rain = 'here'\n")
    with pytest.raises(AvsrError, match=r"are babble, brown, pink, rain, speech-shaped, talker, white \(with .*noise.toml\)\."):
        open_families(["rian"], config=tmp_path / "noise.toml", own=corpus(4))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_config_may_have_a_byte_order_mark(tmp_path, encoding):
    (tmp_path / "noise.toml").write_bytes("# été\r\nhum = {colour = 1.5}\r\n".encode(encoding))
    assert list(open_families(["hum"], config=tmp_path / "noise.toml")) == ["hum"]
    (tmp_path / "noise.toml").write_bytes(b"# \xe9t\xe9\n")
    with pytest.raises(AvsrError, match=r"noise.toml: not TOML \(byte 2 is no UTF-8\)\.  Save the file as UTF-8"):
        open_families(["hum"], config=tmp_path / "noise.toml")


def test_a_folder_with_links_to_those_above_and_pipes_is_read_once(tmp_path):
    for name in ("rain/a/x.wav", "far/y.wav"):
        (tmp_path / name).parent.mkdir(parents=True)
        media.write(None, tmp_path / name, audio=gaussian(SECOND, 0))
    for link in ("up", "above"):
        (tmp_path / "rain" / "a" / link).symlink_to(tmp_path)
    (tmp_path / "rain" / "far").symlink_to(tmp_path / "far")
    os.mkfifo(tmp_path / "rain" / "z.wav")
    for described in ("rain", "rain/**/*.wav"):
        (source,) = open_sources({"rain": described}, base=tmp_path).values()
        assert sorted(Path(one).relative_to(tmp_path).as_posix() for one in source.recordings()) == [
            "rain/a/x.wav", "rain/far/y.wav"]


def test_a_config_that_cannot_be_used_is_said(tmp_path):
    config = tmp_path / "noise.toml"
    with pytest.raises(AvsrError, match=r"noise.toml: cannot be read \(No such file"):
        open_families(["white"], config=config)
    config.write_text("rain = \n")
    with pytest.raises(AvsrError, match=r"noise.toml: not TOML \(.*line 1"):
        open_families(["white"], config=config)
    config.write_text(f"rain = {'9' * 5000}\n")               # longer than Python reads
    with pytest.raises(AvsrError, match=r"noise.toml: not TOML \(.*4300 digits"):
        open_families(["white"], config=config)
    config.write_text("babble = {talkers = 'gone'}\nrain = 'gone'\n")
    assert open_families(["white"], config=config)           # what is not asked for need not be there
    with pytest.raises(AvsrError, match=r"noise.toml: noise 'rain': .*gone matches 0 files or folders"):
        open_families(["rain"], config=config)
    with pytest.raises(AvsrError, match=r"relative to .*For the built-in one write babble = false there\."):
        open_families(["babble"], config=config, own=corpus(4))


def test_folders_that_are_empty_or_closed_and_files_that_are_silent_or_no_sound(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(AvsrError, match="empty holds 0 recordings"):
        open_families([], given={"rain": str(tmp_path / "empty")})
    (tmp_path / "text.wav").write_text("no sound at all")
    with pytest.raises(BadMedia, match=r"text\.wav: "):
        open_families([], given={"rain": str(tmp_path / "text.wav")})["rain"].draw(100, np.random.default_rng(0))
    media.write(None, tmp_path / "silent.wav", audio=np.zeros(SECOND, np.float32))
    with pytest.raises(BadMedia, match=r"silent\.wav: it is silent, so it makes no noise\.  Take it out"):
        open_families([], given={"rain": str(tmp_path / "silent.wav")})["rain"].draw(100, np.random.default_rng(0))


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no file permissions here")
@pytest.mark.parametrize("described", [lambda folder: str(folder), lambda folder: {"talkers": str(folder), "n_talkers": 1}])
def test_a_closed_folder_is_said_and_not_left_out(described):
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        closed = Path(folder) / "rain"
        closed.mkdir()
        media.write(None, closed / "x.wav", audio=gaussian(SECOND, 0))
        closed.chmod(0)
        try:
            if root:                                         # who may enter any folder
                os.seteuid(65534)
            with pytest.raises(AvsrError, match=r"rain: this folder cannot be read \(Permission denied\)\.  Allow it"):
                open_sources({"rain": described(closed)})
        finally:
            if root:
                os.seteuid(0)
            closed.chmod(0o755)


def test_training_makes_noise_of_its_own_speakers_and_leaves_out_what_it_has_no_files_for(folder):
    config = {"white": True, "babble": True, "talker": True, "speech-shaped": True, "pink": False, "rain": {
        "files": "nowhere/*.wav", "optional": "rain"}, "esc": {"files": "esc", "optional": "fire"}}
    sources, left_out = open_training_sources(config, corpus(4), base=folder)
    assert sorted(sources) == ["babble", "esc", "speech-shaped", "talker", "white"]
    assert left_out == ["noise 'rain' is left out, so the model does not learn rain: nothing is at "
                        f"{os.path.relpath(folder)}/nowhere/*.wav."]
    for source in sources.values():
        assert np.any(source.draw(1000, np.random.default_rng(0), without="t0"))
    mixer = pickle.loads(pickle.dumps(NoiseMixer(open_training_sources({"white": True}, {})[0])))      # for other processes
    assert mixer(gaussian(2000, 0), "t0", np.random.default_rng(1)).source in ("white", None)


@pytest.mark.parametrize(("config", "says"), [
    ({"white": "yes"}, "noise 'white' = 'yes' is a text, which names a folder.  Write white = true."),
    ({"babble": "true"}, "noise 'babble' = 'true' is a text, which names a folder.  Write babble = true."),
    ({"white": 1}, "noise 'white' = 1: this names no files.  Give a folder"),
    ({"rain": {"files": "esc", "optional": 3}}, "noise 'rain': optional = 3, but must be a text: what the model does not"),
    ({"rain": {"files": "esc", "optional": True}}, "noise 'rain': optional = true, but must be a text"),
    ({"rain": {"files": "esc", "optional": ""}}, "noise 'rain': optional = \"\", but must be a text"),
])
def test_a_wrong_type_in_the_noise_of_training_is_said(folder, config, says):
    with pytest.raises(AvsrError) as error:
        open_training_sources(config, corpus(4), base=folder)
    assert says in str(error.value)


@pytest.mark.parametrize(("n_speakers", "n_unnamed", "left"), [
    (0, 9, {"babble": "it needs 4 speakers at least, and the corpus has 0", "talker": "2 speakers", "speech-shaped": "1 "}),
    (1, 0, {"babble": "it needs 4 speakers at least, and the corpus has 1", "talker": "it needs 2 speakers"}),
    (3, 0, {"babble": "it needs 4 speakers at least, and the corpus has 3"}),
    (4, 2, {"babble": "it needs the speaker of every utterance, and 2 have none", "talker": "and 2 have none"}),
])
def test_noise_that_the_training_corpus_cannot_make_is_left_out_with_the_reason(n_speakers, n_unnamed, left):
    families = {"white": True, "babble": True, "talker": True, "speech-shaped": True}
    sources, sentences = open_training_sources(families, corpus(n_speakers), n_unnamed=n_unnamed)
    assert sorted(sources) == sorted(families.keys() - left.keys())
    assert len(sentences) == len(left)
    for sentence, (name, why) in zip(sentences, left.items(), strict=True):
        assert sentence.startswith(f"noise '{name}' is left out: ")
        assert why in sentence


def test_the_noise_of_this_project_is_of_people_and_recordings_nobody_trained_on(noise_grid_config):
    opened = open_families(["babble", "talker", "music", "natural", "noisex-babble"], config=noise_grid_config)
    unheard = ["lombard-s38", "lombard-s39", "lombard-s40", "s23", "s30", "s33"]
    assert list(opened["babble"].talkers) == list(opened["talker"].talkers) == unheard
    assert len(opened["babble"].choose(np.random.default_rng(0), without="s1")) == 6
    assert "s30" not in opened["babble"].choose(np.random.default_rng(0), without="s30")
    assert len(opened["talker"].choose(np.random.default_rng(0), without="s30")) == 1
    natural = names(opened["natural"].sources)
    assert len(natural) > 20
    assert all(name.startswith("5-") for name in natural)
    assert names(opened["music"].sources) == ["music.flac"]
    for name, source in opened.items():
        assert np.any(source.draw(8000, np.random.default_rng(0), without="s1")), name


# --- the mixer ---

def test_the_mixer_draws_sources_levels_and_clean():
    mixer = NoiseMixer({"white": Coloured(0), "babble": Babble(voices(6))}, snrs=(-5.0, 0.0, None), p_clean=0.1)
    rng = np.random.default_rng(0)
    drawn = [mixer(gaussian(2000, 0), "t3", rng) for _ in range(400)]
    found = [(one.source, one.snr_db if one.snr_db is None else round(one.snr_db)) for one in drawn]
    assert set(found) == {("white", -5), ("white", 0), ("babble", -5), ("babble", 0), (None, None)}
    assert 0.32 < np.mean([one.source is None for one in drawn]) < 0.48        # 0.1 + 0.9 / 3


def test_the_mixer_draws_from_a_range_and_is_repeatable():
    mixer = NoiseMixer({"white": Coloured(0), "pink": Coloured(1)}, snr_range=(-5, 20))
    drawn = [mixer(gaussian(2000, 0), None, np.random.default_rng(seed)) for seed in range(300)]
    levels = [one.snr_db for one in drawn]
    assert -5.01 < min(levels) < -3 < 18 < max(levels) < 20.01
    assert 0.4 < np.mean([one.source == "white" for one in drawn]) < 0.6
    again = mixer(gaussian(2000, 0), None, np.random.default_rng(5))
    assert np.array_equal(again.audio, drawn[5].audio)


def test_the_mixer_leaves_silence_as_it_is():
    mixer = NoiseMixer({"white": Coloured(0)}, snrs=(0.0,))
    assert mixer(np.zeros(100, np.float32), None, np.random.default_rng(0)).source is None


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
