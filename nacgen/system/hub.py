"""Downloading a model's files from the Hugging Face Hub, or from its cache without a connection."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError

from nacgen.errors import CheckpointNotFoundError

PATIENCE_S = 4  # seconds until the Hub's first answer


def download(name: str, files: tuple[str, ...], revision: str | None = None) -> list[Path]:
    """Fetch some files of one commit of a model into the Hub's cache, all in one folder, and no others.

    `name` is the Hub id, `owner/name`, and `revision` a branch, tag or commit. The first file decides whether the
    model exists. If the Hub does not answer in time, the copies in the cache are taken.
    """
    url, silence = hf_hub_url(name, files[0], revision=revision), None
    try:
        _in_time(lambda: get_hf_file_metadata(url, timeout=PATIENCE_S))
    except Exception as error:  # its client and those below raise a dozen unrelated types
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
            raise _not_found(name, revision, error) from error  # it answered that there is none
        silence = error
    paths: list[Path] = []
    try:
        for file in files:
            # The first file is found by the name of the revision, which the cache knows; the others by its commit.
            at = paths[0].parent.name if paths else revision
            path = hf_hub_download(name, file, revision=at, local_files_only=silence is not None)
            paths.append(Path(path))
    except Exception as error:
        raise _not_found(name, revision, silence or error) from error
    return paths


def _in_time(call: Callable[[], object]) -> None:
    """Call, but wait only for a short time: a silent name server has no timeout of its own."""
    answer: Future[object] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=work, name="hub", daemon=True).start()
    if not wait([answer], PATIENCE_S).done:
        raise TimeoutError(f"no answer within {PATIENCE_S} s")
    answer.result()


def _not_found(name: str, revision: str | None, error: Exception) -> CheckpointNotFoundError:
    at = f" at revision {revision}" if revision else ""
    return CheckpointNotFoundError(
        f"{name} is no local folder and could not be had from the Hub{at} ({type(error).__name__}: {error}). "
        "Check the path, or the name and the connection."
    )
