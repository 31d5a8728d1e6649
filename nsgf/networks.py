"""Networks: torch modules called as ``net(x, t, c=None)`` for a velocity; times are (n,) and conditions (n, k)."""

import copy
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nsgf import _checks, _io, _random

__all__ = ["MLP", "OnImages", "PlaceEmbedding", "TimeEmbedding", "UNet", "build"]


class TimeEmbedding(nn.Module):
    """Cosines and sines of t at `n_frequencies` frequencies from π/4 to 16π: (n,) → (n, 2 n_frequencies)."""

    def __init__(self, n_frequencies: int = 8) -> None:
        super().__init__()
        frequencies = torch.logspace(-2.0, 4.0, n_frequencies, base=2.0) * math.pi
        self.frequencies: Tensor
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Return the embedding of the times t (n,)."""
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class PlaceEmbedding(nn.Module):
    r"""Cosines and sines of x at random frequencies: (n, d) → (n, 2 n_frequencies).

    .. math::  \cos\langle\omega, x\rangle, \; \sin\langle\omega, x\rangle, \qquad \omega \sim N(0, (4 / d)^2 I_d)

    A network learns what is smooth in its inputs first. In low dimension the field of a flow is not smooth in x: with
    these inputs it is learnt in a fifth of the time. Of many features the waves are long, and nearly linear.
    """

    def __init__(self, n_features: int, n_frequencies: int = 64) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.randn(n_features, n_frequencies) * (4.0 / n_features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedding of the places x (n, d)."""
        with torch.autocast(x.device.type, enabled=False):  # in half precision an angle is off by a tenth
            angles = x.to(self.frequencies.dtype) @ self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1)


@_io.network
class MLP(nn.Module):
    """A fully connected network: the 3 hidden layers of 256 units of the paper, SiLU, place and time embedded.

    A new network is zero everywhere, so that of many features none begins far out.

    Parameters
    ----------
    n_features : int
        Width d of the rows.
    width : int
        Units of a hidden layer.
    depth : int
        Hidden layers.
    n_conditions : int
        Numbers k of a condition, for a conditional field.
    is_residual : bool
        Whether hidden layers after the first add to what they are given, so that many of them learn as soon as few.

    Raises
    ------
    ValueError
        On a width below 1.

    Examples
    --------
    >>> MLP(2)(torch.zeros(5, 2), torch.zeros(5)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self, n_features: int, width: int = 256, depth: int = 3, n_conditions: int = 0, is_residual: bool = False
    ) -> None:
        sizes = {"n_features": n_features, "width": width, "depth": depth, "n_conditions": n_conditions}
        for name, size in sizes.items():
            _checks.count(name, size, int(name in ("n_features", "width")))
        super().__init__()
        for name, value in (("n_features", n_features), ("width", width)):
            _checks.count(name, value)
        _checks.flag("is_residual", is_residual)
        self.n_features, self.width, self.depth, self.n_conditions = n_features, width, depth, n_conditions
        self.is_residual = is_residual
        self.place, self.time = PlaceEmbedding(n_features), TimeEmbedding()
        n_inputs = n_features + 2 * self.place.frequencies.shape[1] + 2 * len(self.time.frequencies) + n_conditions
        self.layers = _dense([n_inputs, *depth * [width], n_features], is_residual)
        _zero(self.layers[-1])

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """Return the velocity (n, d) at x (n, d) and t (n,), under the conditions c (n, k)."""
        return self.layers(torch.cat([x, self.place(x), self.time(t), _conditions(c, x, self.n_conditions)], dim=1))


@_io.network
class OnImages(nn.Module):
    """A network of images as one of rows: (n, d) → (n, …) → (n, d).

    Parameters
    ----------
    net : torch module
        Called as ``net(x, t)`` or ``net(x, t, c)`` with images x (n, …).
    sample_shape : sequence of int
        Shape of one image, such as (1, 28, 28).

    Examples
    --------
    >>> net = OnImages(UNet((1, 8, 8)), (1, 8, 8))
    >>> net(torch.zeros(5, 64), torch.zeros(5)).shape
    torch.Size([5, 64])
    """

    def __init__(self, net: nn.Module, sample_shape: Sequence[int]) -> None:
        if not isinstance(net, nn.Module):
            raise TypeError(f"net is a {type(net).__name__}. Give a torch module, called as net(x, t).")
        super().__init__()
        self.net, self.sample_shape = net, _checks.counts("sample_shape", sample_shape)
        if hasattr(net, "n_conditions"):
            self.n_conditions = net.n_conditions

    def forward(self, x: Tensor, t: Tensor, *c: Tensor) -> Tensor:
        """Return the velocity (n, d) at x (n, d) and t (n,)."""
        return self.net(x.reshape(len(x), *self.sample_shape), t, *c).reshape(x.shape)


@_io.network
class UNet(nn.Module):
    """The U-shaped network of Dhariwal and Nichol for the velocity of images.

    At each level, from the finest to the coarsest and back: residual blocks into which the time enters as the scale
    and the shift after a group norm, self-attention at the levels in `attention`, and a skip connection for every
    block on the way down. A new network is zero everywhere: each residual branch starts as zero, and so does the last
    convolution.

    Parameters
    ----------
    sample_shape : (int, int) or (int, int, int)
        Height and width of an image of one channel, or channels, height and width; in pixels, and of any parity.
    width : int
        Channels of the finest level.
    multipliers : sequence of int
        Channels of each level, as multiples of `width`; a level has half the height and width of the one before.
    n_blocks : int
        Residual blocks of a level on the way down; there is one more on the way up.
    attention : sequence of int
        Levels with self-attention, 0 being the finest; the middle of the network always has it.
    n_heads : int
        Heads of the attention.
    dropout : float
        Probability of dropping a value in a residual block.
    n_conditions : int
        Numbers k of a condition, for a conditional field; they are embedded and added to the embedded time.

    Raises
    ------
    ValueError
        If the arguments do not fit together.

    Notes
    -----
    See [1]_. Unlike there, a group norm has at most 8 groups, not 32; a strided convolution halves the image; and the
    way up repeats pixels to the size of the skip, which leaves it to the next residual block to smooth them.

    References
    ----------
    .. [1] P. Dhariwal, A. Nichol. Diffusion models beat GANs on image synthesis. NeurIPS 2021. arXiv:2105.05233.

    Examples
    --------
    >>> UNet((1, 28, 28))(torch.zeros(5, 784), torch.zeros(5)).shape
    torch.Size([5, 784])
    """

    def __init__(  # noqa: PLR0913  the sizes of a network
        self,
        sample_shape: Sequence[int],
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        n_blocks: int = 1,
        attention: Sequence[int] = (2,),
        n_heads: int = 4,
        dropout: float = 0.0,
        n_conditions: int = 0,
    ) -> None:
        for name, size in {"width": width, "n_blocks": n_blocks, "n_heads": n_heads}.items():
            _checks.count(name, size)
        _checks.count("n_conditions", n_conditions, 0)
        _checks.fraction("dropout", dropout, "0.1")
        multipliers, attention = _checks.counts("multipliers", multipliers), _checks.counts("attention", attention, 0)
        super().__init__()
        self.sample_shape, self.image_shape = _checks.counts("sample_shape", sample_shape), _image_shape(sample_shape)
        self.width, self.multipliers, self.n_blocks = width, multipliers, n_blocks
        self.attention, self.n_heads, self.dropout = attention, n_heads, dropout
        _check_levels(self.image_shape, multipliers, attention)
        levels = [(width * m, n_heads if level in attention else 0) for level, m in enumerate(multipliers)]
        n_fine, n_coarse = levels[0][0], levels[-1][0]
        _check_heads([n for n, heads in levels if heads] + [n_coarse], n_heads)
        block = functools.partial(_Block, n_time=4 * width, dropout=dropout)
        embedding = TimeEmbedding()
        self.time = nn.Sequential(embedding, _dense([2 * len(embedding.frequencies), 4 * width, 4 * width]))
        self.n_conditions = n_conditions
        self.condition = _dense([n_conditions, 4 * width, 4 * width]) if n_conditions else None
        self.first = _conv(self.image_shape[0], width)
        self.down, n_skips = _way_down(block, levels, width, n_blocks)
        self.middle = nn.ModuleList([block(n_coarse, n_coarse, n_heads), block(n_coarse, n_coarse, 0)])
        self.up = _way_up(block, levels, n_skips, n_blocks)
        self.last = nn.Sequential(_norm(n_fine), nn.SiLU(), _zero(_conv(n_fine, self.image_shape[0])))

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """Return the velocity at x, rows (n, d) or images (n, c, h, w), and t (n,), under the conditions c (n, k)."""
        e = self.time(t)  # (n, 4 width)
        if self.condition is not None:
            e = e + self.condition(_conditions(c, x, self.n_conditions))
        skips = [self.first(x.reshape(len(x), *self.image_shape))]
        for block in self.down:
            skips.append(block(skips[-1], e))
        h = skips[-1]
        for block in self.middle:
            h = block(h, e)
        for block in self.up:
            skip = skips.pop()
            h = block(torch.cat([_resize(h, skip), skip], dim=1), e)
        return self.last(h).reshape(x.shape)


def build(
    network: "str | nn.Module",
    shape: tuple[int, ...],
    n_conditions: int = 0,
    seed: int = 0,
    **sizes: Any,
) -> nn.Module:
    """Return an untrained network on rows; the global random state of torch is left as it was.

    Parameters
    ----------
    network : "mlp", "unet" or torch module
        The architecture. A module is copied, with the weights that it has.
    shape : tuple of int
        Shape of one sample as it was given: (d,), or that of an image.
    n_conditions : int
        Numbers k of a condition.
    seed : int
        Of the first weights.
    **sizes
        Of an ``"mlp"``, as :class:`MLP` has them.

    Raises
    ------
    ValueError
        On an unknown name, a U-net on rows or on images with channels last, or a module that is no field of such
        samples: it is tried on two of them.

    Examples
    --------
    >>> build("mlp", (2,))(torch.zeros(5, 2), torch.zeros(5)).shape
    torch.Size([5, 2])
    """
    if isinstance(network, nn.Module):
        return _copied(network, shape, n_conditions)
    if not _checks.is_one_of(network, ("mlp", "unet")):
        raise ValueError(f"network={network!r} is unknown; choose 'mlp', 'unet' or pass a torch.nn.Module.")
    if network == "unet" and len(shape) == 1:
        raise ValueError(
            f"network='unet' takes images, but the samples are rows of {shape[0]} features: pass arrays of shape "
            "(n, c, h, w), or network=nsgf.networks.UNet(sample_shape=(c, h, w))."
        )
    if network == "unet" and len(shape) == 3 and shape[2] in (1, 3, 4) and min(shape[:2]) > shape[2]:
        raise ValueError(
            f"network='unet' reads samples of shape {shape} as {shape[0]} channels of {shape[1]} x {shape[2]} pixels, "
            "and they look like images with channels last. Give X.transpose(0, 3, 1, 2), or where they are none, "
            f"network=nsgf.networks.UNet({shape})."
        )
    with _random.seeded(seed):
        if network == "unet":
            return UNet(shape, n_conditions=n_conditions)
        return MLP(math.prod(shape), n_conditions=n_conditions, **sizes)


def check_weights(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise where weights are not of the names, shapes and dtypes of a network's."""
    wanted, found = ({k: (tuple(v.shape), v.dtype) for k, v in of.items()} for of in (net.state_dict(), weights))
    for name in wanted.keys() | found.keys():
        if wanted.get(name) != found.get(name):
            raise ValueError(f"the weight {name!r} is {found.get(name)}, and the network has {wanted.get(name)}")


def load_weights(net: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Give a network the weights of a file, or raise where they are not finite, or those of another."""
    weights = {k: torch.from_numpy(v) for k, v in arrays.items()}
    check_weights(net, weights)
    net.load_state_dict(weights)
    for name, weight in net.named_parameters():  # a buffer may be infinite, such as a mask
        if not bool(weight.isfinite().all()):
            raise ValueError(f"the weight {name!r} is not finite")


def _is_alike(sees: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether samples of a shape are the images that a network sees: rows as long, or images but for leading ones."""
    if len(shape) == 1:
        return math.prod(sees) == shape[0]
    return sees[-len(shape) :] == shape[-len(sees) :] and math.prod(sees) == math.prod(shape)


def _copied(network: nn.Module, shape: tuple[int, ...], n_conditions: int) -> nn.Module:
    """Return a copy of a module, as one on rows."""
    takes, sees = getattr(network, "n_conditions", n_conditions), getattr(network, "sample_shape", None)
    if takes != n_conditions:
        raise ValueError(
            f"network takes n_conditions={takes}, but the conditions have {n_conditions} numbers: make it with "
            f"n_conditions={n_conditions}."
        )
    if sees is not None and not _is_alike(tuple(sees), shape):
        raise ValueError(
            f"network has sample_shape={tuple(sees)} with {math.prod(sees)} entries, but a sample has "
            f"{math.prod(shape)} features, in the shape {shape}."
        )
    try:
        net = copy.deepcopy(network)
    except Exception as error:  # such as of tensors that are no leaves, and of generators
        raise ValueError(f"network={type(network).__name__} cannot be copied: {error}") from error
    net = net if len(shape) == 1 or isinstance(net, OnImages | UNet | MLP) else OnImages(net, shape)
    _try_out(net, math.prod(shape), n_conditions)
    return net


def _try_out(net: nn.Module, n_features: int, n_conditions: int) -> None:
    """Raise where a network is no field of rows, before it is to be trained."""
    net = copy.deepcopy(net)  # which a call may change
    sees, net = (net.sample_shape, net.net) if isinstance(net, OnImages) else ((n_features,), net)
    name = f"network={type(net).__name__}"
    _check_weights(net, name)
    n = next(n for n in range(2, 9) if n not in (*sees, n_conditions))  # what mixes rows with features must show
    x, t = torch.randn(n, *sees, generator=torch.Generator().manual_seed(0)), torch.linspace(0.25, 0.75, n)
    c = [torch.zeros(n, n_conditions)] if n_conditions else []
    of = f" and conditions {(n, n_conditions)}" if n_conditions else ""
    words, kept = f"{name} was called with x {tuple(x.shape)}, times ({n},){of}", x.clone()
    try:
        with _random.seeded(0), torch.enable_grad():
            v = net.cpu().eval()(x, t, *c)
    except Exception as error:
        raise ValueError(f"{words}, and raised {type(error).__name__}: {error}") from error
    if not isinstance(v, Tensor) or v.shape != x.shape or v.dtype != x.dtype:
        found = f"{v.dtype} of shape {tuple(v.shape)}" if isinstance(v, Tensor) else type(v).__name__
        raise ValueError(f"{words}, and returned {found}; a velocity has the shape of x, in float32.")
    if not (bool(v.isfinite().all()) and v.requires_grad and torch.equal(x, kept)):
        raise ValueError(f"{words}; its value must be finite and have a gradient, and x stay as it was.")


def _check_weights(net: nn.Module, name: str) -> None:
    weights = [z for z in itertools.chain(net.parameters(), net.buffers()) if z.is_floating_point() or z.is_complex()]
    if not any(p.requires_grad for p in net.parameters()):
        raise ValueError(f"{name} has no parameter to be trained; give one with layers, such as nsgf.networks.MLP(d).")
    if any(map(nn.parameter.is_lazy, weights)):
        raise ValueError(f"{name} has layers of no size yet; call it once on samples first.")
    if not all(p.is_leaf for p in net.parameters()):
        raise ValueError(
            f"{name} has weights that no optimiser can train, as a scripted module has. Give the plain one."
        )
    if not all(isinstance(z, Tensor) for z in net.state_dict().values()):
        raise ValueError(f"{name} keeps a state that is no tensors, which files cannot hold: give it without.")
    for z in weights:
        if z.dtype != torch.float32:
            raise ValueError(f"{name} has weights of {z.dtype}; give it in float32, as network.float().")


class _Block(nn.Module):
    """A residual block, then self-attention where there are heads."""

    def __init__(self, n_in: int, n_out: int, n_heads: int, n_time: int, dropout: float) -> None:
        super().__init__()
        self.residual = _Residual(n_in, n_out, n_time, dropout)
        self.attention = _Attention(n_out, n_heads) if n_heads else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Return (n, n_out, h, w) for x (n, n_in, h, w) and the embedded times e (n, n_time)."""
        return self.attention(self.residual(x, e))


class _Residual(nn.Module):
    """x + f(x, t), where t scales and shifts what a group norm returns."""

    def __init__(self, n_in: int, n_out: int, n_time: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(n_in), nn.SiLU(), _conv(n_in, n_out), _norm(n_out))
        self.time = nn.Sequential(nn.SiLU(), nn.Linear(n_time, 2 * n_out))
        self.last = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), _zero(_conv(n_out, n_out)))
        self.skip = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Return (n, n_out, h, w) for x (n, n_in, h, w) and the embedded times e (n, n_time)."""
        scale, shift = self.time(e)[:, :, None, None].chunk(2, dim=1)  # (n, n_out, 1, 1)
        return self.skip(x) + self.last((1 + scale) * self.first(x) + shift)


class _Attention(nn.Module):
    """x + attention(x): each pixel looks at every other."""

    def __init__(self, n_channels: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = _norm(n_channels)
        self.project = nn.Linear(n_channels, 3 * n_channels)
        self.last = _zero(nn.Linear(n_channels, n_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, c, h, w) for x (n, c, h, w)."""
        tokens = self.norm(x).flatten(2).mT  # (n, h w, c)
        q, k, v = self.project(tokens).unflatten(2, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)  # (n, heads, h w, -1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (n, h w, c)
        return x + self.last(mixed).mT.reshape(x.shape)


class _Halve(nn.Module):
    """Half the height and width, rounded up."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.conv = _conv(n_channels, n_channels, stride=2)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Return (n, c, ⌈h / 2⌉, ⌈w / 2⌉) for x (n, c, h, w); the time plays no part."""
        return self.conv(x)


def _way_down(
    block: Callable[..., nn.Module], levels: Sequence[tuple[int, int]], width: int, n_blocks: int
) -> tuple[nn.ModuleList, list[int]]:
    """Return the blocks from the finest level to the coarsest, and the channels of the skips."""
    blocks, n_skips = nn.ModuleList(), [width]
    for level, (n_out, n_heads) in enumerate(levels):
        if level > 0:
            blocks.append(_Halve(n_skips[-1]))
            n_skips.append(n_skips[-1])
        for _ in range(n_blocks):
            blocks.append(block(n_skips[-1], n_out, n_heads))
            n_skips.append(n_out)
    return blocks, n_skips


def _way_up(
    block: Callable[..., nn.Module], levels: Sequence[tuple[int, int]], n_skips: Sequence[int], n_blocks: int
) -> nn.ModuleList:
    """Return the blocks from the coarsest level to the finest, each of which takes a skip."""
    n_outs = [level for level in reversed(levels) for _ in range(n_blocks + 1)]
    n_ins = [levels[-1][0]] + [n for n, _ in n_outs[:-1]]
    return nn.ModuleList(
        block(n_in + n_skip, n_out, n_heads)
        for n_in, n_skip, (n_out, n_heads) in zip(n_ins, reversed(n_skips), n_outs, strict=True)
    )


def _conditions(c: Tensor | None, x: Tensor, n_conditions: int) -> Tensor:
    """Return the conditions (n, k); zeros, which stand for unknown, where there are none."""
    return x.new_zeros(len(x), n_conditions) if c is None else c


class _Added(nn.Module):
    """x + SiLU(W x + b)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, width) for x (n, width)."""
        return x + nn.functional.silu(self.linear(x))


def _dense(widths: Sequence[int], is_residual: bool = False) -> nn.Sequential:
    """Return linear layers from each width to the next, with SiLU between them; hidden ones may add to their inputs."""
    layers: list[nn.Module] = []
    for k, (n_in, n_out) in enumerate(itertools.pairwise(widths[:-1])):
        layers += [_Added(n_out)] if is_residual and k else [nn.Linear(n_in, n_out), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def _conv(n_in: int, n_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, stride, padding=1)


def _norm(n_channels: int) -> nn.GroupNorm:
    # At least 4 channels a group: one alone would lose its mean over the pixels, the brightness, and at 1 pixel all.
    return nn.GroupNorm(max(1, math.gcd(32, n_channels) // 4), n_channels)


def _zero(layer: nn.Module) -> nn.Module:
    """Return the layer, its parameters set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """Repeat pixels to the height and width of `like`; a pixel of 2k stays over pixel k, as strides left it."""
    return x if x.shape[2:] == like.shape[2:] else nn.functional.interpolate(x, like.shape[2:])


def _image_shape(sample_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return (channels, height, width)."""
    if len(_checks.counts("sample_shape", sample_shape)) not in (2, 3):
        raise ValueError(
            f"sample_shape={tuple(sample_shape)} is no image's: give (height, width) or (channels, height, width). "
            "Rows that are no images need another network: UNet -> MLP."
        )
    n_channels, height, width = (1, *sample_shape)[-3:]
    return n_channels, height, width


def _check_levels(image_shape: tuple[int, int, int], multipliers: Sequence[int], attention: Sequence[int]) -> None:
    n_levels = len(multipliers)
    if not multipliers:
        raise ValueError(f"multipliers={multipliers!r} must be one positive integer a level, such as (1, 2, 2).")
    if not set(attention) <= set(range(n_levels)):
        raise ValueError(
            f"attention={attention!r} names a level that {multipliers=} do not have; "
            f"choose from 0 (finest) to {n_levels - 1}, or () for the middle only."
        )
    if min(image_shape[1:]) < 2 ** (n_levels - 1):
        raise ValueError(
            f"sample_shape={image_shape} is smaller than {2 ** (n_levels - 1)} pixels, too small for the "
            f"{n_levels} levels of {multipliers=}; give fewer multipliers."
        )


def _check_heads(n_channels: Sequence[int], n_heads: int) -> None:
    for n in n_channels:
        if n % n_heads:
            raise ValueError(
                f"n_heads={n_heads!r} does not divide the {n} channels (width * multiplier) of a level with attention; "
                "choose a width that is a multiple of n_heads, or another n_heads."
            )
