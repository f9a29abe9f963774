"""The decision, by numbers worked out by hand.

One group of 100 MB (95 pieces of 1 MiB). The link takes 100 MB/s unless said otherwise, and a
trainer fetches 1 GB/s.
"""

from dataclasses import replace

import pytest

from penstock.rollouts.advising.plans import Cost, Group, Link, choose, plans_for

MB = 10**6


def link(mb_per_s, latency_s=0.0):
    return Link(mb_per_s * MB, latency_s, pull_s_per_byte=1e-9)


LINK = link(100)


def group(name, raw_mb, *, plain=(0.0, 0.0), lz4, raw=None, zstd=None, fields=None):
    """A group; costs as (MB, encode_s, decode_s), of plain (encode_s, decode_s)."""
    costs = {"plain": Cost(raw_mb * MB, *plain), "lz4": Cost(lz4[0] * MB, *lz4[1:])}
    costs["raw"] = costs["plain"] if raw is None else Cost(raw[0] * MB, *raw[1:])
    if zstd is not None:
        costs["zstd"] = Cost(zstd[0] * MB, *zstd[1:])
    return Group(fields or (name,), raw_mb * MB, costs)


def test_pull_begins_when_the_push_ends_and_the_slower_stage_of_each_sets_its_pace():
    # 10.48576 MB are 10 pieces. 5.24288 MB take 52.4288 ms to send and 5.24288 ms to fetch.
    plans = plans_for([group("x", 10.48576, lz4=(5.24288, 0.2, 0.1))], LINK)
    full = plans["full"]
    assert full.push_s == pytest.approx(0.2 + 0.00524288)
    assert full.pull_s == pytest.approx(0.1 + 0.000524288)
    assert full.seconds == pytest.approx(0.305767168)
    assert not full.waits_for_link
    none = plans["none"]
    assert (none.push_s, none.pull_s) == pytest.approx((0.1048576, 0.01048576))
    assert none.waits_for_link


def test_threads_divide_encoding_and_decoding_but_not_sending():
    plans = plans_for([group("x", 10.48576, lz4=(5.24288, 0.2, 0.1))], LINK, threads=4)
    # 50 ms encoding, 25 ms decoding: less than sending, more than fetching.
    assert plans["full"].push_s == pytest.approx(0.0524288 + 0.005)
    assert plans["full"].pull_s == pytest.approx(0.025 + 0.000524288)
    assert plans["full"].waits_for_link


def test_latency_of_a_push_is_in_every_plan():
    slow = plans_for([group("x", 100, lz4=(25, 0.1, 0.1))], link(100, 0.5))
    fast = plans_for([group("x", 100, lz4=(25, 0.1, 0.1))], LINK)
    assert slow["none"].seconds - fast["none"].seconds == pytest.approx(0.5)
    assert slow["full"].seconds - fast["full"].seconds == pytest.approx(0.5)


def test_full_is_chosen_where_the_link_is_slow():
    # Raw 1 s to send, 0.1 s to fetch; LZ4 0.25 s to send, 0.1 s to decode.
    plans = plans_for([group("x", 100, lz4=(25, 0.2, 0.1))], LINK)
    assert choose(plans) == "full"
    assert plans["full"].encoding.codec == "lz4"
    assert plans["full"].encoding.only is None


def test_none_is_chosen_where_encoding_takes_longer_than_sending_and_fetching_raw():
    # At 1.25 GB/s raw takes 0.08 s and 0.1 s, encoding alone 0.2 s.
    plans = plans_for([group("x", 100, lz4=(25, 0.2, 0.1))], link(1250))
    assert choose(plans) == "none"
    assert plans["none"].encoding.codec == "raw"
    assert not plans["none"].encoding.rebuild_next


def test_selective_takes_the_fields_that_pay_and_leaves_the_others():
    lidar = group("lidar", 80, lz4=(8, 0.1, 0.05), fields=("lidar", "next/lidar"))
    noise = group("noise", 20, lz4=(20, 0.6, 0.05))
    plans = plans_for([noise, lidar], LINK)
    # None 1.1 s; full 0.7 s of encoding and 0.1 s of decoding; lidar alone 0.28 s of sending and
    # 0.05 s of decoding.
    assert choose(plans) == "selective"
    chosen = plans["selective"]
    assert chosen.encoding.only == ("lidar", "next/lidar")
    assert chosen.size_bytes == 28 * MB
    pieces = 100 * MB / 2**20
    assert chosen.push_s == pytest.approx(0.28 + 0.1 / pieces)
    assert chosen.pull_s == pytest.approx(0.05 + 0.028 / pieces)


def test_selective_may_be_leaving_out_what_the_next_step_tells():
    # Half of it is there again one step later: 50 MB at nearly no cost; LZ4 gains nothing more.
    pair = group("x", 100, raw=(50, 0.01, 0.01), lz4=(50, 0.9, 0.3), fields=("x", "next/x"))
    plans = plans_for([pair], LINK)
    assert choose(plans) == "selective"
    assert plans["selective"].encoding.codec == "raw"
    assert plans["selective"].encoding.rebuild_next


def test_there_is_no_selective_plan_of_one_field_that_nothing_is_rebuilt_from():
    assert plans_for([group("x", 100, lz4=(25, 0.2, 0.1))], LINK).keys() == {"none", "full"}


def test_zstd_is_a_plan_where_it_was_measured_and_wins_where_the_link_is_slowest():
    groups = [group("x", 100, lz4=(25, 0.2, 0.1), zstd=(20, 0.4, 0.2))]
    # At 10 MB/s: LZ4 2.5 + 0.1 s, zstd 2 + 0.2 s. At 100 MB/s: LZ4 0.25 + 0.1 s, zstd 0.4 + 0.2 s.
    assert choose(plans_for(groups, link(10))) == "full-zstd"
    assert choose(plans_for(groups, LINK)) == "full"


def test_what_zstd_saves_in_sending_must_be_more_than_it_takes_longer_to_decode():
    groups = [group("x", 100, lz4=(25, 0.1, 0.1), zstd=(20, 0.15, 0.18))]
    # At 100 MB/s zstd saves 50 ms of sending, and takes 80 ms more to decode.
    plans = plans_for(groups, LINK)
    assert plans["full-zstd"].push_s < plans["full"].push_s
    assert choose(plans) == "full"


def test_raw_has_more_to_fetch_also_where_sending_is_free():
    # At 10 GB/s raw takes 0.01 s and 0.1 s; LZ4 takes 0.05 s and 0.04 s.
    plans = plans_for([group("x", 100, lz4=(25, 0.05, 0.04))], link(10_000))
    assert plans["none"].push_s < plans["full"].push_s
    assert choose(plans) == "full"
    # In a trainer that has it at once there is nothing to save.
    near = Link(10_000 * MB, pull_s_per_byte=0)
    assert choose(plans_for([group("x", 100, lz4=(25, 0.05, 0.04))], near)) == "none"


def plans_of(**seconds):
    """Plans that take so many seconds: all to push, nothing else."""
    made = plans_for([group("x", 1, lz4=(1, 0, 0), zstd=(1, 0, 0))], LINK)
    names = {"none": "none", "full": "full", "zstd": "full-zstd", "selective": "selective"}
    return {
        names[key]: replace(made["none"], name=names[key], push_s=value, pull_s=0.0)
        for key, value in seconds.items()
    }


@pytest.mark.parametrize(
    ("current", "seconds", "expected"),
    [
        # At first raw is sent; over 10 % faster it must be.
        (None, {"none": 1.0, "full": 0.91}, "none"),
        (None, {"none": 1.0, "full": 0.89}, "full"),
        # A plan is kept until another is over 10 % faster.
        ("full", {"none": 1.0, "full": 0.80, "zstd": 0.73}, "full"),
        ("full", {"none": 1.0, "full": 0.80, "zstd": 0.71}, "full-zstd"),
        ("full-zstd", {"none": 1.0, "full": 0.80, "zstd": 0.85}, "full-zstd"),
        # Up to 5 % slower than raw is noise; beyond, it is left though raw is not 10 % faster.
        ("full", {"none": 1.0, "full": 1.04}, "full"),
        ("full", {"none": 1.0, "full": 1.06}, "none"),
        ("full", {"none": 1.0, "full": 1.06, "selective": 0.97}, "selective"),
        # A plan that was not measured this time is none.
        ("full-zstd", {"none": 1.0, "full": 0.95}, "none"),
    ],
)
def test_plan_changes_only_for_a_gain_that_is_no_noise(current, seconds, expected):
    assert choose(plans_of(**seconds), current) == expected


@pytest.mark.parametrize("current", [None, "none", "selective", "full", "full-zstd"])
@pytest.mark.parametrize("encode_s", [0.001, 0.01, 0.02, 0.0217, 0.023, 0.05, 0.5])
@pytest.mark.parametrize("gbit_per_s", [10, 25, 100])
def test_fast_link_is_never_slowed_down_by_over_5_percent(current, encode_s, gbit_per_s):
    fast = link(gbit_per_s * 125)
    groups = [
        group("x", 20, lz4=(4, encode_s, 0.01), zstd=(3, 2 * encode_s, 0.02)),
        group("y", 7, raw=(4, 0.001, 0.001), lz4=(2, encode_s / 3, 0.003), zstd=(2, encode_s, 0.1)),
    ]
    plans = plans_for(groups, fast)
    assert plans[choose(plans, current)].seconds <= 1.05 * plans["none"].seconds
