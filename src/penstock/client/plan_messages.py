"""Translates plans to messages and back."""

from __future__ import annotations

from google.protobuf.unknown_fields import UnknownFieldSet

from penstock.errors import InvalidInput
from penstock.plan import Plan, Sampling, Split
from penstock.v1 import sampler_pb2 as pb

__all__ = ["plan_from_message", "plan_to_message"]

_SPLITS: dict[int, Split] = {0: "train", 1: "train", 2: "val", 3: "all"}
_SAMPLINGS: dict[int, Sampling] = {0: "uniform", 1: "uniform", 2: "epoch", 3: "weighted"}
_SPLIT_NUMBERS = {name: number for number, name in _SPLITS.items()}
_SAMPLING_NUMBERS = {name: number for number, name in _SAMPLINGS.items()}


def plan_to_message(plan: Plan) -> pb.Plan:
    """A plan as it travels."""
    return pb.Plan(
        seed=plan.seed,
        batch_size=plan.batch_size,
        split=pb.Split.Name(_SPLIT_NUMBERS[plan.split]),
        train_fraction=plan.train_fraction,
        sampling=pb.Sampling.Name(_SAMPLING_NUMBERS[plan.sampling]),
        num_traj=plan.num_traj or 0,
        rank=plan.rank,
        world=plan.world,
        window=plan.window if plan.window > 1 else 0,  # 0 also goes to servers without windows
        mixture=[pb.MixturePart(files=files, weight=weight) for files, weight in plan.mixture],
        weight_column=plan.weight_column,
    )


def plan_from_message(message: pb.Plan) -> Plan:
    """A plan as it was meant.

    Raises:
        InvalidInput: A field is out of range, or of a newer version than this server.
    """
    unknown = [
        field.field_number
        for known in (message, *message.mixture)
        for field in UnknownFieldSet(known)
    ]
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
        window=message.window or 1,
        mixture=tuple((part.files, part.weight) for part in message.mixture),
        weight_column=message.weight_column,
    )
