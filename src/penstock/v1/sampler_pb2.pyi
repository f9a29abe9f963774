from penstock.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Split(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SPLIT_UNSPECIFIED: _ClassVar[Split]
    SPLIT_TRAIN: _ClassVar[Split]
    SPLIT_VAL: _ClassVar[Split]
    SPLIT_ALL: _ClassVar[Split]

class Sampling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SAMPLING_UNSPECIFIED: _ClassVar[Sampling]
    SAMPLING_UNIFORM: _ClassVar[Sampling]
    SAMPLING_EPOCH: _ClassVar[Sampling]
SPLIT_UNSPECIFIED: Split
SPLIT_TRAIN: Split
SPLIT_VAL: Split
SPLIT_ALL: Split
SAMPLING_UNSPECIFIED: Sampling
SAMPLING_UNIFORM: Sampling
SAMPLING_EPOCH: Sampling

class GetDatasetRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetDatasetResponse(_message.Message):
    __slots__ = ("dataset", "limits")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    dataset: DatasetInfo
    limits: ServerLimits
    def __init__(self, dataset: _Optional[_Union[DatasetInfo, _Mapping]] = ..., limits: _Optional[_Union[ServerLimits, _Mapping]] = ...) -> None: ...

class DatasetInfo(_message.Message):
    __slots__ = ("version", "cameras", "joint_dim", "action_dim", "transitions", "episodes", "files", "refused", "dropped_rows", "statistics", "codecs")
    class StatisticsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ColumnStatistics
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ColumnStatistics, _Mapping]] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CAMERAS_FIELD_NUMBER: _ClassVar[int]
    JOINT_DIM_FIELD_NUMBER: _ClassVar[int]
    ACTION_DIM_FIELD_NUMBER: _ClassVar[int]
    TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_ROWS_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    version: str
    cameras: _containers.RepeatedCompositeFieldContainer[Camera]
    joint_dim: int
    action_dim: int
    transitions: int
    episodes: int
    files: _containers.RepeatedCompositeFieldContainer[DataFile]
    refused: _containers.RepeatedCompositeFieldContainer[RefusedFile]
    dropped_rows: int
    statistics: _containers.MessageMap[str, ColumnStatistics]
    codecs: _containers.RepeatedScalarFieldContainer[_tensor_pb2.Codec]
    def __init__(self, version: _Optional[str] = ..., cameras: _Optional[_Iterable[_Union[Camera, _Mapping]]] = ..., joint_dim: _Optional[int] = ..., action_dim: _Optional[int] = ..., transitions: _Optional[int] = ..., episodes: _Optional[int] = ..., files: _Optional[_Iterable[_Union[DataFile, _Mapping]]] = ..., refused: _Optional[_Iterable[_Union[RefusedFile, _Mapping]]] = ..., dropped_rows: _Optional[int] = ..., statistics: _Optional[_Mapping[str, ColumnStatistics]] = ..., codecs: _Optional[_Iterable[_Union[_tensor_pb2.Codec, str]]] = ...) -> None: ...

class Camera(_message.Message):
    __slots__ = ("name", "height_px", "width_px", "channels")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    height_px: int
    width_px: int
    channels: int
    def __init__(self, name: _Optional[str] = ..., height_px: _Optional[int] = ..., width_px: _Optional[int] = ..., channels: _Optional[int] = ...) -> None: ...

class DataFile(_message.Message):
    __slots__ = ("file_id", "size_bytes", "rows", "held")
    FILE_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    file_id: str
    size_bytes: int
    rows: int
    held: bool
    def __init__(self, file_id: _Optional[str] = ..., size_bytes: _Optional[int] = ..., rows: _Optional[int] = ..., held: bool = ...) -> None: ...

class RefusedFile(_message.Message):
    __slots__ = ("file_id", "reason", "message")
    FILE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    file_id: str
    reason: str
    message: str
    def __init__(self, file_id: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ColumnStatistics(_message.Message):
    __slots__ = ("mean", "std", "min", "max", "count")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    mean: _containers.RepeatedScalarFieldContainer[float]
    std: _containers.RepeatedScalarFieldContainer[float]
    min: _containers.RepeatedScalarFieldContainer[float]
    max: _containers.RepeatedScalarFieldContainer[float]
    count: int
    def __init__(self, mean: _Optional[_Iterable[float]] = ..., std: _Optional[_Iterable[float]] = ..., min: _Optional[_Iterable[float]] = ..., max: _Optional[_Iterable[float]] = ..., count: _Optional[int] = ...) -> None: ...

class ServerLimits(_message.Message):
    __slots__ = ("max_ids_per_fetch", "max_image_side_px", "max_calls_in_flight", "target_part_bytes")
    MAX_IDS_PER_FETCH_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_SIDE_PX_FIELD_NUMBER: _ClassVar[int]
    MAX_CALLS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    TARGET_PART_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_ids_per_fetch: int
    max_image_side_px: int
    max_calls_in_flight: int
    target_part_bytes: int
    def __init__(self, max_ids_per_fetch: _Optional[int] = ..., max_image_side_px: _Optional[int] = ..., max_calls_in_flight: _Optional[int] = ..., target_part_bytes: _Optional[int] = ...) -> None: ...

class ListEpisodesRequest(_message.Message):
    __slots__ = ("dataset_version",)
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    dataset_version: str
    def __init__(self, dataset_version: _Optional[str] = ...) -> None: ...

class ListEpisodesResponse(_message.Message):
    __slots__ = ("episodes",)
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    episodes: EpisodeColumns
    def __init__(self, episodes: _Optional[_Union[EpisodeColumns, _Mapping]] = ...) -> None: ...

class EpisodeColumns(_message.Message):
    __slots__ = ("file", "first_row", "length", "outcome", "split_key")
    FILE_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    SPLIT_KEY_FIELD_NUMBER: _ClassVar[int]
    file: _containers.RepeatedScalarFieldContainer[int]
    first_row: _containers.RepeatedScalarFieldContainer[int]
    length: _containers.RepeatedScalarFieldContainer[int]
    outcome: bytes
    split_key: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, file: _Optional[_Iterable[int]] = ..., first_row: _Optional[_Iterable[int]] = ..., length: _Optional[_Iterable[int]] = ..., outcome: _Optional[bytes] = ..., split_key: _Optional[_Iterable[int]] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("seed", "batch_size", "split", "train_fraction", "sampling", "num_traj", "rank", "world")
    SEED_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    TRAIN_FRACTION_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    NUM_TRAJ_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_FIELD_NUMBER: _ClassVar[int]
    seed: int
    batch_size: int
    split: Split
    train_fraction: float
    sampling: Sampling
    num_traj: int
    rank: int
    world: int
    def __init__(self, seed: _Optional[int] = ..., batch_size: _Optional[int] = ..., split: _Optional[_Union[Split, str]] = ..., train_fraction: _Optional[float] = ..., sampling: _Optional[_Union[Sampling, str]] = ..., num_traj: _Optional[int] = ..., rank: _Optional[int] = ..., world: _Optional[int] = ...) -> None: ...

class FrameSpec(_message.Message):
    __slots__ = ("height_px", "width_px")
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    height_px: int
    width_px: int
    def __init__(self, height_px: _Optional[int] = ..., width_px: _Optional[int] = ...) -> None: ...

class SampleRequest(_message.Message):
    __slots__ = ("dataset_version", "plan", "first_step", "steps", "frame_spec", "accepted_codecs")
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    FRAME_SPEC_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_CODECS_FIELD_NUMBER: _ClassVar[int]
    dataset_version: str
    plan: Plan
    first_step: int
    steps: int
    frame_spec: FrameSpec
    accepted_codecs: _containers.RepeatedScalarFieldContainer[_tensor_pb2.Codec]
    def __init__(self, dataset_version: _Optional[str] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., first_step: _Optional[int] = ..., steps: _Optional[int] = ..., frame_spec: _Optional[_Union[FrameSpec, _Mapping]] = ..., accepted_codecs: _Optional[_Iterable[_Union[_tensor_pb2.Codec, str]]] = ...) -> None: ...

class SampleResponse(_message.Message):
    __slots__ = ("step", "part", "last_part")
    STEP_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    LAST_PART_FIELD_NUMBER: _ClassVar[int]
    step: int
    part: BatchPart
    last_part: bool
    def __init__(self, step: _Optional[int] = ..., part: _Optional[_Union[BatchPart, _Mapping]] = ..., last_part: bool = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("dataset_version", "transition_ids", "frame_spec", "accepted_codecs")
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    TRANSITION_IDS_FIELD_NUMBER: _ClassVar[int]
    FRAME_SPEC_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_CODECS_FIELD_NUMBER: _ClassVar[int]
    dataset_version: str
    transition_ids: _containers.RepeatedScalarFieldContainer[int]
    frame_spec: FrameSpec
    accepted_codecs: _containers.RepeatedScalarFieldContainer[_tensor_pb2.Codec]
    def __init__(self, dataset_version: _Optional[str] = ..., transition_ids: _Optional[_Iterable[int]] = ..., frame_spec: _Optional[_Union[FrameSpec, _Mapping]] = ..., accepted_codecs: _Optional[_Iterable[_Union[_tensor_pb2.Codec, str]]] = ...) -> None: ...

class FetchResponse(_message.Message):
    __slots__ = ("part",)
    PART_FIELD_NUMBER: _ClassVar[int]
    part: BatchPart
    def __init__(self, part: _Optional[_Union[BatchPart, _Mapping]] = ...) -> None: ...

class BatchPart(_message.Message):
    __slots__ = ("first_row", "rows", "transition_ids", "frames", "columns")
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TRANSITION_IDS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    first_row: int
    rows: int
    transition_ids: _containers.RepeatedScalarFieldContainer[int]
    frames: _tensor_pb2.Tensor
    columns: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    def __init__(self, first_row: _Optional[int] = ..., rows: _Optional[int] = ..., transition_ids: _Optional[_Iterable[int]] = ..., frames: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., columns: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ...) -> None: ...
