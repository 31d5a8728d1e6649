"""Real data, head to head: NSGF and its kin, flow matching and POT's transports on one network and the same seconds.

pip install '.[bench]' && pip install --no-deps torchcfm==1.0.7
python docs/benchmarks/real.py all --methods search floor --threads 1    settings of the peers, and real against real
python docs/benchmarks/real.py all --threads 1                           all methods, seeds and budgets
python docs/benchmarks/real.py digits --seconds 30 --seeds 0 1 --methods NSGF OT-CFM --threads 1    a piece of it
python docs/benchmarks/real.py                                           write the tables from real.json alone

Half of the rows is learnt from, the other half is judged by. Principal components are found on what is learnt from.
"""

import functools

import contest
import data
import numpy as np
from contest import Row, Split, halves
from sklearn.decomposition import PCA

N_COLOURS = 10_000  # of either photograph, to learn from, and as many to judge by
N_GENES = 1000
EARLY = 24.0  # hours: until then the cells of the course grow, and after it they fuse to muscle


def noise_to(name, load, n_components=None):
    """Return the row from noise to all samples."""

    def split(seed):
        y, y_new = halves(load(), np.random.default_rng(seed))
        return in_components(Split(None, y, None, y_new), n_components)

    return Row(name, split, functools.partial(real_halves, load, n_components), "both")


def from_to(name, source, target, n_components=None, n=None):
    """Return the row from some samples to others, or from n of them."""

    def split(seed):
        rng = np.random.default_rng(seed)
        (x, x_new), (y, y_new) = (halves(some(load(), rng), rng) for load in (source, target))
        return in_components(Split(x, y, x_new, y_new), n_components)

    def some(z, rng):
        return z if n is None else z[rng.choice(len(z), 2 * n, replace=False)]

    return Row(name, split, lambda rng: real_halves(lambda: some(target(), rng), n_components, rng), "both")


def real_halves(load, n_components, rng):
    """Return two halves of the samples, in components of the first one."""
    y, y_new = halves(load(), rng)
    split = in_components(Split(None, y, None, y_new), n_components)
    return split.y, split.y_new


def in_components(split, n_components):
    """Return a split in the principal components of the samples to learn from."""
    if n_components is None:
        return split
    seen = np.concatenate([z for z in split[:2] if z is not None])
    pca = PCA(n_components, svd_solver="full").fit(seen)
    return Split(*(None if z is None else pca.transform(z) for z in split))


@functools.cache
def cells(is_early):
    """Return the log expression of the most variable genes in the cells of the first two times, or the last two."""
    expression, hours = data.hsmm()
    x = np.log1p(expression)
    return x[(hours <= EARLY) == is_early][:, np.argsort(x.var(axis=0))[-N_GENES:]]


ROWS = {
    "digits": noise_to("noise → digits", data.digits),
    "pbmc": noise_to("noise → PBMC", functools.cache(lambda: data.pbmc()[0]), 50),
    "hsmm": from_to("HSMM early → late", functools.partial(cells, True), functools.partial(cells, False), 10),
    "colours": from_to(
        "china → flower",
        functools.partial(data.colours, "china"),
        functools.partial(data.colours, "flower"),
        n=N_COLOURS,
    ),
    "mnist": noise_to("noise → MNIST", functools.cache(data.small_mnist), 64),
    "sentences": from_to(
        "English → German", *(functools.partial(data.saying_features, k) for k in ("english", "german")), 50
    ),
}

if __name__ == "__main__":
    contest.run("real", ROWS, __doc__)
