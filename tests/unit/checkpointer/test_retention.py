"""What retention keeps and why, what it removes, and that nothing needed is ever removed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_checkpointer.settings import CheckpointerSettings
from penstock_checkpointer.store import Store

import penstock
from penstock.checkpoints import CheckpointInfo
from penstock.chunks import Digest
from penstock.errors import InvalidInput, NotFound
from penstock.retention import KeepBest, RetentionPolicy, plan_retention


def checkpoint(step, **fields):
    known = {
        "run": "run",
        "step": step,
        "digest": Digest(10, bytes(16)),
        "raw_size_bytes": 10,
        "created_unix_ms": 0,
        "tags": (),
        "metrics": {},
    }
    return CheckpointInfo(**{**known, **fields})


def run_of(*steps):
    return [checkpoint(step) for step in steps]


def with_losses(*losses):
    """One checkpoint per loss, at steps 0, 1, 2, ..."""
    return [checkpoint(step, metrics={"loss": loss}) for step, loss in enumerate(losses)]


LAST_2 = RetentionPolicy(keep_last=2)


def test_last_are_the_highest_steps_in_whatever_order_they_come():
    assert plan_retention(run_of(30, 10, 20), LAST_2) == {20: ("last 2",), 30: ("last 2",)}


def test_every_keeps_multiples_and_step_zero():
    plan = plan_retention(run_of(0, 50, 100, 150), RetentionPolicy(keep_every=100))
    assert plan == {0: ("every 100",), 100: ("every 100",)}


def test_best_is_the_lowest_unless_higher_is_better():
    losses = with_losses(3.0, 1.0, 2.0)
    lowest = RetentionPolicy(keep_best=(KeepBest("loss", 2),))
    highest = RetentionPolicy(keep_best=(KeepBest("loss", 1, higher_is_better=True),))
    assert list(plan_retention(losses, lowest)) == [1, 2]
    assert plan_retention(losses, highest) == {0: ("best loss",)}


def test_nan_is_never_best_and_infinity_can_be():
    losses = with_losses(math.nan, math.inf, math.nan)
    assert list(plan_retention(losses, RetentionPolicy(keep_best=(KeepBest("loss", 2),)))) == [1]


@pytest.mark.parametrize("higher", [False, True])
def test_of_equal_values_the_newer_step_is_better(higher):
    policy = RetentionPolicy(keep_best=(KeepBest("loss", 2, higher),))
    assert list(plan_retention(with_losses(0.5, 0.5, 0.5), policy)) == [1, 2]


def test_checkpoint_without_the_metric_does_not_compete():
    run = [checkpoint(1, metrics={"loss": 9.0}), checkpoint(2), checkpoint(3, metrics={"x": 0.0})]
    assert list(plan_retention(run, RetentionPolicy(keep_best=(KeepBest("loss", 3),)))) == [1]


def test_rules_are_united_and_all_reasons_are_told():
    run = [checkpoint(0), checkpoint(5, pinned=True, tags=("best", "final")), checkpoint(10)]
    assert plan_retention(run, RetentionPolicy(keep_last=1, keep_every=5)) == {
        0: ("every 5",),
        5: ("every 5", "pinned", "tagged best", "tagged final"),
        10: ("last 1", "every 5"),
    }


def test_base_of_what_is_kept_is_kept():
    run = [checkpoint(100), checkpoint(110, base_step=100), checkpoint(120, base_step=100)]
    assert plan_retention(run, RetentionPolicy(keep_last=1)) == {
        100: ("base of 120",),
        120: ("last 1",),
    }


def test_damaged_one_takes_no_place_and_its_reason_says_so():
    run = [checkpoint(1), checkpoint(2), checkpoint(3, damaged=True), checkpoint(4)]
    assert plan_retention(run, LAST_2) == {
        2: ("last 2",),
        3: ("last 2, damaged and not counted",),
        4: ("last 2",),
    }


def test_damaged_best_takes_no_place():
    run = [*with_losses(2.0, 3.0), checkpoint(9, metrics={"loss": 1.0}, damaged=True)]
    assert plan_retention(run, RetentionPolicy(keep_best=(KeepBest("loss"),))) == {
        0: ("best loss",),
        9: ("best loss, damaged and not counted",),
    }


@pytest.mark.parametrize("base", [[], [checkpoint(1, damaged=True)]], ids=["gone", "damaged"])
def test_one_whose_base_is_damaged_or_gone_takes_no_place(base):
    run = [*base, checkpoint(2), checkpoint(3), checkpoint(4, base_step=1)]
    plan = plan_retention(run, LAST_2)
    assert [step for step in plan if step != 1] == [2, 3, 4]
    assert plan[4] == ("last 2, damaged and not counted",)


def test_damaged_one_that_no_rule_would_have_kept_goes():
    run = [checkpoint(1, damaged=True), checkpoint(2), checkpoint(3)]
    assert list(plan_retention(run, LAST_2)) == [2, 3]


def test_policy_without_rules_is_refused():
    with pytest.raises(InvalidInput, match="keeps nothing: give keep_last"):
        plan_retention(run_of(1), RetentionPolicy())


@pytest.mark.parametrize(
    "make",
    [
        lambda: RetentionPolicy(keep_last=-1),
        lambda: RetentionPolicy(keep_every=1 << 63),
        lambda: KeepBest("loss", 0),
        lambda: KeepBest(""),
    ],
)
def test_rule_that_is_none_is_refused(make):
    with pytest.raises(InvalidInput, match="keep_"):
        make()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("val_loss", KeepBest("val_loss", 1)),
        ("val_loss:3", KeepBest("val_loss", 3)),
        (" return:3:max", KeepBest("return", 3, higher_is_better=True)),
        ("eval/loss:2:min", KeepBest("eval/loss", 2)),
        ("return:max", KeepBest("return", 1, higher_is_better=True)),
    ],
)
def test_best_rule_is_read_from_text(text, rule):
    assert KeepBest.parse(text) == rule


@pytest.mark.parametrize("text", ["loss:x", "loss:", "loss:3:up", ":3", "loss:0", ""])
def test_text_that_is_no_rule_is_refused(text):
    with pytest.raises(InvalidInput) as refused:
        KeepBest.parse(text)
    assert refused.value.field == "keep_best"


# Properties ---------------------------------------------------------------------------------------

numbers = st.sampled_from([0.0, 0.5, 1.0, math.inf, -math.inf, math.nan])


@st.composite
def runs(draw):
    """A run as the store allows it: bases are whole, and there is at most one of each step."""
    steps = sorted(draw(st.sets(st.integers(0, 60), max_size=14)))
    whole = [step for step in steps if draw(st.booleans())]
    return [
        checkpoint(
            step,
            base_step=None if step in whole or not whole else draw(st.sampled_from(whole)),
            pinned=draw(st.integers(0, 5)) == 0,
            tags=("best",) if draw(st.integers(0, 5)) == 0 else (),
            damaged=draw(st.integers(0, 3)) == 0,
            metrics={"loss": draw(numbers)} if draw(st.booleans()) else {},
        )
        for step in steps
    ]


policies = st.builds(
    RetentionPolicy,
    keep_last=st.integers(0, 4),
    keep_every=st.integers(0, 7),
    keep_best=st.lists(
        st.builds(KeepBest, st.just("loss"), st.integers(1, 3), st.booleans()), max_size=2
    ).map(tuple),
).filter(bool)


def usable(run):
    damaged = {info.step for info in run if info.damaged}
    there = {info.step for info in run}
    return [
        info
        for info in run
        if not info.damaged and (info.base_step is None or (info.base_step in there - damaged))
    ]


@given(runs(), policies)
def test_what_is_kept_can_be_read_and_what_is_pinned_or_tagged_is_kept(run, policy):
    plan = plan_retention(run, policy)
    for info in run:
        if info.step in plan and info.base_step is not None:
            assert info.base_step in plan
        if info.pinned or info.tags:
            assert info.step in plan
    assert set(plan) <= {info.step for info in run}
    assert all(plan.values())


@given(runs(), policies)
def test_as_many_intact_ones_stay_as_a_rule_says_whatever_is_damaged(run, policy):
    plan = plan_retention(run, policy)
    intact = [info.step for info in usable(run)]
    assert set(intact[len(intact) - policy.keep_last :] if policy.keep_last else []) <= set(plan)
    for rule in policy.keep_best:
        sign = -1 if rule.higher_is_better else 1
        ranked = sorted(
            (sign * info.metrics["loss"], -info.step)
            for info in usable(run)
            if not math.isnan(info.metrics.get("loss", math.nan))
        )
        assert {-step for _, step in ranked[: rule.count]} <= set(plan)


@given(runs(), policies)
def test_collecting_again_removes_nothing_more(run, policy):
    plan = plan_retention(run, policy)
    left = [info for info in run if info.step in plan]
    assert set(plan_retention(left, policy)) == set(plan)


@given(runs(), policies, st.integers(1, 3))
def test_another_rule_only_ever_keeps_more(run, policy, count):
    wider = RetentionPolicy(
        keep_last=policy.keep_last,
        keep_every=policy.keep_every,
        keep_best=(*policy.keep_best, KeepBest("loss", count)),
    )
    assert set(plan_retention(run, policy)) <= set(plan_retention(run, wider))


# In a store ---------------------------------------------------------------------------------------


def steps_of(store, run="run"):
    return [info.step for info in store.list(run)]


@pytest.fixture
def filled(store, save):
    """A store with steps 1 to 5 of a run and step 1 of another."""
    for step in range(1, 6):
        save({"x": step}, step=step, metrics={"loss": float(step)})
    save({"x": 0}, run="other")
    return store


def test_dry_run_removes_nothing_and_says_what_would_go(filled):
    found = filled.collect("run", LAST_2, dry_run=True)
    assert [info.step for info in found.removed] == [1, 2, 3]
    assert found.kept == (("run", 4, ("last 2",)), ("run", 5, ("last 2",)))
    assert found.freed_bytes == sum(info.size_bytes for info in filled.list("run")[:3])
    assert steps_of(filled) == [1, 2, 3, 4, 5]


def test_collected_checkpoints_are_gone_also_after_a_restart(filled, root):
    foretold = filled.collect("run", LAST_2, dry_run=True)
    assert filled.collect("run", LAST_2, dry_run=False) == foretold
    assert filled.counts["retention_removed"] == 3
    reopened = Store(root)
    assert steps_of(reopened) == [4, 5]
    reopened.close()
    assert len(list((root / "runs" / "run").iterdir())) == 4
    assert steps_of(filled, "other") == [1]


def test_all_runs_are_collected_when_none_is_named(filled, save):
    save({"x": 2}, run="other", step=2)
    found = filled.collect(None, RetentionPolicy(keep_last=1), dry_run=False)
    assert {(info.run, info.step) for info in found.removed} == {
        ("other", 1),
        *(("run", step) for step in range(1, 5)),
    }


def test_collecting_what_is_not_there_or_by_nothing_is_refused(filled):
    with pytest.raises(NotFound, match="no run 'nope'"):
        filled.collect("nope", LAST_2, dry_run=True)
    with pytest.raises(InvalidInput, match="no retention policy of its own: give one"):
        filled.collect("run", None, dry_run=True)
    with pytest.raises(InvalidInput, match="keeps nothing"):
        filled.collect(None, RetentionPolicy(), dry_run=True)


@pytest.fixture
def keeping(root):
    """Open a store with a policy of its own."""
    opened = []

    def keeping(**rules):
        opened.append(Store(root, policy=RetentionPolicy(**rules)))
        return opened[-1]

    yield keeping
    for store in opened:
        store.close()


def test_policy_of_the_store_is_applied_after_each_commit_to_that_run(filled, save, keeping):
    store = keeping(keep_last=2)
    assert steps_of(store) == [1, 2, 3, 4, 5]
    save({"x": 6}, step=6, into=store)
    assert steps_of(store) == [5, 6]
    assert steps_of(store, "other") == [1]
    assert store.collect("run", None, dry_run=True).removed == ()


def test_what_was_just_saved_stays_until_the_next_commit(save, keeping):
    store = keeping(keep_best=(KeepBest("loss"),))
    save({"x": 1}, step=1, metrics={"loss": 1.0}, into=store)
    save({"x": 2}, step=2, metrics={"loss": 2.0}, into=store)
    assert steps_of(store) == [1, 2]
    save({"x": 3}, step=3, metrics={"loss": 3.0}, into=store)
    assert steps_of(store) == [1, 3]


def test_tag_that_moves_frees_the_step_it_was_on(save, keeping):
    store = keeping(keep_last=1)
    save({"x": 1}, step=1, tags=("best",), into=store)
    save({"x": 2}, step=2, into=store)
    assert steps_of(store) == [1, 2]
    save({"x": 2}, step=2, tags=("best",), into=store)
    assert steps_of(store) == [2]


def test_nothing_is_removed_before_the_new_one_is_committed(save, keeping, content):
    store = keeping(keep_last=1)
    save({"x": 1}, step=1, into=store)
    offered = content({"x": 2}, step=2)
    upload = store.begin_upload(offered.request)
    store.append(upload.upload_id, 0, offered.data)
    assert steps_of(store) == [1]
    store.commit(upload.upload_id)
    assert steps_of(store) == [2]


def test_removal_that_fails_is_counted_and_the_commit_stands(save, keeping, monkeypatch):
    store = keeping(keep_last=1)
    save({"x": 1}, step=1, into=store)

    def refuse(_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(store._removal, "_remove_files", refuse)
    assert save({"x": 2}, step=2, into=store).step == 2
    assert steps_of(store) == [1, 2]
    assert store.counts["retention_failures"] == 1
    monkeypatch.undo()
    save({"x": 3}, step=3, into=store)
    assert steps_of(store) == [3]


def test_pin_between_decision_and_removal_is_honoured(filled, monkeypatch):
    plan = penstock.retention.plan_retention

    def pin_late(checkpoints, policy, **options):
        decided = plan(checkpoints, policy, **options)
        if checkpoints:
            filled.pin("run", 1, pinned=True)
        return decided

    monkeypatch.setattr("penstock_checkpointer.removal.plan_retention", pin_late)
    found = filled.collect("run", LAST_2, dry_run=False)
    assert [info.step for info in found.removed] == [2, 3]
    assert ("run", 1, ("changed meanwhile",)) in found.kept
    assert steps_of(filled) == [1, 4, 5]


def test_settings_give_the_policy(tmp_path):
    def policy(**settings):
        return CheckpointerSettings(root=tmp_path, **settings).retention()

    assert policy() is None
    assert policy(keep_last=3, keep_every=1000, keep_best="val_loss:3, return:2:max") == (
        RetentionPolicy(
            keep_last=3,
            keep_every=1000,
            keep_best=(KeepBest("val_loss", 3), KeepBest("return", 2, higher_is_better=True)),
        )
    )
    with pytest.raises(InvalidInput, match="write metric:count"):
        policy(keep_best="loss:many")
