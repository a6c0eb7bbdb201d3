"""Damaged and hostile input, tried under limits of time, memory and process count.

    uv run python -m tests.fuzz                      a run of 60 seconds, as CI does
    uv run python -m tests.fuzz media --cases 5000   every kind is named in kinds.KINDS
Every case is made from its kind, the seed and its number alone, so that a fault is found again by the same numbers.
"""
