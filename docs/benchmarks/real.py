"""Real data, head to head: NSGF and its kin, flow matching and POT's transports on one network and the same seconds.

pip install '.[bench]' && pip install --no-deps torchcfm==1.0.7
python docs/benchmarks/real.py all --methods search floor --threads 1    settings of the peers, and real against real
python docs/benchmarks/real.py all --threads 1                           all methods, seeds and budgets
python docs/benchmarks/real.py digits --seconds 30 --seeds 0 1 --methods NSGF OT-CFM --threads 1    a piece of it
python docs/benchmarks/real.py                                           write the tables from real.json alone

Half of the rows is learnt from, the other half is judged by. Principal components are those of all rows.
"""

import functools

import contest
import data
import numpy as np
from contest import Row, Split, halves
from sklearn.decomposition import PCA

N_COLOURS = 10_000  # of either photograph, to learn from, and as many to judge by
N_GENES = 1000
EARLY = 24.0  # hours: until then the cells of the course divide, and after it they fuse to muscle


def noise_to(name, load):
    """Return the row from noise to all samples."""

    def split(seed):
        y, y_new = halves(load(), np.random.default_rng(seed))
        return Split(None, y, None, y_new)

    return Row(name, split, lambda rng: halves(load(), rng), "both")


def from_to(name, load, n=None):
    """Return the row from a source to a target, of which `load` returns all samples, or from n of each to n."""

    def some(z, rng):
        return z if n is None else z[rng.choice(len(z), 2 * n, replace=False)]

    def split(seed):
        rng = np.random.default_rng(seed)
        (x, x_new), (y, y_new) = (halves(some(z, rng), rng) for z in load())
        return Split(x, y, x_new, y_new)

    return Row(name, split, lambda rng: halves(some(load()[1], rng), rng), "both")


def components(n, *samples):
    """Return samples in the principal components of all of them: what is held out must not look narrower."""
    pca = PCA(n, svd_solver="full").fit(np.concatenate(samples))
    return [pca.transform(z) for z in samples]


@functools.cache
def pbmc():
    return components(50, data.pbmc()[0])[0]


@functools.cache
def mnist():
    return components(64, data.small_mnist())[0]


@functools.cache
def hsmm():
    """Return the log expression of the most variable genes, in components, of early cells and of late ones."""
    expression, hours = data.hsmm()
    x = np.log1p(expression)
    x = x[:, np.argsort(x.var(axis=0))[-N_GENES:]]
    return components(10, x[hours <= EARLY], x[hours > EARLY])


@functools.cache
def sentences():
    return components(50, *(data.saying_features(language) for language in ("english", "german")))


@functools.cache
def colours():
    return [data.colours(name) for name in ("china", "flower")]


ROWS = {
    "digits": noise_to("noise → digits", data.digits),
    "pbmc": noise_to("noise → PBMC", pbmc),
    "hsmm": from_to("HSMM early → late", hsmm),
    "colours": from_to("china → flower", colours, N_COLOURS),
    "mnist": noise_to("noise → MNIST", mnist),
    "sentences": from_to("English → German", sentences),
}

if __name__ == "__main__":
    contest.run("real", ROWS, __doc__)
