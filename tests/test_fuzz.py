"""The fuzz harness itself: it tells every sort of fault that is planted, and makes the same case again. .ci/run runs it."""

import re
import subprocess
import sys
from random import Random

import pytest
from places import ROOT


def fuzz(*arguments):
    done = subprocess.run([sys.executable, "-m", "tests.fuzz", *arguments], cwd=ROOT, capture_output=True, text=True,
                          timeout=300)
    return done.returncode, done.stdout


@pytest.mark.slow
def test_every_planted_fault_is_told_and_what_follows_it_is_tried():
    status, told = fuzz("planted", "--cases", "8", "--time-limit", "2", "--memory-limit", "0.4", "--workers", "1")
    assert status == 1
    for sign in ("ZeroDivisionError: division by zero", "not one sentence and a remedy", "ended with status -11",
                 r"stopped after 2\.\d s", r"stopped after [01]\.\d s at [4-9]\d\d MB"):
        assert re.search(sign, told), (sign, told)
    cases, accepted, refused, faults = map(int, re.search(r"planted +(\d+) +(\d+) +(\d+) +(\d+)", told).groups())
    assert (cases, accepted, refused, faults) == (8, 2, 1, 5)


def test_the_same_numbers_make_the_same_damage(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from tests.fuzz.damage import damage

    whole = bytes(range(256)) * 20
    made = [damage(whole, Random(f"media 0 {number}")) for number in range(200)]
    assert made == [damage(whole, Random(f"media 0 {number}")) for number in range(200)]
    assert sum(one != whole for one in made) > 180
    assert len(set(made)) > 180
