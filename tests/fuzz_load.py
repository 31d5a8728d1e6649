"""Fuzz ``nsgf.load``, guided by coverage: whatever a file holds, a model or a ValueError, and nothing else.

No test: ``tox -e fuzz``, or ``python tests/fuzz_load.py -max_total_time=600`` where atheris is installed. An input is a
whole file, the JSON of a file with the right checksum, or some edits of that JSON.
"""

import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["nsgf"]):
    import nsgf
    from nsgf import NSGF, _io
    from nsgf.networks import MLP
from common import BARELY, samples
from edits import edited
from safetensors.numpy import save

FOLDER = Path(tempfile.mkdtemp())
given = BARELY | {"network": MLP(2, width=4, depth=1, n_conditions=2)}
NSGF(**given).fit(None, samples(16)[1], y_tgt=["a", ("b", 1)] * 8).save(FOLDER / "model")
ARRAYS, META = _io.read(FOLDER / "model")


def one_input(data):
    """Load one file; raise where it is neither a model nor refused."""
    kind, data = data[:1], data[1:]
    if kind == b"e":
        choices, meta = atheris.FuzzedDataProvider(data), META
        for _ in range(choices.ConsumeIntInRange(1, 3)):
            meta = edited(meta, lambda n: choices.ConsumeIntInRange(0, n - 1))
        data = json.dumps(meta).encode()
    if kind in (b"e", b"j"):
        text = data.decode("utf-8", "replace")
        data = save(ARRAYS, {_io.FORMAT: text, "sha256": _io.checksum(text, ARRAYS)})
    (FOLDER / "m").write_bytes(data)
    try:
        model = nsgf.load(FOLDER / "m")
    except ValueError:
        return
    model.save(FOLDER / "again")


if __name__ == "__main__":
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    (corpus / "file").write_bytes(b"f" + (FOLDER / "model").read_bytes())
    (corpus / "json").write_bytes(b"j" + json.dumps(META).encode())
    (corpus / "edits").write_bytes(b"e" + bytes(range(32)))
    atheris.Setup([*sys.argv, str(corpus)], one_input)
    atheris.Fuzz()
