import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nacgen.data.datasets import load_dataset
from nacgen.probes.features import extract

ROOT = Path(__file__).parents[2]


def mean_color(images: torch.Tensor) -> torch.Tensor:
    return images.mean((2, 3))


def test_rows_do_not_depend_on_the_batch_size() -> None:
    dataset = load_dataset("digits", "test")
    whole = extract(mean_color, dataset, batch_size=1000)
    assert torch.equal(whole, extract(mean_color, dataset, batch_size=7))
    assert torch.equal(whole, mean_color(dataset.read(torch.arange(len(dataset))) / 127.5 - 1))


def test_a_function_that_mixes_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(3,\) for 355"):
        extract(lambda x: x.mean((0, 2, 3)), load_dataset("digits", "test"))


def test_a_module_in_training_mode_is_refused() -> None:
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    dataset = load_dataset("digits", "test")
    for function in (network, network.forward):
        with pytest.raises(ValueError, match=r"evaluation mode, but Sequential\.training is True"):
            extract(function, dataset)
    assert extract(network.eval(), dataset).shape == (355, 3)


@pytest.mark.distributed
def test_every_process_gets_all_rows_in_order(tmp_path: Path) -> None:
    """355 images do not divide by 2."""
    program = tmp_path / "two.py"
    program.write_text(
        "import torch, torch.distributed as dist\n"
        "from nacgen.data.datasets import load_dataset\n"
        "from nacgen.probes.features import extract\n"
        "from tests.probes.test_features import mean_color\n"
        "dataset = load_dataset('digits', 'test')\n"
        "alone = extract(mean_color, dataset)\n"
        "dist.init_process_group('gloo')\n"
        "assert torch.equal(extract(mean_color, dataset), alone)\n"
        "assert torch.equal(extract(lambda x: mean_color(x) > 0, dataset), alone > 0)\n"
        "dist.destroy_process_group()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(program)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
