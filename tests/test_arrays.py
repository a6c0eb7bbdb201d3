"""Operations of the search: NumPy's arrays and torch's tensors give the same."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avsr import arrays
from avsr.memory import Memory

ROWS = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 9)), elements=st.floats(-50, 50, width=32),
                  unique=True)


@settings(max_examples=50, deadline=None)
@given(ROWS, st.data())
def test_both_libraries_give_the_same(x, data):
    t, n = torch.from_numpy(x.copy()), data.draw(st.integers(1, x.shape[1]))
    np.testing.assert_allclose(arrays.log_softmax(x), arrays.log_softmax(t).numpy(), atol=2e-5)
    np.testing.assert_allclose(arrays.softmax(x), arrays.softmax(t).numpy(), atol=2e-5)
    for ours, theirs in zip(arrays.largest(x, n), arrays.largest(t, n), strict=True):
        assert np.array_equal(ours, theirs.numpy())
    columns = np.arange(n)[None].repeat(len(x), axis=0)
    assert np.array_equal(arrays.gather(x, columns), arrays.gather(t, torch.from_numpy(columns)).numpy())
    assert np.array_equal(arrays.repeat(x, 3), arrays.repeat(t, 3).numpy())
    assert np.array_equal(arrays.append(x, x), arrays.append(t, t).numpy())
    filled, filled_t = arrays.copy(x), arrays.copy(t)
    arrays.fill(filled, np.arange(n), -np.inf)
    arrays.fill(filled_t, torch.arange(n), -np.inf)
    assert np.array_equal(filled, filled_t.numpy())
    assert np.isfinite(x).all(), "a copy was filled"


def test_what_is_forbidden_has_no_probability():
    x = np.array([[0.0, -np.inf, 1.0]], np.float32)
    assert arrays.log_softmax(x)[0, 1] == -np.inf
    assert arrays.softmax(x).sum() == pytest.approx(1)
    assert np.isnan(arrays.log_softmax(np.full((1, 3), -np.inf, np.float32))).all()


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy])
def test_a_memory_keeps_the_utterances_that_are_selected(library):
    audio = library(np.arange(12, dtype=np.float32).reshape(3, 2, 2))
    memory = Memory(audio, None, seconds=library(np.array([1.0, 2.0, 3.0])))
    for rows in ([2, 0], np.array([2, 0]), torch.tensor([2, 0])):
        kept = memory.select(rows)
        assert arrays.to_numpy(kept.audio).tolist() == arrays.to_numpy(audio)[[2, 0]].tolist()
        assert kept.seconds.tolist() == [3.0, 1.0]
        assert type(kept.audio) is type(audio)
    assert memory.select([]).n_utterances == 0
