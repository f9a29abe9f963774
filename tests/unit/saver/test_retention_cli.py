"""What stays and what goes, and what a store holds, as the commands say it."""

import json

import pytest
import torch
from click.testing import CliRunner

import penstock
from penstock.cli import penstock as command
from penstock.container import Base, Reader
from penstock.errors import InvalidInput, NotFound


@pytest.fixture
def target(tmp_path):
    target = f"file://{tmp_path}/store"
    with penstock.open_checkpoints(target) as client:
        for step, loss in ((1, 0.5), (2, 0.1), (3, 0.9), (4, 0.7)):
            state = {"model": {"w": torch.zeros(1000) + step}, "step": step}
            client.save(state, "arm", step, metrics={"loss": loss})
    return target


def typed(*words, code=0):
    done = CliRunner().invoke(command, ["checkpoints", *words])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def steps(target):
    with penstock.open_checkpoints(target) as client:
        return [info.step for info in client.list("arm")]


def rows(text):
    """The cells of the lines of a table."""
    return [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in text.splitlines()
        if line.startswith("│")
    ]


def test_gc_removes_what_no_rule_keeps_and_says_why_the_rest_stays(target):
    options = ("--keep-last", "1", "--keep-best", "loss:1")
    said = typed("gc", target, "arm", *options, "--dry-run")
    assert [row[:3] for row in rows(said)] == [
        ["arm", "1", "would be removed"],
        ["arm", "2", "kept"],
        ["arm", "3", "would be removed"],
        ["arm", "4", "kept"],
    ]
    assert [row[4] for row in rows(said)] == [
        "no rule keeps it",
        "best loss",
        "no rule keeps it",
        "last 1",
    ]
    assert "2 would be removed, 2 kept" in said
    assert steps(target) == [1, 2, 3, 4]
    said = typed("gc", target, "arm", *options)
    assert "2 removed, 2 kept" in said
    freed = int(said.splitlines()[-1].split(", ")[2].split()[0])
    assert freed > 100
    assert steps(target) == [2, 4]


def test_gc_of_all_runs_and_the_highest_of_a_metric(target):
    said = typed("gc", target, "--keep-best", "loss:1:max")
    assert [row[1] for row in rows(said) if row[2] == "kept"] == ["3"]
    assert steps(target) == [3]


def test_pinned_checkpoint_stays_until_it_is_let_go(target):
    assert "arm/1 pinned" in typed("pin", target, "arm", "1")
    assert "pinned" in rows(typed("list", target, "arm"))[0]
    typed("gc", target, "arm", "--keep-last", "1")
    assert steps(target) == [1, 4]
    assert "arm/1 unpinned" in typed("unpin", target, "arm", "1")
    typed("gc", target, "arm", "--keep-last", "1")
    assert steps(target) == [4]


def test_gc_without_rules_and_with_rules_that_are_none_is_refused(target):
    for words in ((), ("--keep-best", "loss:many")):
        done = CliRunner().invoke(command, ["checkpoints", "gc", target, "arm", *words])
        assert isinstance(done.exception, InvalidInput)
    assert steps(target) == [1, 2, 3, 4]


def test_pin_of_what_is_not_there_is_refused(target):
    done = CliRunner().invoke(command, ["checkpoints", "pin", target, "arm", "77"])
    assert isinstance(done.exception, NotFound)


@pytest.mark.parametrize("name", ["gc", "pin", "unpin", "diff"])
def test_help_ends_with_an_example(name):
    lines = typed(name, "--help").splitlines()
    assert any(line.startswith(f"    penstock checkpoints {name} ") for line in lines)


def test_list_and_show_speak_json(target):
    runs = json.loads(typed("list", target, "--json"))
    assert [(run["name"], run["checkpoints"], run["latest_step"]) for run in runs] == [
        ("arm", 4, 4)
    ]
    typed("pin", target, "arm", "2")
    listed = json.loads(typed("list", target, "arm", "--json"))
    assert [info["step"] for info in listed] == [1, 2, 3, 4]
    assert [info["pinned"] for info in listed] == [False, True, False, False]
    assert [info["base_step"] for info in listed] == [None] * 4
    assert listed[1]["metrics"] == {"loss": 0.1}
    shown = json.loads(typed("show", target, "arm", "--step", "2", "--json"))
    assert shown["tensors"] == [
        {"path": "model.w", "kind": "torch", "dtype": "float32", "shape": [1000]}
    ]
    (section,) = shown["sections"]
    assert (section["name"], section["raw_bytes"]) == ("model", 4000)
    assert section["saved_percent"] == 100 * (1 - section["stored_bytes"] / 4000)


def test_metrics_that_are_no_numbers_are_still_json(target):
    with penstock.open_checkpoints(target) as client:
        client.save({"x": 1}, "odd", 1, metrics={"loss": float("nan")})
    assert json.loads(typed("list", target, "odd", "--json"))[0]["metrics"] == {"loss": "nan"}


def trained():
    """A layer of 100 x 100 and 100 floats; as Adam's state: two moments of it, two counters."""
    shapes, chooser = ((100, 100), (100,)), torch.Generator().manual_seed(1)

    def moments(shape):
        values = torch.randn(shape, generator=chooser) * 1e-3
        return {"step": torch.tensor(1.0), "exp_avg": values, "exp_avg_sq": values**2}

    model = {str(shape): torch.randn(shape, generator=chooser) for shape in shapes}
    state = {number: moments(shape) for number, shape in enumerate(shapes)}
    return {"model": model, "optimizer": {"state": state, "param_groups": [{"lr": 1e-3}]}}


def test_show_tells_what_each_section_takes_and_how_it_is_stored(tmp_path):
    target = f"file://{tmp_path}/store"
    with penstock.open_checkpoints(target) as client:
        client.save(trained(), "small", 1)
        client.save(trained(), "none", 1, compress="none")
    small = {row[0]: row[1:] for row in rows(typed("show", target, "small"))}
    assert [small[name][0] for name in ("model", "optimizer.exp_avg", "optimizer.step")] == [
        "40400",
        "40400",
        "8",
    ]
    assert small["all"][0] == str(3 * 40400 + 8)
    assert "zstd" in small["optimizer.exp_avg"][3]
    raw, stored = map(int, small["model"][:2])
    assert small["model"][2] == f"{100 * (1 - stored / raw):.1f} %"
    none = {row[0]: row[1:] for row in rows(typed("show", target, "none"))}
    assert none["model"] == ["40400", "40400", "0.0 %", "as it is"]


def test_show_says_base_and_last_check(target):
    said = typed("show", target, "arm", "--step", "1")
    assert "base: none, it is whole in itself" in said
    assert "verified: 20" in said


@pytest.fixture
def on_a_base(tmp_path):
    """A run whose second checkpoint refers to its first."""
    target = f"file://{tmp_path}/based"
    state = {"w": torch.randn(300_000), "n": 1}
    with penstock.open_checkpoints(target) as client, (tmp_path / "first").open("w+b") as first:
        written = client.write_state(state, first, "arm", 1)
        client.send_file(first, written, "arm", 1)
        base = Base(written.ref(1), first, written.hashes)
        state = {"w": state["w"] * 1.0001, "n": 2}
        with (tmp_path / "second").open("w+b") as second:
            written = client.write_state(state, second, "arm", 2, compress="delta", base=base)
            client.send_file(second, written, "arm", 2)
    return target, state


def test_get_of_one_that_has_a_base_writes_it_whole_and_says_so(on_a_base, tmp_path):
    target, state = on_a_base
    said = typed("get", target, "arm", f"{tmp_path}/whole.pstk", "--step", "2")
    assert "arm/2 is stored as what differs from arm/1" in said
    assert f"{tmp_path}/whole.pstk holds it whole" in said
    with Reader(tmp_path / "whole.pstk") as reader:
        assert reader.index.base is None
        assert reader.meta["step"] == "2"
        assert torch.equal(reader.load()["w"], state["w"])
    assert "differs" not in typed("get", target, "arm", f"{tmp_path}/a.pstk", "--step", "1")


def test_show_list_and_diff_know_the_base(on_a_base):
    target, _ = on_a_base
    assert [row[5] for row in rows(typed("list", target, "arm"))] == ["", "1"]
    said = typed("show", target, "arm", "--step", "2")
    assert "base: 1" in said
    assert "difference to base, byte planes, zstd" in said
    said = typed("diff", target, "arm", "1", "2", code=1)
    assert "state['w']" in said
    assert "state['n']" in said
