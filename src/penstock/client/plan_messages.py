"""Translates plans to messages and back."""

from __future__ import annotations

from google.protobuf.unknown_fields import UnknownFieldSet

from penstock.errors import InvalidInput
from penstock.plan import Plan, Sampling, Split
from penstock.v1 import sampler_pb2 as pb

__all__ = ["plan_from_message", "plan_to_message"]

_SPLITS: dict[int, Split] = {0: "train", 1: "train", 2: "val", 3: "all"}
_SAMPLINGS: dict[int, Sampling] = {0: "uniform", 1: "uniform", 2: "epoch"}


def plan_to_message(plan: Plan) -> pb.Plan:
    """A plan as it travels."""
    return pb.Plan(
        seed=plan.seed,
        batch_size=plan.batch_size,
        split={"train": pb.SPLIT_TRAIN, "val": pb.SPLIT_VAL, "all": pb.SPLIT_ALL}[plan.split],
        train_fraction=plan.train_fraction,
        sampling={"uniform": pb.SAMPLING_UNIFORM, "epoch": pb.SAMPLING_EPOCH}[plan.sampling],
        num_traj=plan.num_traj or 0,
        rank=plan.rank,
        world=plan.world,
    )


def plan_from_message(message: pb.Plan) -> Plan:
    """A plan as it was meant.

    Raises:
        InvalidInput: A field is out of range, or of a newer version than this server.
    """
    unknown = [field.field_number for field in UnknownFieldSet(message)]
    if unknown:
        raise InvalidInput(
            f"plan has fields that this server does not know (numbers {unknown}): update the "
            "server, or leave them out",
            field="plan",
        )
    if message.split not in _SPLITS or message.sampling not in _SAMPLINGS:
        raise InvalidInput(
            f"plan.split {message.split} or plan.sampling {message.sampling} is not known here",
            field="plan",
        )
    return Plan(
        seed=message.seed,
        batch_size=message.batch_size,
        split=_SPLITS[message.split],
        train_fraction=message.train_fraction or 0.9,
        sampling=_SAMPLINGS[message.sampling],
        num_traj=message.num_traj or None,
        rank=message.rank,
        world=message.world or 1,
    )
