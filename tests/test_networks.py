"""The networks: shapes, symmetries, what a new network is, that each can learn, how it is built and stored."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from common import BARELY, ignore_report, pictures, samples, small_unet
from tolerances import FLOAT64
from torch import nn

import nsgf
from nsgf import NSGF, NSGFPlusPlus, TrajectoryPool
from nsgf.matching import relative_error, train
from nsgf.networks import MLP, OnImages, PlaceEmbedding, UNet, _resize, build

SHAPES = [(8, 8), (1, 7, 7), (3, 5, 9), (2, 4, 6)]
ALGEBRA = {"rtol": FLOAT64, "atol": FLOAT64}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def awake(net):
    """Return `net` in float64, without the zeros that silence a new network."""
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return net.double()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP("2"), "n_features='2' must be an integer"),
        (lambda: MLP(2, width=0), "width=0 must be"),
        (lambda: UNet((1, 8, 8), width=None), "width=None must be"),
        (lambda: UNet((1, 8, 8), attention=1), "attention=1 must be integers"),
        (lambda: UNet((1, 8, 8), dropout="half"), "dropout='half' must be"),
        (lambda: UNet(8), "sample_shape=8 must be integers"),
        (lambda: OnImages(MLP, (1, 8, 8)), "net is a type. Give a torch module"),
        (lambda: OnImages(MLP(64), "8"), "sample_shape='8' must be integers"),
        (lambda: TrajectoryPool(4, 2.0), "n_features=2.0 must be an integer"),
    ],
)
def test_sizes_are_named_where_they_are_none(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def small(sample_shape=(1, 7, 7), **options):
    return UNet(sample_shape, **{"width": 8, "n_heads": 2} | options)


def attention_of(n_heads):
    """Return the attention of 8 channels in the middle of a U-net."""
    return awake(small(multipliers=(1,), attention=(), n_heads=n_heads)).middle[0].attention


def images(net, n=4):
    return torch.randn(n, *net.image_shape, dtype=torch.float64), torch.rand(n, dtype=torch.float64)


@pytest.mark.parametrize("sample_shape", SHAPES)
def test_rows_and_images_have_the_same_velocity_in_their_own_shape(sample_shape):
    net = awake(small(sample_shape))
    x, t = images(net)
    torch.testing.assert_close(net(x.flatten(1), t), net(x, t).flatten(1), rtol=0, atol=0)
    assert net(x, t).shape == x.shape


def test_an_image_of_one_channel_may_do_without_its_channel():
    net = awake(small((1, 6, 5)))
    same = awake(small((6, 5)))
    same.load_state_dict(net.state_dict())
    x, t = images(net)
    torch.testing.assert_close(same(x[:, 0], t), net(x, t)[:, 0], rtol=0, atol=0)


@pytest.mark.parametrize("sample_shape", [*SHAPES, (28, 28)])
def test_a_new_network_is_zero(sample_shape):
    net = small(sample_shape).double()
    assert not net(*images(net, 2)).any()
    assert not MLP(5)(torch.randn(3, 5), torch.rand(3)).any()


@pytest.mark.parametrize(
    "options",
    [
        {"multipliers": (1,), "attention": ()},
        {"multipliers": (2, 1, 3), "attention": [0, 1, 2]},
        {"n_blocks": 2, "width": 6, "n_heads": 1},
        {"sample_shape": (1, 1), "multipliers": (2,), "attention": ()},
    ],
)
def test_every_parameter_is_reached_by_the_gradient(options):
    net = awake(small(**options))
    net(*images(net)).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_samples_of_a_batch_do_not_see_each_other():
    net = awake(small())
    x, t = images(net)
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(net(x, t), alone, **ALGEBRA)
    assert net(x[:0], t[:0]).shape == (0, *net.image_shape)


def test_the_velocity_depends_on_each_pixel_and_on_the_time():
    net = awake(small())
    x, t = (z.requires_grad_() for z in images(net, 1))
    by_x, by_t = torch.autograd.grad(net(x, t)[0, 0, 3, 3], [x, t])
    assert by_x.all()
    assert by_t.all()


def test_attention_does_not_know_the_place_of_a_pixel():
    attention = attention_of(2)
    x, order = torch.randn(3, 8, 4, 5, dtype=torch.float64), torch.randperm(20)

    def shuffle(z):
        return z.flatten(2)[..., order].unflatten(2, z.shape[2:])

    torch.testing.assert_close(attention(shuffle(x)), shuffle(attention(x)), **ALGEBRA)


def test_one_head_of_attention_is_the_softmax_of_inner_products():
    attention = attention_of(1)
    x = torch.randn(3, 8, 4, 5, dtype=torch.float64)
    q, k, v = attention.project(attention.norm(x).flatten(2).transpose(1, 2)).split(8, dim=2)
    weights = torch.einsum("nic,njc->nij", q, k).div(8**0.5).softmax(dim=2)
    expected = x.flatten(2) + attention.last(weights @ v).transpose(1, 2)
    torch.testing.assert_close(attention(x).flatten(2), expected, **ALGEBRA)


@pytest.mark.parametrize("shape", [(6, 6), (7, 5), (1, 2), (1, 1)])
def test_resizing_leaves_each_pixel_where_the_strides_took_it_from(shape):
    x = torch.randn(2, 3, *shape)
    half = x[..., ::2, ::2]
    torch.testing.assert_close(_resize(half, x)[..., ::2, ::2], half, rtol=0, atol=0)
    assert _resize(half, x).shape == x.shape


def test_the_layout_in_memory_changes_nothing():
    net = awake(small((3, 8, 8)))
    x, t = images(net)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(x, t), net(x, t), **ALGEBRA)


def test_bfloat16_is_close_to_float32():
    net = awake(small((3, 8, 8))).float()
    x, t = (z.float() for z in images(net))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        v = net(x, t).float()
    v.square().mean().backward()
    assert (v - net(x, t)).norm() < 0.05 * v.norm()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_dropout_ends_with_the_training():
    net = awake(small(dropout=0.5))
    x, t = images(net)
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))


def fit(net, loss, n_iter, learning_rate=3e-3):
    """Take steps of Adam; return the first loss and the mean of the last five."""
    optimiser = torch.optim.Adam(net.parameters(), lr=learning_rate)
    losses = []
    for _ in range(n_iter):
        optimiser.zero_grad()
        value = loss(net)
        value.backward()
        optimiser.step()
        losses.append(value.item())
    return losses[0], sum(losses[-5:]) / 5


def test_a_velocity_that_turns_with_time_is_learnt():
    def loss(net):
        x, t = torch.randn(32, 1, 6, 6), torch.rand(32)
        return nn.functional.mse_loss(net(x, t), (1 - 2 * t)[:, None, None, None] * x)

    first, last = fit(small((6, 6), width=16, multipliers=(1, 1), attention=()), loss, 40)
    assert last < 0.5 * first


@pytest.mark.parametrize("net", [MLP(48), small((3, 4, 4))])
def test_the_weights_are_the_whole_state(net):
    net, other = awake(net), awake(copy.deepcopy(net))
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    other.load_state_dict(net.state_dict())
    arguments = torch.randn(2, 48, dtype=torch.float64), torch.rand(2).double()
    assert torch.equal(other(*arguments), net(*arguments))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_shape": (784,)}, r"sample_shape=\(784,\) .* give \(height, width\)"),
        ({"sample_shape": (1, 1, 8, 8)}, r"sample_shape=\(1, 1, 8, 8\)"),
        ({"sample_shape": (0, 8, 8)}, r"sample_shape=\(0, 8, 8\)"),
        ({"sample_shape": (1, 8, 3)}, r"sample_shape=\(1, 8, 3\) .* fewer multipliers"),
        ({"multipliers": ()}, r"multipliers=\(\)"),
        ({"multipliers": (1, 0)}, r"multipliers=\(1, 0\)"),
        ({"n_blocks": 0}, "n_blocks=0"),
        ({"attention": (3,)}, r"attention=\(3,\) .* 0 \(finest\) to 2"),
        ({"attention": (-1,)}, r"attention=\(-1,\)"),
        ({"n_heads": 3}, "n_heads=3 .* 16 channels"),
        ({"n_heads": 0}, "n_heads=0"),
        ({"width": 6, "n_heads": 4, "attention": (0,)}, "n_heads=4 .* 6 channels"),
    ],
)
def test_what_makes_no_unet_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


# %% Building and storing


@pytest.mark.parametrize("network", ["mlp", "unet"])
def test_a_network_is_built_of_a_seed_and_leaves_the_global_one(network):
    before = torch.get_rng_state()
    first, again, other = (build(network, (1, 8, 8), 2, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)
    assert torch.equal(torch.get_rng_state(), before)


class Own(nn.Conv2d):
    """A field of images that the package does not know."""

    shapes = set()

    def forward(self, x, t):
        self.shapes.add(tuple(x.shape[1:]))
        return super().forward(x)


def test_a_module_is_copied_and_sees_the_images_that_rows_stand_for():
    net = small_unet()
    for given, shape in ((net, (64,)), (net, (1, 8, 8)), (OnImages(net, (1, 8, 8)), (64,))):
        made = build(given, shape)
        assert made is not given
        assert type(made) is type(given)
    assert build(Own(1, 1, 3, padding=1), (1, 8, 8)).sample_shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("network", "shape", "n_conditions", "words"),
    [
        ("resnet", (2,), 0, "network='resnet' is unknown; choose"),
        ("unet", (64,), 0, r"network='unet' takes images.*rows of 64 features.*sample_shape"),
        (UNet((1, 7, 9)), (64,), 0, r"sample_shape=\(1, 7, 9\) with 63 entries, but a sample has 64 features"),
        (MLP(2), (2,), 3, "takes n_conditions=0, but the conditions have 3 numbers: make it with n_conditions=3"),
        (OnImages(UNet((8, 8), n_conditions=2), (8, 8)), (64,), 0, "takes n_conditions=2, but"),
    ],
)
def test_a_network_that_does_not_fit_the_samples_is_refused(network, shape, n_conditions, words):
    with pytest.raises(ValueError, match=words):
        build(network, shape, n_conditions)


class Rows(nn.Linear):
    """A field of points in the plane, whose value is changed by a function."""

    def __init__(self, change=lambda v: v, n_in=3, n_out=2, **options):
        super().__init__(n_in, n_out, **options)
        self.change = change

    def forward(self, x, t):
        return self.change(super().forward(torch.cat([x, t[:, None]], dim=1)))


class InPlace(Rows):
    def forward(self, x, t):
        return super().forward(x.mul_(2), t)


class Nothing(nn.Module):
    def forward(self, x, t):
        return 0 * x


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Rows(n_out=1), r"network=Rows was called with x \(3, 2\).*returned torch.float32 of shape \(3, 1\)"),
        (Rows(n_out=3), r"returned torch.float32 of shape \(3, 3\); a velocity has the shape of x"),
        (Rows(n_in=9), "raised RuntimeError: mat1 and mat2"),
        (Rows(dtype=torch.float64), r"weights of torch.float64; .*network.float\(\)"),
        (Rows(torch.Tensor.double), "returned torch.float64"),
        (Rows(lambda v: (v, v)), "returned tuple"),
        (Rows(lambda v: v.T), r"shape \(2, 3\); a velocity has the shape of x"),
        (Rows(lambda v: v / 0), "must be finite"),
        (Rows(torch.Tensor.detach), "have a gradient"),
        (Rows(lambda v: {}[0]), "raised KeyError: 0"),
        (InPlace(), "x stay as it was"),
        (Rows().requires_grad_(False), "no parameter to be trained"),
        (Nothing(), "network=Nothing has no parameter to be trained"),
        (nn.Linear(2, 2), "raised TypeError: .*takes 2 positional arguments but 3 were given"),
        (nn.LazyLinear(2), "layers of no size yet"),
        (MLP(3), "network=MLP was called.*raised RuntimeError"),
    ],
)
@pytest.mark.parametrize("leaf", [NSGF, NSGFPlusPlus])
def test_a_module_that_is_no_field_of_the_samples_is_refused_before_the_pool(network, words, leaf, monkeypatch):
    monkeypatch.setattr("nsgf.pool.fill", None)
    with pytest.raises(ValueError, match=f"(?s){words}"):
        leaf(network=network).fit(*samples(60))


def test_a_module_that_takes_no_conditions_or_turns_images_is_refused():
    with pytest.raises(ValueError, match=r"times \(4,\) and conditions \(4, 3\), and raised TypeError"):
        build(Rows(), (2,), 3)
    turned = Rows()
    turned.forward = lambda x, t: x.permute(0, 2, 3, 1) * turned.weight[0, 0]
    for net, shape in ((turned, (3, 4, 4)), (OnImages(turned, (3, 4, 4)), (48,))):
        with pytest.raises(ValueError, match=r"x \(2, 3, 4, 4\).*returned torch.float32 of shape \(2, 4, 4, 3\)"):
            build(net, shape)
    assert build(MLP(48), (3, 4, 4))(torch.zeros(2, 48), torch.zeros(2)).shape == (2, 48)


def test_trying_a_module_changes_neither_it_nor_the_random_numbers():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 2))
    net.forward = functools.partial(lambda net, x, t: net[2](net[1](net[0](x))), net)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    made = build(net, (2,))
    assert all(torch.equal(weight, before[name]) for name, weight in made.state_dict().items())
    assert all(torch.equal(weight, before[name]) for name, weight in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert made.training


@pytest.mark.parametrize("shape", [(8, 8, 3), (32, 32, 1), (8, 8, 4)])
def test_channels_last_are_no_channels_of_a_unet(shape):
    with pytest.raises(ValueError, match=r"channels last. Give X.transpose\(0, 3, 1, 2\)"):
        build("unet", shape)
    for other in ((3, 8, 8), (1, 4, 4), (8, 8), (3, 4, 4)):
        assert build("unet", other).sample_shape == other


@pytest.mark.slow
@ignore_report
def test_few_steps_on_wide_samples_stay_near_them():
    x, y = np.random.default_rng(0).normal(size=(2, 50, 1000))
    model = NSGF(**BARELY | {"max_iter": 100, "batch_size": 64}).fit(x, y + 1.0)
    assert model.transform(x).std() < 2.0


@ignore_report
def test_a_module_of_ones_own_sees_images_and_is_given_again_to_load(tmp_path):
    model = NSGF(**BARELY | {"network": Own(1, 1, 3, padding=1)}).fit(None, pictures())
    assert Own.shapes == {(1, 8, 8)}
    model.save(tmp_path / "m")
    loaded = nsgf.load(tmp_path / "m", network=Own(1, 1, 3, padding=1))
    np.testing.assert_array_equal(loaded.transform(pictures(3)), model.transform(pictures(3)))
    with pytest.raises(ValueError, match="network="):
        nsgf.load(tmp_path / "m")
    with pytest.raises(ValueError, match="does not fit"):
        nsgf.load(tmp_path / "m", network=Own(1, 1, 5, padding=2))


@pytest.mark.parametrize(
    ("network", "data"),
    [
        (MLP(2, width=8, depth=2), samples(60)),
        (small_unet(), (None, pictures(40).reshape(-1, 64))),
        (OnImages(small_unet(), (1, 8, 8)), (None, pictures(40).reshape(-1, 64))),
        ("unet", (None, pictures(40))),
    ],
    ids=["MLP", "UNet", "OnImages", "unet"],
)
@ignore_report
def test_networks_of_the_package_are_stored_with_their_arguments(network, data, tmp_path):
    model = NSGF(**BARELY | {"network": network}).fit(*data)
    model.save(tmp_path / "m")
    loaded = nsgf.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.transform(data[1][:3]), model.transform(data[1][:3]))
    assert repr(loaded.network) == repr(model.network)
    assert np.isfinite(loaded.fit(*data).transform(data[1][:3])).all()  # of other first weights


@pytest.mark.parametrize(("sees", "shape"), [((4, 16), (1, 8, 8)), ((3, 8, 8), (8, 8, 3)), ((1, 7, 9), (64,))])
def test_a_unet_for_images_of_another_shape_is_refused_even_with_as_many_pixels(sees, shape):
    net = UNet(sees, width=8, multipliers=(1, 2), attention=(), n_heads=1)
    with pytest.raises(ValueError, match=r"network has sample_shape=.* but a sample has"):
        build(net, shape)
    for same in (sees, sees[1:] if sees[0] == 1 else (1, *sees) if len(sees) == 2 else sees):
        assert build(net, same) is not net


@pytest.mark.filterwarnings("ignore:report_:UserWarning")
def test_a_network_passed_as_a_value_keeps_its_first_weights_in_a_file(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 2))
    settings = {"max_iter": 3, "n_batches": 1, "batch_size": 32, "device": "cpu", "random_state": 0}
    model = NSGF(network=MLP(2, width=8), **settings).fit(x, x + 1.0)
    model.save(tmp_path / "m")
    again = nsgf.load(tmp_path / "m").fit(x, x + 1.0)
    np.testing.assert_array_equal(again.transform(x), model.transform(x))


class Generating(MLP):
    def __init__(self):
        super().__init__(2)
        self.numbers = (i for i in range(3))


class Stateful(MLP):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


class Complex(MLP):
    def __init__(self):
        super().__init__(2)
        self.factor = nn.Parameter(torch.ones(2, dtype=torch.complex64))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Generating, "cannot be copied"),
        (lambda: Stateful(2), "a state that is no tensors"),
        (Complex, "weights of torch.complex64"),
    ],
)
def test_modules_that_cannot_be_trained_or_kept_are_refused_before_any_work(make, words):
    with pytest.raises(ValueError, match=words):
        build(make(), (2,))


@pytest.mark.parametrize("n_features", [1, 2, 50])
def test_the_products_of_two_places_are_a_gaussian_kernel(n_features):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        embed = PlaceEmbedding(n_features, 2**15)
    x = torch.randn(2, n_features, generator=torch.Generator().manual_seed(0)) / n_features**0.5
    product = (embed(x) @ embed(x).T)[0, 1] / 2**15
    distance = (x[0] - x[1]).norm() * 4.0 / n_features
    assert product.item() == pytest.approx(math.exp(-(distance.item() ** 2) / 2), abs=4 * 2**-7.5)


def test_waves_of_the_place_keep_their_precision_in_half():
    embed, x = PlaceEmbedding(2), torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        half = embed(x)
    torch.testing.assert_close(half, embed(x))


def test_a_field_of_steep_edges_is_learnt_in_few_steps():
    def draw(rng):
        x, t = rng.normal(size=(256, 2)).astype(np.float32), rng.random(256, dtype=np.float32)
        return (x, t), np.sign(np.sin(4.0 * x))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = MLP(2, width=64)
    learnt = train(net, draw, np.random.default_rng(0), 300).net
    assert relative_error(learnt, [draw(np.random.default_rng(1))]) < 0.5
