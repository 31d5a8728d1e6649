"""Pictures: all that is given is drawn, and what cannot be drawn is named."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from nsgf import plots

X = np.random.default_rng(0).normal(size=(20, 2))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize(("n", "tiles"), [(1, (9, 90)), (5, (9, 90)), (10, (9, 90)), (13, (18, 90)), (20, (18, 90))])
def test_every_image_has_a_tile(n, tiles):
    images = np.arange(1.0, n + 1)[:, None, None] * np.ones((8, 8))
    grid = np.asarray(plots.plot_images(images.reshape(n, 64), (8, 8)).images[0].get_array())
    assert grid.shape == tiles
    channelled = plots.plot_images(images[:, None], (1, 8, 8)).images[0].get_array()
    np.testing.assert_array_equal(channelled, grid)
    for k, image in enumerate(images):
        i, j = 9 * (k // 10), 9 * (k % 10)
        np.testing.assert_array_equal(grid[i : i + 8, j : j + 8], image)
    np.testing.assert_array_equal(np.unique(grid), np.arange(1.0, n + 1))  # what is empty is as light as the lightest


@pytest.mark.parametrize("n", [1, 4, 5, 30])
def test_every_cloud_is_drawn_whole_in_a_colour_of_its_own(n):
    drawn = plots.plot_samples(**{f"cloud {k}": X + k for k in range(n)}).collections
    assert len(drawn) == n
    assert len({tuple(cloud.get_facecolor()[0]) for cloud in drawn}) == n
    for k, cloud in enumerate(drawn):
        np.testing.assert_array_equal(cloud.get_offsets(), X + k)


def test_tensors_and_lists_are_drawn():
    for form in (torch.tensor, np.ndarray.tolist):
        np.testing.assert_array_equal(plots.plot_samples(x=form(X)).collections[0].get_offsets(), X)
    assert len(plots.plot_trajectories(torch.tensor(np.stack([X, X + 1])), torch.tensor(X)).lines) == 20


SPOILT = np.where(np.arange(40).reshape(20, 2) == 5, np.nan, X)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plots.plot_samples(), "no clouds.*by name"),
        (lambda: plots.plot_samples(a=X[:, :1]), "a has 1 feature, and a picture needs two"),
        (lambda: plots.plot_samples(a=X, b=SPOILT), "b contains NaN"),
        (lambda: plots.plot_samples(a=X[:0]), "a is empty"),
        (lambda: plots.plot_samples(a=X[:, 0]), r"a has shape \(20,\)"),
        (lambda: plots.plot_trajectories(X), r"x has shape \(20, 2\); paths have"),
        (lambda: plots.plot_trajectories(X[None, :, :1]), "x has 1 feature"),
        (lambda: plots.plot_trajectories(X[None, :, :0]), "x is empty"),
        (lambda: plots.plot_trajectories(SPOILT[None]), "x contains NaN"),
        (lambda: plots.plot_trajectories(X[None], X[:, :1]), "target has 1 feature"),
        (lambda: plots.plot_velocity_field(lambda z: z, np.ones((3, 3))), "like has 3 features"),
        (lambda: plots.plot_velocity_field(lambda z: z, X, n=0), "n=0 must be an integer"),
        (lambda: plots.plot_velocity_field(lambda z: z[:, :1], X), r"velocity returned shape \(400, 1\)"),
        (lambda: plots.plot_velocity_field(lambda z: z * np.nan, X), r"velocity\(grid\) contains NaN"),
        (lambda: plots.plot_images(np.ones((4, 48)), (8, 8)), r"x has shape \(4, 48\) and shape=\(8, 8\)"),
        (lambda: plots.plot_images(np.ones((4, 192)), (8, 8, 3)), r"shape=\(8, 8, 3\); give rows of h \* w pixels"),
        (lambda: plots.plot_images(np.ones((0, 64)), (8, 8)), "x is empty"),
        (lambda: plots.plot_images(np.full((4, 64), np.nan), (8, 8)), "x contains NaN"),
        (lambda: plots.plot_images(np.ones((4, 64)), (8, 8), n_columns=0), "n_columns=0 must be an integer"),
        (lambda: plots.plot_loss([]), "loss is empty"),
        (lambda: plots.plot_loss([1.0, np.nan]), "loss contains NaN"),
        (lambda: plots.plot_loss(X), r"loss has shape \(20, 2\)"),
    ],
)
def test_what_cannot_be_drawn_is_named_and_leaves_no_figure(call, words):
    with pytest.raises(ValueError, match=words):
        call()
    assert not plt.get_fignums()


def test_lists_of_tensors_shapes_and_axes_that_are_none_are_named():
    paths = [torch.ones(4, 2, requires_grad=True)] * 2
    for call, message in (
        (lambda: plots.plot_trajectories(paths), "x is not numeric"),
        (lambda: plots.plot_images(np.ones((4, 4)), 4), "shape=4 must be integers"),
        (lambda: plots.plot_loss(np.ones(3), np.array(3)), "ax is a ndarray; give Axes"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()
