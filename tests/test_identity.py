"""Who is who: the same number on return, never one number for two faces in sight together, and bounded memory."""

import numpy as np
import pytest
from tracking import track_faces

from avsr import faces, media
from avsr.faces import identity
from avsr.faces.identity import LOOKS, People
from avsr.media import Clip

POINTS = np.array([[38, 40], [62, 40], [50, 58], [50, 70]], np.float32)     # of a face of 60 pixels, as the detector has them


def face(seed: int, *, light: float = 1.0) -> np.ndarray:
    """(100, 100) uint8: rough patches, which stand for a face."""
    rng = np.random.default_rng(seed)
    return np.clip(light * np.kron(rng.integers(20, 200, (25, 25)), np.ones((4, 4))), 0, 255).astype(np.uint8)


def seen(people: People, seed: int, first: int, n_frames: int = 12, *, light: float = 1.0, leave: bool = True) -> int | None:
    """The number of a face that is seen every third frame from `first` on, and then leaves the picture."""
    sighting = people.appear(first)
    for number in range(first, first + n_frames, 3):
        people.see(sighting, number, face(seed, light=light), POINTS)
        people.decide(number)
    if leave:
        people.decide(first + n_frames, [sighting])
    return sighting.person


def test_numbers_come_in_order_and_come_back_under_another_light():
    people = People(faces.BLAZEFACE)
    assert [seen(people, seed, 20 * i) for i, seed in enumerate((7, 8, 7, 9, 8))] == [0, 1, 0, 2, 1]
    assert seen(people, 8, 200, light=0.6) == 1


def test_two_faces_in_sight_together_are_two_people_however_alike():
    people = People(faces.BLAZEFACE)
    assert seen(people, 7, 0, leave=False) == 0
    assert seen(people, 7, 6) == 1
    together = [people.appear(50), people.appear(50)]
    for number in (50, 53, 56):
        for sighting in together:
            people.see(sighting, number, face(7), POINTS)
    people.decide(56)
    assert sorted(sighting.person for sighting in together) == [0, 1]


def test_two_who_leave_before_they_were_recognised_get_their_numbers():
    people = People(faces.BLAZEFACE)
    pair = [people.appear(0), people.appear(0)]
    for seed, sighting in enumerate(pair):
        people.see(sighting, 0, face(seed), POINTS)
    people.decide(0, pair)
    assert [sighting.person for sighting in pair] == [0, 1]


def test_a_face_that_is_found_elsewhere_is_over_where_it_was():
    people = People(faces.BLAZEFACE)
    lost = people.appear(0)
    for number in (0, 3, 6):
        people.see(lost, number, face(7), POINTS)
    people.decide(6)
    assert not lost.over
    assert seen(people, 7, 9) == 0
    assert lost.over


def test_a_face_in_the_place_of_another_is_noticed():
    people = People(faces.BLAZEFACE)
    sighting = people.appear(0)
    for number in (0, 3, 6):
        people.see(sighting, number, face(7), POINTS)
    assert not people.is_other(sighting, face(8), POINTS)      # nobody knows yet who it is
    people.decide(6)
    assert people.is_other(sighting, face(8), POINTS)
    assert not people.is_other(sighting, face(7), POINTS)


def test_a_newcomer_who_proves_to_be_known_gets_another_track():
    """As somebody who enters the picture half in view."""
    people = People(faces.BLAZEFACE)
    assert seen(people, 7, 0) == 0
    sighting = people.appear(30)
    for number in (30, 33, 36):
        people.see(sighting, number, face(8), POINTS)
    people.decide(36)
    assert (sighting.person, sighting.over) == (1, False)
    people.see(sighting, 48, face(7), POINTS)
    assert sighting.over
    people.decide(48, [sighting])
    assert seen(people, 7, 51) == 0


def test_a_glimpse_is_not_remembered():
    people = People(faces.BLAZEFACE)
    assert seen(people, 7, 0, n_frames=3 * (LOOKS - 1)) == 0
    assert seen(people, 7, 50) == 1
    assert seen(people, 7, 90) == 1


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(identity, "MAX_PEOPLE", 3)
    people = People(faces.BLAZEFACE)
    assert [seen(people, seed, 20 * seed) for seed in range(5)] == [0, 1, 2, 3, 4]
    assert sorted(people._known) == [2, 3, 4]
    assert seen(people, 0, 200) == 5                       # the first was forgotten
    assert seen(people, 4, 230, n_frames=3000) == 4
    assert len(people._known[4].looks) <= identity.MAX_LOOKS
    assert len(people._known[4].patterns.getHistograms()) == len(people._known[4].looks)


@pytest.mark.slow
def test_people_who_are_cut_away_from_and_back_to_keep_their_numbers(real_data):
    names = {"s1": "bbaf2n", "s26": "bgbsza", "s31": "lbwo3s"}
    videos = {name: media.read(real_data / "grid" / name / f"{clip}.mkv").video for name, clip in names.items()}
    shots = ["s1", "s26", "s1", "s31", "s26"]
    video = np.concatenate([videos[name][12 * i : 12 * i + 12] for i, name in enumerate(shots)])
    tracks = track_faces(Clip(video, np.ones(len(video), bool)))
    assert [track.person for track in tracks] == [0, 1, 0, 2, 1]
    assert [track.start_frame for track in tracks] == [0, 12, 24, 36, 48]
