"""Advice on real rollouts: what is measured, when, and what happens when it was wrong."""

import re

import numpy as np
import pytest

from penstock.errors import InvalidInput
from penstock.rollout_file import Encoding, flatten
from penstock.rollouts import Advisor, advise, open_rollouts
from penstock.rollouts.advising import advisor as advisor_module
from penstock.rollouts.advising.costs import measure, sample
from penstock.rollouts.advising.link import PROBE_STREAM, link_of, measure_link
from penstock.rollouts.advising.plans import PULL_S_PER_BYTE, Cost, Group, Link

DICE = np.random.default_rng(0)


def rollout(envs=64, steps=16):
    """Half of it constant, half of it noise; ``next`` is one step later."""
    state = np.zeros((envs, steps + 1, 24), np.float32)
    noise = DICE.normal(size=(envs, steps, 24)).astype(np.float32)
    return {"state": state[:, :-1], "next": {"state": state[:, 1:]}, "noise": noise}


def test_nothing_is_measured_within_a_process_or_a_host(tmp_path):
    for target, reason in (
        (None, "same process"),
        (f"file://{tmp_path}", "same process"),
        ("file:///dev/shm/rollouts", "shared memory, no codec"),
        ("grpc://127.0.0.1:9", "shared memory, no codec"),
    ):
        advice = advise(rollout(), target)
        assert advice.plan == "none"
        assert advice.encoding == Encoding(codec="raw", rebuild_next=False)
        assert reason in advice.reason
        assert advice.bandwidth_bytes_per_s is None


def test_slow_way_asks_for_encoding_and_the_reason_has_the_numbers():
    advice = advise(rollout(), bandwidth_bytes_per_s=100_000)
    assert advice.plan in {"full", "full-zstd", "selective"}
    assert advice.ratio > 1.9
    assert advice.predicted_s[advice.plan] < 0.6 * advice.predicted_s["none"]
    # 64 x 16 x (24 + 24 + 24) x 4 bytes.
    assert "brings 294.9 kB to" in advice.reason
    assert "at 100.0 kB/s" in advice.reason
    assert re.search(r"instead of 2\.9\d s$", advice.reason)


def test_where_encoding_takes_longer_than_anything_else_the_reason_says_so(known):
    known.link = Link(1e15, pull_s_per_byte=1e-9)
    advice = Advisor(same_host=False).advise(LEAVES)
    # Fetching raw 100 ms; LZ4 300 ms to encode, 100 ms to decode, and a 95th of 25 ms to fetch.
    assert advice.reason.startswith("none: at 1.0 PB/s ")
    assert advice.reason.endswith(" take 100 ms as they are; full would take 400 ms for 25.0 MB")


def test_rollout_of_which_nothing_can_be_left_out_goes_as_it_is_over_any_way():
    noise = {"x": DICE.integers(0, 2**63, (64, 16, 24))}
    assert advise(noise, bandwidth_bytes_per_s=1e6).plan == "none"


def test_fields_are_measured_with_what_is_rebuilt_from_them():
    groups = measure(flatten(rollout()), 2.0, ("plain", "raw", "lz4"))
    assert [group.fields for group in groups] == [("state", "next/state"), ("noise",)]
    assert [group.raw_bytes for group in groups] == [2 * 2 * 98304, 2 * 98304]
    pair, noise = groups
    assert pair.costs["lz4"].size_bytes < 0.1 * pair.raw_bytes
    assert pair.costs["raw"].size_bytes < 0.6 * pair.raw_bytes
    assert noise.costs["lz4"].size_bytes > 0.8 * noise.raw_bytes
    assert noise.costs["raw"] == noise.costs["plain"]


def test_sample_is_spread_over_the_environments():
    leaves = {"x": np.arange(1024)[:, None] * np.ones((1, 4), np.int64)}
    part, scale = sample(leaves, 64)
    chosen = part["x"][:, 0]
    assert scale == 16.0
    assert len(set(chosen.tolist())) == 64
    assert chosen[0] == 0
    assert chosen[-1] == 1023
    assert np.diff(chosen)[:7].tolist() == [1] * 7
    whole, scale = sample(leaves, 2000)
    assert whole["x"] is leaves["x"]
    assert scale == 1.0


def test_way_is_measured_by_pushes_that_leave_nothing(target):
    with open_rollouts(target) as client:
        link = measure_link(client, 4 << 20)
        assert link.bytes_per_s > 0
        assert link.latency_s >= 0
        assert 0 < link.pull_s_per_byte <= PULL_S_PER_BYTE
        assert list(client.list(PROBE_STREAM)) == []
        assert [state.name for state in client.streams()] == [PROBE_STREAM]


def test_speed_and_latency_follow_from_two_sizes():
    # 1 MB takes 30 ms, 11 MB take 130 ms: 10 MB in 100 ms, and 20 ms before anything moves.
    times = [(10**6, 0.03), (5 * 10**6, 0.5), (11 * 10**6, 0.2), (11 * 10**6, 0.13)]
    assert link_of([*times, (11 * 10**6, 0.4)]) == Link(pytest.approx(1e8), pytest.approx(0.02))
    # Noise: more took less. Latency is then unknown.
    assert link_of([(10**6, 0.03), (2 * 10**6, 0.02)]) == Link(pytest.approx(1e8), 0.0)


def test_advice_over_a_way_that_is_measured(target):
    with open_rollouts(target) as client, Advisor(client, same_host=False) as advisor:
        advice = advisor.advise(flatten(rollout()))
        assert advice.bandwidth_bytes_per_s > 0
        best = min(advice.predicted_s.values())
        assert 0.9 * advice.predicted_s[advice.plan] <= best
        assert advisor.advice == advice
        assert advisor.counts["measured"] == 1
        assert list(client.list(PROBE_STREAM)) == []


@pytest.fixture
def known(monkeypatch):
    """Costs and a link that tests set; the calls are counted. Trainers fetch 1 GB/s."""

    class Known:
        link = Link(100e6, pull_s_per_byte=1e-9)
        groups = (
            Group(
                ("x",),
                100_000_000,
                {
                    "plain": Cost(100e6, 0, 0),
                    "raw": Cost(100e6, 0, 0),
                    "lz4": Cost(25e6, 0.3, 0.1),
                },
            ),
        )
        measured = 0

    def link(self, raw_bytes):
        Known.measured += 1
        return Known.link

    monkeypatch.setattr(Advisor, "_link", link)
    monkeypatch.setattr(advisor_module.costs, "measure", lambda *_: list(Known.groups))
    return Known


LEAVES = {"x": np.zeros((8, 4), np.float32)}


def test_measured_again_every_so_many_rollouts(known):
    advisor = Advisor(every=10, same_host=False)
    for _ in range(31):
        assert advisor.encoding(LEAVES) == Encoding()
    assert known.measured == 4
    assert advisor.counts["measured"] == 4
    assert advisor.counts["changed"] == 1


def test_plan_is_kept_while_the_gain_is_small_and_left_when_it_costs(known):
    advisor = Advisor(every=1, same_host=False)
    assert advisor.advise(LEAVES).plan == "full"

    def raw_takes(seconds):
        """All but 0.1 s of it to send."""
        known.link = Link(100e6 / (seconds - 0.1), pull_s_per_byte=1e-9)

    # LZ4 takes 0.401 s: 0.3 s to encode, 0.1 s to decode, and a piece each to send and to fetch.
    raw_takes(0.39)
    assert advisor.advise(LEAVES).plan == "full"
    raw_takes(0.37)
    assert advisor.advise(LEAVES).plan == "none"
    # And not taken up again for 8 %.
    raw_takes(0.435)
    assert advisor.advise(LEAVES).plan == "none"
    raw_takes(0.46)
    assert advisor.advise(LEAVES).plan == "full"
    assert advisor.counts["changed"] == 3


def test_plan_that_turns_out_slower_than_raw_is_given_up(known, caplog):
    advisor = Advisor(every=100, same_host=False)
    assert advisor.advise(LEAVES).plan == "full"
    # Raw takes 1 s and 0.1 s; LZ4 needs 0.1 s to decode. So it may take 1.05 * 1.1 - 0.1 s.
    for seconds in (1.06, 1.06, 1.05, 1.06, 1.06):
        advisor.note(seconds)
        assert advisor.advice.plan == "full"
    advisor.note(1.06)
    assert advisor.advice.plan == "none"
    assert advisor.encoding(LEAVES) == Encoding(codec="raw", rebuild_next=False)
    assert advisor.counts["given_up"] == 1
    assert "3 times in a row" in caplog.text


def test_notes_on_raw_pushes_change_nothing(tmp_path):
    advisor = Advisor(f"file://{tmp_path}")
    advisor.advise(LEAVES)
    for _ in range(10):
        advisor.note(1000.0)
    assert advisor.counts == {}


@pytest.mark.parametrize(
    "wrong", [{"every": 0}, {"threads": 0}, {"sample_envs": 0}, {"bandwidth_bytes_per_s": 0}]
)
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Advisor(**wrong)


def test_no_way_to_measure_is_told():
    with pytest.raises(InvalidInput, match="without a target"):
        Advisor(same_host=False).advise(LEAVES)
