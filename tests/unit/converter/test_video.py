"""Videos: packets and times as they should be, the index in front, nothing written twice."""

import struct
from types import MappingProxyType

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from bag_recording import BAG_FORMATS, START_NS, Message, barcode, number_of, write_bag
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.request import Job
from penstock_converter.mapping.model import LeRobotOutput
from penstock_converter.mapping.parsing import parse_mapping
from penstock_converter.messages.compressed import read_compressed
from penstock_converter.messages.images import EncodedImage, open_image
from penstock_converter.outputs.colours import to_yuv420
from penstock_converter.outputs.shards import Shard
from penstock_converter.outputs.sink import Image
from penstock_converter.outputs.video import EpisodeCopier, EpisodeEncoder, VideoShards

from penstock.errors import DataFault, Internal

SUBSAMPLING = {
    "yuvj420p": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "yuvj422p": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "yuvj444p": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}
FPS = 30


def jpeg(number, sampling="yuvj420p", size=(32, 64)):
    done, data = cv2.imencode(
        ".jpg",
        cv2.cvtColor(barcode(number, *size), cv2.COLOR_RGB2BGR),
        [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SUBSAMPLING[sampling]],
    )
    assert done
    return data.tobytes()


def passed_on(data):
    return Image(None, open_image(data, "jpeg"))


def copied(path, files, fps=FPS):
    copier = EpisodeCopier(path, fps, len(files))
    for file in files:
        copier.add(passed_on(file))
    copier.close()
    return path


def encoded(path, numbers, fps=FPS, **settings):
    encoder = EpisodeEncoder(path, fps, LeRobotOutput(**settings), len(numbers))
    for number in numbers:
        encoder.add(Image(barcode(number), None))
    encoder.close()
    return path


def packets(path):
    with av.open(str(path)) as container:
        return [
            (bytes(packet), float(packet.pts * packet.time_base), packet.is_keyframe)
            for packet in container.demux(video=0)
            if packet.dts is not None
        ]


def numbers_in(path):
    with av.open(str(path)) as container:
        return [number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def boxes(path):
    """Kinds of the boxes of an mp4 file with their sizes, in order."""
    data = path.read_bytes()
    found, position = [], 0
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        found.append((kind.decode(), size))
        position += size
    assert position == len(data)
    return found


@pytest.mark.parametrize("sampling", SUBSAMPLING)
def test_copied_jpegs_come_out_to_the_byte_each_a_key_frame_at_its_time(tmp_path, sampling):
    files = [jpeg(number, sampling) for number in range(40)]
    found = packets(copied(tmp_path / "video.mp4", files))
    assert [data for data, _, _ in found] == files
    assert all(is_key for _, _, is_key in found)
    np.testing.assert_allclose([time for _, time, _ in found], np.arange(40) / FPS, atol=1e-12)


@pytest.mark.parametrize("sampling", SUBSAMPLING)
def test_copied_frames_decode_to_the_pixels_of_the_jpeg(tmp_path, sampling):
    files = [jpeg(number, sampling) for number in range(3)]
    path = copied(tmp_path / "video.mp4", files)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert {frame.format.name for frame in frames} == {sampling}
    for frame, file in zip(frames, files, strict=True):
        expected = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB)
        difference = np.abs(frame.to_ndarray(format="rgb24").astype(int) - expected)
        # Two decoders round differently; a wrong range of colours would be off by 16.
        assert difference.max() <= 3


def test_frames_are_found_at_random(tmp_path):
    path = copied(tmp_path / "video.mp4", [jpeg(number) for number in range(60)])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for number in (41, 3, 59, 0, 17):
            container.seek(round(number / FPS / stream.time_base), stream=stream)
            frame = next(container.decode(stream))
            assert number_of(frame.to_ndarray(format="rgb24")) == number


def test_what_is_no_jpeg_or_of_another_size_is_not_copied(tmp_path):
    copier = EpisodeCopier(tmp_path / "video.mp4", FPS, 3)
    copier.add(passed_on(jpeg(0)))
    done, png = cv2.imencode(".png", barcode(1))
    assert done
    for image in (passed_on(png.tobytes()), Image(barcode(1), None)):
        with pytest.raises(DataFault, match="codec: h264") as caught:
            copier.add(image)
        assert caught.value.reason == "NOT_A_JPEG"
    with pytest.raises(DataFault, match="48x64, the first one is 32x64") as caught:
        copier.add(passed_on(jpeg(1, size=(48, 64))))
    assert caught.value.reason == "SCHEMA_MISMATCH"
    copier.discard()


@pytest.mark.parametrize("kind", ["copy", "h264", "av1"])
@pytest.mark.parametrize("frames", [1, 500])
def test_index_lies_in_front_in_room_that_was_reserved(tmp_path, kind, frames):
    path = tmp_path / "video.mp4"
    if kind == "copy":
        copied(path, [jpeg(number) for number in range(frames)])
    else:
        encoded(path, range(frames), codec=kind)
    kinds = [kind for kind, _ in boxes(path)]
    assert kinds.index("moov") < kinds.index("mdat")
    assert dict(boxes(path))["free"] > 0


def test_room_suffices_for_frames_that_are_chunks_of_their_own(tmp_path):
    # The muxer begins a new chunk every 1 MiB, so large frames take the most of the index.
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    done, large = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert done
    assert len(large) > 1 << 20
    path = copied(tmp_path / "video.mp4", [large.tobytes()] * 300)
    found = boxes(path)
    moov = dict(found)["moov"]
    assert moov - 1000 < 48 * 300
    assert [kind for kind, _ in found].index("moov") < [kind for kind, _ in found].index("mdat")


def test_encoded_frames_show_their_images_at_their_times(tmp_path):
    path = encoded(tmp_path / "video.mp4", range(50))
    assert numbers_in(path) == list(range(50))
    np.testing.assert_allclose(
        [time for _, time, _ in packets(path)], np.arange(50) / FPS, atol=1e-12
    )


def test_lone_episode_is_its_own_file_under_a_second_name(tmp_path):
    episode = copied(tmp_path / "episode.mp4", [jpeg(0), jpeg(1)])
    shards = VideoShards(tmp_path / "videos", FPS, 200, 1000)
    place = shards.append(episode, 2)
    shards.finish()
    assert (place.shard, place.from_timestamp, place.to_timestamp) == (Shard(0, 0), 0.0, 2 / FPS)
    path = tmp_path / "videos/chunk-000/file-000.mp4"
    assert path.samefile(episode)
    assert shards.pixel_format == "yuvj420p"


def test_lone_episode_is_copied_where_names_cannot_be_given(tmp_path, monkeypatch):
    episode = copied(tmp_path / "episode.mp4", [jpeg(0), jpeg(1)])

    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    shards = VideoShards(tmp_path / "videos", FPS, 200, 1000)
    shards.append(episode, 2)
    shards.finish()
    path = tmp_path / "videos/chunk-000/file-000.mp4"
    assert not path.samefile(episode)
    assert path.read_bytes() == episode.read_bytes()


@pytest.mark.parametrize("kind", ["copy", "h264"])
def test_joined_episodes_keep_their_packets_at_exact_times(tmp_path, kind):
    lengths, parts, expected = (7, 1, 12), [], []
    for length in lengths:
        path = tmp_path / f"{len(parts)}.mp4"
        numbers = range(100 * len(parts), 100 * len(parts) + length)
        if kind == "copy":
            parts.append(copied(path, [jpeg(number) for number in numbers]))
        else:
            parts.append(encoded(path, numbers))
        expected += numbers
    shards = VideoShards(tmp_path / "videos", FPS, 200, 1000)
    places = [shards.append(part, length) for part, length in zip(parts, lengths, strict=True)]
    shards.finish()
    assert [place.from_timestamp for place in places] == [0.0, 7 / FPS, 8 / FPS]
    assert [place.to_timestamp for place in places] == [7 / FPS, 8 / FPS, 20 / FPS]
    joined = tmp_path / "videos/chunk-000/file-000.mp4"
    found = packets(joined)
    assert [data for data, _, _ in found] == [
        data for part in parts for data, _, _ in packets(part)
    ]
    assert [is_key for _, _, is_key in found] == [
        is_key for part in parts for _, _, is_key in packets(part)
    ]
    np.testing.assert_allclose([time for _, time, _ in found], np.arange(20) / FPS, atol=1e-12)
    assert numbers_in(joined) == expected
    kinds = [kind for kind, _ in boxes(joined)]
    assert kinds.index("moov") < kinds.index("mdat")


def test_files_stay_under_their_size_unless_one_episode_is_larger(tmp_path):
    rng = np.random.default_rng(0)
    sizes_mb = (0.3, 0.3, 0.3, 2.5, 0.9, 0.3)
    shards = VideoShards(tmp_path / "videos", FPS, 1, 2)
    places = []
    for number, size_mb in enumerate(sizes_mb):
        noise = rng.integers(0, 256, (256, 256, 3), np.uint8)
        done, data = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 95])
        assert done
        count = round(size_mb * 1e6 / len(data))
        episode = copied(tmp_path / f"{number}.mp4", [data.tobytes()] * count)
        places.append(shards.append(episode, count).shard)
    shards.finish()
    assert places == [(0, 0), (0, 0), (0, 0), (0, 1), (1, 0), (1, 1)]
    found = sorted((tmp_path / "videos").rglob("*.mp4"))
    assert [path.stat().st_size < 1_000_000 for path in found] == [True, False, True, True]


def test_episodes_of_another_form_get_a_file_of_their_own(tmp_path):
    shards = VideoShards(tmp_path / "videos", FPS, 200, 1000)
    found = [
        shards.append(copied(tmp_path / f"{sampling}.mp4", [jpeg(0, sampling)] * 2), 2)
        for sampling in ("yuvj420p", "yuvj422p")
    ]
    shards.finish()
    assert [place.shard for place in found] == [(0, 0), (0, 1)]
    assert [place.from_timestamp for place in found] == [0.0, 0.0]


def test_episode_that_lost_frames_is_not_joined(tmp_path):
    episode = copied(tmp_path / "episode.mp4", [jpeg(0), jpeg(1)])
    with pytest.raises(Internal, match="2 of 3 frames") as caught:
        VideoShards(tmp_path / "videos", FPS, 200, 1000).append(episode, 3)
    assert caught.value.reason == "FRAMES_LOST"


@pytest.mark.parametrize("size", [(2, 2), (32, 64), (46, 30)])
def test_colours_are_within_2_levels_of_the_exact_conversion(size):
    height, width = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    pixels[:2, :2] = (255, 0, 0)
    found = to_yuv420(pixels)
    assert (found.shape, found.dtype) == ((height * 3 // 2, width), np.uint8)
    # ITU-R BT.601, 8 bits in the range of videos.
    luma = 16 + pixels @ np.array([65.481, 128.553, 24.966]) / 255
    assert np.abs(found[:height] - luma).max() < 1
    mean = pixels.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
    blue = 128 + mean @ np.array([-37.797, -74.203, 112.0]) / 255
    red = 128 + mean @ np.array([112.0, -93.786, -18.214]) / 255
    chroma = found[height:].reshape(2, height // 2, width // 2)
    assert np.abs(chroma - np.stack([blue, red])).max() < 2
    assert chroma[:, 0, 0].tolist() == [90, 240]


MAPPING = """
task: look
fps: 10
features:
  observation.images.front: {topic: /cam/compressed}
  observation.state: {topic: /state}
outputs:
  lerobot: {codec: copy}
"""


def record(path, numbers, bag_format="mcap", damage=MappingProxyType({})):
    messages = []
    for index, number in enumerate(numbers):
        time_ns = START_NS + index * 100_000_000
        data = damage.get(index, bytes)(jpeg(number, "yuvj422p"))
        fields = {"format": "jpeg", "data": np.frombuffer(data, np.uint8)}
        kind = "sensor_msgs/msg/CompressedImage"
        messages.append(Message(time_ns, "/cam/compressed", kind, fields, time_ns))
        state = {"data": float(number)}
        messages.append(Message(time_ns + 1000, "/state", "std_msgs/msg/Float32", state))
    return write_bag(path, messages, bag_format)


@pytest.mark.parametrize("bag_format", BAG_FORMATS)
def test_dataset_of_copies_holds_the_files_of_the_recording(tmp_path, bag_format):
    suffix = ".bag" if bag_format == "ros1" else ""
    bags = tuple(
        record(tmp_path / f"{first}{suffix}", range(first, first + 15), bag_format)
        for first in (0, 200)
    )
    outcome = run_job(Job(bags, parse_mapping(MAPPING), tmp_path / "out"))
    assert [bag.error for bag in outcome.refused] == []
    path = tmp_path / "out/videos/observation.images.front/chunk-000/file-000.mp4"
    numbers = [*range(15), *range(200, 215)]
    assert [data for data, _, _ in packets(path)] == [jpeg(n, "yuvj422p") for n in numbers]
    info = (tmp_path / "out/meta/info.json").read_text()
    assert '"video.codec": "mjpeg"' in info
    assert '"video.pix_fmt": "yuvj422p"' in info
    rows = pq.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    # One image a second, and ten an episode at least.
    assert [row["stats/observation.images.front/count"] for row in rows] == [[15], [15]]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-40], "IMAGE_BROKEN"),
        (lambda _: cv2.imencode(".png", barcode(7))[1].tobytes(), "NOT_A_JPEG"),
        (lambda _: jpeg(7, size=(48, 64)), "SCHEMA_MISMATCH"),
        (lambda _: b"", "IMAGE_FORMAT"),
    ],
)
def test_recording_with_an_image_that_cannot_be_copied_is_refused_by_its_number(
    tmp_path, damage, reason
):
    bag = record(tmp_path / "robot", range(12), damage={7: damage})
    outcome = run_job(Job((bag,), parse_mapping(MAPPING), tmp_path / "out"))
    (refused,) = outcome.refused
    assert refused.reason == reason
    assert "message 7 of topic /cam/compressed" in refused.error
    assert not (tmp_path / "out").exists()


def test_sampled_statistics_are_those_of_one_image_in_three_seconds(tmp_path):
    bag = record(tmp_path / "robot", range(360))
    run_job(Job((bag,), parse_mapping(MAPPING), tmp_path / "out"))
    (row,) = pq.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert row["stats/observation.images.front/count"] == [12]
    sampled = [
        cv2.imdecode(np.frombuffer(jpeg(n, "yuvj422p"), np.uint8), cv2.IMREAD_COLOR_RGB)
        for n in range(0, 360, 30)
    ]
    mean = np.stack(sampled).mean(axis=(0, 1, 2)) / 255
    found = np.array(row["stats/observation.images.front/mean"], np.float64).ravel()
    np.testing.assert_allclose(found, mean, atol=1e-12)


def cdr(form, data, frame_id=b"camera\0", order="<"):
    found = b"\x00\x01\x00\x00" if order == "<" else b"\x00\x00\x00\x00"
    found += struct.pack(order + "iI", 1, 2)
    for part in (frame_id, form, data):
        found += b"\0" * (-len(found) % 4) + struct.pack(order + "I", len(part)) + part
    return found


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("frame_id", [b"", b"\0", b"a\0", b"base\0", b"camera_link\0"])
def test_file_of_a_message_is_found_by_its_place(frame_id, order):
    message = cdr(b"jpeg\0", b"file", frame_id, order)
    for padding in range(4):
        assert read_compressed(message + b"\0" * padding, ros1=False) == ("jpeg", b"file")
    assert read_compressed(message + b"\0" * 4, ros1=False) is None
    header = struct.pack("<III", 7, 1, 2)
    ros1 = header + b"".join(
        struct.pack("<I", len(part)) + part for part in (frame_id, b"jpeg", b"file")
    )
    assert read_compressed(ros1, ros1=True) == ("jpeg", b"file")
    assert read_compressed(ros1 + b"\0", ros1=True) is None


def test_message_that_is_cut_off_or_odd_is_left_to_the_reader_that_says_why():
    message = cdr(b"jpeg\0", b"file")
    for size in range(len(message)):
        assert read_compressed(message[:size], ros1=False) is None
        assert read_compressed(message[:size], ros1=True) is None
    assert read_compressed(b"\x00\x07" + message[2:], ros1=False) is None
    assert read_compressed(cdr(b"\xff\xfe\0", b"file"), ros1=False) is None


def test_images_know_their_size_before_they_are_decoded():
    assert open_image(jpeg(0, size=(48, 80)), "jpeg")[1:] == ("jpg", 48, 80, 8)
    assert isinstance(open_image(jpeg(0), "jpeg"), EncodedImage)
