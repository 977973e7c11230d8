"""Text from outside, printable and without markup, and streams that may be closed or lose their reader."""

import contextlib
import contextvars
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, cast

# An underscore within a name is none.
MARKUP = re.compile(r"[\\`*~$<\[\]]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")
prints_results = contextvars.ContextVar("prints_results", default=True)
# The spelling of options in messages: that of flags, or of the arguments of a call from Python.
spelling: contextvars.ContextVar[Callable[[str], str]] = contextvars.ContextVar(
    "spelling", default=str
)
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def printable(text: str, kept: str = "") -> str:
    r"""Return a text with escapes such as `\x1b` for control characters, direction marks and undecodable bytes.

    Example:
        >>> printable("two\nlines and \x1b[31mred")
        'two\\nlines and \\x1b[31mred'
    """
    shown = (c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in text)
    return text if text.isprintable() else "".join(shown)


def literal(text: str) -> str:
    r"""Return a text as one line of Markdown: only `code` between backticks is markup, names and values are none.

    Example:
        >>> literal("<b> *and* `<c>` of a_name")
        '\\<b> \\*and\\* `<c>` of a_name'
    """
    parts = re.split("(`[^`]+`)", printable(text))
    return "".join(p if i % 2 else MARKUP.sub(r"\\\g<0>", p) for i, p in enumerate(parts))


def warn(message: str) -> None:
    """Print a message to stderr, on the first process alone."""
    if os.environ.get("RANK", "0") == "0":
        print(printable(spelling.get()(message)), file=sys.stderr)


def is_terminal(stream: Any) -> bool:
    """Tell whether a stream is read by a person at once: that of a terminal or of a notebook."""
    if isinstance(stream, _Stream):
        return is_terminal(stream._stream)
    is_notebook = type(stream).__module__.startswith(("ipykernel.", "google.colab."))
    return is_notebook or (not stream.closed and stream.isatty())


def print_result(result: Mapping[str, Any]) -> None:
    """Print a result for programs as one line of JSON on stdout, unless that is a terminal or it is returned."""
    if prints_results.get() and not is_terminal(sys.stdout):
        print(json.dumps(result), flush=True)


class _Stream:
    """A standard stream that writes printable text, and goes on without a reader."""

    def __init__(self, stream: Any, is_result: bool) -> None:
        self._stream, self._is_result = stream, is_result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        """Ask libraries for text without colors, since escapes are made visible."""
        return False

    def write(self, text: str) -> int:
        with self._without_reader():
            encoding = getattr(self._stream, "encoding", None) or "utf-8"
            content = printable(text, "\n\r\t").encode(encoding, "backslashreplace")
            self._stream.write(content.decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._without_reader():
            self._stream.flush()

    @contextlib.contextmanager
    def _without_reader(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # a closed file is a ValueError
            # What is still in the buffer goes nowhere, too.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            if self._is_result and getattr(error, "errno", None) in FULL_DISK:
                raise


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard stdout and stderr during a block: their text is printable, and it does not matter if they are closed.

    A full disk under stdout is an `OSError`, since the result is lost; under stderr only messages are.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # no file that is opened later takes the place of a closed stream
    os.close(descriptor)
    before, nowhere = (sys.stdout, sys.stderr), Path(os.devnull)
    streams = [stream or nowhere.open("w", encoding="utf-8") for stream in before]
    sys.stdout, sys.stderr = (
        cast(TextIO, _Stream(stream, is_result))
        for stream, is_result in zip(streams, (True, False), strict=True)
    )
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        sys.stdout, sys.stderr = before
