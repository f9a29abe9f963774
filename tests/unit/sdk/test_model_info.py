import pytest

torch = pytest.importorskip("torch")

from penstock.torch import get_model_size, print_model_info  # noqa: E402


def model():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    net[0].bias.requires_grad_(requires_grad=False)
    return net


def test_sizes_are_counted():
    # 12 weights and 4 biases; scale, shift, mean, variance of 4; one int64 counter.
    assert get_model_size(model()) == {
        "parameters": 24,
        "trainable": 20,
        "buffers": 9,
        "bytes": 24 * 4 + 8 * 4 + 8,
    }


def test_what_modules_share_counts_once():
    shared = torch.nn.Linear(3, 4)
    assert get_model_size(torch.nn.ModuleList([shared, shared]))["parameters"] == 16


def test_each_part_is_printed(capsys):
    print_model_info(model(), "policy")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "policy: 24 parameters, 20 trainable, 0.0 MB"
    assert lines[1].startswith("  0 (Linear): 16 parameters, 12 trainable")
    assert len(lines) == 3
