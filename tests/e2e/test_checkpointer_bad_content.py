"""Content that is damaged, forged or a bomb: a service refuses it, stays small and lives on."""

import io
import json
import pickle
import random
import struct
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np
import psutil
import pytest
import torch
import xxhash
from service_process import ServiceProcess

import penstock
from penstock import container
from penstock.checkpoints import UploadRequest
from penstock.chunks import Digest
from penstock.client.checkpoint import stores as checkpoint_store
from penstock.client.checkpoint.stores import RemoteStore
from penstock.client.checkpoint_files.load import load_file
from penstock.container import MAGIC
from penstock.errors import (
    Corrupt,
    DataFault,
    InvalidInput,
    LimitExceeded,
    PenstockError,
    Unsupported,
)
from penstock.targets import Target

pytestmark = pytest.mark.e2e

FOOTER = struct.Struct("<QQ16s8s")
REFUSALS = (Corrupt, InvalidInput, LimitExceeded, Unsupported, DataFault)
GROWTH_BYTES = 64 << 20
"""What allocators and caches may keep: a thousandth of what the bombs ask for."""
UPLOADS = 240


@dataclass
class Service:
    """A service with its store; takes files as they are."""

    process: ServiceProcess
    root: Path
    proofs: int = 0

    @property
    def rss_bytes(self):
        return psutil.Process(self.process.process.pid).memory_info().rss

    def upload(self, data, step, announced=None):
        announced = data if announced is None else announced
        digest = Digest(len(data), xxhash.xxh3_128_digest(announced))
        request = UploadRequest(
            run="bad",
            step=step,
            digest=digest,
            raw_size_bytes=0,
            fencing_token=0,
            tags=(),
            metrics={},
        )
        store = RemoteStore(Target.parse(self.process.target), 5.0, Counter())
        path = self.root.parent / "sent"
        path.write_bytes(data)
        try:
            with path.open("rb") as file:
                return store.upload(request, file, lambda begin: begin(0))
        finally:
            store.close()

    def assert_works(self):
        """It takes, lists and gives a checkpoint as if nothing had been."""
        self.proofs += 1
        with penstock.open_checkpoints(self.process.target, retry_s=5) as client:
            client.save({"w": np.arange(self.proofs)}, "good", self.proofs)
            assert client.latest("good").step == self.proofs
            assert client.load("good")["w"].tolist() == list(range(self.proofs))
        assert self.process.process.poll() is None


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints") / "store"
    log = root.parent / "checkpointer.log"
    # What is sent again is refused again: once is enough here.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_store, "_MAX_RESENDS", 0)
        with ServiceProcess("checkpointer", "--root", str(root), log=log) as process:
            yield Service(process, root)


@pytest.fixture(autouse=True)
def flat(service):
    """Whatever a test sends, the service is as large afterwards as it was before."""
    service.assert_works()
    before = service.rss_bytes
    yield
    assert service.rss_bytes - before < GROWTH_BYTES
    service.assert_works()


def content(seed, compress="small"):
    file = io.BytesIO()
    state = {"w": torch.randn(3000, generator=torch.Generator().manual_seed(seed)), "step": seed}
    container.write(state, file, compress=compress)
    return file.getvalue()


def damaged(data, chooser):
    if chooser.random() < 0.3:
        return data[: chooser.randrange(len(data))]
    changed = bytearray(data)
    changed[chooser.randrange(len(data))] ^= 1 << chooser.randrange(8)
    return bytes(changed)


def test_damaged_uploads_are_refused(service):
    chooser = random.Random(5)  # noqa: S311 - a test's dice
    for number in range(UPLOADS):
        whole = content(number % 8, ("small", "fast", "none")[number % 3])
        data = damaged(whole, chooser)
        if not data:
            continue
        # Half of them are announced as what they are, half as what they should have been.
        announced = data if number % 2 else whole
        with pytest.raises(REFUSALS):
            service.upload(data, number, announced)
    with penstock.open_checkpoints(service.process.target, retry_s=5) as client:
        assert "bad" not in [found.name for found in client.runs()]


def stored_path(service, run, step):
    (path,) = (service.root / "runs" / run).glob(f"*{step}.pstk")
    return path


PLACES = {
    "magic": lambda size: 3,
    "first chunk": lambda size: 40,
    "middle": lambda size: size // 2,
    "index": lambda size: size - 90,
    "footer": lambda size: size - 20,
    "cut": None,
    "gone": None,
}


@pytest.mark.parametrize("place", PLACES)
def test_damage_of_a_stored_file_is_found_by_everyone_who_reads_it(service, place):
    run = f"stored-{place.replace(' ', '-')}"
    with penstock.open_checkpoints(service.process.target, retry_s=5) as client:
        for step in (1, 2):
            client.save({"w": torch.full((5000,), float(step)), "n": step}, run, step)
        path = stored_path(service, run, 2)
        data = bytearray(path.read_bytes())
        if place == "gone":
            path.unlink()
        elif place == "cut":
            path.write_bytes(data[:-10])
        else:
            data[PLACES[place](len(data))] ^= 4
            path.write_bytes(data)
        with pytest.raises(Corrupt, match=f"{run}/2|stored"):
            client.load(run, 2)
        with pytest.raises(Corrupt):
            client.verify(run, 2)
        assert client.latest(run).step == 1
        assert client.load(run)["n"] == 1


def forged(index, chunks=b""):
    """A file with right hashes around an index of any form."""
    data = index if isinstance(index, bytes) else json.dumps(index).encode()
    offset = len(MAGIC) + len(chunks)
    footer = FOOTER.pack(offset, len(data), xxhash.xxh3_128_digest(data), b"PSTK\x01END")
    return MAGIC + chunks + data + footer


def index_of(**changes):
    return {"meta": {}, "tree": None, "tensors": [], "storages": [], **changes}


def nested(depth):
    node = 1
    for _ in range(depth):
        node = {"l": [node]}
    return node


def zip_bomb():
    """A .pt whose weights are 120 MB of zeros, packed into less than one."""
    plain, packed = io.BytesIO(), io.BytesIO()
    torch.save({"w": torch.zeros(30_000_000)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w") as to:
        for entry in source.infolist():
            to.writestr(entry.filename, source.read(entry), zipfile.ZIP_DEFLATED)
    assert packed.tell() < 1_000_000
    return packed.getvalue()


def torch_module():
    file = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2), file)
    return file.getvalue()


class Code:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


TERABYTES = 1 << 42
BOMBS = {
    "terabytes in a tensor": lambda: forged(
        index_of(tree={"t": 0}, tensors=[["torch", "float32", [TERABYTES], 0, 0, None, False]])
    ),
    # A thousand chunks of one byte that claim 1 MiB each, and 2000 storages equal to these.
    "terabytes of chunks": lambda: forged(
        index_of(storages=[[4, [[0, 1, 1, 1 << 20, "0"]] * 1000], *[[4, 0]] * 2000]), b"x" * 1000
    ),
    "terabytes in one chunk": lambda: forged(
        index_of(storages=[[4, [[0, 1, 1, TERABYTES, "0"]]]]), b"x"
    ),
    "an index of terabytes": lambda: MAGIC + FOOTER.pack(8, TERABYTES, bytes(16), b"PSTK\x01END"),
    "deep tree": lambda: forged(index_of(tree=nested(65))),
    "deep JSON": lambda: forged(b"[" * 500_000),
    "a million tensors": lambda: forged(index_of(tensors=[0] * 1_000_001)),
    "a huge integer": lambda: forged(
        b'{"meta":{},"tree":' + b"9" * 100_000 + b',"tensors":[],"storages":[]}'
    ),
    "a huge integer in hex": lambda: forged(index_of(tree={"i": "f" * 1_000_000})),
    "no number": lambda: forged(b'{"meta":{},"tree":NaN,"tensors":[],"storages":[]}'),
    "infinity": lambda: forged(b'{"meta":{},"tree":{"t":1e999},"tensors":[],"storages":[]}'),
    "pickle": lambda: pickle.dumps(Code(), protocol=2),
    "pickle of today": lambda: pickle.dumps(Code()),
    "module in a .pt": torch_module,
    "zip bomb": zip_bomb,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb_is_refused_by_the_service_and_by_whoever_reads_the_file(service, bomb, tmp_path):
    data = BOMBS[bomb]()
    with pytest.raises(REFUSALS) as refused:
        service.upload(data, 1)
    assert refused.value.message
    path = tmp_path / "bomb"
    path.write_bytes(data)
    before = psutil.Process().memory_info().rss
    with pytest.raises(REFUSALS, match="bomb"):
        load_file(path)
    assert psutil.Process().memory_info().rss - before < GROWTH_BYTES


def zstd_claiming(size_bytes):
    """A chunk of one plane in a zstd frame that claims ``size_bytes`` once decoded."""
    frame = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", size_bytes) + b"\x03\x00\x00A"
    return struct.pack("<BBI", 1, 1, len(frame)) + frame


def blosc2_claiming(size_bytes):
    """A chunk of an earlier version, changed to claim ``size_bytes`` once decoded."""
    stored = bytearray(blosc2.compress2(bytes(4000)))
    stored[4:8] = struct.pack("<I", size_bytes)
    return bytes(stored)


@pytest.mark.parametrize(
    ("filter_", "codec", "claiming"), [(0, 4, zstd_claiming), (1, 2, blosc2_claiming)]
)
def test_chunk_that_claims_gigabytes_is_kept_unread_and_refused_by_readers(
    service, filter_, codec, claiming
):
    """A service never decodes: it has nothing to fear of a decoder."""
    stored = claiming(0x7FFFFFFF)
    chunk = [filter_, codec, len(stored), 4000, xxhash.xxh3_64_hexdigest(stored)]
    tensors = [["torch", "float32", [1000], 0, 0, None, False]]
    data = forged(index_of(tree={"t": 0}, tensors=tensors, storages=[[4, [chunk]]]), stored)
    assert service.upload(data, 7).step == 7
    with penstock.open_checkpoints(service.process.target, retry_s=5) as client:
        with pytest.raises(Corrupt, match="claims to"):
            client.load("bad", 7)
        client.delete("bad", 7)


def test_messages_of_refusals_are_short_whatever_was_sent(service):
    for data in (forged(index_of(tree={"x" * 100_000: 1})), forged(b"\xff" * 100_000)):
        with pytest.raises(PenstockError) as refused:
            service.upload(data, 1)
        assert len(refused.value.message) < 1000
