import pytest

from penstock.client.plan_messages import plan_from_message, plan_to_message
from penstock.errors import InvalidInput
from penstock.plan import Plan
from penstock.v1 import sampler_pb2 as pb


def test_a_plan_survives_the_wire():
    plan = Plan(5, 7, "val", 0.25, "epoch", 3, 1, 2)
    assert plan_from_message(plan_to_message(plan)) == plan
    assert plan_from_message(pb.Plan(batch_size=8)) == Plan(batch_size=8)


def test_a_plan_field_of_a_newer_client_is_refused_not_passed_over():
    plan = pb.Plan()
    # Field 99, varint 1: what a client with a newer proto would send.
    plan.ParseFromString(plan_to_message(Plan()).SerializeToString() + b"\x98\x06\x01")
    with pytest.raises(InvalidInput, match=r"numbers \[99\]"):
        plan_from_message(plan)
