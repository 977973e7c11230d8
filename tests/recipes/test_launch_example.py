"""What docs/launch.md says of several machines."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType

from nacgen.gan.presets import PRESETS
from tests.recipes.test_recipes import ROOT, run

EXAMPLE = ROOT / "docs" / "two_machines.yaml"


def test_the_example_is_a_configuration_that_accelerate_takes_and_gans_accept() -> None:
    config = load_config_from_file(str(EXAMPLE))  # refuses keys that it does not know
    assert isinstance(config, ClusterConfig)
    assert config.distributed_type == DistributedType.MULTI_GPU
    assert config.mixed_precision in ("no", "bf16")
    assert (config.num_machines, config.machine_rank) == (2, 0)
    assert config.num_processes % config.num_machines == 0
    assert config.main_process_ip
    assert config.main_process_port
    for preset in PRESETS.values():
        assert preset.batch_size % config.num_processes == 0
    text = (ROOT / "docs" / "launch.md").read_text(encoding="utf-8")
    assert "--config_file docs/two_machines.yaml --machine_rank 0 recipes/train_gan.py" in text


@pytest.mark.slow
@pytest.mark.distributed
def test_two_machines_train_as_one_process(tmp_path: Path) -> None:
    """Two launchers that meet at an address, as in the docs, here on one machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launchers = []
    for rank in range(2):
        meeting = ["--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1"]
        meeting += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
        command = [sys.executable, "-m", "torch.distributed.run", *meeting]
        command += ["recipes/train_gan.py", "--preset", "smoke", "--run-dir", str(tmp_path / "two")]
        command += ["--run.num-threads", "1"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        launchers.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:  # a launcher waits 300 seconds for one whose process failed
        outputs = [launcher.communicate(timeout=360) for launcher in launchers]
    finally:
        for launcher in launchers:
            launcher.kill()
    told = "\n".join(stderr[-3000:] for _, stderr in outputs)
    assert [launcher.returncode for launcher in launchers] == [0, 0], told
    two = json.loads(outputs[0][0].splitlines()[-1])
    one = run("train_gan", tmp_path / "one", launch=())
    scores = [
        summary["evaluation"]["scores"]["fd_digits_classifier"]["value"] for summary in (one, two)
    ]
    assert scores[1] == pytest.approx(scores[0], rel=1e-2)
