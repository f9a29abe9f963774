from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from penstock.checkpoints import check_tag
from penstock.errors import InvalidInput, NotFound
from penstock.monitor import PerformanceMonitor, format_checkpoint_name
from penstock.monitor_metrics import export_prometheus


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=50),
    st.integers(1, 60),
)
def test_statistics_are_of_the_window_and_counts_of_everything(
    times: list[float], window: int
) -> None:
    monitor = PerformanceMonitor(window)
    for seconds in times:
        monitor.record("step", seconds)
    found, kept = monitor.get_stats("step"), np.array(times[-window:])
    assert found["count"] == len(times)
    assert found["total"] == pytest.approx(sum(times))
    assert found["mean"] == pytest.approx(kept.mean())
    assert found["std"] == pytest.approx(kept.std(), abs=1e-6)
    assert (found["min"], found["max"]) == (kept.min(), kept.max())
    for name, share in (("p50", 50), ("p95", 95), ("p99", 99)):
        assert found[name] == pytest.approx(np.percentile(kept, share))  # type: ignore[literal-required]


def test_a_block_is_timed_even_when_it_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = PerformanceMonitor()
    clock = iter([10.0, 12.5])
    monkeypatch.setattr("penstock.monitor.time.perf_counter", lambda: next(clock))

    def fail() -> None:
        with monitor.timer("step"):
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert monitor.get_stats("step")["min"] == 2.5


def test_a_function_can_be_timed() -> None:
    monitor = PerformanceMonitor()

    @monitor.timer("double")
    def double(value: int) -> int:
        return 2 * value

    assert [double(1), double(2)] == [2, 4]
    assert monitor.get_stats("double")["count"] == 2


def test_work_that_goes_on_is_waited_for() -> None:
    waited: list[None] = []
    monitor = PerformanceMonitor(synchronize=lambda: waited.append(None))
    with monitor.timer("step"):
        assert len(waited) == 1
    assert len(waited) == 2


def test_threads_may_share_a_timer() -> None:
    monitor = PerformanceMonitor()

    def work() -> None:
        for _ in range(500):
            monitor.record("step", 1.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert monitor.get_stats("step")["count"] == monitor.get_stats("step")["total"] == 2000


def test_an_unknown_timer_is_named_with_those_there_are() -> None:
    monitor = PerformanceMonitor()
    with pytest.raises(NotFound, match="'stpe' has measured nothing: there are none"):
        monitor.get_stats("stpe")
    monitor.record("step", 1.0)
    with pytest.raises(NotFound, match="there are step"):
        monitor.get_stats("stpe")
    monitor.reset()
    assert monitor.get_summary() == {}


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_what_is_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidInput, match="no time that passed"):
        PerformanceMonitor().record("step", seconds)
    with pytest.raises(InvalidInput, match="window=0"):
        PerformanceMonitor(window=0)


def test_curves_and_scrapes_hold_the_statistics() -> None:
    class Board:
        def __init__(self) -> None:
            self.points: dict[str, tuple[float, int]] = {}

        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            self.points[tag] = scalar_value, global_step

    monitor, board, registry = PerformanceMonitor(), Board(), CollectorRegistry()
    export_prometheus(monitor, registry)
    for seconds in (1.0, 2.0, 3.0):
        monitor.record("step", seconds)
    assert monitor.scalars()["time/step/mean"] == 2.0
    monitor.write_scalars(board, 7, prefix="t/")
    assert board.points["t/step/p99"] == (pytest.approx(2.98), 7)
    text = generate_latest(registry).decode()
    assert 'penstock_timer_seconds{quantile="0.5",timer="step"} 2.0' in text
    assert 'penstock_timer_seconds_count{timer="step"} 3.0' in text
    assert 'penstock_timer_seconds_sum{timer="step"} 6.0' in text
    assert "step" in str(monitor)
    assert "2000.000" in str(monitor)


def test_names_of_checkpoints_sort_by_step_and_are_tags() -> None:
    names = [
        format_checkpoint_name("LAPO, two arms", step, metrics={"loss": 0.125, "reward": -7.26})
        for step in (2, 10, 1200)
    ]
    assert names == sorted(names)
    assert names[2] == "LAPO-two-arms_step00001200_loss0.125_reward-7.26"
    for name in names:
        check_tag(name)
    check_tag(format_checkpoint_name("_.hidden", 0))
    with pytest.raises(InvalidInput, match="step -1"):
        format_checkpoint_name("a", -1)
    with pytest.raises(InvalidInput, match="at most 128"):
        format_checkpoint_name("a" * 200, 1)
