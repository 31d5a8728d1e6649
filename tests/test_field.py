"""A trained network as a function: mixed by guidance, and followed in time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tolerances import FLOAT32, FLOAT64

from nsgf.field import Clock, Field, follow
from nsgf.networks import MLP


@pytest.fixture(scope="module")
def field():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Field(MLP(2, width=32, n_conditions=3))


X = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
C = np.eye(3, dtype=np.float32)[np.random.default_rng(1).integers(3, size=20)]


@given(w=st.floats(-1.0, 4.0), t=st.floats(0.0, 1.0))
@settings(max_examples=20)
def test_guidance_mixes_the_two_fields(field, w, t):
    free, known, mixed = (field.guided(C, v)(X, t) for v in (0.0, 1.0, w))
    np.testing.assert_array_equal(free, field(X, t, np.zeros_like(C)))
    np.testing.assert_array_equal(known, field(X, t, C))
    np.testing.assert_allclose(mixed, (1 - w) * free + w * known, atol=FLOAT32)


def test_without_conditions_guidance_changes_nothing():
    plain = Field(MLP(2, width=8))
    assert plain.guided(None, 3.0) is plain


# %% Following


def turning(x, t):
    """Return a field that depends on the place and on the time."""
    return x @ np.array([[0.0, 1.0], [-1.0, 0.0]]) * (1 + t)


def ends(clock, n_steps, span=(0.0, 1.0), x=X):
    return list(follow(turning, x, clock, n_steps, span))


@pytest.mark.parametrize(("n_steps", "length"), [(1, 1.0), (3, 3.0), (5, 2.5)])
def test_in_the_steps_of_its_training_a_field_is_followed_as_the_particles_were(n_steps, length):
    x, wanted = X, [X]
    for k in range(n_steps):
        x = x + length / n_steps * turning(x, k / n_steps)
        wanted.append(x)
    np.testing.assert_allclose(ends(Clock(n_steps, length), n_steps), wanted, atol=1e-6)


def test_other_steps_tend_to_one_end_and_their_gap_falls_like_their_length():
    coarse, middle, fine = (ends(Clock(4, 1.0), n)[-1] for n in (64, 128, 1024))
    assert np.abs(middle - fine).max() < 0.6 * np.abs(coarse - fine).max() < 0.05


def test_between_its_steps_the_field_is_constant_in_time():
    seen = []
    list(follow(lambda x, t: seen.append(t) or x, X, Clock(2, 1.0), 6))
    np.testing.assert_allclose(seen, [0, 0, 0, 0.5, 0.5, 0.5])


def test_a_course_in_parts_is_the_course_at_once_where_steps_meet():
    clock = Clock(2, 1.0, (0.0, 0.25, 1.0))
    whole = ends(clock, 2)
    assert len(whole) == 5
    for place, meeting in ((1, 0.125), (2, 0.25), (3, 0.625)):
        first = ends(clock, 2, (0.0, meeting))
        np.testing.assert_allclose(first[-1], whole[place], atol=FLOAT32)
        np.testing.assert_allclose(ends(clock, 2, (meeting, 1.0), first[-1])[-1], whole[-1], atol=FLOAT32)


def test_in_a_course_the_field_covers_its_length_in_every_interval():
    clock = Clock(4, 1.0, (0.0, 0.1, 1.0))
    path = list(follow(lambda x, t: np.ones_like(x), np.zeros((1, 1)), clock, 4))
    np.testing.assert_allclose(np.ravel(path), np.arange(9) / 4, atol=FLOAT64)


def test_a_time_just_below_the_last_is_in_the_course():
    np.testing.assert_allclose(ends(Clock(3, 1.0, (0.0, 0.5, 1.0)), 3, (1 - 1e-12, 1.0))[-1], X, atol=FLOAT32)
