"""Speech to text, and English speech to French speech, by unpaired transport with a few known pairs.

python docs/benchmarks/speech.py          measure, write speech.json and the page (17 minutes on two shared cores)
python docs/benchmarks/speech.py --page   write the page from the JSON alone
python docs/benchmarks/speech.py --tasks "speech → text"   measure one task again and keep the others
"""

import argparse
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import data
import numpy as np
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import linear_sum_assignment
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline

from nsgf import NSGF, Sinkhorn
from nsgf.flow import flow_steps
from nsgf.minibatches import relations
from nsgf.sinkhorn import pick_blur

HERE = Path(__file__).parent
PACKAGES = ("nsgf", "numpy", "scipy", "pot", "torch", "scikit-learn", "onnxruntime")
SEEDS, KNOWN, FOLDS = range(5), 0.2, 5
ENCODERS = [{"width": width, "whiten": whiten} for width in (8, 16, 32) for whiten in (False, True)]
ALPHAS = np.logspace(-2, 4, 13)
MAX_ITER = 2000
COMMAND = "OMP_NUM_THREADS=1 python docs/benchmarks/speech.py"

# %% Prompts and their texts

ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth"
)
DAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday"
MONTHS = "January February March April May June July August September October November December"
PHONETIC = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa quebec romeo "
    "sierra tango uniform victor whiskey x-ray yankee zulu"
)
ITSELF = {  # folder: names that are what is said, with - for a space
    "": "activated added call-forwarding call-waiting calling cancelled disabled do-not-disturb enabled extension for "
    "goodbye hello hello-world hours invalid is is-in-use is-set-to location lowercase minute minutes number "
    "one-moment-please please-try-again removed seconds sorry speed-dial telephone-number time to-call-this-number "
    "to-extension to-listen-to-it transfer uppercase with you-entered your",
    "dictate": "pause paused playback record",
    "digits": "at billion dollars hundred million minus oh pound star thousand today tomorrow yesterday",
    "letters": "asterisk dash dollar dot equals plus slash space zed",
}
SPELT = {
    "de-activated": "deactivated",
    "digits/a-m": "a.m.",
    "digits/oclock": "o'clock",
    "digits/p-m": "p.m.",
    "im-sorry": "I'm sorry",
    "letters/exclaimation-point": "exclamation point",
    "phonetic/9_p": "niner",
    "vm-Family": "family",
    "vm-Friends": "friends",
    "vm-Old": "old",
    "vm-Urgent": "urgent",
    "vm-Work": "work",
    "vm-and": "and",
    "vm-from": "from",
    "vm-last": "last",
    "vm-message": "message",
    "vm-messages": "messages",
    "vm-no": "no",
    "vm-password": "password",
    "vm-press": "press",
}
NO_SPEECH = ("silence/", "beep", "ascending", "descending", "tt-monkeys", "confbridge-join", "confbridge-leave")


def texts():
    """Return the prompts whose text follows from the file name, as {name: text}; each text once."""
    said = {f"digits/{k}": word for k, word in enumerate(f"{ONES} eighteen nineteen".split())}
    for k, word in enumerate(TENS.split(), start=2):
        said[f"digits/{10 * k}"] = word
        said[f"digits/h-{10 * k}"] = word.removesuffix("y") + "ieth"
    said |= {f"digits/h-{k}": word for k, word in enumerate(ORDINALS.split(), start=1)}
    said |= {f"digits/h-{word}": f"{word}th" for word in ("hundred", "thousand", "million", "billion")}
    said |= {f"digits/day-{k}": word for k, word in enumerate(DAYS.split())}
    said |= {f"digits/mon-{k}": word for k, word in enumerate(MONTHS.split())}
    said |= {f"letters/{letter}": letter for letter in "abcdefghijklmnopqrstuvwxyz"}
    for folder, names in ITSELF.items():
        said |= {f"{folder}/{name}".lstrip("/"): name.replace("-", " ") for name in names.split()}
    said |= SPELT | {f"phonetic/{word[0]}_p": word for word in PHONETIC.split()}
    once = {text.lower(): name for name, text in reversed(said.items())}  # the first name of a text
    return {name: text for name, text in said.items() if once[text.lower()] == name}


def speech_features(sounds):
    """Return the mean speech embedding in each third of every sound, and its duration: (n, 3 · 96 + 1).

    The logarithm of the duration has a tenth of the variance of all features.
    """
    windows = [data.speech_windows(*sound) for sound in sounds]
    x = np.array([np.concatenate([part.mean(axis=0) for part in np.array_split(w, 3)]) for w in windows])
    seconds = np.log([[len(samples) / rate] for samples, rate in sounds])
    weight = np.sqrt(x.var(axis=0).sum() / 9.0) / seconds.std()
    return np.concatenate([x, weight * seconds], axis=1)


def shared(english, french):
    """Return the names of the prompts that both languages have, without tones and silence; each sound once."""
    names = sorted(name for name in english.keys() & french.keys() if not name.startswith(NO_SPEECH))
    for sounds in (english, french):
        once = {sounds[name][0].tobytes(): name for name in reversed(names)}
        names = [name for name in names if once[sounds[name][0].tobytes()] == name]
    return names


def tasks():
    """Return {task: (source features, target features)}, whose rows belong together."""
    english, french = data.prompts("en"), data.prompts("fr")
    said = texts()
    speech = speech_features([english[name] for name in said])
    sentences = data.sentence_features(said.values())
    names = shared(english, french)
    voices = [speech_features([sounds[name] for name in names]) for sounds in (english, french)]
    return {
        "speech → text": (speech, sentences),
        "text → speech": (sentences, speech),
        "English voice → French voice": tuple(voices),
    }


# %% The methods: from encoded source x, encoded target y and the known rows to the moved x


class Encoder(TransformerMixin, BaseEstimator):
    """Principal components, together of unit spread: the root-mean-square of a component is one."""

    def __init__(self, width=32, whiten=False):
        self.width = width
        self.whiten = whiten

    def fit(self, X, y=None):
        self.pca_ = PCA(self.width, whiten=self.whiten, svd_solver="full").fit(X)
        self.scale_ = self.pca_.transform(X).std()
        return self

    def transform(self, X):
        return self.pca_.transform(X) / self.scale_


class Procrustes(TransformerMixin, BaseEstimator):
    """The rotation that brings the source of the known pairs nearest to their target; both are centred before."""

    def __init__(self, pairs):
        self.pairs = pairs

    def fit(self, X, y):
        i, j = self.pairs.T
        self.turn_, _ = orthogonal_procrustes(X[i], y[j])
        return self

    def transform(self, X):
        return X @ self.turn_


def ridge(x, y, known):
    """Return x moved by a ridge regression on the known pairs, its penalty found by leave-one-out among them."""
    return RidgeCV(ALPHAS).fit(x[known], y[known]).predict(x)


def procrustes(x, y, known):
    return Procrustes(as_pairs(known)).fit(x, y).transform(x)


def particles(x, y, known):
    """Return x turned, and moved by the Sinkhorn flow that a fit with pairs learns from, without a network."""
    moved, n_steps, weight = procrustes(x, y, known), 5, NSGF().condition_weight
    places = [weight * x.shape[1] ** 0.5 * r for r in relations(moved, y, as_pairs(known))]
    free, d = np.setdiff1d(np.arange(len(x)), known), x.shape[1]
    lifted = [np.concatenate([z, r], axis=1)[free] for z, r in zip((moved, y), places, strict=True)]
    steps = flow_steps(*lifted, pick_blur("auto", moved, y), n_steps, 1.0, Sinkhorn(), n_fixed=len(known))
    *_, (z, res) = steps
    moved[free] = (z + res.v)[:, :d]
    return moved


def flow(source, y, known, encoder, seed, with_pairs):
    """Return the source, raw, moved by the whole pipeline, and its last step: the fitted `NSGF`."""
    pairs = as_pairs(known)
    model = NSGF(max_iter=MAX_ITER, device="cpu", random_state=seed)
    pipeline = Pipeline([("encode", Encoder(**encoder)), ("turn", Procrustes(pairs)), ("flow", model)])
    pipeline.fit(source, y, **({"flow__pairs": pairs} if with_pairs else {}))
    return pipeline.transform(source), model


def as_pairs(rows):
    return np.stack([rows, rows], axis=1)


# %% Scores


def cosines(x, y):
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    return x @ y.T


def assigned(moved, y):
    """Return the part of the rows that find their own target where each target is given to one row."""
    rows, columns = linear_sum_assignment(cosines(moved, y), maximize=True)
    return {"top1": float(np.mean(rows == columns))}


def ranks(moved, y, asked, candidates):
    """Return for each row that is asked for how many candidates have a cosine as large as that of its own target."""
    cosine = cosines(moved[asked], y[candidates])
    own = cosine[np.arange(len(asked)), np.searchsorted(candidates, asked)]
    return (cosine >= own[:, None]).sum(axis=1)


def figures(rank, n):
    return {
        "top1": float(np.mean(rank <= 1)),
        "top5": float(np.mean(rank <= 5)),
        "median_rank": float(np.median(rank) / n),
    }


def pick_encoder(source, target, known):
    """Return the encoder with which ridge and Procrustes find known pairs best that they were not given.

    The known pairs are cut in five; the score is the mean reciprocal rank among all targets that are no anchors then.
    """
    scores = []
    for encoder in ENCODERS:
        x, y = (Encoder(**encoder).fit_transform(z) for z in (source, target))
        found = []
        for given, held in KFold(FOLDS, shuffle=True, random_state=0).split(known):
            candidates = np.setdiff1d(np.arange(len(x)), known[given])
            for method in (ridge, procrustes):
                found.append((1.0 / ranks(method(x, y, known[given]), y, known[held], candidates)).mean())
        scores.append(np.mean(found))
    return ENCODERS[int(np.argmax(scores))]


def measure(source, target, seed):
    """Return the figures of every method on the pairs that are not known, for one draw of the known ones."""
    n = len(source)
    known = np.sort(np.random.default_rng(seed).choice(n, size=round(KNOWN * n), replace=False))
    unknown = np.setdiff1d(np.arange(n), known)
    encoder = pick_encoder(source, target, known)
    x, y = (Encoder(**encoder).fit_transform(z) for z in (source, target))
    moved = {method.__name__: method(x, y, known) for method in (ridge, procrustes, particles)}
    start, reports = time.perf_counter(), {}
    for name in ("flow", "flow_without_pairs"):
        moved[name], model = flow(source, y, known, encoder, seed, name == "flow")
        reports[name] = {key: float(value) for key, value in model.report_.items()}
    scores = {name: figures(ranks(z, y, unknown, unknown), len(unknown)) for name, z in moved.items()}
    places = relations(moved["procrustes"], y, as_pairs(known))
    scores["nearest_place"] = figures(ranks(*places, unknown, unknown), len(unknown))
    scores["assigned_turned"] = assigned(moved["procrustes"][unknown], y[unknown])
    scores["assigned_places"] = assigned(*(r[unknown] for r in places))
    return {
        "seed": seed,
        "n_known": len(known),
        "n_unknown": len(unknown),
        "encoder": encoder,
        "fit_seconds": (time.perf_counter() - start) / 2,
        "reports": reports,
        "scores": scores,
    }


# %% The page

METHODS = {
    "ridge": "ridge regression on the known pairs",
    "procrustes": "Procrustes on the known pairs",
    "nearest_place": "Procrustes, then the nearest place among the known pairs",
    "flow_without_pairs": "Procrustes, then NSGF without pairs",
    "flow": "Procrustes, then NSGF with the pairs",
    "particles": "Procrustes, then the Sinkhorn flow with the pairs, no network",
}
ITS_OWN = ("flow", "particles")  # no rivals of the flow with pairs
ASSIGNED = ("assigned_turned", "assigned_places")
COLUMNS = ("top1", "top5", "median_rank")
FINDINGS = """\
Every method is far above chance and far from useful: at best about one prompt in ten finds its target first. The
speech embedding was made to spot wake words, and the sentence embedding knows what a word means, not how it sounds.

*Between speech and text the transport does not help.* The differences between NSGF, with the pairs or without, and
Procrustes on the same pairs are small and of both signs.

*Between two voices the pairs help, for the first places.* NSGF with the pairs finds the right prompt first more than
twice as often as Procrustes or ridge, and as NSGF without the pairs. The gain is not the flow's own: a one-to-one
assignment by the places among the known pairs finds about as many, though one by the cosines after Procrustes does not.
In one draw the known pairs chose encoders of width 8. There every method finds less, NSGF with the pairs less than
Procrustes, and its solves stopped at their limit of iterations; ``solver=Sinkhorn(tol=1e-2, max_iter=20_000)`` lets
them converge.

*The median rank is worse after the transport than before it*, in every task and every draw: a source that has gone to
a wrong target is no longer near its own. For a long list of candidates, use Procrustes or the nearest place.

The network finds as much as the flow that it was trained on, so longer training is not what is missing. One fixed
set of features was tried; the choice of the encoder is the only one that was made, within the known pairs.
"""


def spread_of(values):
    low, middle, high = (100 * f(values) for f in (min, statistics.median, max))
    return f"{middle:.1f} ({low:.1f}–{high:.1f})"


def table(runs):
    """Return the lines of one task's table: percentages, median (range) over the seeds."""
    n = runs[0]["n_unknown"]
    rows = [("method", "top-1 %", "top-5 %", "median rank, % of candidates")]
    rows.append(("chance", f"{100 / n:.1f}", f"{500 / n:.1f}", "50"))
    for name, words in METHODS.items():
        rows.append((words, *(spread_of([run["scores"][name][column] for run in runs]) for column in COLUMNS)))
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        lines += [f"   {'  -' if k else '* -'} {cell}" for k, cell in enumerate(row)]
    return [*lines, ""]


def ahead(runs, name, other, column):
    """Return in how many draws one method has the better figure than another."""
    sign = -1 if column == "median_rank" else 1
    return sum(sign * (run["scores"][name][column] - run["scores"][other][column]) > 0 for run in runs)


def duel(runs, other):
    """Return the name of another method, and in how many draws NSGF with pairs is ahead of it."""
    wins = [ahead(runs, "flow", other, column) for column in COLUMNS]
    return f"{METHODS[other]} {wins[0]}, {wins[1]}, {wins[2]}"


def encoders_of(runs):
    chosen = [run["encoder"] for run in runs]
    return ", ".join(f"{e['width']}{' whitened' if e['whiten'] else ''}" for e in chosen)


def page(result):
    """Return the page that shows the result."""
    lines = [
        "Speech, text and another voice",
        "==============================",
        "",
        ".. Written by docs/benchmarks/speech.py from speech.json.",
        "",
        "Speech to text, without a recogniser: the embeddings of spoken prompts are carried to the embeddings of",
        f"texts from {100 * KNOWN:.0f} % known pairs. All prompts and all texts are given to every fit of NSGF; of the",
        "rest it is not known which belongs to which. The same from text to speech, and from an English voice to a",
        "French one.",
        "",
        "*Data*: the Asterisk voice prompts, 8 kHz, CC-BY-SA. Texts are those that follow from the file names:",
        "numbers, ordinals, days, months, letters, the phonetic alphabet and short words. The voices share file names;",
        "tones, silence and repeated sounds are left out. *Features*: openwakeword's speech embedding, its mean over",
        "each third of a prompt, and the logarithm of the duration; the multilingual Universal Sentence Encoder for",
        "text.",
        "",
        "*Encoders*: principal components, of unit spread, fitted on all samples of a side; the width (8, 16 or 32)",
        "and whether they are whitened are chosen by ridge and Procrustes within the known pairs, once a draw, and are",
        "the same for all methods. Then, in a scikit-learn pipeline, a rotation by Procrustes on the known pairs, and",
        f"``NSGF`` with its default parameters but ``max_iter={MAX_ITER}``. *Figures*: each moved prompt outside the",
        "known pairs asks for its target among all targets outside the known pairs, by the largest cosine. *Median",
        "rank* is the place of the right target, as a part of the candidates. *Nearest place* compares how near two",
        "samples are to each known pair (``minibatches.relations``), which is what a fit with pairs adds to the cost.",
        f"Median (range) over {len(SEEDS)} draws of the known pairs.",
        "",
    ]
    for task, runs in result["tasks"].items():
        first, gap = runs[0], [run["reports"]["flow"]["regression_gap"] for run in runs]
        converged = sum(run["reports"]["flow"]["converged"] for run in runs)
        one_to_one = [spread_of([run["scores"][k]["top1"] for run in runs]) for k in ASSIGNED]
        lines += [task, "-" * len(task), ""]
        lines += [
            f"{first['n_known']} known pairs, {first['n_unknown']} candidates. Encoders chosen: {encoders_of(runs)}.",
            f"The network follows its flow to a regression gap of {statistics.median(gap):.3f}; a fit took",
            f"{statistics.median(run['fit_seconds'] for run in runs):.0f} s.",
            "",
            *table(runs),
            f"Draws of {len(runs)} in which *{METHODS['flow']}* is ahead in top-1, top-5 and median rank, against",
            "; ".join(duel(runs, other) for other in METHODS if other not in ITS_OWN) + ".",
            f"Draws in which a solve of that fit did not converge: {len(runs) - converged:.0f}.",
            "",
            "Top-1 % where all candidates are given out one to one by the largest sum of the same cosines (SciPy's",
            f"``linear_sum_assignment``): Procrustes {one_to_one[0]}, nearest place {one_to_one[1]}.",
            "",
        ]
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    lines += ["What works and what does not", "----------------------------", "", FINDINGS]
    shared_by = "two tasks measured at a time, beside other work"
    return "\n".join(
        [*lines, f"Machine: {result['machine']}; {shared_by}. Versions: {versions}.", f"Command: ``{COMMAND}``.", ""]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only write the page from the JSON")
    parser.add_argument("--tasks", nargs="*", help="measure these tasks only")
    args, path = parser.parse_args(), HERE / "speech.json"
    for name, (source, target) in {} if args.page else tasks().items():
        if args.tasks and name not in args.tasks:
            continue
        runs = []
        for seed in SEEDS:
            runs.append(measure(source, target, seed))
            print(name, json.dumps(runs[-1]), flush=True)
        before = json.loads(path.read_text())["tasks"] if path.exists() else {}
        result = {
            "command": COMMAND,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU, Python {platform.python_version()}",
            "versions": {package: version(package) for package in PACKAGES},
            "seeds": list(SEEDS),
            "tasks": before | {name: runs},
        }
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    (HERE / "speech.rst").write_text(page(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
