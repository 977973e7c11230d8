"""The one launcher of programs that tests start: a recipe or a script, in one process or in several."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def python(
    *command: str | Path, processes: int = 1, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run Python in the checkout to its end, with a file or `-c` or `-m` and the arguments."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    return subprocess.run(
        [sys.executable, *(launcher if processes > 1 else ()), *map(str, command)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (env or {}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


# Threads of gloo that outlive their peer or Python may abort a process that has done its work.
LEAVE_TOGETHER = """
import torch.distributed
if torch.distributed.is_initialized():
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


def two_processes(tmp_path: Path, program: str, output: Path) -> None:
    """Run a program in two processes of one thread each; it finds the path of its output in `sys.argv[1]`."""
    (tmp_path / "two.py").write_text(program + LEAVE_TOGETHER)
    done = python(tmp_path / "two.py", output, processes=2, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, f"{done.stderr[:3000]}\n...\n{done.stderr[-2000:]}"


def found_by_two_processes(tmp_path: Path, module: str) -> Any:
    """Return what the first of two processes finds by calling `gradients` of a module of tests."""
    output = tmp_path / "found.json"
    program = (
        "import json, os, sys\n"
        f"from {module} import gradients\n"
        "found = gradients()\n"
        "if os.environ['RANK'] == '0': json.dump(found, open(sys.argv[1], 'w'))\n"
    )
    two_processes(tmp_path, program, output)
    return json.loads(output.read_text())
