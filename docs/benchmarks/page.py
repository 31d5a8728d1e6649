"""What the pages share: result files that say how each part was measured, and tables that hand-written pages include.

A result file is ``{part: {machine, versions, seeds, command, figures}}``. Its script writes the tables from it, as
``tables/<page>-<name>.inc``. The page has the comment ``.. read: <digest>``, which names the tables that its sentences
were written for; where the tables have become others, the page says so until somebody has read it again.

python docs/benchmarks/page.py    say which pages are to be read again; exit 1 where there are any
"""

import argparse
import hashlib
import itertools
import json
import os
import platform
import shlex
import statistics
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
TABLES = HERE / "tables"
STALE = """\
.. warning::

   The figures of this page were measured anew after its sentences were written: trust the tables.
"""


def read(name):
    """Return the parts of a result file."""
    path = HERE / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def add(name, part, figures, *, seeds, packages):
    """Put the figures of a part into a result file, with all that is to be known of this run.

    A part that was measured on a GPU has ``cuda`` in its name.
    """
    gpu = sys.modules["torch"].cuda.get_device_name() if "cuda" in part else "no GPU"
    place = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {gpu}, Python {platform.python_version()}",
        "versions": ", ".join(f"{package} {version(package)}" for package in packages),
        "seeds": list(seeds),
        "command": command(),
    }
    result = read(name) | {part: {**place, "figures": figures}}  # another run may have written since
    (HERE / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def command():
    """Return the command of this run, as it is typed at the root of the repository."""
    threads = os.environ.get("OMP_NUM_THREADS")
    typed = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return f"{f'OMP_NUM_THREADS={threads} ' if threads else ''}python docs/benchmarks/{typed}"


def table(columns):
    """Return a table from {head: texts}."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (columns, *zip(*columns.values(), strict=True)):
        lines += [f"   {'  -' if k else '* -'} {cell}".rstrip() for k, cell in enumerate(row)]
    return "\n".join([*lines, ""])


def filled(forms, records):
    """Return a table from {head: how a cell is written, such as "{seconds:.1f}"} and a record a row."""
    return table({head: [form.format(**record) for record in records] for head, form in forms.items()})


def middle(values, form="{:.2f}"):
    """Return the median and the range as text; the median alone where the range has no width."""
    low, mid, high = (form.format(f(values)) for f in (min, statistics.median, max))
    return mid if low == high else f"{mid} ({low}–{high})"


def column(rows, form="{:.2f}", best=None, rivals=None):
    """Return the texts of a column from the values of each row, a list; the best median of the rivals in bold.

    `best` is min, max or None; `rivals` are the numbers of the rows that compete, by default all.
    """
    medians = [form.format(statistics.median(values)) if values else "" for values in rows]
    texts = [middle(values, form) if values else "" for values in rows]
    rivals = [k for k in (range(len(rows)) if rivals is None else rivals) if rows[k]]
    if best and rivals:
        first = medians[best(rivals, key=lambda k: statistics.median(rows[k]))]
        texts = [f"**{text}**" if k in rivals and medians[k] == first else text for k, text in enumerate(texts)]
    return texts


def picture(pixels, path):
    """Write an array (h, w) or (h, w, 3) with values in 0 … 1 as a small PNG: in grey, or in 256 colours."""
    from PIL import Image

    image = Image.fromarray((255 * pixels).round().astype("uint8"))
    (image.quantize(256, kmeans=5, dither=Image.Dither.NONE) if pixels.ndim == 3 else image).save(path, optimize=True)


def origin(result):
    """Return the lines that say where, by what and how parts were measured, those of one run together.

    What follows a comma in the name of a part is left out.
    """
    runs = {}
    for name, part in result.items():
        run = f"Machine: {part['machine'] or 'not recorded'}. Versions: {part['versions'] or 'not recorded'}. "
        run += f"Command: ``{part['command']}``. "
        runs.setdefault(run, {}).setdefault(name.partition(",")[0], set()).update(part["seeds"])
    lines = []
    for run, seeds in runs.items():
        names = {}
        for name, some in seeds.items():
            names.setdefault(", ".join(map(str, sorted(some))), []).append(name)
        lines.append(run + "Seeds: " + "; ".join(f"{some} ({', '.join(of)})" for some, of in names.items()) + ".\n")
    return "\n".join(lines)


def run(name, jobs, tables, packages, doc):
    """Measure the parts of {part: (job, seeds)} that the command line names, and write the tables of all parts."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"what to measure: all, or some of {', '.join(jobs)}")
    wanted = parser.parse_args().parts
    chosen = {word: [p for p in jobs if word in ("all", p) or p.startswith(f"{word}/")] for word in wanted}
    if not all(chosen.values()):
        parser.error(f"{', '.join(wanted)}: not all of these are parts. There are {', '.join(jobs)}.")
    for part in dict.fromkeys(itertools.chain(*chosen.values())):
        job, seeds = jobs[part]
        add(name, part, job(seeds), seeds=seeds, packages=packages)
    publish(name, tables)


def per_seed(measure, *args):
    """Return the job that measures once with each seed."""
    return lambda seeds: [measure(*args, seed) for seed in seeds]


def publish(name, tables):
    """Write the tables of a page and the origin of its figures; say on it where it is to be read again."""
    result = read(name)
    for path in TABLES.glob(f"{name}-*.inc"):
        path.unlink()
    written = f".. Written by docs/benchmarks/{name}.py from {name}.json.\n\n"
    for part, text in tables({part: measured["figures"] for part, measured in result.items()}).items():
        (TABLES / f"{name}-{part}.inc").write_text(written + text)
    (TABLES / f"{name}-origin.inc").write_text(written + origin(result))
    stale = is_stale(name)
    (TABLES / f"{name}.inc").write_text(written + (STALE if stale else ""))
    if stale:
        print(f"{name}.rst was written for other tables. Read it again, then put in it: .. read: {digest(name)}")


def digest(name):
    """Return a name of all tables of a page."""
    tables = sorted(path for path in TABLES.glob(f"{name}-*.inc") if path.stem != f"{name}-origin")
    return hashlib.sha256(b"".join(path.read_bytes() for path in tables)).hexdigest()[:12]


def is_stale(name):
    """Whether the sentences of a page were written for other tables than it now includes."""
    return f".. read: {digest(name)}\n" not in (HERE / f"{name}.rst").read_text()


if __name__ == "__main__":
    stale = [path.stem for path in sorted(HERE.glob("*.json")) if is_stale(path.stem)]
    sys.exit(f"to be read again: {', '.join(stale)}" if stale else 0)
