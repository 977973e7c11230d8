"""The Hub as a stranger serves it, or does not: a fake one on the loopback, and none at all."""

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from safetensors.torch import save

from nacgen.errors import CheckpointNotFoundError
from nacgen.system import hub
from nacgen.system.hub import download
from tests.models.test_folder import Line

FILES = ("config.json", "model.safetensors")
OLD, NEW = "0" * 40, "1" * 40


@dataclass
class FakeHub:
    """One repository, `someone/line`, with two commits; the main branch is at the newer one."""

    commits: dict[str, dict[str, bytes]]
    asked: list[str] = field(default_factory=list)
    status: int = 200
    server: http.server.ThreadingHTTPServer | None = None

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        self.asked.append(f"{request.command} {request.path}")
        revision, _, name = request.path.removeprefix("/someone/line/resolve/").partition("/")
        commit = {"main": NEW, "v1": OLD}.get(revision, revision)
        content = self.commits.get(commit, {}).get(name)
        if self.status != 200 or content is None:
            request.send_response(self.status if self.status != 200 else 404)
            unknown = "RevisionNotFound" if commit not in self.commits else "EntryNotFound"
            request.send_header("X-Error-Code", unknown)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(200)
        request.send_header("X-Repo-Commit", commit)
        request.send_header("ETag", f'"{commit[:4]}{name}"')
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content)


def line_files(name: str) -> dict[str, bytes]:
    weights = save(Line(3).state_dict(), metadata={"format": "pt"})
    evil = {"modeling.py": b"raise SystemExit", "pytorch_model.bin": b"\x80\x04cos\nsystem\n."}
    return {"config.json": json.dumps({"name": name}).encode(), "model.safetensors": weights} | evil


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub({OLD: line_files("old"), NEW: line_files("new")})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.answer(self)

        def do_HEAD(self) -> None:
            fake.answer(self)

        def log_message(self, *args: Any) -> None:
            pass

    fake.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=fake.server.serve_forever, args=(0.02,), daemon=True).start()
    point_to(f"http://127.0.0.1:{fake.server.server_port}", tmp_path, monkeypatch)
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def point_to(endpoint: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))


def test_two_files_of_one_commit_are_fetched_and_no_other(served: FakeHub, tmp_path: Path) -> None:
    assert Line.from_pretrained("someone/line").name == "new"
    files = {path.rpartition("/")[2] for path in served.asked if "/resolve/" in path}
    assert files == set(FILES)
    assert f"HEAD /someone/line/resolve/{NEW}/model.safetensors" in served.asked  # not main's
    assert Line.from_pretrained("someone/line", revision="v1").name == "old"
    assert Line.from_pretrained("someone/line", revision=OLD).name == "old"
    assert {path.name for path in tmp_path.glob("hub/**/snapshots/*/*")} == set(FILES)


def test_cached_copies_serve_where_the_hub_is_down(served: FakeHub) -> None:
    assert Line.from_pretrained("someone/line").name == "new"
    served.status = 503
    assert Line.from_pretrained("someone/line").name == "new"
    assert served.server is not None
    served.server.shutdown()
    served.server.server_close()
    start = time.monotonic()
    assert Line.from_pretrained("someone/line").name == "new"
    with pytest.raises(CheckpointNotFoundError, match=r"someone/line .* Hub at revision v1 "):
        Line.from_pretrained("someone/line", revision="v1")  # never fetched
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("name", "revision", "said"),
    [
        ("someone/line", "v9", "Hub at revision v9 .RevisionNotFoundError"),
        ("someone/else", None, "had from the Hub .R"),
    ],
)
def test_the_hubs_no_is_an_answer(
    served: FakeHub, name: str, revision: str | None, said: str
) -> None:
    with pytest.raises(CheckpointNotFoundError, match=f"{name} is no local folder and .*{said}"):
        Line.from_pretrained(name, revision=revision)
    assert len(served.asked) == 1


def test_a_repository_of_pickles_is_named(served: FakeHub) -> None:
    del served.commits[NEW]["model.safetensors"]
    with pytest.raises(CheckpointNotFoundError, match=r"someone/line .*EntryNotFoundError"):
        Line.from_pretrained("someone/line")
    assert not any("pytorch_model.bin" in request for request in served.asked)


def test_offline_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        point_to(f"http://127.0.0.1:{gone.getsockname()[1]}", tmp_path, monkeypatch)
    start = time.monotonic()
    with pytest.raises(
        CheckpointNotFoundError,
        match=r"someone/line .*\(ConnectError: .* refused\)\. Check the path",
    ):
        download("someone/line", FILES)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointNotFoundError, match="someone/line"):
        download("someone/line", FILES)
    assert time.monotonic() - start < 3


def test_a_hub_that_is_silent_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "PATIENCE_S", 0.3)
    over = threading.Event()
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda *args, **options: over.wait(20))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(
        CheckpointNotFoundError, match=r"line .*TimeoutError: no answer within 0\.3 s"
    ):
        download("someone/line", FILES)
    over.set()
    assert time.monotonic() - start < 2


def test_patience_is_less_than_five_seconds() -> None:
    assert hub.PATIENCE_S < 5
