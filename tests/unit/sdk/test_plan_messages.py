import pytest

from penstock.client.plan_messages import plan_from_message, plan_to_message
from penstock.errors import InvalidInput
from penstock.plan import Plan
from penstock.v1 import sampler_pb2 as pb

MIXTURE = (("sim/*", 0.25), ("real/*", 0.75))


@pytest.mark.parametrize(
    "plan",
    [
        Plan(),
        Plan(5, 7, "val", 0.25, "epoch", 3, 1, 2, 4),
        Plan(6, 9, "all", 0.5, "uniform", window=2, mixture=MIXTURE),
        Plan(sampling="weighted", mixture=MIXTURE, weight_column="priority"),
    ],
)
def test_a_plan_arrives_as_it_was_sent(plan):
    message = pb.Plan.FromString(plan_to_message(plan).SerializeToString())
    assert plan_from_message(message) == plan


def test_a_plan_without_windows_says_nothing_that_an_older_server_would_refuse():
    sent = {field.number for field, _ in plan_to_message(Plan(num_traj=3, world=2)).ListFields()}
    assert sent <= set(range(1, 9))


def test_an_empty_message_is_the_default_plan_of_that_size():
    assert plan_from_message(pb.Plan(batch_size=8)) == Plan(batch_size=8)


@pytest.mark.parametrize("where", ["plan", "mixture"])
def test_fields_of_a_newer_version_are_refused_by_number(where):
    message = pb.Plan(batch_size=8)
    unknown = b"\x98\x06\x01"  # field 99, a varint
    if where == "plan":
        message.MergeFromString(unknown)
    else:
        part = pb.MixturePart(files="*", weight=1.0).SerializeToString() + unknown
        message.mixture.append(pb.MixturePart.FromString(part))
    with pytest.raises(InvalidInput, match=r"numbers \[99\]"):
        plan_from_message(message)


@pytest.mark.parametrize(
    ("change", "shown"),
    [({"split": 9}, "plan.split 9"), ({"sampling": 9}, "plan.sampling 9")],
)
def test_a_choice_that_is_not_known_is_named(change, shown):
    with pytest.raises(InvalidInput, match=shown):
        plan_from_message(pb.Plan(batch_size=8, **change))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"window": 70_000}, "plan.window"),
        ({"mixture": [pb.MixturePart(files="*", weight=-1.0)]}, "plan.mixture"),
        ({"mixture": [pb.MixturePart(files=str(n), weight=1) for n in range(65)]}, "plan.mixture"),
        ({"weight_column": "priority"}, "plan.weight_column"),
        ({"batch_size": 0}, "plan.batch_size"),
    ],
)
def test_values_out_of_range_are_refused_by_name(change, field):
    with pytest.raises(InvalidInput) as caught:
        plan_from_message(pb.Plan(**{"batch_size": 8} | change))
    assert caught.value.field == field
