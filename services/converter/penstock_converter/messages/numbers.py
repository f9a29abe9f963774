"""Messages with numbers into vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import DataFault
from penstock_converter.mapping.fieldpath import FieldPath
from penstock_converter.mapping.model import Part
from penstock_converter.messages.joint_state import JOINT_STATE, JointState

__all__ = ["NumberDecoder", "default_dtype"]

MAX_WIDTH = 65_536
_PER_JOINT = ("position", "velocity", "effort")


def default_dtype(kind: str) -> str:
    """Type of a feature in the dataset, by the type of its messages."""
    return "bool" if kind == "std_msgs/msg/Bool" else "float32"


class NumberDecoder:
    """Takes one vector out of messages; remembers the order of joints.

    Args:
        name: Name of the source, for messages.
        part: What to take.
        kind: Type of the messages.

    Attributes:
        reads_header: Whether the numbers are part of the header of messages.
        per_joint: Whether they are one for each joint.
    """

    def __init__(self, name: str, part: Part, kind: str) -> None:
        self._name, self._part, self._kind = name, part, kind
        field = part.field or ("position" if kind == JOINT_STATE else "data")
        self._path = FieldPath.parse(field)
        if part.names is not None and (kind != JOINT_STATE or field not in _PER_JOINT):
            raise DataFault(
                f"feature {name}: names select joints of {', '.join(_PER_JOINT)} of a JointState, "
                f"not {field} of a {kind}",
                reason="NOT_A_JOINT_STATE",
            )
        self.reads_header = self._path.steps[0] == "header"
        self.per_joint = kind == JOINT_STATE and field in _PER_JOINT
        self._order: NDArray[np.intp] | slice | None = None
        self._seen: list[str] | None = None

    @property
    def labels(self) -> list[str] | None:
        """Names of the vector's elements, once a message was read; None if it has none."""
        chosen = self._part.labels or self._part.names
        return list(chosen) if chosen else self._seen

    def __call__(self, message: Any) -> NDArray[np.float64]:
        """Vector of a message, (D,) float64; D is 1 for single numbers.

        Raises:
            DataFault: No such field, not numbers, not finite, or joints in another order.
        """
        value = self._path.of(message)
        try:
            vector = np.asarray(value)
            vector = vector if vector.ndim else vector.reshape(1)
        except ValueError:
            vector = np.empty(0, object)
        if vector.ndim != 1 or vector.dtype.kind not in "biuf":
            raise DataFault(
                f"feature {self._name}: field {self._path.text} of a {self._kind} holds no numbers "
                f"({type(value).__name__}): name a numeric field, e.g. {self._path.text}.x",
                reason="NOT_NUMBERS",
            )
        if len(vector) > MAX_WIDTH:
            raise DataFault(
                f"feature {self._name}: field {self._path.text} has {len(vector)} elements, at "
                f"most {MAX_WIDTH} are taken",
                reason="TOO_WIDE",
            )
        if self.per_joint:
            vector = self._by_joint(list(message.name), vector)
        vector = vector.astype(np.float64)
        if not len(vector):
            raise DataFault(
                f"feature {self._name}: field {self._path.text} of a {self._kind} is empty",
                reason="EMPTY_FIELD",
            )
        if not np.isfinite(vector).all():
            raise DataFault(
                f"feature {self._name}: field {self._path.text} holds "
                f"{vector[~np.isfinite(vector)][0]} at element "
                f"{int(np.flatnonzero(~np.isfinite(vector))[0])}: repair the recording",
                reason="NOT_FINITE",
            )
        return vector * self._part.scale if self._part.scale != 1.0 else vector

    def rows(self, states: JointState) -> NDArray[np.float64] | None:
        """Vectors of several messages, (N, D) float64, with numbers for each joint.

        Returns:
            None unless all of them are like those that were read before: each is to be read by
            itself, for what is to be learned from it or said about it.
        """
        values: NDArray[np.float64] = getattr(states, self._path.text)
        known = self._order is not None and self._seen == states.name
        if not known or values.shape[1] != len(states.name) or not np.isfinite(values).all():
            return None
        vectors = values[:, self._order].astype(np.float64)
        return vectors * self._part.scale if self._part.scale != 1.0 else vectors

    def _by_joint(self, joints: list[str], values: NDArray[Any]) -> NDArray[Any]:
        if self._seen != joints or self._order is None:
            self._order = self._find(joints)
            self._seen = joints
        if len(joints) != len(values):
            raise DataFault(
                f"feature {self._name}: {len(joints)} joint names, {len(values)} values of "
                f"{self._path.text}",
                reason="JOINT_COUNT",
            )
        return values[self._order]

    def _find(self, joints: list[str]) -> NDArray[np.intp] | slice:
        wanted = self._part.names
        if wanted is None:
            if self._seen is not None:
                raise DataFault(
                    f"feature {self._name}: the order of joints changes from {self._seen} to "
                    f"{joints}: give names, then each joint is found by name",
                    reason="JOINT_ORDER",
                )
            return slice(None)
        missing = [joint for joint in wanted if joint not in joints]
        if missing:
            raise DataFault(
                f"feature {self._name}: no joint {', '.join(missing)} in a message with "
                f"{', '.join(joints)}",
                reason="NO_SUCH_JOINT",
            )
        return np.array([joints.index(joint) for joint in wanted])
