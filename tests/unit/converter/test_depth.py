"""Depth images of every format into the same millimetres, and what is said when they do not fit."""

import resource
import struct
from types import SimpleNamespace as Message

import cv2
import numpy as np
import pytest
from bag_recording import START_NS, barcode, compressed, raw_image, write_bag
from bag_recording import Message as Recorded
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.request import Job
from penstock_converter.mapping.parsing import parse_mapping
from penstock_converter.messages.depth import FarPixels, decode_depth, depth_file, is_depth
from penstock_converter.messages.images import decode_image, encode_png
from penstock_converter.outputs.statistics import Histogram
from penstock_converter.recordings.inspection import inspect_bag
from penstock_converter.recordings.proposal import propose_mapping

from penstock.errors import DataFault

RNG = np.random.default_rng(0)
DEPTH = RNG.integers(0, 8000, (6, 10), np.uint16)
DEPTH[0, :4] = (0, 1, 32_768, 65_535)
SCALE, SHIFT = 100.0 * 101.0, 1 - 100.0 * 101.0 / 10.0


def png(values):
    done, data = cv2.imencode(".png", values)
    assert done
    return data.tobytes()


def transported(form, inside, scale=0.0, shift=0.0):
    """A message of compressed_depth_image_transport."""
    data = struct.pack("<iff", 0, scale, shift) + inside
    return Message(format=form, data=np.frombuffer(data, np.uint8))


def rvl(values):
    """RVL as its paper tells it, one number after the other: what the decoder is held against."""
    nibbles = []

    def put(number):
        while number > 7:
            nibbles.append(number & 7 | 8)
            number >>= 3
        nibbles.append(number)

    pixels, position, previous = values.ravel().tolist(), 0, 0
    while position < len(pixels):
        start = position
        while position < len(pixels) and pixels[position] == 0:
            position += 1
        put(position - start)
        start = position
        while position < len(pixels) and pixels[position]:
            position += 1
        put(position - start)
        for pixel in pixels[start:position]:
            step = pixel - previous
            put(2 * step if step >= 0 else -2 * step - 1)
            previous = pixel
    nibbles += [0] * (-len(nibbles) % 8)
    words = [
        sum(nibble << 28 - 4 * place for place, nibble in enumerate(nibbles[at : at + 8]))
        for at in range(0, len(nibbles), 8)
    ]
    height, width = values.shape
    return struct.pack("<II", width, height) + np.array(words, "<u4").tobytes()


def raw(values, encoding, padding=0, *, big=False):
    ordered = values.astype(values.dtype.newbyteorder(">" if big else "<"))
    fields = raw_image(ordered.view(np.uint8).reshape(len(values), -1), encoding, padding)
    return Message(**{**fields, "width": values.shape[1], "is_bigendian": int(big)})


def refused(message, decode=decode_depth):
    with pytest.raises(DataFault) as caught:
        decode(message)
    return caught.value


MESSAGES = {
    "compressedDepth png": transported("16UC1; compressedDepth png", png(DEPTH)),
    "compressedDepth of old": transported("16UC1; compressedDepth", png(DEPTH)),
    "compressedDepth rvl": transported("16UC1; compressedDepth rvl", rvl(DEPTH)),
    "png": Message(format="16UC1; png compressed", data=np.frombuffer(png(DEPTH), np.uint8)),
    "16UC1": raw(DEPTH, "16UC1"),
    "mono16": raw(DEPTH, "mono16"),
    "padded": raw(DEPTH, "16UC1", padding=7),
    "big-endian": raw(DEPTH, "16UC1", big=True),
    "metres": raw(DEPTH.astype(np.float32) / 1000, "32FC1"),
    "big-endian metres": raw(DEPTH.astype(np.float32) / 1000, "32FC1", padding=3, big=True),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_every_format_gives_the_same_millimetres(name):
    found = decode_depth(MESSAGES[name])
    assert found.dtype == np.uint16
    assert found.tolist() == DEPTH.tolist()
    assert is_depth(MESSAGES[name])


def test_metres_are_rounded_and_what_is_no_distance_is_0():
    metres = np.array([[1.2344, 1.2346, 65.535, 65.5354], [70, 1e38, 0, -1]], np.float32)
    assert decode_depth(raw(metres, "32FC1")).tolist() == [
        [1234, 1235, 65_535, 65_535],
        [65_535, 65_535, 0, 0],
    ]
    odd = np.array([[np.nan, np.inf, -np.inf, 0.0004]], np.float32)
    assert decode_depth(raw(odd, "32FC1")).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("pack", [("png", png), ("rvl", rvl)], ids=lambda pack: pack[0])
def test_metres_that_were_stored_as_their_inverse_come_back(pack):
    compression, encode = pack
    metres = RNG.uniform(0.5, 9.9, (20, 30))
    values = (SCALE / metres + SHIFT).astype(np.uint16)
    values[0, 0] = 0
    found = decode_depth(
        transported(f"32FC1; compressedDepth {compression}", encode(values), SCALE, SHIFT)
    )
    # What one step of the stored values is worth, and half a millimetre of rounding.
    step_mm = 1000 * metres**2 / SCALE + 0.5
    assert found[0, 0] == 0
    assert (np.abs(found - 1000 * metres) <= step_mm).ravel()[1:].all()


def test_inverse_that_no_distance_has_is_0_or_the_most():
    # value 1 divides by zero, 2 gives 100 m, 100 what is a metre and a bit; 0 is never measured.
    values = np.array([[0, 1, 2, 100]], np.uint16)
    found = decode_depth(transported("32FC1; compressedDepth png", png(values), 100.0, 1.0))
    assert found.tolist() == [[0, 0, 65_535, 1010]]
    error = refused(transported("32FC1; compressedDepth png", png(values), float("nan"), 1.0))
    assert error.reason == "IMAGE_BROKEN"


def test_rvl_of_large_images_and_of_nothing_measured():
    smooth = (1000 + 50 * np.sin(np.arange(480 * 640) / 90)).astype(np.uint16).reshape(480, 640)
    smooth[RNG.random(smooth.shape) < 0.2] = 0
    for values in (smooth, np.zeros((480, 640), np.uint16), np.full((3, 5), 65_535, np.uint16)):
        found = decode_depth(transported("16UC1; compressedDepth rvl", rvl(values)))
        np.testing.assert_array_equal(found, values)


def test_png_of_millimetres_passes_through_and_others_do_not():
    file = depth_file(MESSAGES["compressedDepth png"])
    assert file is not None
    assert (file.data, file.height, file.width) == (png(DEPTH), 6, 10)
    assert depth_file(MESSAGES["png"]).data == png(DEPTH)
    assert depth_file(MESSAGES["compressedDepth rvl"]) is None
    assert depth_file(MESSAGES["16UC1"]) is None
    assert depth_file(transported("32FC1; compressedDepth png", png(DEPTH))) is None


def test_png_of_16_bits_holds_every_value():
    values = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    file = encode_png(values)
    assert (file.height, file.width, file.bits) == (256, 256, 16)
    decoded = cv2.imdecode(np.frombuffer(file.data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, values)


def test_statistics_of_distances_are_millimetres_and_exact():
    images = [RNG.integers(0, 65_536, (40, 50), np.uint16) for _ in range(3)]
    images[0][0, :2] = (0, 65_535)
    histogram = Histogram.like(images[0])
    for image in images:
        histogram.add(image)
    every = np.stack(images).astype(np.float64)
    found = histogram.statistics()
    expected = [0, 65_535, every.mean(), every.std()]
    for name, value in zip(("min", "max", "mean", "std"), expected, strict=True):
        assert found[name].shape == (1, 1, 1)
        assert found[name].item() == pytest.approx(value, rel=1e-12)
    median = np.quantile(every, 0.5, method="inverted_cdf")
    assert found["q50"].item() == median
    assert found["count"].tolist() == [3]


@pytest.mark.parametrize("name", ["compressedDepth png", "compressedDepth rvl", "png"])
def test_cut_off_anywhere_is_refused(name):
    whole = MESSAGES[name]
    for size in range(len(whole.data)):
        error = refused(Message(format=whole.format, data=whole.data[:size]))
        assert error.reason in ("IMAGE_BROKEN", "IMAGE_FORMAT"), size


@pytest.mark.parametrize("name", ["16UC1", "padded", "metres"])
def test_raw_image_with_too_few_bytes_is_refused(name):
    whole = MESSAGES[name]
    assert refused(Message(**{**vars(whole), "data": whole.data[:-1]})).reason == "IMAGE_SIZE"
    assert refused(Message(**{**vars(whole), "step": 3})).reason == "IMAGE_SIZE"


@pytest.mark.parametrize("name", ["compressedDepth png", "compressedDepth rvl", "png"])
def test_damaged_bytes_are_refused_or_give_an_image_never_another_error(name):
    whole = MESSAGES[name]
    rng = np.random.default_rng(7)
    outcomes = set()
    for _ in range(400):
        data = np.array(whole.data)
        data[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
        try:
            outcomes.add(decode_depth(Message(format=whole.format, data=data)).dtype.name)
        except DataFault as error:
            outcomes.add(error.reason)
    assert "IMAGE_BROKEN" in outcomes
    assert outcomes <= {"uint16", "IMAGE_BROKEN", "IMAGE_SIZE", "IMAGE_FORMAT", "IMAGE_ENCODING"}


def test_chunk_that_claims_gigabytes_is_refused_before_room_is_made_for_it():
    data = bytearray(png(DEPTH))
    assert data[37:41] == b"IDAT"
    data[33] = 0x7F
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = refused(transported("16UC1; compressedDepth png", bytes(data)))
    assert (error.reason, "its end is missing" in error.message) == ("IMAGE_BROKEN", True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_header_that_claims_a_giant_is_refused_before_it_is_decoded():
    giant = struct.pack("<II", 60_000, 60_000) + b"\0" * 64
    assert refused(transported("16UC1; compressedDepth rvl", giant)).reason == "IMAGE_SIZE"
    data = bytearray(png(DEPTH))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    assert refused(transported("16UC1; compressedDepth png", bytes(data))).reason == "IMAGE_SIZE"
    message = raw(DEPTH, "16UC1")
    message.height = message.width = 60_000
    assert refused(message).reason == "IMAGE_SIZE"


def test_colours_and_distances_are_not_taken_for_each_other():
    colours = barcode(3)
    for message in (
        Message(**raw_image(colours, "rgb8")),
        Message(**compressed(colours)),
        Message(**compressed(colours, ".png")),
    ):
        assert not is_depth(message)
        error = refused(message)
        assert error.reason == "IMAGE_ENCODING"
        assert "dtype: video" in error.message
    for name in ("compressedDepth png", "compressedDepth rvl", "png", "16UC1", "metres"):
        error = refused(MESSAGES[name], decode_image)
        assert error.reason == "IMAGE_ENCODING", name
        assert "set dtype: depth" in error.message
    odd = [
        transported("8UC3; compressedDepth png", png(DEPTH)),
        transported("16UC1; compressedDepth jpeg", png(DEPTH)),
        transported("compressedDepth", png(DEPTH)),
        Message(format="32FC1; png", data=np.frombuffer(png(DEPTH), np.uint8)),
    ]
    for message in odd:
        error = refused(message)
        assert (error.reason, "compressedDepth png or rvl" in error.message) == (
            "IMAGE_ENCODING",
            True,
        )


def test_far_pixels_are_counted():
    far = FarPixels()
    far.add(np.array([[65_535, 65_535, 40_000, 32_767]], np.uint16))
    far.add(np.array([[100, 0]], np.uint16))
    clamped, signed = far.warnings("observation.depth")
    assert clamped.startswith("2 depth pixels of observation.depth are 65.535 m")
    assert signed.startswith("3 depth pixels of observation.depth lie beyond 32.767 m")
    assert FarPixels().warnings("observation.depth") == []


MAPPING = """
task: measure
fps: 10
features:
  observation.images.depth: {topic: /cam/depth, dtype: depth}
  observation.state: {topic: /state}
outputs:
  lerobot: {}
  hdf5:
    joint: observation.state
    actions: observation.state
    rewards: observation.state
    terminals: observation.state
    images: {depth: observation.images.depth}
"""


def record(path, kind, fields):
    messages = []
    for index, each in enumerate(fields):
        time_ns = START_NS + index * 100_000_000
        messages.append(Recorded(time_ns, "/cam/depth", kind, each, time_ns))
        state = {"data": float(index)}
        messages.append(Recorded(time_ns + 1000, "/state", "std_msgs/msg/Float32", state))
    return write_bag(path, messages)


def test_lerobot_table_and_hdf5_hold_the_same_millimetres(tmp_path):
    h5py = pytest.importorskip("h5py")
    pq = pytest.importorskip("pyarrow.parquet")
    images = [np.full((16, 24), 500 + index, np.uint16) for index in range(4)]
    images[2][:2] = 65_535
    files = [png(image) for image in images]
    fields = [vars(transported("16UC1; compressedDepth png", file)) for file in files]
    bag = record(tmp_path / "robot", "sensor_msgs/msg/CompressedImage", fields)
    outcome = run_job(Job((bag,), parse_mapping(MAPPING), tmp_path / "out"))
    assert [each.error for each in outcome.refused] == []
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet").to_pydict()
    # The very files of the recording: nothing is encoded again.
    assert [each["bytes"] for each in table["observation.images.depth"]] == files
    with h5py.File(tmp_path / "out/hdf5/episode_000000.hdf5") as file:
        dataset = file["observations/depth"]
        assert (dataset.dtype, dataset.shape) == (np.uint16, (4, 16, 24))
        np.testing.assert_array_equal(dataset[:], np.stack(images))
    warnings = outcome.bags[0].warnings
    assert any("48 depth pixels of observation.images.depth are 65.535 m" in w for w in warnings)


def test_raw_metres_become_png_of_millimetres(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    metres = [np.full((16, 24), 1.5 + index, np.float32) for index in range(3)]
    fields = [vars(raw(each, "32FC1")) for each in metres]
    bag = record(tmp_path / "robot", "sensor_msgs/msg/Image", fields)
    mapping = parse_mapping(MAPPING, ["outputs.hdf5=null", "outputs.lerobot.codec=copy"])
    outcome = run_job(Job((bag,), mapping, tmp_path / "out"))
    assert [each.error for each in outcome.refused] == []
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet").to_pydict()
    for index, each in enumerate(table["observation.images.depth"]):
        image = cv2.imdecode(np.frombuffer(each["bytes"], np.uint8), cv2.IMREAD_UNCHANGED)
        assert image.dtype == np.uint16
        assert np.unique(image).tolist() == [1500 + 1000 * index]
    assert outcome.bags[0].warnings == []


def test_inspection_shows_depth_and_proposes_it(tmp_path):
    messages = []
    for index in range(3):
        time_ns = START_NS + index * 100_000_000
        for topic, fields in (
            ("/cam/color/compressed", compressed(barcode(index))),
            ("/cam/depth/compressedDepth", vars(MESSAGES["compressedDepth rvl"])),
        ):
            messages.append(
                Recorded(time_ns, topic, "sensor_msgs/msg/CompressedImage", fields, time_ns)
            )
    found = inspect_bag(write_bag(tmp_path / "robot", messages))
    assert [topic.image for topic in found.topics] == ["64x32 jpg", "10x6 depth"]
    features = parse_mapping(propose_mapping(found)).features
    assert features["observation.images.cam"].dtype is None
    assert features["observation.images.cam_depth"].dtype == "depth"
