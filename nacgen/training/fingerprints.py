"""Fingerprints of what a run is made from and of the models it leaves. Does not import torch."""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nacgen.system.documents import strict_json
from nacgen.system.files import open_regular, read_regular

FINGERPRINTS = "fingerprints.json"
LARGEST = 1 << 20  # bytes of the file


def read_fingerprints(folder: Path) -> dict[str, Any]:
    """Return the contents of a run's `fingerprints.json`; empty if it is missing or damaged.

    They are a digest of its `configuration`, and by name those of `inputs`, and of `outputs` of a complete run.
    """
    with contextlib.suppress(OSError, ValueError):
        content = strict_json(read_regular(folder / FINGERPRINTS, LARGEST))
        kinds = {"configuration": str, "inputs": dict, "outputs": dict}
        if isinstance(content, dict) and all(
            isinstance(value, kinds.get(name, object)) for name, value in content.items()
        ):
            return content
    return {}


def digest(value: Any) -> str:
    """Return the SHA-256 of a value that JSON can hold; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str | None:
    """Return the SHA-256 of a regular file's content, None if it cannot be read."""
    with contextlib.suppress(OSError), open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return None


def model_fingerprint(path_or_id: str | Path) -> dict[str, str | None]:
    """Return the SHA-256 of a saved model's files, wherever `from_pretrained` would find them."""
    from nacgen.models.folder import find_files

    return {path.name: file_digest(path) for path in find_files(str(path_or_id), None)}


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return one phrase for each name whose fingerprint differs between two sets, for a message."""
    names = sorted(there.keys() | here.keys())
    return [
        f"{name}: {_in_words(there.get(name), here.get(name))} there, "
        f"{_in_words(here.get(name), there.get(name))} here"
        for name in names
        if there.get(name) != here.get(name)
    ]


def _in_words(fingerprint: Any, other: Any) -> str:
    """Return what differs from another fingerprint; of digests the beginning."""
    if fingerprint is None:
        return "none"
    facts = fingerprint if isinstance(fingerprint, dict) else {"": fingerprint}
    others = other if isinstance(other, dict) else {}
    words = ", ".join(f"{k} {v}".strip() for k, v in facts.items() if v != others.get(k))
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", words)
