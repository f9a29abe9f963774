"""A store, and uploads to it without a client."""

import io
import secrets
from dataclasses import dataclass, field

import pytest
from object_server import BUCKET, ObjectServer
from penstock_checkpointer.store import Store

from penstock import container
from penstock.checkpoints import UploadRequest


@dataclass
class Content:
    """The file of a checkpoint and its announcement."""

    state: object
    run: str = "run"
    step: int = 1
    tags: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    token: int = 0

    def __post_init__(self):
        file = io.BytesIO()
        self.written = container.write(self.state, file, compress="fast")
        self.data = file.getvalue()

    @property
    def request(self):
        return UploadRequest(
            run=self.run,
            step=self.step,
            digest=self.written.digest,
            raw_size_bytes=self.written.raw_size_bytes,
            fencing_token=self.token,
            tags=self.tags,
            metrics=self.metrics,
        )


@pytest.fixture
def content():
    return Content


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def shelf():
    """Where the checkpoints of ``store`` stand; None: in its directory."""
    return


@pytest.fixture
def store(root, shelf):
    opened = Store(root, shelf=shelf)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def object_server(tmp_path_factory):
    """An S3-compatible server."""
    with ObjectServer(tmp_path_factory.mktemp("objects") / "requests") as server:
        yield server


@pytest.fixture
def object_url(object_server, monkeypatch):
    """An empty prefix of its bucket, for clients that find the server in the environment."""
    for name, value in object_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{secrets.token_hex(8)}/checkpoints"


@pytest.fixture
def save(store):
    """Upload a state in pieces and commit it."""

    def save(state, run="run", step=1, *, into=store, piece=1000, **options):
        content = Content(state, run, step, **options)
        upload = into.begin_upload(content.request)
        for start in range(upload.received_bytes, len(content.data), piece):
            into.append(upload.upload_id, start, content.data[start : start + piece])
        return into.commit(upload.upload_id)

    return save


@pytest.fixture
def load():
    """Read a state straight from a store."""

    def load(store, run="run", which="latest"):
        info = store.get(run, which)
        with store.open_content(run, info.step) as file:
            return container.read(file)

    return load
