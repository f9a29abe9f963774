"""What is wanted of the figures; whether they reach it is printed and recorded, never a test."""

from __future__ import annotations

from goal import Goal

__all__ = ["GOALS"]

GOALS = (
    Goal("call of `save_async`, p50", "call_ms_p50", 1.0, " ms", at_most=True),
    Goal("call of `save_async`, p99", "call_ms_p99", 3.0, " ms", at_most=True),
    Goal(
        "stall of the next step, p50, as a share of the copy",
        "stall_share",
        0.05,
        "%",
        at_most=True,
    ),
    Goal("DCP's shortest call that copies / call and stall of ours", "dcp_over_ours", 20.0),
    Goal("throughput with saves / without, one thread", "throughput_ratio", 0.95),
    Goal("`small` saves", "saved_small", 0.15, "%"),
    Goal("`small`, one thread", "small_mb_s", 700.0, " MB/s"),
    Goal("`fast` saves", "saved_fast", 0.11, "%"),
    Goal("`fast`, one thread", "fast_mb_s", 2500.0, " MB/s"),
    Goal("`delta` saves, 10 steps after its base", "saved_delta10", 0.30, "%"),
    Goal("`delta` saves, encoder frozen", "saved_frozen", 0.85, "%"),
    Goal("`policy-bf16` saves, policy alone", "saved_policy_bf16", 0.65, "%"),
)
