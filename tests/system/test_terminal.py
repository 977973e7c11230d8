"""Text from outside, and streams without a reader."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nacgen.system.terminal import guarded_streams, printable
from tests.launch import ROOT

FULL = Path("/dev/full")
PROGRAM = """
import sys
from pathlib import Path
from nacgen.system.terminal import guarded_streams
with guarded_streams():
    for number in range(20_000):
        print("a line of the result", number)
    print("a message", file=sys.stderr)
    with open(sys.argv[1], "w") as file:
        file.write("whole")
"""


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in which PYTHON stands for the interpreter."""
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command.replace('PYTHON', sys.executable)}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )


def test_what_moves_a_cursor_or_breaks_a_line_is_shown_instead() -> None:
    assert printable("ünï 猫 🙂.png") == "ünï 猫 🙂.png"
    assert printable("a\x1b[31m\n\x07\x9b\u202eb\udcff") == r"a\x1b[31m\n\x07\x9b\u202eb\udcff"
    assert printable("a\nb\r", "\n\r") == "a\nb\r"


def test_escapes_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with guarded_streams():
        print("\x1b]0;title\x07 of a file", file=sys.stderr)
        assert not sys.stderr.isatty()  # so that libraries write no colors
    assert capsys.readouterr().err == "\\x1b]0;title\\x07 of a file\n"


def test_a_result_reaches_a_terminal_of_few_characters(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import sys\nfrom nacgen.system.terminal import guarded_streams\n"
        "sys.stdout.reconfigure(encoding='ascii')\n"
        "with guarded_streams():\n    print('\N{MINUS SIGN}5 %')\n    print('more')\n"
    )
    done = shell(f"PYTHON {tmp_path}/program.py")
    assert done.stdout == "\\u22125 %\nmore\n"


@pytest.mark.parametrize("redirection", ["| true", "| head -1", ">&-", "2>&-", ">&- 2>&- <&-"])
def test_a_command_ends_well_without_a_reader(redirection: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = shell(f"PYTHON {tmp_path}/program.py {tmp_path}/file {redirection}")
    assert done.returncode == 0, done.stderr
    assert done.stderr in ("", "a message\n")
    assert (tmp_path / "file").read_text() == "whole"  # no message was written into it


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
def test_a_full_disk_loses_messages_but_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        with guarded_streams():
            print("a message", file=sys.stderr, flush=True)
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with guarded_streams():
            print("a result")
            with pytest.raises(OSError, match="No space") as caught:
                sys.stdout.flush()
    assert caught.value.errno == errno.ENOSPC
