"""What several replicas hold becomes one dataset, whatever their order."""

import itertools

import numpy as np
import pytest

from penstock.dataset import Camera, DataFile, EpisodeTable, Outcome, RefusedFile, describe
from penstock.errors import Corrupt, DataFault
from penstock.moments import Moments
from penstock.union import ReplicaDataset, hold, merge

CAMERAS = (Camera("left", 8, 6),)
EPISODES = {"a": (4, 3), "b": (5,), "c": (2, 2, 2)}


def data_file(file_id, content="", joint_dim=2, cameras=CAMERAS):
    """A file whose moments follow from its name and content."""
    lengths = EPISODES[file_id]
    rng = np.random.default_rng(list((file_id + content).encode()))
    rows = sum(lengths)
    widths = {"joint": joint_dim, "action": 3, "reward": 1}
    return DataFile(
        file_id,
        1000 + rows,
        rows,
        digest=(file_id + content).ljust(16, "-").encode(),
        transitions=rows,
        episodes=len(lengths),
        cameras=cameras,
        moments={name: Moments.of(rng.normal(size=(rows, w))) for name, w in widths.items()},
    )


def table(file_ids):
    lengths = [EPISODES[file_id] for file_id in file_ids]
    return EpisodeTable(
        file=np.repeat(np.arange(len(lengths), dtype=np.int32), [len(part) for part in lengths]),
        first_row=np.concatenate([np.cumsum([0, *part[:-1]]) for part in lengths]).astype(np.int64),
        length=np.concatenate(lengths).astype(np.int32),
        outcome=np.concatenate([[Outcome.TERMINAL] * len(part) for part in lengths]).astype(
            np.uint8
        ),
        split_key=np.concatenate(
            [[ord(name) * 10 + i for i in range(len(EPISODES[name]))] for name in file_ids]
        ).astype(np.uint64),
    )


def replica(name, file_ids, contents=None, refused=(), **form):
    contents = contents or {}
    files = [data_file(file_id, contents.get(file_id, ""), **form) for file_id in sorted(file_ids)]
    info = describe(files, refused, joint_dim=form.get("joint_dim", 2), action_dim=3)
    return ReplicaDataset(name, info, table(sorted(file_ids)))


def assert_equal_datasets(ours, theirs):
    assert ours.version == theirs.version
    assert ours.files == theirs.files
    assert (ours.transitions, ours.episodes) == (theirs.transitions, theirs.episodes)
    for name, column in theirs.statistics.items():
        assert ours.statistics[name].mean.tobytes() == column.mean.tobytes()
        assert ours.statistics[name].std.tobytes() == column.std.tobytes()


@pytest.mark.parametrize("held", [["abc"], ["a", "b", "c"], ["abc", "abc"], ["ab", "bc", "ca"]])
def test_any_distribution_of_files_in_any_order_is_the_dataset_of_all_files(held):
    whole = replica("whole", "abc")
    replicas = [replica(f"r{place}", files) for place, files in enumerate(held)]
    for ordered in itertools.permutations(replicas):
        union = merge(ordered)
        assert_equal_datasets(union.info, whole.info)
        assert union.episodes.split_key.tolist() == [970, 971, 980, 990, 991, 992]
        assert union.episodes.file.tolist() == [0, 0, 1, 2, 2, 2]
        assert union.first_transition.tolist() == [0, 7, 12, 18]
        assert not union.left_out


def test_replica_is_asked_by_its_own_ids():
    union = merge([replica("one", "ab"), replica("two", "ac")])
    assert hold(union, "one", replica("one", "ab").info).first_local.tolist() == [0, 7, -1]
    assert hold(union, "two", replica("two", "ac").info).first_local.tolist() == [0, -1, 7]
    # By hand: file c has the union's ids 12 to 17, and 7 to 12 on the second replica.
    assert union.files_of(np.array([0, 6, 7, 11, 12, 17])).tolist() == [0, 0, 1, 1, 2, 2]


def test_rows_are_located_as_in_the_files():
    located = merge([replica("one", "ab")]).locate(np.array([0, 3, 4, 6, 7, 11]))
    assert located.file.tolist() == [0, 0, 0, 0, 1, 1]
    assert located.row.tolist() == [0, 3, 4, 6, 0, 4]
    # Rows 3 and 6 of the first file and row 4 of the second end an episode.
    assert located.next_row.tolist() == [1, 3, 5, 6, 1, 4]


def test_copy_that_most_replicas_hold_wins_and_the_other_is_named():
    replicas = [replica("one", "ab", {"a": "x"}), replica("two", "ab"), replica("three", "a")]
    union = merge(replicas)
    assert union.info.files == replica("whole", "ab").info.files
    (left_out,) = union.left_out
    assert (left_out.name, left_out.file_id) == ("one", "a")
    assert "a on one has other content" in left_out.message
    assert hold(union, "one", replicas[0].info).first_local.tolist() == [-1, 7]


def test_a_tie_between_copies_is_decided_the_same_way_in_any_order():
    replicas = [replica("one", "a", {"a": "x"}), replica("two", "a")]
    digests = {merge(order).info.files[0].digest for order in itertools.permutations(replicas)}
    assert len(digests) == 1


def test_replica_with_other_widths_is_left_out_with_its_reason():
    odd = replica("odd", "c", joint_dim=9)
    union = merge([replica("one", "ab"), odd])
    assert [file.file_id for file in union.info.files] == ["a", "b"]
    assert [(r.file_id, r.reason) for r in union.info.refused] == [("c", "WIDTH_MISMATCH")]
    assert "odd serves joints of 9" in union.left_out[0].message
    assert (hold(union, "odd", odd.info).first_local == -1).all()


def test_replica_with_other_cameras_is_left_out():
    odd = replica("odd", "c", cameras=(Camera("wrist", 8, 6),))
    assert merge([replica("one", "ab"), odd]).left_out[0].name == "odd"


def test_refused_file_is_listed_unless_another_replica_serves_it():
    union = merge(
        [
            replica("one", "a", refused=[RefusedFile("b", "R", "m"), RefusedFile("z", "R", "m")]),
            replica("two", "b"),
        ]
    )
    assert [file.file_id for file in union.info.refused] == ["z"]


def test_replica_that_joins_is_used_for_the_files_that_are_known():
    union = merge([replica("one", "ab")])
    holding = hold(union, "late", replica("late", "bc").info)
    assert holding.first_local.tolist() == [-1, 0]
    assert holding.extra == ("c",)


def test_replicas_without_files_are_no_dataset():
    with pytest.raises(DataFault, match="no replica"):
        merge([])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"file": np.array([0, 0, 7], np.int32)}, "names a file that it does not list"),
        ({"file": np.array([0, 1, 0], np.int32)}, "not in order"),
        ({"length": np.array([4, 2, 5], np.int32)}, "a has 7 transitions .* 6 by the episode"),
        ({"length": np.array([4, -3, 5], np.int32)}, "not in order"),
    ],
)
def test_episode_table_that_does_not_add_up_is_refused(change, said):
    good = replica("one", "ab")
    columns = {name: getattr(good.episodes, name) for name in EpisodeTable.__dataclass_fields__}
    with pytest.raises(Corrupt, match=f"one: .*{said}"):
        merge([ReplicaDataset("one", good.info, EpisodeTable(**columns | change))])
