"""Downloads that are cut off or swapped: never used, nothing left behind."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nacgen.errors import CheckpointNotFoundError
from nacgen.metrics.extractors import inception

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What a server on the loopback sends in place of the published weights, under their length."""
    contents = [CONTENT]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(contents[0])

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(inception, "URL", f"http://127.0.0.1:{server.server_port}/weights.pth")
    digest = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setattr(inception, "SHA256_PREFIX", digest[:8])
    yield contents
    server.shutdown()
    server.server_close()


def test_a_whole_download_is_kept(sent: list[bytes], tmp_path: Path) -> None:
    inception._download(tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("tenths", range(10))
def test_a_download_that_is_cut_off_is_never_used(
    tenths: int, sent: list[bytes], tmp_path: Path
) -> None:
    sent[0] = CONTENT[: len(CONTENT) * tenths // 10]
    with pytest.raises(CheckpointNotFoundError, match=f"{tmp_path} and could not be downloaded"):
        inception._download(tmp_path / "weights.pth")
    assert not list(tmp_path.iterdir())


def test_a_download_that_was_swapped_is_never_used(sent: list[bytes], tmp_path: Path) -> None:
    sent[0] = bytes(len(CONTENT))
    with pytest.raises(CheckpointNotFoundError, match="invalid hash value"):
        inception._download(tmp_path / "weights.pth")
    assert not list(tmp_path.iterdir())
