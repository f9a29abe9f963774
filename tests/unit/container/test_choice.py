"""Which method a section gets follows from what its bytes turn out to be."""

import io

import blosc2
import numpy as np
import pytest
import torch

from penstock import container
from penstock.container import Base, Reader
from penstock.container.choice import choose_methods, kind_of
from penstock.container.codecs import STORED, Codec, Filter
from penstock.container.planes import Packing

WIDTH = 128


def network(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(WIDTH, WIDTH), torch.nn.BatchNorm1d(WIDTH), torch.nn.Linear(WIDTH, 4)
    )


def stepped(optimizer, model):
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(8, WIDTH)).square().sum().backward()
        optimizer.step()
    return optimizer.state_dict()


def sections_of(state):
    return {storage.section for storage in container.flatten(state).storages}


def adam(seed=0, **options):
    model = network(seed)
    return model, stepped(torch.optim.Adam(model.parameters(), lr=1e-3, **options), model)


def test_adam_has_a_section_for_each_moment_and_one_for_the_model():
    model, optimizer = adam()
    assert sections_of({"model": model.state_dict(), "optimizer": optimizer}) == {
        "model",
        "optimizer.step",
        "optimizer.exp_avg",
        "optimizer.exp_avg_sq",
    }


def test_momentum_of_sgd_is_a_section():
    model = network(0)
    optimizer = stepped(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), model)
    assert sections_of({"optimizer": optimizer}) == {"optimizer.momentum_buffer"}


def test_groups_of_parameters_share_the_sections_of_their_moments():
    model = network(0)
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.01}]
    optimizer = stepped(torch.optim.Adam(groups, lr=torch.tensor(1e-3), amsgrad=True), model)
    assert len(optimizer["param_groups"]) == 2
    assert sections_of({"optimizer": optimizer}) == {
        f"optimizer.{name}" for name in ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "lr")
    }


def test_two_optimizers_have_sections_of_their_own():
    _, actor = adam(1)
    _, critic = adam(2)
    found = sections_of({"actor_optimizer": actor, "critic_optimizer": critic})
    assert found == {
        f"{who}_optimizer.{name}"
        for who in ("actor", "critic")
        for name in ("step", "exp_avg", "exp_avg_sq")
    }


def noise(count, seed=0):
    """Bits without any structure: not even the exponents resemble one another."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, 4 * count, np.uint8)).view(
        torch.float32
    )


def weights(count, seed=0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 0.02


def written(state, base=None, **options):
    """The file; and of each section filters and codecs, and bytes raw and stored."""
    file = io.BytesIO()
    result = container.write(state, file, base=base, **options)
    with Reader(file) as reader:
        storages = reader.index.storages
    found = {}
    for storage, flat in zip(storages, container.flatten(state).storages, strict=True):
        methods = {(Filter(chunk.filter), Codec(chunk.codec)) for chunk in storage.chunks}
        found.setdefault(flat.section, set()).update(methods)
    return file, result, found


@pytest.mark.parametrize("profile", ["small", "fast", "delta"])
def test_noise_is_stored_as_it_is_and_what_shrinks_is_encoded(profile):
    state = {"noise": {"w": noise(600_000)}, "model": {"w": weights(600_000)}}
    file, result, methods = written(state, compress=profile)
    assert methods["noise"] == {(Filter.NONE, Codec.NONE)}
    assert result.sections["noise"] == (2_400_000, 2_400_000)
    assert {codec for _, codec in methods["model"]} == {Codec.PLANES}
    raw, stored = result.sections["model"]
    assert stored < 0.95 * raw
    assert torch.equal(container.read(file)["model"]["w"], state["model"]["w"])


def test_with_none_everything_is_stored_as_it_is():
    _, result, methods = written({"zeros": torch.zeros(100_000)}, compress="none")
    assert methods == {"zeros": {(Filter.NONE, Codec.NONE)}}
    assert result.sections == {"zeros": (400_000, 400_000)}


def base_of(state, step=1):
    file = io.BytesIO()
    result = container.write(state, file, compress="small")
    return Base(result.ref(step), file, result.hashes)


def later(state, seed):
    """Weights moved a little, moments of the gradient are others."""
    return {
        "model": {"w": state["model"]["w"] + 1e-7 * weights(600_000, seed)},
        "optimizer": {"state": {0: {"exp_avg": weights(600_000, seed + 1)}}},
    }


def test_difference_is_for_what_moves_a_little_and_not_for_what_is_new():
    first = {
        "model": {"w": weights(600_000, 1)},
        "optimizer": {"state": {0: {"exp_avg": weights(600_000, 2)}}},
    }
    base = base_of(first)
    second = later(first, 7)
    file, result, methods = written(second, base, compress="delta")
    assert {filter_ for filter_, _ in methods["model"]} == {Filter.DELTA}
    assert Filter.DELTA not in {filter_ for filter_, _ in methods["optimizer.exp_avg"]}
    raw, stored = result.sections["model"]
    assert stored < raw / 2
    # The moment costs what it costs without any base.
    _, alone, _ = written(second, compress="small")
    assert result.sections["optimizer.exp_avg"] == alone.sections["optimizer.exp_avg"]
    opened = Reader(file, open_base=lambda _: base._reader)
    assert torch.equal(opened.load()["model"]["w"], second["model"]["w"])


@pytest.mark.parametrize("profile", ["small", "fast", "none"])
def test_only_the_profile_delta_subtracts(profile):
    first = {"model": {"w": weights(300_000)}}
    second = {"model": {"w": first["model"]["w"] * 1.0000001}}
    _, _, methods = written(second, base_of(first), compress=profile)
    assert Filter.DELTA not in {filter_ for filter_, _ in methods["model"]}


def test_elements_of_one_byte_or_sixteen_are_never_subtracted():
    first = {
        "b": torch.arange(100_000).to(torch.uint8),
        "c": torch.complex(weights(20_000).double(), weights(20_000, 1).double()),
    }
    second = {name: tensor + 1 for name, tensor in first.items()}
    _, _, methods = written(second, base_of(first), compress="delta")
    assert Filter.DELTA not in {filter_ for found in methods.values() for filter_, _ in found}


def test_rounding_is_for_float32_alone():
    state = {
        "w": weights(100_000),
        "d": weights(100_000).double(),
        "i": torch.arange(100_000, dtype=torch.int32),
    }
    file, _, methods = written(state, compress="policy-bf16")
    assert methods["w"] == {(Filter.BF16, Codec.PLANES)}
    assert Filter.BF16 not in {filter_ for filter_, _ in methods["d"] | methods["i"]}
    found = container.read(file)
    assert torch.equal(found["w"], state["w"].bfloat16().float())
    assert torch.equal(found["d"], state["d"])
    assert torch.equal(found["i"], state["i"])


def test_kinds_of_elements_in_one_section_are_chosen_apart():
    state = {"model": {"w": weights(100_000), "noise": noise(50_000).view(torch.float64)}}
    storages = container.flatten(state).storages
    methods = choose_methods(storages, "small")
    by_item = {kind.item_size_bytes: method for kind, method in methods.items()}
    assert by_item[8] == STORED
    assert by_item[4] != STORED
    assert set(methods) == set(map(kind_of, storages))


@pytest.mark.parametrize("profile", ["small", "fast", "delta", "policy-bf16"])
def test_choice_is_the_same_each_time(profile):
    first = {"model": {"w": weights(300_000)}, "more": {"x": noise(70_000), "y": torch.zeros(9)}}
    second = {**first, "model": {"w": first["model"]["w"] * 1.0000001}}
    base = base_of(first)
    assert (
        written(second, base, compress=profile)[0].getvalue()
        == written(second, base, compress=profile)[0].getvalue()
    )


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"empty": torch.zeros(0, 4), "array": np.zeros(0)},
        {"tiny": torch.tensor(1.0)},
        {"texts": np.array(["x" * 50_000, "y"])},
        {"odd": [torch.zeros(9, dtype=torch.uint8)[1:], np.zeros(70_001, np.uint8)]},
    ],
    ids=lambda state: next(iter(state), "nothing"),
)
@pytest.mark.parametrize("profile", ["small", "fast", "delta", "policy-bf16", "none"])
def test_sections_with_little_to_try_are_chosen_too(state, profile):
    methods = choose_methods(container.flatten(state).storages, profile)
    assert len(methods) == len(set(map(kind_of, container.flatten(state).storages)))
    file, _, _ = written(state, compress=profile)
    found = container.read(file)
    assert repr(found) == repr(state)


def table(seed, most, dtype):
    return np.random.default_rng(seed).integers(0, most, 100_000).astype(dtype)


def walk(seed, most, dtype):
    steps = np.random.default_rng(seed).integers(-most, most + 1, 100_000)
    return np.cumsum(steps).astype(dtype)


def prose(seed):
    """Words in any order, most of them rare."""
    chooser = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlu"))
    words = ["".join(chooser.choice(letters, chooser.integers(2, 9))) for _ in range(500)]
    return " ".join(words[number % 500] for number in chooser.zipf(1.4, 40_000))


KINDS = {
    "weights": weights(300_000).numpy(),
    "moment of squares": weights(300_000).square().numpy(),
    "weights of 64 bits": weights(100_000).double().numpy(),
    "half": weights(300_000).half().numpy(),
    "bfloat16": weights(300_000).bfloat16().view(torch.int16).numpy(),
    "counts": np.arange(100_000),
    "table": table(0, 1000, np.int64),
    "tokens": table(1, 50_000, np.int32),
    "walk": walk(2, 9, np.int32),
    "times": np.arange(100_000) * 33_333_333 + table(3, 100_000, np.int64),
    "image": walk(4, 2, np.uint8),
    "pixels": table(5, 256, np.uint8),
    "mask": table(6, 2, np.uint8),
    "text": np.frombuffer(prose(8).encode(), np.uint8),
    "zeros": np.zeros(300_000, np.float32),
    "ones": np.ones(300_000),
    "sparse": np.where(table(7, 50, np.int32) == 0, weights(100_000).numpy(), np.float32(0)),
}


def of_blosc2(array):
    """What the first versions stored: the best of three ways for a whole section."""
    found = []
    for filter_ in (blosc2.Filter.NOFILTER, blosc2.Filter.SHUFFLE, blosc2.Filter.BITSHUFFLE):
        chunk = blosc2.compress2(
            array,
            codec=blosc2.Codec.ZSTD,
            clevel=1,
            filters=[filter_],
            filters_meta=[0],
            typesize=array.itemsize,
            nthreads=1,
            splitmode=blosc2.SplitMode.ALWAYS_SPLIT,
            blocksize=1 << 18,
        )
        found.append(len(chunk))
    return min(found)


@pytest.mark.parametrize("kind", KINDS)
def test_small_takes_no_more_than_earlier_versions_did(kind):
    array = KINDS[kind]
    _, result, _ = written({"x": array}, compress="small")
    stored = result.sections["x"][1]
    assert stored <= of_blosc2(array) + 0.01 * array.nbytes


def methods_of(array, profile):
    (method,) = choose_methods(container.flatten({"x": array}).storages, profile).values()
    return method


@pytest.mark.parametrize(
    ("profile", "packing"), [("small", Packing.ENTROPY), ("fast", Packing.PACKED)]
)
def test_of_weights_only_the_plane_of_the_exponent_is_packed(profile, packing):
    method = methods_of(KINDS["weights"], profile)
    assert method.filter == Filter.NONE
    assert method.planes == (Packing.RAW, Packing.RAW, Packing.RAW, packing)


def test_text_is_searched_for_what_repeats():
    assert methods_of(KINDS["text"], "small").planes == (Packing.ZSTD,)
    assert methods_of(KINDS["text"], "fast").planes == (Packing.LZ4,)


def test_storages_that_begin_alike_and_go_on_otherwise_are_both_kept():
    """What begins as an earlier storage does is compared with it whole before it is written."""
    first = weights(600_000, 3)
    other = first.clone()
    other[-1] += 1
    state = {"a": first, "b": other, "c": first.clone(), "d": other.clone()}
    file, result, _ = written(state, compress="fast")
    with Reader(file) as reader:
        assert [storage.same_as for storage in reader.index.storages] == [None, None, 0, 1]
        found = reader.load()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert result.hashes[0] == result.hashes[2] != result.hashes[1] == result.hashes[3]
