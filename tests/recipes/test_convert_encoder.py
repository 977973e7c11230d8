import json
import subprocess
from pathlib import Path

import pytest
import torch
import torchvision

from nacgen.models.encoder import NACEncoder
from tests.launch import python

ROOT = Path(__file__).parents[2]


def start(*flags: str) -> subprocess.CompletedProcess[str]:
    return python("recipes/convert_encoder.py", *flags)


def test_a_checkpoint_becomes_an_encoder_folder_and_is_never_overwritten(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None)
    weights, output = tmp_path / "weights.pth", tmp_path / "encoder"
    torch.save(network.state_dict(), weights)
    flags = ("--input", str(weights), "--output", str(output), "--preset", "cifar10")
    done = start(*flags, "--code-dim", "16")
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["encoder"], result["backbone"]) == (str(output), "resnet18")
    assert (result["moved"], result["left"], result["has_codes"]) == (120, 2, False)
    assert "fc.weight -- no part of the trunk" in done.stderr
    assert "codes mean nothing" in done.stderr

    encoder = NACEncoder.from_pretrained(output)
    assert encoder.code_dim == 16
    torch.testing.assert_close(encoder.mean.flatten(), torch.tensor([0.4914, 0.4822, 0.4465]))
    assert torch.equal(encoder.backbone.conv1.weight, network.conv1.weight)
    card = (output / "README.md").read_text()
    assert "weights.pth (SHA-256 " in card
    assert "codes mean nothing" in card

    before = (output / "model.safetensors").stat()
    again = start(*flags)
    assert again.returncode == 2
    assert f"{output} does. Nothing is overwritten" in again.stderr
    assert (output / "model.safetensors").stat() == before


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ([], 2, "got None and None. Use --input FILE --output FOLDER"),
        (["--preset", "mnist"], 2, "one of imagenet, cifar10, none, got 'mnist'"),
        (["--std", "1", "0", "1"], 2, "std must be above 0, got (1.0, 0.0, 1.0)"),
        (["--input", "no/such.pt", "--output", "no/such"], 5, "no/such.pt is none"),
        (["--input", "LICENSE", "--output", "no/such"], 5, "LICENSE"),
    ],
)
def test_bad_input_is_one_message_and_an_exit_code(
    flags: list[str], code: int, message: str
) -> None:
    done = start(*flags)
    assert done.returncode == code, done.stderr[-2000:]
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (ROOT / "no").exists()
