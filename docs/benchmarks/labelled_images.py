"""Digits on demand: images of the label that is asked for, by NSGF++, OT-CFM and FM on one network and wall-clock.

pip install '.[bench]' && pip install --no-deps torchcfm==1.0.7
python docs/benchmarks/labelled_images.py all       train, sample and judge all models, add them to labelled_images.json
python docs/benchmarks/labelled_images.py nsgf++    one of them
python docs/benchmarks/labelled_images.py           write the tables from labelled_images.json alone

All 60,000 training images of MNIST and their labels. The judge is ccexam's classifier, which has seen neither model nor
sample.
"""

import functools
import time

import data
import images
import numpy as np
import page

from nsgf import metrics

NAME = "labelled_images"
N, N_CLASSES, SEED = 10_000, 10, images.SEED
SECONDS = {"nsgf++": 600, "ot-cfm": 620, "fm": 620}  # wall-clock of each training
RECIPE = images.RECIPES["mnist", "cpu"]._replace(minibatch=8192, n_batches=8)
GUIDANCES = {5: (1.0,), 10: (0.0, 1.0, 1.5, 2.0, 3.0), 20: (1.0, 2.0)}  # of each number of function evaluations
NAMES = {model: images.MODELS[model] for model in SECONDS}


def measure(name, _):
    """Train one model, and return its figures."""
    mnist = data.load("mnist")
    contest = images.Contest.of(mnist.train, RECIPE, "cpu", mnist.train_labels.astype(np.int64))
    model, figures = images.train(name, contest, SECONDS[name])
    judged, asked = data.digit_features(mnist.test), np.arange(N) % N_CLASSES
    figures["runs"] = []
    for n_evaluations, guidances in GUIDANCES.items():
        for guidance in guidances:
            n_steps = n_evaluations if guidance in (0.0, 1.0) else n_evaluations // 2
            start = time.perf_counter()
            made = images.sample(model, n_steps, N, contest.shape, y=asked, guidance=guidance)
            row = {"evaluations": n_evaluations, "guidance": guidance, "seconds": time.perf_counter() - start}
            row |= compare(data.digit_features(made), asked, judged, mnist.test_labels)
            print(name, {k: v for k, v in row.items() if k != "frechet_of"}, flush=True)
            figures["runs"].append(row)
            if (n_evaluations, guidance) == (10, 1.0):
                path = page.HERE / f"labelled_images-{name.replace('+', 'p')}.png"
                images.draw_grid(made[: 6 * N_CLASSES], path, n_columns=N_CLASSES)
    return figures


def compare(made, asked, judged, truth):
    """Return the agreement of the judge with the labels, and Fréchet distances to the test images, in all and each."""
    (features, found), (test, _) = made, judged
    of = [metrics.frechet_distance(features[asked == k], test[truth == k]) for k in range(N_CLASSES)]
    agreement = [float(np.mean(found[asked == k] == k)) for k in range(N_CLASSES)]
    return {
        "agreement": float(np.mean(found == asked)),
        "agreement_of": agreement,
        "frechet": metrics.frechet_distance(features, test),
        "frechet_of": of,
    }


def floor(_):
    """Return the same figures of real training images: a thousand of each class."""
    mnist, rng = data.load("mnist"), np.random.default_rng(SEED)
    rows = [
        rng.choice(np.flatnonzero(mnist.train_labels == k), N // N_CLASSES, replace=False) for k in range(N_CLASSES)
    ]
    rows = np.concatenate(rows)
    real, judged = data.digit_features(mnist.train[rows]), data.digit_features(mnist.test)
    return compare(real, mnist.train_labels[rows], judged, mnist.test_labels) | {
        "test_agreement": float(np.mean(judged[1] == mnist.test_labels))
    }


def runs_table(models, real):
    """Return the table of all models, evaluations and guidances; the smallest distance of each number is bold."""
    runs = [{"model": NAMES[name], **run} for name, figures in models.items() for run in figures["runs"]]
    for n in GUIDANCES:
        best = min((run for run in runs if run["evaluations"] == n), key=lambda run: run["frechet"])
        best["bold"] = "**"
    forms = {
        "model": "{model}",
        "evaluations": "{evaluations}",
        "guidance": "{guidance:g}",
        "agreement": "{agreement:.2%}",
    }
    forms |= {"Fréchet distance": "{bold}{frechet:.0f}{bold}", "seconds for 10,000": "{seconds:.0f}"}
    columns = {head: [form.format(**{"bold": "", **run}) for run in runs] for head, form in forms.items()}
    last = "real, training images", "", "", f"{real['agreement']:.2%}", f"{real['frechet']:.0f}", ""
    return page.table({head: [*columns[head], cell] for head, cell in zip(columns, last, strict=True)})


def digits_table(models, real):
    columns = {"digit": range(N_CLASSES)}
    plain = {
        NAMES[name]: next(run for run in f["runs"] if (run["evaluations"], run["guidance"]) == (10, 1))
        for name, f in models.items()
    }
    for head, run in (plain | {"real": real}).items():
        both = zip(run["agreement_of"], run["frechet_of"], strict=True)
        columns[head] = [f"{agreement:.1%}, {frechet:.0f}" for agreement, frechet in both]
    return page.table(columns)


def tables(result):
    models, real = {name: result[name] for name in NAMES if name in result}, result["floor"]
    trained = [f"{NAMES[name]} {f['n_iter']} steps in {f['seconds']:.0f} s" for name, f in models.items()]
    said = f"Trained, all networks of a model together: {', '.join(trained)}.\n"
    said += f"On real test images the classifier is right in {real['test_agreement']:.2%}.\n"
    return {"trained": said, "runs": runs_table(models, real), "digits": digits_table(models, real)}


if __name__ == "__main__":
    jobs = {name: (functools.partial(measure, name), [SEED]) for name in NAMES} | {"floor": (floor, [SEED])}
    page.run(NAME, jobs, tables, images.PACKAGES, __doc__)
