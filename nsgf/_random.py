"""What is global in torch, for a while: its generator, its threads. And the stream of random numbers of `sample`."""

import contextlib
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from nsgf import _files

_TURNS = threading.RLock()  # torch has one generator for all threads
if hasattr(os, "register_at_fork"):  # a child must not wait for a thread that it does not have
    os.register_at_fork(after_in_child=lambda: globals().update(_TURNS=threading.RLock()))


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Let torch draw from `seed` meanwhile, and leave its global state as it was; threads take turns.

    Examples
    --------
    >>> with seeded(0):
    ...     x = torch.rand(2)
    >>> with seeded(0):
    ...     bool(torch.equal(torch.rand(2), x))
    True
    """
    devices = [device] if device is not None and device.type == "cuda" else []
    # twice, so that Ctrl-C in one restoring leaves the other
    with _TURNS, _single(), torch.random.fork_rng(devices), torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed formats a stack for every other device
        for one in devices:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield


@contextlib.contextmanager
def _single() -> Iterator[None]:
    """Let new tensors be float32."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def on_threads(n: int) -> Iterator[None]:
    """Let torch compute on `n` threads meanwhile, where this thread of Python calls it.

    Examples
    --------
    >>> before = torch.get_num_threads()
    >>> with on_threads(1):
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    with contextlib.ExitStack() as held:
        for _ in range(2):  # so that Ctrl-C in one restoring leaves the other
            held.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(n)
        yield


class Stream:
    """Generators without end, no two alike, for threads and processes.

    Those of the object itself follow from its seed. A copy, a pickle and a forked process begin a stream of their own,
    from the entropy of the system.

    Examples
    --------
    >>> import copy
    >>> stream = Stream(np.random.default_rng(0))
    >>> one, other, third = stream(), stream(), copy.deepcopy(stream)()
    >>> len({one.random(), other.random(), third.random()})
    3
    """

    def __init__(self, rng: np.random.Generator | None = None) -> None:
        entropy = [] if rng is None else rng.integers(2**32, size=4).tolist()
        self._begun = os.getpid(), np.random.SeedSequence(entropy or None), itertools.count()

    def __call__(self) -> np.random.Generator:
        """Return the next."""
        process, seed, calls = self._begun  # one read, and one step of the count, are safe from other threads
        if process != os.getpid():
            self.__init__()  # type: ignore[misc]
            return self()
        return np.random.default_rng(np.random.SeedSequence(seed.entropy, spawn_key=(next(calls),)))

    def __reduce__(self) -> tuple[type["Stream"], tuple[()]]:
        return type(self), ()


def kept_seed(directory: Path) -> int:
    """Return the seed that a directory keeps, drawn where there is none: a fit without one of its own goes on too."""
    file = directory / ".seed"
    if not file.exists():
        _files.replace(file, str(np.random.SeedSequence().entropy).encode())
    return int(file.read_text())
