from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ConversionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONVERSION_STATE_UNSPECIFIED: _ClassVar[ConversionState]
    CONVERSION_STATE_QUEUED: _ClassVar[ConversionState]
    CONVERSION_STATE_RUNNING: _ClassVar[ConversionState]
    CONVERSION_STATE_SUCCEEDED: _ClassVar[ConversionState]
    CONVERSION_STATE_PARTLY_SUCCEEDED: _ClassVar[ConversionState]
    CONVERSION_STATE_FAILED: _ClassVar[ConversionState]
    CONVERSION_STATE_CANCELLED: _ClassVar[ConversionState]

class BagState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BAG_STATE_UNSPECIFIED: _ClassVar[BagState]
    BAG_STATE_WAITING: _ClassVar[BagState]
    BAG_STATE_RUNNING: _ClassVar[BagState]
    BAG_STATE_CONVERTED: _ClassVar[BagState]
    BAG_STATE_REFUSED: _ClassVar[BagState]
CONVERSION_STATE_UNSPECIFIED: ConversionState
CONVERSION_STATE_QUEUED: ConversionState
CONVERSION_STATE_RUNNING: ConversionState
CONVERSION_STATE_SUCCEEDED: ConversionState
CONVERSION_STATE_PARTLY_SUCCEEDED: ConversionState
CONVERSION_STATE_FAILED: ConversionState
CONVERSION_STATE_CANCELLED: ConversionState
BAG_STATE_UNSPECIFIED: BagState
BAG_STATE_WAITING: BagState
BAG_STATE_RUNNING: BagState
BAG_STATE_CONVERTED: BagState
BAG_STATE_REFUSED: BagState

class StartConversionRequest(_message.Message):
    __slots__ = ("inputs", "output", "mapping_yaml", "overrides", "overwrite", "append")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    MAPPING_YAML_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    OVERWRITE_FIELD_NUMBER: _ClassVar[int]
    APPEND_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.RepeatedScalarFieldContainer[str]
    output: str
    mapping_yaml: str
    overrides: _containers.RepeatedScalarFieldContainer[str]
    overwrite: bool
    append: bool
    def __init__(self, inputs: _Optional[_Iterable[str]] = ..., output: _Optional[str] = ..., mapping_yaml: _Optional[str] = ..., overrides: _Optional[_Iterable[str]] = ..., overwrite: bool = ..., append: bool = ...) -> None: ...

class StartConversionResponse(_message.Message):
    __slots__ = ("conversion",)
    CONVERSION_FIELD_NUMBER: _ClassVar[int]
    conversion: Conversion
    def __init__(self, conversion: _Optional[_Union[Conversion, _Mapping]] = ...) -> None: ...

class Conversion(_message.Message):
    __slots__ = ("conversion_id", "output", "state", "bags", "frames_done", "frames_total", "images_per_s", "eta_s", "peak_rss_bytes", "error", "created_unix_ms", "updated_unix_ms")
    CONVERSION_ID_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BAGS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_DONE_FIELD_NUMBER: _ClassVar[int]
    FRAMES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    IMAGES_PER_S_FIELD_NUMBER: _ClassVar[int]
    ETA_S_FIELD_NUMBER: _ClassVar[int]
    PEAK_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    UPDATED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    conversion_id: str
    output: str
    state: ConversionState
    bags: _containers.RepeatedCompositeFieldContainer[BagOutcome]
    frames_done: int
    frames_total: int
    images_per_s: float
    eta_s: float
    peak_rss_bytes: int
    error: str
    created_unix_ms: int
    updated_unix_ms: int
    def __init__(self, conversion_id: _Optional[str] = ..., output: _Optional[str] = ..., state: _Optional[_Union[ConversionState, str]] = ..., bags: _Optional[_Iterable[_Union[BagOutcome, _Mapping]]] = ..., frames_done: _Optional[int] = ..., frames_total: _Optional[int] = ..., images_per_s: _Optional[float] = ..., eta_s: _Optional[float] = ..., peak_rss_bytes: _Optional[int] = ..., error: _Optional[str] = ..., created_unix_ms: _Optional[int] = ..., updated_unix_ms: _Optional[int] = ...) -> None: ...

class BagOutcome(_message.Message):
    __slots__ = ("bag", "state", "frames", "dropped", "error", "reason", "episodes", "warnings")
    class DroppedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    BAG_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    bag: str
    state: BagState
    frames: int
    dropped: _containers.ScalarMap[str, int]
    error: str
    reason: str
    episodes: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, bag: _Optional[str] = ..., state: _Optional[_Union[BagState, str]] = ..., frames: _Optional[int] = ..., dropped: _Optional[_Mapping[str, int]] = ..., error: _Optional[str] = ..., reason: _Optional[str] = ..., episodes: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchConversionRequest(_message.Message):
    __slots__ = ("conversion_id",)
    CONVERSION_ID_FIELD_NUMBER: _ClassVar[int]
    conversion_id: str
    def __init__(self, conversion_id: _Optional[str] = ...) -> None: ...

class WatchConversionResponse(_message.Message):
    __slots__ = ("conversion",)
    CONVERSION_FIELD_NUMBER: _ClassVar[int]
    conversion: Conversion
    def __init__(self, conversion: _Optional[_Union[Conversion, _Mapping]] = ...) -> None: ...

class CancelConversionRequest(_message.Message):
    __slots__ = ("conversion_id",)
    CONVERSION_ID_FIELD_NUMBER: _ClassVar[int]
    conversion_id: str
    def __init__(self, conversion_id: _Optional[str] = ...) -> None: ...

class CancelConversionResponse(_message.Message):
    __slots__ = ("conversion",)
    CONVERSION_FIELD_NUMBER: _ClassVar[int]
    conversion: Conversion
    def __init__(self, conversion: _Optional[_Union[Conversion, _Mapping]] = ...) -> None: ...

class ListConversionsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListConversionsResponse(_message.Message):
    __slots__ = ("conversions",)
    CONVERSIONS_FIELD_NUMBER: _ClassVar[int]
    conversions: _containers.RepeatedCompositeFieldContainer[Conversion]
    def __init__(self, conversions: _Optional[_Iterable[_Union[Conversion, _Mapping]]] = ...) -> None: ...
