"""Speech to text, and English speech to French speech, by unpaired transport with a few known pairs.

python docs/benchmarks/speech.py all                measure, and write speech.json and the tables (17 minutes)
python docs/benchmarks/speech.py "speech → text"    measure one task again and keep the others
python docs/benchmarks/speech.py                    write the tables from the JSON alone
"""

import functools
import statistics
import time

import data
import numpy as np
import page
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import linear_sum_assignment
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline

from nsgf import NSGF, Pairs, Sinkhorn
from nsgf.flow import flow_steps
from nsgf.minibatches import relations
from nsgf.sinkhorn import pick_blur

NAME = "speech"
PACKAGES = ("nsgf", "numpy", "scipy", "pot", "torch", "scikit-learn", "onnxruntime")
SEEDS, KNOWN, FOLDS = range(5), 0.2, 5
ENCODERS = [{"width": width, "whiten": whiten} for width in (8, 16, 32) for whiten in (False, True)]
ALPHAS = np.logspace(-2, 4, 13)
MAX_ITER = 2000

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
VOICEMAIL = "Family Friends Old Urgent Work and from last message messages no password press"
SPELT = {
    "de-activated": "deactivated",
    "digits/a-m": "a.m.",
    "digits/oclock": "o'clock",
    "digits/p-m": "p.m.",
    "im-sorry": "I'm sorry",
    "letters/exclaimation-point": "exclamation point",
    "phonetic/9_p": "niner",
} | {f"vm-{word}": word.lower() for word in VOICEMAIL.split()}
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


@functools.cache
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
    moved, n_steps, weight = procrustes(x, y, known), NSGF().n_steps, Pairs(as_pairs(known)).weight
    places = [weight * x.shape[1] ** 0.5 * r.toarray() for r in relations(moved, y, as_pairs(known))]
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
    top1, top5 = (float(np.mean(rank <= k)) for k in (1, 5))
    return {"top1": top1, "top5": top5, "median_rank": float(np.median(rank) / n)}


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


def measure(task, seed):
    """Return the figures of every method on the pairs that are not known, for one draw of the known ones."""
    source, target = tasks()[task]
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
    places = np.stack([r.toarray() for r in relations(moved["procrustes"], y, as_pairs(known))])
    places -= places.mean(axis=(0, 1))  # cosines have an origin
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


# %% The tables

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
TASKS = {  # and what their tables are called
    "speech → text": "speech-to-text",
    "text → speech": "text-to-speech",
    "English voice → French voice": "voice-to-voice",
}


def percents(runs, name, key):
    return [100 * run["scores"][name][key] for run in runs]


def duel(runs, other):
    """Return the name of another method, and in how many draws NSGF with pairs has the better figure of each column."""
    lead = [[run["scores"]["flow"][key] - run["scores"][other][key] for run in runs] for key in COLUMNS]
    wins = sum(z > 0 for z in lead[0]), sum(z > 0 for z in lead[1]), sum(z < 0 for z in lead[2])
    return f"{METHODS[other]} {wins[0]}, {wins[1]}, {wins[2]}"


def scores_table(runs):
    """Return the table of one task: percentages, with the best median of each column in bold."""
    n = runs[0]["n_unknown"]
    columns = {"method": ["chance", *METHODS.values()]}
    for key, head in zip(COLUMNS, ("top-1 %", "top-5 %", "median rank, % of candidates"), strict=True):
        best = min if key == "median_rank" else max
        chance = {"top1": f"{100 / n:.1f}", "top5": f"{500 / n:.1f}", "median_rank": "50"}[key]
        columns[head] = [chance, *page.column([percents(runs, name, key) for name in METHODS], "{:.1f}", best)]
    return page.table(columns)


def task_text(runs):
    """Return the table of one task, and what is to be said of its runs."""
    first, gap = runs[0], [run["reports"]["flow"]["regression_gap"] for run in runs]
    converged = sum(run["reports"]["flow"]["converged"] for run in runs)
    encoders = ", ".join("{width}{}".format(" whitened" * e["whiten"], **e) for e in (run["encoder"] for run in runs))
    one_to_one = [page.middle(percents(runs, name, "top1"), "{:.1f}") for name in ASSIGNED]
    return (
        f"{first['n_known']} known pairs, {first['n_unknown']} candidates. Encoders chosen: {encoders}. The\n"
        f"network follows its flow to a regression gap of {statistics.median(gap):.3f}; a fit took\n"
        f"{statistics.median(run['fit_seconds'] for run in runs):.0f} s.\n\n{scores_table(runs)}\n"
        f"Draws of {len(runs)} in which *{METHODS['flow']}* is ahead in top-1, top-5 and median rank, against\n"
        f"{'; '.join(duel(runs, other) for other in METHODS if other not in ITS_OWN)}.\n"
        f"Draws in which a solve of that fit did not converge: {len(runs) - converged:.0f}.\n\n"
        "Top-1 % where all candidates are given out one to one by the largest sum of the same cosines (SciPy's\n"
        f"``linear_sum_assignment``): Procrustes {one_to_one[0]}, nearest place {one_to_one[1]}.\n"
    )


def tables(result):
    return {TASKS[name]: task_text(runs) for name, runs in result.items()}


if __name__ == "__main__":
    page.run(NAME, {task: (page.per_seed(measure, task), SEEDS) for task in TASKS}, tables, PACKAGES, __doc__)
