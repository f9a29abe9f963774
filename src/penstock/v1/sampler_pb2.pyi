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
    SAMPLING_WEIGHTED: _ClassVar[Sampling]
SPLIT_UNSPECIFIED: Split
SPLIT_TRAIN: Split
SPLIT_VAL: Split
SPLIT_ALL: Split
SAMPLING_UNSPECIFIED: Sampling
SAMPLING_UNIFORM: Sampling
SAMPLING_EPOCH: Sampling
SAMPLING_WEIGHTED: Sampling

class GetDatasetRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetDatasetResponse(_message.Message):
    __slots__ = ("dataset", "limits", "replica_id", "local_socket", "processes", "direct_port")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    LOCAL_SOCKET_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    DIRECT_PORT_FIELD_NUMBER: _ClassVar[int]
    dataset: DatasetInfo
    limits: ServerLimits
    replica_id: int
    local_socket: str
    processes: int
    direct_port: int
    def __init__(self, dataset: _Optional[_Union[DatasetInfo, _Mapping]] = ..., limits: _Optional[_Union[ServerLimits, _Mapping]] = ..., replica_id: _Optional[int] = ..., local_socket: _Optional[str] = ..., processes: _Optional[int] = ..., direct_port: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("file_id", "size_bytes", "rows", "held", "digest", "transitions", "dropped_rows", "moments", "cameras", "episodes")
    class MomentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ColumnMoments
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ColumnMoments, _Mapping]] = ...) -> None: ...
    FILE_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_ROWS_FIELD_NUMBER: _ClassVar[int]
    MOMENTS_FIELD_NUMBER: _ClassVar[int]
    CAMERAS_FIELD_NUMBER: _ClassVar[int]
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    file_id: str
    size_bytes: int
    rows: int
    held: bool
    digest: bytes
    transitions: int
    dropped_rows: int
    moments: _containers.MessageMap[str, ColumnMoments]
    cameras: _containers.RepeatedCompositeFieldContainer[Camera]
    episodes: int
    def __init__(self, file_id: _Optional[str] = ..., size_bytes: _Optional[int] = ..., rows: _Optional[int] = ..., held: bool = ..., digest: _Optional[bytes] = ..., transitions: _Optional[int] = ..., dropped_rows: _Optional[int] = ..., moments: _Optional[_Mapping[str, ColumnMoments]] = ..., cameras: _Optional[_Iterable[_Union[Camera, _Mapping]]] = ..., episodes: _Optional[int] = ...) -> None: ...

class ColumnMoments(_message.Message):
    __slots__ = ("count", "mean", "squares", "min", "max")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    SQUARES_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    count: int
    mean: _containers.RepeatedScalarFieldContainer[float]
    squares: _containers.RepeatedScalarFieldContainer[float]
    min: _containers.RepeatedScalarFieldContainer[float]
    max: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, count: _Optional[int] = ..., mean: _Optional[_Iterable[float]] = ..., squares: _Optional[_Iterable[float]] = ..., min: _Optional[_Iterable[float]] = ..., max: _Optional[_Iterable[float]] = ...) -> None: ...

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

class ListFilesRequest(_message.Message):
    __slots__ = ("dataset_version",)
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    dataset_version: str
    def __init__(self, dataset_version: _Optional[str] = ...) -> None: ...

class ListFilesResponse(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[DataFile]
    def __init__(self, files: _Optional[_Iterable[_Union[DataFile, _Mapping]]] = ...) -> None: ...

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
    __slots__ = ("seed", "batch_size", "split", "train_fraction", "sampling", "num_traj", "rank", "world", "window", "mixture", "weight_column")
    SEED_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    TRAIN_FRACTION_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    NUM_TRAJ_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    MIXTURE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_COLUMN_FIELD_NUMBER: _ClassVar[int]
    seed: int
    batch_size: int
    split: Split
    train_fraction: float
    sampling: Sampling
    num_traj: int
    rank: int
    world: int
    window: int
    mixture: _containers.RepeatedCompositeFieldContainer[MixturePart]
    weight_column: str
    def __init__(self, seed: _Optional[int] = ..., batch_size: _Optional[int] = ..., split: _Optional[_Union[Split, str]] = ..., train_fraction: _Optional[float] = ..., sampling: _Optional[_Union[Sampling, str]] = ..., num_traj: _Optional[int] = ..., rank: _Optional[int] = ..., world: _Optional[int] = ..., window: _Optional[int] = ..., mixture: _Optional[_Iterable[_Union[MixturePart, _Mapping]]] = ..., weight_column: _Optional[str] = ...) -> None: ...

class MixturePart(_message.Message):
    __slots__ = ("files", "weight")
    FILES_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    files: str
    weight: float
    def __init__(self, files: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

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
    __slots__ = ("dataset_version", "transition_ids", "frame_spec", "accepted_codecs", "without_frames")
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    TRANSITION_IDS_FIELD_NUMBER: _ClassVar[int]
    FRAME_SPEC_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_CODECS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_FRAMES_FIELD_NUMBER: _ClassVar[int]
    dataset_version: str
    transition_ids: _containers.RepeatedScalarFieldContainer[int]
    frame_spec: FrameSpec
    accepted_codecs: _containers.RepeatedScalarFieldContainer[_tensor_pb2.Codec]
    without_frames: bool
    def __init__(self, dataset_version: _Optional[str] = ..., transition_ids: _Optional[_Iterable[int]] = ..., frame_spec: _Optional[_Union[FrameSpec, _Mapping]] = ..., accepted_codecs: _Optional[_Iterable[_Union[_tensor_pb2.Codec, str]]] = ..., without_frames: bool = ...) -> None: ...

class FetchResponse(_message.Message):
    __slots__ = ("part",)
    PART_FIELD_NUMBER: _ClassVar[int]
    part: BatchPart
    def __init__(self, part: _Optional[_Union[BatchPart, _Mapping]] = ...) -> None: ...

class BatchPart(_message.Message):
    __slots__ = ("first_row", "rows", "transition_ids", "observations", "columns")
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TRANSITION_IDS_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    first_row: int
    rows: int
    transition_ids: _containers.RepeatedScalarFieldContainer[int]
    observations: Observations
    columns: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    def __init__(self, first_row: _Optional[int] = ..., rows: _Optional[int] = ..., transition_ids: _Optional[_Iterable[int]] = ..., observations: _Optional[_Union[Observations, _Mapping]] = ..., columns: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ...) -> None: ...

class Observations(_message.Message):
    __slots__ = ("count", "codec", "height_px", "width_px", "image_bytes", "data", "current", "next", "hashes", "hash_seeds")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    HASH_SEEDS_FIELD_NUMBER: _ClassVar[int]
    count: int
    codec: _tensor_pb2.Codec
    height_px: int
    width_px: int
    image_bytes: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    current: _containers.RepeatedScalarFieldContainer[int]
    next: _containers.RepeatedScalarFieldContainer[int]
    hashes: _containers.RepeatedScalarFieldContainer[int]
    hash_seeds: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, count: _Optional[int] = ..., codec: _Optional[_Union[_tensor_pb2.Codec, str]] = ..., height_px: _Optional[int] = ..., width_px: _Optional[int] = ..., image_bytes: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ..., current: _Optional[_Iterable[int]] = ..., next: _Optional[_Iterable[int]] = ..., hashes: _Optional[_Iterable[int]] = ..., hash_seeds: _Optional[_Iterable[int]] = ...) -> None: ...

class ListWeightsRequest(_message.Message):
    __slots__ = ("dataset_version", "column")
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    dataset_version: str
    column: str
    def __init__(self, dataset_version: _Optional[str] = ..., column: _Optional[str] = ...) -> None: ...

class ListWeightsResponse(_message.Message):
    __slots__ = ("first_transition", "weights")
    FIRST_TRANSITION_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    first_transition: int
    weights: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, first_transition: _Optional[int] = ..., weights: _Optional[_Iterable[float]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("replica_id", "dataset_version", "uptime_s", "calls_in_flight", "transitions_sent", "raw_bytes", "sent_bytes", "cache_hits", "cache_misses", "cache_rebuilds", "cache_evictions", "cache_bytes", "cache_limit_bytes", "cached_files", "files", "refused_files", "local_descriptors", "fetch_p50_s", "fetch_p99_s", "codec", "resident_bytes")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    CALLS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    TRANSITIONS_SENT_FIELD_NUMBER: _ClassVar[int]
    RAW_BYTES_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    CACHE_HITS_FIELD_NUMBER: _ClassVar[int]
    CACHE_MISSES_FIELD_NUMBER: _ClassVar[int]
    CACHE_REBUILDS_FIELD_NUMBER: _ClassVar[int]
    CACHE_EVICTIONS_FIELD_NUMBER: _ClassVar[int]
    CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CACHE_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    CACHED_FILES_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FILES_FIELD_NUMBER: _ClassVar[int]
    LOCAL_DESCRIPTORS_FIELD_NUMBER: _ClassVar[int]
    FETCH_P50_S_FIELD_NUMBER: _ClassVar[int]
    FETCH_P99_S_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    replica_id: int
    dataset_version: str
    uptime_s: float
    calls_in_flight: int
    transitions_sent: int
    raw_bytes: int
    sent_bytes: int
    cache_hits: int
    cache_misses: int
    cache_rebuilds: int
    cache_evictions: int
    cache_bytes: int
    cache_limit_bytes: int
    cached_files: int
    files: int
    refused_files: int
    local_descriptors: int
    fetch_p50_s: float
    fetch_p99_s: float
    codec: _tensor_pb2.Codec
    resident_bytes: int
    def __init__(self, replica_id: _Optional[int] = ..., dataset_version: _Optional[str] = ..., uptime_s: _Optional[float] = ..., calls_in_flight: _Optional[int] = ..., transitions_sent: _Optional[int] = ..., raw_bytes: _Optional[int] = ..., sent_bytes: _Optional[int] = ..., cache_hits: _Optional[int] = ..., cache_misses: _Optional[int] = ..., cache_rebuilds: _Optional[int] = ..., cache_evictions: _Optional[int] = ..., cache_bytes: _Optional[int] = ..., cache_limit_bytes: _Optional[int] = ..., cached_files: _Optional[int] = ..., files: _Optional[int] = ..., refused_files: _Optional[int] = ..., local_descriptors: _Optional[int] = ..., fetch_p50_s: _Optional[float] = ..., fetch_p99_s: _Optional[float] = ..., codec: _Optional[_Union[_tensor_pb2.Codec, str]] = ..., resident_bytes: _Optional[int] = ...) -> None: ...
