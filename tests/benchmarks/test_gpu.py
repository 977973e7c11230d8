"""The benchmark of GPUs runs without one, at its smallest size, so that it works the first time on one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
CUT_OFF_AND_RESUMED = """
import json, pathlib, runpy, sys
sys.modules.update(dict.fromkeys(("tyro", "pytorch_fid", "kornia", "timm")))  # not to be had
sys.path.insert(0, "benchmarks")
import timing
absent = timing.missing
timing.missing = lambda *names: absent(*(f"no-{name}" for name in names))
folder = sys.argv[1]
sys.argv[1:] = ["--size", "smoke", "--docs", folder]
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
file = pathlib.Path(folder) / "performance" / "gpu.json"
content = json.loads(file.read_text())
content["parts"].pop("precision")
file.write_text(json.dumps(content))
sys.argv.append("--missing")
print("resumed")
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="runs at full size there")
def test_every_part_runs_on_a_cpu_and_a_run_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CUT_OFF_AND_RESUMED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    parts = json.loads((tmp_path / "performance" / "gpu.json").read_text())["parts"]
    assert set(parts) == {
        *("augmentation", "loss", "lars", "features", "precision", "gan"),
        *(f"{net}_{form}" for net in ("resnet18", "resnet50") for form in ("eager", "compiled")),
    }
    for name, part in parts.items():
        assert all(row["skipped"] or row["ours"] for row in part["rows"])
        assert any(row["ours"] for row in part["rows"]) or name.endswith("_compiled")
    first, resumed = done.stdout.split("resumed\n")
    assert first.count("| what |") == len(parts)
    assert resumed.count("| what |") == 1
    assert "mean average precision" in resumed
