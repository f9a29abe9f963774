from penstock.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WhenFull(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WHEN_FULL_UNSPECIFIED: _ClassVar[WhenFull]
    WHEN_FULL_REFUSE: _ClassVar[WhenFull]
    WHEN_FULL_DROP_OLDEST: _ClassVar[WhenFull]

class Settlement(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SETTLEMENT_UNSPECIFIED: _ClassVar[Settlement]
    SETTLEMENT_DONE: _ClassVar[Settlement]
    SETTLEMENT_GIVEN_BACK: _ClassVar[Settlement]
WHEN_FULL_UNSPECIFIED: WhenFull
WHEN_FULL_REFUSE: WhenFull
WHEN_FULL_DROP_OLDEST: WhenFull
SETTLEMENT_UNSPECIFIED: Settlement
SETTLEMENT_DONE: Settlement
SETTLEMENT_GIVEN_BACK: Settlement

class StreamSettings(_message.Message):
    __slots__ = ("capacity", "when_full", "keep_last", "keep_every")
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    WHEN_FULL_FIELD_NUMBER: _ClassVar[int]
    KEEP_LAST_FIELD_NUMBER: _ClassVar[int]
    KEEP_EVERY_FIELD_NUMBER: _ClassVar[int]
    capacity: int
    when_full: WhenFull
    keep_last: int
    keep_every: int
    def __init__(self, capacity: _Optional[int] = ..., when_full: _Optional[_Union[WhenFull, str]] = ..., keep_last: _Optional[int] = ..., keep_every: _Optional[int] = ...) -> None: ...

class RolloutInfo(_message.Message):
    __slots__ = ("stream", "sequence", "producer", "iteration", "policy_version", "envs", "steps", "raw_size_bytes", "digest", "created_unix_ms")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENVS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    RAW_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    sequence: int
    producer: str
    iteration: int
    policy_version: int
    envs: int
    steps: int
    raw_size_bytes: int
    digest: _tensor_pb2.Digest
    created_unix_ms: int
    def __init__(self, stream: _Optional[str] = ..., sequence: _Optional[int] = ..., producer: _Optional[str] = ..., iteration: _Optional[int] = ..., policy_version: _Optional[int] = ..., envs: _Optional[int] = ..., steps: _Optional[int] = ..., raw_size_bytes: _Optional[int] = ..., digest: _Optional[_Union[_tensor_pb2.Digest, _Mapping]] = ..., created_unix_ms: _Optional[int] = ...) -> None: ...

class ProducerState(_message.Message):
    __slots__ = ("name", "last_iteration", "pushed")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LAST_ITERATION_FIELD_NUMBER: _ClassVar[int]
    PUSHED_FIELD_NUMBER: _ClassVar[int]
    name: str
    last_iteration: int
    pushed: int
    def __init__(self, name: _Optional[str] = ..., last_iteration: _Optional[int] = ..., pushed: _Optional[int] = ...) -> None: ...

class ConsumerState(_message.Message):
    __slots__ = ("name", "waiting", "taken", "settled", "skipped_stale", "dropped")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_STALE_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    name: str
    waiting: int
    taken: int
    settled: int
    skipped_stale: int
    dropped: int
    def __init__(self, name: _Optional[str] = ..., waiting: _Optional[int] = ..., taken: _Optional[int] = ..., settled: _Optional[int] = ..., skipped_stale: _Optional[int] = ..., dropped: _Optional[int] = ...) -> None: ...

class StreamState(_message.Message):
    __slots__ = ("name", "settings", "rollouts", "stored_bytes", "last_sequence", "newest_policy_version", "dropped", "refused", "producers", "consumers")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NEWEST_POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    PRODUCERS_FIELD_NUMBER: _ClassVar[int]
    CONSUMERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    settings: StreamSettings
    rollouts: int
    stored_bytes: int
    last_sequence: int
    newest_policy_version: int
    dropped: int
    refused: int
    producers: _containers.RepeatedCompositeFieldContainer[ProducerState]
    consumers: _containers.RepeatedCompositeFieldContainer[ConsumerState]
    def __init__(self, name: _Optional[str] = ..., settings: _Optional[_Union[StreamSettings, _Mapping]] = ..., rollouts: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., last_sequence: _Optional[int] = ..., newest_policy_version: _Optional[int] = ..., dropped: _Optional[int] = ..., refused: _Optional[int] = ..., producers: _Optional[_Iterable[_Union[ProducerState, _Mapping]]] = ..., consumers: _Optional[_Iterable[_Union[ConsumerState, _Mapping]]] = ...) -> None: ...

class ConfigureStreamRequest(_message.Message):
    __slots__ = ("stream", "settings")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    settings: StreamSettings
    def __init__(self, stream: _Optional[str] = ..., settings: _Optional[_Union[StreamSettings, _Mapping]] = ...) -> None: ...

class ConfigureStreamResponse(_message.Message):
    __slots__ = ("stream",)
    STREAM_FIELD_NUMBER: _ClassVar[int]
    stream: StreamState
    def __init__(self, stream: _Optional[_Union[StreamState, _Mapping]] = ...) -> None: ...

class GetStreamRequest(_message.Message):
    __slots__ = ("stream",)
    STREAM_FIELD_NUMBER: _ClassVar[int]
    stream: str
    def __init__(self, stream: _Optional[str] = ...) -> None: ...

class GetStreamResponse(_message.Message):
    __slots__ = ("stream",)
    STREAM_FIELD_NUMBER: _ClassVar[int]
    stream: StreamState
    def __init__(self, stream: _Optional[_Union[StreamState, _Mapping]] = ...) -> None: ...

class ListStreamsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListStreamsResponse(_message.Message):
    __slots__ = ("streams",)
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    streams: _containers.RepeatedCompositeFieldContainer[StreamState]
    def __init__(self, streams: _Optional[_Iterable[_Union[StreamState, _Mapping]]] = ...) -> None: ...

class PushBegin(_message.Message):
    __slots__ = ("stream", "producer", "iteration", "policy_version", "push_id", "offset_bytes")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    stream: str
    producer: str
    iteration: int
    policy_version: int
    push_id: str
    offset_bytes: int
    def __init__(self, stream: _Optional[str] = ..., producer: _Optional[str] = ..., iteration: _Optional[int] = ..., policy_version: _Optional[int] = ..., push_id: _Optional[str] = ..., offset_bytes: _Optional[int] = ...) -> None: ...

class RolloutPiece(_message.Message):
    __slots__ = ("offset_bytes", "data", "xxh3_64")
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    XXH3_64_FIELD_NUMBER: _ClassVar[int]
    offset_bytes: int
    data: bytes
    xxh3_64: int
    def __init__(self, offset_bytes: _Optional[int] = ..., data: _Optional[bytes] = ..., xxh3_64: _Optional[int] = ...) -> None: ...

class PushFinish(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: _tensor_pb2.Digest
    def __init__(self, digest: _Optional[_Union[_tensor_pb2.Digest, _Mapping]] = ...) -> None: ...

class PushRolloutRequest(_message.Message):
    __slots__ = ("begin", "piece", "finish")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    begin: PushBegin
    piece: RolloutPiece
    finish: PushFinish
    def __init__(self, begin: _Optional[_Union[PushBegin, _Mapping]] = ..., piece: _Optional[_Union[RolloutPiece, _Mapping]] = ..., finish: _Optional[_Union[PushFinish, _Mapping]] = ...) -> None: ...

class PushRolloutResponse(_message.Message):
    __slots__ = ("rollout", "already_stored")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    ALREADY_STORED_FIELD_NUMBER: _ClassVar[int]
    rollout: RolloutInfo
    already_stored: bool
    def __init__(self, rollout: _Optional[_Union[RolloutInfo, _Mapping]] = ..., already_stored: bool = ...) -> None: ...

class GetPushRequest(_message.Message):
    __slots__ = ("push_id",)
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    push_id: str
    def __init__(self, push_id: _Optional[str] = ...) -> None: ...

class GetPushResponse(_message.Message):
    __slots__ = ("received_bytes", "rollout")
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    received_bytes: int
    rollout: RolloutInfo
    def __init__(self, received_bytes: _Optional[int] = ..., rollout: _Optional[_Union[RolloutInfo, _Mapping]] = ...) -> None: ...

class TakeNext(_message.Message):
    __slots__ = ("consumer", "member", "lease_ms", "policy_version", "max_staleness")
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_FIELD_NUMBER: _ClassVar[int]
    consumer: str
    member: str
    lease_ms: int
    policy_version: int
    max_staleness: int
    def __init__(self, consumer: _Optional[str] = ..., member: _Optional[str] = ..., lease_ms: _Optional[int] = ..., policy_version: _Optional[int] = ..., max_staleness: _Optional[int] = ...) -> None: ...

class ProducerIteration(_message.Message):
    __slots__ = ("producer", "iteration")
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    producer: str
    iteration: int
    def __init__(self, producer: _Optional[str] = ..., iteration: _Optional[int] = ...) -> None: ...

class PullRolloutRequest(_message.Message):
    __slots__ = ("stream", "sequence", "iteration", "latest", "after_sequence", "next", "wait_ms", "envs", "fields", "first_step", "steps")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    LATEST_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    ENVS_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    sequence: int
    iteration: ProducerIteration
    latest: bool
    after_sequence: int
    next: TakeNext
    wait_ms: int
    envs: _containers.RepeatedScalarFieldContainer[int]
    fields: _containers.RepeatedScalarFieldContainer[str]
    first_step: int
    steps: int
    def __init__(self, stream: _Optional[str] = ..., sequence: _Optional[int] = ..., iteration: _Optional[_Union[ProducerIteration, _Mapping]] = ..., latest: bool = ..., after_sequence: _Optional[int] = ..., next: _Optional[_Union[TakeNext, _Mapping]] = ..., wait_ms: _Optional[int] = ..., envs: _Optional[_Iterable[int]] = ..., fields: _Optional[_Iterable[str]] = ..., first_step: _Optional[int] = ..., steps: _Optional[int] = ...) -> None: ...

class RolloutOpened(_message.Message):
    __slots__ = ("rollout", "index", "attempt", "skipped_stale", "dropped", "newest_policy_version")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_STALE_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    NEWEST_POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    rollout: RolloutInfo
    index: bytes
    attempt: int
    skipped_stale: int
    dropped: int
    newest_policy_version: int
    def __init__(self, rollout: _Optional[_Union[RolloutInfo, _Mapping]] = ..., index: _Optional[bytes] = ..., attempt: _Optional[int] = ..., skipped_stale: _Optional[int] = ..., dropped: _Optional[int] = ..., newest_policy_version: _Optional[int] = ...) -> None: ...

class PullRolloutResponse(_message.Message):
    __slots__ = ("opened", "piece")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    opened: RolloutOpened
    piece: RolloutPiece
    def __init__(self, opened: _Optional[_Union[RolloutOpened, _Mapping]] = ..., piece: _Optional[_Union[RolloutPiece, _Mapping]] = ...) -> None: ...

class SettleRolloutRequest(_message.Message):
    __slots__ = ("stream", "consumer", "sequence", "settlement", "member")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SETTLEMENT_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    stream: str
    consumer: str
    sequence: int
    settlement: Settlement
    member: str
    def __init__(self, stream: _Optional[str] = ..., consumer: _Optional[str] = ..., sequence: _Optional[int] = ..., settlement: _Optional[_Union[Settlement, str]] = ..., member: _Optional[str] = ...) -> None: ...

class SettleRolloutResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ForgetConsumerRequest(_message.Message):
    __slots__ = ("stream", "consumer")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    stream: str
    consumer: str
    def __init__(self, stream: _Optional[str] = ..., consumer: _Optional[str] = ...) -> None: ...

class ForgetConsumerResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRolloutsRequest(_message.Message):
    __slots__ = ("stream", "after_sequence", "limit")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    stream: str
    after_sequence: int
    limit: int
    def __init__(self, stream: _Optional[str] = ..., after_sequence: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class ListRolloutsResponse(_message.Message):
    __slots__ = ("rollouts",)
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    rollouts: _containers.RepeatedCompositeFieldContainer[RolloutInfo]
    def __init__(self, rollouts: _Optional[_Iterable[_Union[RolloutInfo, _Mapping]]] = ...) -> None: ...

class DeleteRolloutRequest(_message.Message):
    __slots__ = ("stream", "sequence")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    stream: str
    sequence: int
    def __init__(self, stream: _Optional[str] = ..., sequence: _Optional[int] = ...) -> None: ...

class DeleteRolloutResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SubscribeRolloutsRequest(_message.Message):
    __slots__ = ("stream", "after_sequence")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    stream: str
    after_sequence: int
    def __init__(self, stream: _Optional[str] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class SubscribeRolloutsResponse(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: RolloutInfo
    def __init__(self, rollout: _Optional[_Union[RolloutInfo, _Mapping]] = ...) -> None: ...
