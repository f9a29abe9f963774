from penstock.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RolloutHeader(_message.Message):
    __slots__ = ("stream", "iteration", "policy_version", "envs", "steps", "fields", "created_unix_ms")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENVS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    iteration: int
    policy_version: int
    envs: int
    steps: int
    fields: _containers.RepeatedCompositeFieldContainer[RolloutField]
    created_unix_ms: int
    def __init__(self, stream: _Optional[str] = ..., iteration: _Optional[int] = ..., policy_version: _Optional[int] = ..., envs: _Optional[int] = ..., steps: _Optional[int] = ..., fields: _Optional[_Iterable[_Union[RolloutField, _Mapping]]] = ..., created_unix_ms: _Optional[int] = ...) -> None: ...

class RolloutField(_message.Message):
    __slots__ = ("name", "dtype", "shape", "next_of")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    NEXT_OF_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: _tensor_pb2.Dtype
    shape: _containers.RepeatedScalarFieldContainer[int]
    next_of: str
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[_Union[_tensor_pb2.Dtype, str]] = ..., shape: _Optional[_Iterable[int]] = ..., next_of: _Optional[str] = ...) -> None: ...

class RolloutChunk(_message.Message):
    __slots__ = ("field", "first_env", "envs", "values", "xxh3_64")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    FIRST_ENV_FIELD_NUMBER: _ClassVar[int]
    ENVS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    XXH3_64_FIELD_NUMBER: _ClassVar[int]
    field: str
    first_env: int
    envs: int
    values: _tensor_pb2.Tensor
    xxh3_64: int
    def __init__(self, field: _Optional[str] = ..., first_env: _Optional[int] = ..., envs: _Optional[int] = ..., values: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., xxh3_64: _Optional[int] = ...) -> None: ...

class PushRolloutRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: RolloutHeader
    chunk: RolloutChunk
    def __init__(self, header: _Optional[_Union[RolloutHeader, _Mapping]] = ..., chunk: _Optional[_Union[RolloutChunk, _Mapping]] = ...) -> None: ...

class PushRolloutResponse(_message.Message):
    __slots__ = ("header", "stored_bytes")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    header: RolloutHeader
    stored_bytes: int
    def __init__(self, header: _Optional[_Union[RolloutHeader, _Mapping]] = ..., stored_bytes: _Optional[int] = ...) -> None: ...

class PullRolloutRequest(_message.Message):
    __slots__ = ("stream", "iteration", "after_iteration", "envs", "fields", "first_step", "steps")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    AFTER_ITERATION_FIELD_NUMBER: _ClassVar[int]
    ENVS_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    iteration: int
    after_iteration: int
    envs: _containers.RepeatedScalarFieldContainer[int]
    fields: _containers.RepeatedScalarFieldContainer[str]
    first_step: int
    steps: int
    def __init__(self, stream: _Optional[str] = ..., iteration: _Optional[int] = ..., after_iteration: _Optional[int] = ..., envs: _Optional[_Iterable[int]] = ..., fields: _Optional[_Iterable[str]] = ..., first_step: _Optional[int] = ..., steps: _Optional[int] = ...) -> None: ...

class PullRolloutResponse(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: RolloutHeader
    chunk: RolloutChunk
    def __init__(self, header: _Optional[_Union[RolloutHeader, _Mapping]] = ..., chunk: _Optional[_Union[RolloutChunk, _Mapping]] = ...) -> None: ...

class ListRolloutsRequest(_message.Message):
    __slots__ = ("stream",)
    STREAM_FIELD_NUMBER: _ClassVar[int]
    stream: str
    def __init__(self, stream: _Optional[str] = ...) -> None: ...

class ListRolloutsResponse(_message.Message):
    __slots__ = ("rollouts",)
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    rollouts: _containers.RepeatedCompositeFieldContainer[RolloutHeader]
    def __init__(self, rollouts: _Optional[_Iterable[_Union[RolloutHeader, _Mapping]]] = ...) -> None: ...

class DeleteRolloutRequest(_message.Message):
    __slots__ = ("stream", "iteration")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    stream: str
    iteration: int
    def __init__(self, stream: _Optional[str] = ..., iteration: _Optional[int] = ...) -> None: ...

class DeleteRolloutResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SubscribeRolloutsRequest(_message.Message):
    __slots__ = ("stream", "from_iteration")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    FROM_ITERATION_FIELD_NUMBER: _ClassVar[int]
    stream: str
    from_iteration: int
    def __init__(self, stream: _Optional[str] = ..., from_iteration: _Optional[int] = ...) -> None: ...

class SubscribeRolloutsResponse(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: RolloutHeader
    def __init__(self, header: _Optional[_Union[RolloutHeader, _Mapping]] = ...) -> None: ...
