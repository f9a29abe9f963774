"""Uploads, with the Hub's own client against a small Hub of this test."""

import base64
import hashlib
import json
import sys
import threading
from collections import defaultdict

import flask
import huggingface_hub.constants
import pytest
from click.testing import CliRunner
from penstock_converter.hub import push_dataset
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.request import Job
from werkzeug.serving import WSGIRequestHandler, make_server

from penstock.cli import penstock
from penstock.errors import (
    AlreadyExists,
    InvalidInput,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

TOKEN = "hf_of_this_test"  # noqa: S105 - of a server of this test
NAME = "me/reach"


class FakeHub:
    """As much of the Hub's interface as uploads use; no request is remembered but what it did."""

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.visibility: dict[str, str] = {}
        self.tags: dict[str, list[str]] = defaultdict(list)
        self.failing_commits = False
        self.app = flask.Flask("hub")
        self.app.before_request(self.check_token)
        base = "/api/datasets/<space>/<name>"
        for rule, method, view in [
            ("/api/whoami-v2", "GET", self.whoami),
            ("/api/validate-yaml", "POST", lambda: {"errors": [], "warnings": []}),
            ("/api/repos/create", "POST", self.create),
            (base, "GET", self.info),
            (f"{base}/revision/main", "GET", self.info),
            (f"{base}/tree/main", "GET", self.tree),
            (f"{base}/preupload/main", "POST", self.preupload),
            (f"{base}/commit/main", "POST", self.commit),
            (f"{base}/tag/<tag>", "POST", self.tag),
            (f"{base}/tag/<tag>", "DELETE", self.untag),
        ]:
            self.app.add_url_rule(rule, f"{method} {rule}", view, methods=[method])

    def check_token(self):
        if flask.request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return {"error": "Invalid credentials"}, 401
        return None

    def whoami(self):
        return {"type": "user", "name": "me", "auth": {"accessToken": {"role": "write"}}}

    def create(self):
        wanted = flask.request.json
        if wanted["organization"] not in (None, "me"):
            return {"error": "You don't have the rights"}, 403
        name = f"me/{wanted['name']}"
        assert wanted["type"] == "dataset"
        if name in self.repositories:
            return {"error": "exists", "url": f"{flask.request.host_url}datasets/{name}"}, 409
        self.repositories[name] = {".gitattributes": b""}
        self.visibility[name] = wanted.get("visibility") or (
            "private" if wanted.get("private") else "public"
        )
        return {"url": f"{flask.request.host_url}datasets/{name}"}

    def missing(self, code):
        return flask.Response("{}", 404, {"X-Error-Code": code})

    def info(self, space, name):
        files = self.repositories.get(f"{space}/{name}")
        if files is None:
            return self.missing("RepoNotFound")
        return {"id": f"{space}/{name}", "siblings": [{"rfilename": path} for path in files]}

    def tree(self, space, name):
        files = self.repositories.get(f"{space}/{name}")
        if files is None:
            return self.missing("RepoNotFound")
        return [
            {"type": "file", "path": path, "size": len(data), "oid": git_digest(data)}
            for path, data in files.items()
        ]

    def preupload(self, space, name):
        files = self.repositories[f"{space}/{name}"]
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "regular",
                    "shouldIgnore": False,
                    "oid": git_digest(files[file["path"]]) if file["path"] in files else None,
                }
                for file in flask.request.json["files"]
            ]
        }

    def commit(self, space, name):
        if self.failing_commits:
            return {"error": "no space on the Hub"}, 507
        files = self.repositories[f"{space}/{name}"]
        for line in map(json.loads, flask.request.data.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        return {
            "commitUrl": f"{flask.request.host_url}datasets/{space}/{name}/commit/1",
            "commitOid": "1",
        }

    def tag(self, space, name, tag):
        assert tag == "main"
        self.tags[f"{space}/{name}"].append(flask.request.json["tag"])
        return {}

    def untag(self, space, name, tag):
        tags = self.tags[f"{space}/{name}"]
        if tag not in tags:
            return self.missing("RevisionNotFound")
        tags.remove(tag)
        return {}


def git_digest(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - as git does


class Silent(WSGIRequestHandler):
    def log_request(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    fake = FakeHub()
    server = make_server("127.0.0.1", 0, fake.app, threaded=True, request_handler=Silent)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    yield fake
    server.shutdown()
    server.server_close()
    huggingface_hub.close_session()


@pytest.fixture(scope="module")
def dataset(bag, make_mapping, tmp_path_factory):
    out = tmp_path_factory.mktemp("uploaded") / "out"
    run_job(Job((bag,), make_mapping(), out))
    return out


def files_of(folder, *parts):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in parts
        for path in folder.rglob(part)
        if path.is_file()
    }


LEROBOT = ("README.md", "meta/**/*", "data/**/*", "videos/**/*")


def test_a_dataset_arrives_whole_private_and_with_its_tag(hub, dataset):
    push_dataset(dataset, NAME)
    held = hub.repositories[NAME]
    assert held == {".gitattributes": b"", **files_of(dataset, *LEROBOT)}
    assert len(held) >= 8
    assert hub.visibility == {NAME: "private"}
    assert hub.tags[NAME] == ["v3.0"]


def test_hdf5_files_and_the_eyes_of_all_only_when_asked_for(hub, dataset):
    address = push_dataset(dataset, "reach", public=True, with_hdf5=True)
    assert address.endswith(f"/datasets/{NAME}")
    assert hub.visibility == {NAME: "public"}
    assert "hdf5/episode_000000.hdf5" in hub.repositories[NAME]
    # It names folders of the machine that converted.
    assert "conversion.json" not in hub.repositories[NAME]


def test_a_repository_with_files_is_replaced_only_when_that_is_asked_for(hub, dataset):
    stale = "data/chunk-000/file-001.parquet"
    before = {".gitattributes": b"", stale: b"old", "LICENSE": b"mine", "README.md": b"old"}
    hub.repositories[NAME] = dict(before)
    hub.tags[NAME] = ["v3.0"]
    with pytest.raises(AlreadyExists, match="--replace"):
        push_dataset(dataset, NAME)
    assert hub.repositories[NAME] == before
    push_dataset(dataset, NAME, replace=True)
    assert stale not in hub.repositories[NAME]
    assert hub.repositories[NAME]["LICENSE"] == b"mine"
    assert hub.repositories[NAME].items() >= files_of(dataset, *LEROBOT).items()
    assert hub.tags[NAME] == ["v3.0"]


def test_an_upload_that_broke_off_has_no_tag_and_can_be_repeated(hub, dataset):
    hub.failing_commits = True
    hub.repositories[NAME] = {".gitattributes": b""}
    hub.tags[NAME] = ["v3.0"]
    with pytest.raises(Unavailable, match="no space on the Hub"):
        push_dataset(dataset, NAME)
    assert hub.tags[NAME] == []
    hub.failing_commits = False
    push_dataset(dataset, NAME)
    assert hub.tags[NAME] == ["v3.0"]


def test_faults_name_the_way_out(hub, dataset, tmp_path, monkeypatch):
    with pytest.raises(InvalidInput, match="cannot name a dataset"):
        push_dataset(dataset, "a/b/c")
    with pytest.raises(PermissionDenied, match="may not write there"):
        push_dataset(dataset, "somebody/else")
    with pytest.raises(NotFound, match=r"info\.json is missing"):
        push_dataset(tmp_path, NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(Unauthenticated, match="token is not valid: run `hf auth login`"):
        push_dataset(dataset, NAME)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(Unauthenticated, match="nobody is logged in: run `hf auth login`"):
        push_dataset(dataset, NAME)
    assert hub.repositories == {}


def test_a_hub_that_is_away_is_told_as_such(hub, dataset, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(Unavailable, match=f"dataset {NAME} on the Hub"):
        push_dataset(dataset, NAME)


def test_a_missing_extra_is_named(dataset, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(Unsupported, match=r"pip install 'penstock\[hub\]'"):
        push_dataset(dataset, NAME)


def run(*arguments):
    return CliRunner().invoke(penstock, ["convert", *map(str, arguments)])


@pytest.fixture
def conversion(bag, mapping_text, tmp_path):
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(mapping_text)
    return bag, "--mapping", mapping, "--out", tmp_path / "out"


def test_converting_and_uploading_are_one_command(hub, conversion, tmp_path):
    done = run(*conversion, "--push-to-hub", NAME, "--public")
    assert done.exit_code == 0, done.output
    assert f"/datasets/{NAME}" in done.output
    assert hub.repositories[NAME].items() >= files_of(tmp_path / "out", *LEROBOT).items()


def test_a_dataset_that_could_not_be_uploaded_is_whole_and_can_be_pushed(hub, conversion, tmp_path):
    hub.failing_commits = True
    done = run(*conversion, "--push-to-hub", NAME, "--with-hdf5")
    assert done.exit_code == 4
    again = f"penstock convert push {tmp_path / 'out'} {NAME} --with-hdf5 --replace"
    assert again in done.output
    assert (tmp_path / "out/meta/info.json").exists()
    hub.failing_commits = False
    assert run(*again.split()[2:]).exit_code == 0
    assert "hdf5/episode_000000.hdf5" in hub.repositories[NAME]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--push-to-hub", NAME), AlreadyExists),
        (("--push-to-hub", "me/new", "--with-hdf5", "outputs.hdf5=null"), InvalidInput),
        (("--push-to-hub", "me/new", "outputs.lerobot=null"), InvalidInput),
        (("--public",), InvalidInput),
    ],
)
def test_what_would_stop_the_upload_is_found_before_anything_is_converted(
    hub, conversion, tmp_path, options, error
):
    hub.repositories[NAME] = {"thesis.txt": b"years of work"}
    assert isinstance(run(*conversion, *options).exception, error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mapping.yaml"]


def test_a_dataset_with_faults_is_not_uploaded(hub, conversion, tmp_path, monkeypatch):
    def faulty(console, job, outcome):
        return False

    monkeypatch.setattr("penstock_converter.jobs.run_cli._check", faulty)
    done = run(*conversion, "--push-to-hub", NAME)
    assert done.exit_code == 5, done.output
    assert "not uploaded, as the checks found faults" in done.output
    assert f"penstock convert push {tmp_path}/out {NAME}" in done.output
    assert NAME not in hub.repositories
