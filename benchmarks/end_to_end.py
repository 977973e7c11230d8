"""A score, end to end: two folders of PNG files from the return key to the distance.

Start-up, decoding, Inception's features and the Fréchet distance, each side by its own command, with equal
weights that were drawn. pytorch-fid resizes as our `fid` does, torch-fidelity as `fid_tf1`. Both sides score two
images before the clock runs. Nine tenths of the network's time on our side are float32 convolutions, at 98 GFLOP/s
a core.
"""

import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

import page
from nacgen.metrics.extractors.inception import NAME
from scores import seeded_state
from timing import Cost, Row, Size, agree, cost, missing, noise

ROOT = Path(__file__).parents[1]
# Weights that are not the published ones are refused, but for this name of theirs.
OURS = """
import runpy, sys
from nacgen.metrics.extractors import inception
inception.SHA256_PREFIX = sys.argv[1]
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
THEIRS = "from torch_fidelity.fidelity import main; main()"
Folders = tuple[str, str]


class Room:
    """A folder with weights and images, and the commands that score them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.weights = path / "hub" / "checkpoints" / f"{NAME}.pth"
        self.weights.parent.mkdir(parents=True)
        torch.save(seeded_state(), self.weights)
        self.digest = hashlib.sha256(self.weights.read_bytes()).hexdigest()[:8]

    def folders(self, n: int, pixels: int) -> Folders:
        """Two folders of so many images, noise and smoother noise."""
        names = []
        for kind in ("sharp", "smooth"):
            folder = self.path / f"{kind}-{n}-{pixels}"
            folder.mkdir()
            names.append(str(folder))
            images = noise(n, 32, seed=len(names)).float()
            if kind == "smooth":
                images = F.avg_pool2d(images, 3, 1, 1)
            for i, image in enumerate(images.split(1)):
                resized = F.interpolate(image, (pixels, pixels), mode="bilinear").to(torch.uint8)
                array = rearrange(resized, "1 c h w -> h w c").numpy()
                Image.fromarray(array).save(folder / f"{i:05}.png")
        return names[0], names[1]

    def run(self, *arguments: str) -> tuple[str, float]:
        """What a fresh interpreter prints, and the megabytes that it held at its peak."""
        environment = {**os.environ, "TORCH_HOME": str(self.path), "PYTHONPATH": str(ROOT)}
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            command = [sys.executable, *arguments]
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=errors)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            errors.seek(0)
            if process.returncode:
                raise SystemExit(f"{arguments} failed:\n{errors.read().decode()[-2000:]}")
            return output.read().decode(), usage.ru_maxrss / 1000

    def ours(self, folders: Folders, resize: str = "pytorch_fid") -> tuple[float, float]:
        """Our score and peak memory."""
        recipe = str(ROOT / "recipes" / "evaluate_images.py")
        options = ("--resize", resize, "--json")
        text, memory = self.run("-c", OURS, self.digest, recipe, *folders, *options)
        (score,) = json.loads(text)["scores"].values()
        return score["value"], memory

    def pytorch_fid(self, folders: Folders) -> float:
        """pytorch-fid's score."""
        text, _ = self.run("-m", "pytorch_fid", *folders, "--device", "cpu")
        found = re.search(r"FID:\s+(\S+)", text)
        assert found
        return float(found[1])

    def torch_fidelity(self, folders: Folders) -> float:
        """torch-fidelity's score."""
        inputs = ("--input1", folders[0], "--input2", folders[1], "--fid", "--cpu", "--no-cache")
        weights = ("--feature-extractor-weights-path", str(self.weights))
        text, _ = self.run("-c", THEIRS, *inputs, *weights, "--json")
        return float(json.loads(text[text.index("{") :])["frechet_inception_distance"])


@contextmanager
def opened_room() -> Iterator[Room]:
    """A room in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        yield Room(Path(name))


def beside(
    size: Size, peer: str, theirs: Callable[[Room, Folders], float], resize: str, pixels: int
) -> list[Row]:
    """Both commands in turns; their scores must agree."""
    n, turns = size.of((2, 1), (100, 2), (500, 1) if pixels == 32 else (200, 1))
    what = f"{resize} of two folders of {n:,} PNG files of {pixels} px"
    if reason := missing(peer):
        return [Row(what=what, peer=peer, skipped=reason)]
    with opened_room() as room:
        work = {
            "theirs": lambda folders: theirs(room, folders),
            "ours": lambda folders: room.ours(folders, resize)[0],
        }
        costs: dict[str, list[Cost]] = {"theirs": [], "ours": []}
        folders = few = room.folders(2, pixels)
        scores = {
            side: run(few) for side, run in work.items()
        }  # reads from the disk for the first time
        if n > 2:
            folders = room.folders(n, pixels)
        for turn in range(turns):
            for side in ("theirs", "ours") if turn % 2 == 0 else ("ours", "theirs"):

                def timed(side: str = side) -> None:
                    scores[side] = work[side](folders)

                costs[side].append(cost(timed))
                print(f"{what}, {side}: {costs[side][-1].wall:.1f} s", file=sys.stderr)
    there, here = (Tensor([scores[side]]) / scores["theirs"] for side in ("theirs", "ours"))
    return [
        Row(
            what=what,
            peer=peer,
            ours=[c.wall for c in costs["ours"]],
            theirs=[c.wall for c in costs["theirs"]],
            cpu=sum(c.cpu for c in costs["theirs"]) / sum(c.cpu for c in costs["ours"]),
            agreement=agree(there, here, 1e-3, "relative scores"),
            at_least=size.of(None, None, 2),
        )
    ]


def memory(size: Size) -> list[Row]:
    """Peak memory of our command, which must not grow with the number of images."""
    rows = []
    with opened_room() as room:
        for n in size.of((2,), (100, 200), (500, 2000, 4000)):
            _, megabytes = room.ours(room.folders(n, 32))
            what = f"peak memory, two folders of {n:,} PNG files of 32 px"
            rows.append(Row(what=what, ours=[megabytes], unit="MB"))
    growth = rows[-1].ours[0] / rows[0].ours[0]
    what = "peak memory, most images to fewest"
    return [*rows, Row(what=what, ours=[growth], unit="", at_most=size.of(None, None, 1.05))]


PARTS = {
    "pytorch_fid": functools.partial(
        beside, peer="pytorch-fid", theirs=Room.pytorch_fid, resize="pytorch_fid", pixels=32
    ),
    "torch_fidelity": functools.partial(
        beside, peer="torch-fidelity", theirs=Room.torch_fidelity, resize="tf1", pixels=32
    ),
    "large": functools.partial(
        beside, peer="pytorch-fid", theirs=Room.pytorch_fid, resize="pytorch_fid", pixels=256
    ),
    "memory": memory,
}

if __name__ == "__main__":
    page.main(__doc__, __file__, PARTS, ("pytorch-fid", "torch-fidelity", "scipy", "pillow"))
