"""Quotas: what is refused before it is sent, and what counts."""

import pytest
from penstock_checkpointer.metrics import StoreCollector
from penstock_checkpointer.settings import CheckpointerSettings
from penstock_checkpointer.staging import StoreLimits
from penstock_checkpointer.store import Store

from penstock.errors import LimitExceeded


@pytest.fixture
def limited(root, content):
    """Open a store that holds so many checkpoints of ``state`` per run, or in all."""
    opened = []

    def limited(*, of_run=0, in_all=0):
        size = len(content({"x": 1}).data)
        limits = StoreLimits(run_bytes=of_run * size, store_bytes=in_all * size)
        opened.append(Store(root, limits))
        return opened[-1]

    yield limited
    for store in opened:
        store.close()


def test_run_beyond_its_quota_is_refused_and_others_are_not(limited, save, content):
    store = limited(of_run=2)
    save({"x": 1}, step=1, into=store)
    save({"x": 2}, step=2, into=store)
    with pytest.raises(LimitExceeded, match=r"run 'run' holds .* raise --max-run-bytes") as refused:
        store.begin_upload(content({"x": 3}, step=3).request)
    size = len(content({"x": 1}).data)
    assert refused.value.reason == "QUOTA"
    assert refused.value.metadata == {
        "run": "run",
        "size_bytes": str(size),
        "stored_bytes": str(2 * size),
        "promised_bytes": "0",
        "limit_bytes": str(2 * size),
    }
    assert store.counts["uploads_beyond_quota"] == 1
    save({"x": 1}, run="other", into=store)


def test_store_beyond_its_quota_is_refused_for_every_run(limited, save, content):
    store = limited(in_all=2)
    save({"x": 1}, run="a", into=store)
    save({"x": 1}, run="b", into=store)
    with pytest.raises(LimitExceeded, match=r"the store holds .* raise --max-store-bytes"):
        store.begin_upload(content({"x": 1}, run="c").request)


def test_deleting_makes_room(limited, save):
    store = limited(of_run=1)
    save({"x": 1}, step=1, into=store)
    store.delete("run", 1)
    save({"x": 2}, step=2, into=store)


def test_open_upload_counts_with_its_whole_size_until_it_is_aborted(limited, content):
    store = limited(of_run=2)
    first = store.begin_upload(content({"x": 1}, step=1).request)
    offered = {"token": first.fencing_token}
    store.begin_upload(content({"x": 2}, step=2, **offered).request)
    with pytest.raises(LimitExceeded, match="promised to other uploads"):
        store.begin_upload(content({"x": 3}, step=3, **offered).request)
    store.abort(first.upload_id)
    store.begin_upload(content({"x": 3}, step=3, **offered).request)


def test_upload_that_is_taken_up_again_does_not_count_twice(limited, content):
    store = limited(of_run=1)
    offered = content({"x": 1})
    first = store.begin_upload(offered.request)
    store.append(first.upload_id, 0, offered.data[:10])
    again = store.begin_upload(content({"x": 1}, token=first.fencing_token).request)
    assert again.received_bytes == 10


def test_upload_of_a_writer_that_was_taken_over_from_does_not_count(limited, content):
    store = limited(of_run=1, in_all=1)
    store.begin_upload(content({"x": 1}, step=1).request)
    store.begin_upload(content({"x": 2}, step=2).request)


def test_same_content_again_needs_no_room(limited, save):
    store = limited(of_run=1)
    info = save({"x": 1}, into=store)
    assert save({"x": 1}, into=store) == info


def test_metrics_tell_what_is_held_against_the_quota(limited, save, root):
    store = limited(of_run=2, in_all=3)
    size = save({"x": 1}, into=store).size_bytes
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in StoreCollector(store, root).collect()
        for sample in metric.samples
    }
    assert found["penstock_checkpointer_store_bytes",] == size
    assert found["penstock_checkpointer_quota_bytes", "run"] == 2 * size
    assert found["penstock_checkpointer_quota_bytes", "store"] == 3 * size
    assert found["penstock_checkpointer_damaged_checkpoints", "run"] == 0


def test_settings_give_the_quotas(tmp_path):
    settings = CheckpointerSettings(root=tmp_path, max_run_bytes=5, max_store_bytes=7)
    assert settings.store_limits() == StoreLimits(run_bytes=5, store_bytes=7)
