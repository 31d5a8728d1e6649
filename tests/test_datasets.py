"""The toys: what each draws, and that it draws from its generator alone."""

import numpy as np
import pytest

from nsgf import datasets


@pytest.mark.parametrize(
    "draw", [datasets.gaussian, datasets.eight_gaussians, datasets.moons, datasets.s_curve, datasets.checkerboard]
)
def test_toys_repeat_with_their_generator_and_nothing_else(draw):
    first, again, other = (draw(50, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first.shape == (50, 2)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_the_checkerboard_leaves_its_light_squares_empty():
    x = datasets.checkerboard(4000, np.random.default_rng(0))
    column, row = np.floor(x / 2).astype(int).T
    assert len(np.unique(column * 10 + row)) == 8
    assert np.unique((column + row) % 2).size == 1
