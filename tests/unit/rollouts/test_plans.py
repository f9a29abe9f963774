"""The decision, by numbers worked out by hand.

One group of 100 MB (95 pieces of 1 MiB). The link takes 100 MB/s unless said otherwise.
"""

import pytest

from penstock.rollouts.advising.plans import Cost, Group, Link, choose, plans_for

MB = 10**6
LINK = Link(100 * MB)


def group(name, raw_mb, *, plain=(0.0, 0.0), lz4, raw=None, zstd=None, fields=None):
    """A group; costs as (MB, encode_s, decode_s), of plain (encode_s, decode_s)."""
    costs = {"plain": Cost(raw_mb * MB, *plain), "lz4": Cost(lz4[0] * MB, *lz4[1:])}
    costs["raw"] = costs["plain"] if raw is None else Cost(raw[0] * MB, *raw[1:])
    if zstd is not None:
        costs["zstd"] = Cost(zstd[0] * MB, *zstd[1:])
    return Group(fields or (name,), raw_mb * MB, costs)


def seconds(plans):
    return {name: round(plan.seconds, 4) for name, plan in plans.items()}


def test_slowest_stage_sets_the_pace_and_a_piece_of_the_others_is_added():
    # 10.48576 MB are 10 pieces. Sending: 0.0524288 s of 5.24288 MB; encoding 0.2 s; decoding 0.1 s.
    plans = plans_for([group("x", 10.48576, lz4=(5.24288, 0.2, 0.1))], LINK)
    assert plans["full"].seconds == pytest.approx(0.2 + (0.0524288 + 0.1) / 10)
    assert plans["full"].slowest == "encoding"
    assert plans["none"].seconds == pytest.approx(0.1048576)
    assert plans["none"].slowest == "sending"


def test_threads_divide_encoding_and_decoding_but_not_sending():
    plans = plans_for([group("x", 10.48576, lz4=(5.24288, 0.2, 0.1))], LINK, threads=4)
    # 0.05 s encoding and 0.025 s decoding; sending is the slowest now.
    assert plans["full"].seconds == pytest.approx(0.0524288 + 0.075 / 10)
    assert plans["full"].slowest == "sending"


def test_latency_of_a_push_is_in_every_plan():
    slow = plans_for([group("x", 100, lz4=(25, 0.1, 0.1))], Link(100 * MB, 0.5))
    fast = plans_for([group("x", 100, lz4=(25, 0.1, 0.1))], LINK)
    assert slow["none"].seconds - fast["none"].seconds == pytest.approx(0.5)
    assert slow["full"].seconds - fast["full"].seconds == pytest.approx(0.5)


def test_full_is_chosen_where_the_link_is_slow():
    # Raw 1 s; LZ4 0.25 s to send and 0.2 s to encode.
    plans = plans_for([group("x", 100, lz4=(25, 0.2, 0.1))], LINK)
    assert choose(plans) == "full"
    assert plans["full"].encoding.codec == "lz4"
    assert plans["full"].encoding.only is None


def test_none_is_chosen_where_encoding_takes_longer_than_sending_raw():
    # At 1.25 GB/s raw takes 0.08 s, encoding alone 0.2 s.
    plans = plans_for([group("x", 100, lz4=(25, 0.2, 0.1))], Link(1250 * MB))
    assert choose(plans) == "none"
    assert plans["none"].encoding.codec == "raw"
    assert not plans["none"].encoding.rebuild_next


def test_selective_takes_the_fields_that_pay_and_leaves_the_others():
    lidar = group("lidar", 80, lz4=(8, 0.1, 0.05), fields=("lidar", "next/lidar"))
    noise = group("noise", 20, lz4=(20, 0.6, 0.05))
    plans = plans_for([noise, lidar], LINK)
    # None 1 s; full 0.6 + 0.1 s of encoding; lidar alone 0.28 s of sending, 0.1 s of encoding.
    assert choose(plans) == "selective"
    chosen = plans["selective"]
    assert chosen.encoding.only == ("lidar", "next/lidar")
    assert chosen.size_bytes == 28 * MB
    assert chosen.seconds == pytest.approx(0.28 + (0.1 + 0.05) / (100 * MB / 2**20))


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
    # At 10 MB/s: LZ4 2.5 s, zstd 2 s. At 100 MB/s: LZ4 0.25 s, zstd 0.4 s.
    assert choose(plans_for(groups, Link(10 * MB))) == "full-zstd"
    assert choose(plans_for(groups, LINK)) == "full"


def test_nothing_is_encoded_where_sending_is_not_what_takes_the_time():
    # Raw takes 0.3 s to decode and 0.1 s to send; that LZ4 decodes in 0.2 s is noise.
    plans = plans_for([group("x", 100, plain=(0.1, 0.3), lz4=(25, 0.1, 0.2))], Link(1000 * MB))
    assert plans["full"].seconds < 0.9 * plans["none"].seconds
    assert choose(plans) == "none"
    assert choose(plans, "full") == "none"


def plans_of(**seconds):
    """Plans that take so many seconds: all sending, nothing else."""
    made = plans_for([group("x", 1, lz4=(1, 0, 0), zstd=(1, 0, 0))], Link(MB))
    from dataclasses import replace

    names = {"none": "none", "full": "full", "zstd": "full-zstd", "selective": "selective"}
    return {
        names[key]: replace(made["none"], name=names[key], seconds=value)
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
    link = Link(gbit_per_s * 125 * MB)
    groups = [
        group("x", 20, lz4=(4, encode_s, 0.01), zstd=(3, 2 * encode_s, 0.02)),
        group("y", 7, raw=(4, 0.001, 0.001), lz4=(2, encode_s / 3, 0.003), zstd=(2, encode_s, 0.1)),
    ]
    plans = plans_for(groups, link)
    assert plans[choose(plans, current)].seconds <= 1.05 * plans["none"].seconds
