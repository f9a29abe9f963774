"""One dataset out of what several replicas hold: shards, copies, or a mixture of both.

The union of replicas is described by the same function as a dataset in one place, from the same
files in the same order. So its version, its ids and its statistics are those of an embedded target
over all the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penstock.dataset import DataFile, DatasetInfo, EpisodeTable, Outcome, RefusedFile, describe
from penstock.errors import Corrupt, DataFault

__all__ = ["Holding", "LeftOut", "Located", "ReplicaDataset", "Union", "hold", "merge"]

_COLUMN_WIDTH_ONE = 1
_NOT_HELD = -1

Form = tuple[int, int, tuple[str, ...]]
"""Width of a joint vector, width of an action vector, names of the cameras."""


@dataclass(frozen=True)
class ReplicaDataset:
    """What one replica says of itself.

    Attributes:
        name: Its address, for messages.
        info: Its dataset; each file with digest and moments.
        episodes: Its episode table.
    """

    name: str
    info: DatasetInfo
    episodes: EpisodeTable

    def check(self) -> None:
        """Hold a replica to its own word, before anything is computed from it.

        Raises:
            Corrupt: Numbers do not add up; names the replica and the number.
        """
        info, table = self.info, self.episodes
        ids = [file.file_id for file in info.files]
        if ids != sorted(set(ids)):
            raise Corrupt(f"{self.name}: its files are not in ascending order of their ids")
        if len(table) and not 0 <= int(table.file.min()) <= int(table.file.max()) < len(ids):
            raise Corrupt(f"{self.name}: its episode table names a file that it does not list")
        if (np.diff(table.file) < 0).any() or (table.length < 0).any():
            raise Corrupt(f"{self.name}: its episode table is not in order of its files")
        counted = np.bincount(table.file, weights=table.length, minlength=len(ids))
        for file, transitions in zip(info.files, counted.astype(np.int64).tolist(), strict=True):
            if file.transitions != transitions:
                raise Corrupt(
                    f"{self.name}: {file.file_id} has {file.transitions} transitions by the list "
                    f"of files and {transitions} by the episode table"
                )
            _check_moments(self.name, file, info)


@dataclass(frozen=True)
class LeftOut:
    """A copy, or a whole replica, that takes no part.

    Attributes:
        name: Address of the replica.
        file_id: The file; empty when it is about all files of the replica.
        message: Why, for people; names file, replica and value.
    """

    name: str
    file_id: str
    message: str


@dataclass(frozen=True)
class Holding:
    """What a replica holds of a union.

    Attributes:
        version: The replica's own dataset version, which calls to it name.
        first_local: ``(F,) int64``: the replica's own id of each file's first transition, or -1
            for a file that it does not hold.
        left_out: Copies of it that are not asked for.
        extra: Ids of its files that the union does not know.
    """

    version: str
    first_local: NDArray[np.int64]
    left_out: tuple[LeftOut, ...] = ()
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Located:
    """Where transitions are, each ``(n,)``; ``file`` indexes ``Union.info.files``."""

    file: NDArray[np.int64]
    row: NDArray[np.int64]
    next_row: NDArray[np.int64]


@dataclass(frozen=True)
class Union:
    """The dataset that replicas hold together.

    Attributes:
        info: As an embedded target over all files would describe it.
        episodes: Its episode table.
        first_transition: ``(F + 1,) int64``: id of each file's first transition, then the total.
        first_of_episode: ``(E + 1,) int64``: the same of each episode.
        left_out: What takes no part, and why.
    """

    info: DatasetInfo
    episodes: EpisodeTable
    first_transition: NDArray[np.int64]
    first_of_episode: NDArray[np.int64]
    left_out: tuple[LeftOut, ...] = ()

    def files_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of the file of each transition, ``(n,) int64``; ids must be in range."""
        return np.searchsorted(self.first_transition, ids, side="right") - 1

    def locate(self, ids: NDArray[np.int64]) -> Located:
        """File and rows of each transition; ids must be in range."""
        table = self.episodes
        episode = np.searchsorted(self.first_of_episode, ids, side="right") - 1
        place = ids - self.first_of_episode[episode]
        row = table.first_row[episode] + place
        last = place == table.length[episode] - 1
        terminal = last & (table.outcome[episode] == Outcome.TERMINAL)
        return Located(table.file[episode].astype(np.int64), row, row + ~terminal)


def merge(replicas: Sequence[ReplicaDataset]) -> Union:
    """The union of what ``replicas`` hold; the same whatever their order.

    Of a file whose copies differ, the content that most replicas hold is taken (the smallest digest
    decides a tie). Replicas whose joints, actions or cameras are unlike those of most files are
    left out as a whole.

    Raises:
        Corrupt: What a replica says does not add up.
        DataFault: No replica holds a file.
    """
    for replica in replicas:
        replica.check()
    ordered = sorted(replicas, key=lambda replica: replica.name)
    form = _usual_form(ordered)
    fitting = [replica for replica in ordered if _form(replica.info) == form]
    left_out = [
        LeftOut(replica.name, "", _unlike(replica.name, replica.info, form))
        for replica in ordered
        if _form(replica.info) != form
    ]
    chosen = _choose_copies(fitting)
    if not chosen:
        raise DataFault(
            f"{', '.join(replica.name for replica in ordered) or 'no replica'}: no file is held",
            reason="NO_FILES",
        )
    files = [chosen[file_id][1].info.files[chosen[file_id][0]] for file_id in sorted(chosen)]
    refused = {r.file_id: r for replica in reversed(ordered) for r in replica.info.refused}
    for replica in ordered:
        if _form(replica.info) != form:
            message = _unlike(replica.name, replica.info, form)
            for file in replica.info.files:
                refused[file.file_id] = RefusedFile(file.file_id, "WIDTH_MISMATCH", message)
    info = describe(
        files,
        [refused[file_id] for file_id in sorted(refused) if file_id not in chosen],
        joint_dim=form[0],
        action_dim=form[1],
    )
    first_codecs, *other_codecs = [replica.info.codecs for replica in fitting]
    info = replace(
        info, codecs=tuple(c for c in first_codecs if all(c in codecs for codecs in other_codecs))
    )
    episodes = _episodes([chosen[file.file_id] for file in files])
    first = np.zeros(len(files) + 1, np.int64)
    np.cumsum([file.transitions for file in files], out=first[1:])
    union = Union(info, episodes, first, episodes.first_transition)
    for replica in fitting:
        left_out.extend(hold(union, replica.name, replica.info).left_out)
    return Union(info, episodes, first, union.first_of_episode, tuple(left_out))


def hold(union: Union, name: str, info: DatasetInfo) -> Holding:
    """Which files of ``union`` the replica ``name`` can be asked for, and by which ids.

    Args:
        union: The dataset as the client knows it.
        name: Address of the replica, for messages.
        info: Its dataset; files need no moments.
    """
    first_local = np.full(len(union.info.files), _NOT_HELD, np.int64)
    form = (union.info.joint_dim, union.info.action_dim, union.info.camera_names)
    if _form(info) != form:
        message = _unlike(name, info, form)
        return Holding(info.version, first_local, (LeftOut(name, "", message),))
    place = {file.file_id: index for index, file in enumerate(union.info.files)}
    left_out: list[LeftOut] = []
    extra: list[str] = []
    local = 0
    for file in info.files:
        index = place.get(file.file_id)
        if index is None:
            extra.append(file.file_id)
        elif file.held:
            known = union.info.files[index]
            if (file.digest, file.transitions) == (known.digest, known.transitions):
                first_local[index] = local
            else:
                left_out.append(
                    LeftOut(
                        name,
                        file.file_id,
                        f"{file.file_id} on {name} has other content ({file.digest.hex()}) than "
                        f"the copy that is used ({known.digest.hex()}): it is not asked for there",
                    )
                )
        local += file.transitions
    return Holding(info.version, first_local, tuple(left_out), tuple(extra))


def _form(info: DatasetInfo) -> Form:
    return info.joint_dim, info.action_dim, info.camera_names


def _usual_form(replicas: Sequence[ReplicaDataset]) -> Form:
    """The form of most files; the file with the smallest id decides a tie, as when embedded."""
    forms = {
        (file.file_id, _form(replica.info)) for replica in replicas for file in replica.info.files
    }
    # Counter keeps the order of first sight.
    usual = Counter(form for _, form in sorted(forms)).most_common(1)
    return usual[0][0] if usual else (0, 0, ())


def _unlike(name: str, info: DatasetInfo, form: Form) -> str:
    return (
        f"{name} serves joints of {info.joint_dim}, actions of {info.action_dim} and cameras "
        f"{', '.join(info.camera_names) or 'none'}; most files have {form[0]}, {form[1]} and "
        f"{', '.join(form[2]) or 'none'}: serve it as a dataset of its own"
    )


def _choose_copies(
    replicas: Sequence[ReplicaDataset],
) -> dict[str, tuple[int, ReplicaDataset]]:
    """For each file the content most replicas hold, and the first replica that holds it."""
    copies: dict[str, list[tuple[int, ReplicaDataset]]] = {}
    for replica in replicas:
        for index, file in enumerate(replica.info.files):
            if file.held:
                copies.setdefault(file.file_id, []).append((index, replica))
    chosen: dict[str, tuple[int, ReplicaDataset]] = {}
    for file_id, held in copies.items():
        digests = Counter(replica.info.files[index].digest for index, replica in held)
        winner = min(digests, key=lambda digest: (-digests[digest], digest))
        chosen[file_id] = next(
            (index, replica)
            for index, replica in held
            if replica.info.files[index].digest == winner
        )
    return chosen


def _episodes(chosen: Sequence[tuple[int, ReplicaDataset]]) -> EpisodeTable:
    """The episodes of the chosen copies, file after file."""
    slices: list[tuple[EpisodeTable, slice]] = []
    for index, replica in chosen:
        begin, end = np.searchsorted(replica.episodes.file, [index, index + 1]).tolist()
        slices.append((replica.episodes, slice(begin, end)))
    return EpisodeTable(
        file=np.repeat(
            np.arange(len(slices), dtype=np.int32), [part.stop - part.start for _, part in slices]
        ),
        first_row=np.concatenate([table.first_row[part] for table, part in slices]),
        length=np.concatenate([table.length[part] for table, part in slices]),
        outcome=np.concatenate([table.outcome[part] for table, part in slices]),
        split_key=np.concatenate([table.split_key[part] for table, part in slices]),
    )


def _check_moments(name: str, file: DataFile, info: DatasetInfo) -> None:
    widths: Mapping[str, int] = {
        "joint": info.joint_dim,
        "action": info.action_dim,
        "reward": _COLUMN_WIDTH_ONE,
    }
    for column, width in widths.items():
        moments = file.moments.get(column)
        if moments is None:
            raise Corrupt(f"{name}: {file.file_id} comes without the moments of {column}")
        sizes = {len(v) for v in (moments.mean, moments.squares, moments.min, moments.max)}
        if sizes != {width}:
            raise Corrupt(
                f"{name}: the moments of {column} of {file.file_id} have widths {sorted(sizes)}, "
                f"expected {width}"
            )
