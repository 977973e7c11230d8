"""Checkpoints and run folders that were damaged, exchanged or planted."""

import hashlib
import itertools
import json
import pickle
import random
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from nacgen.errors import CheckpointError
from nacgen.training.checkpoint import load_checkpoint
from tests.faults import small_runs
from tests.faults.small_runs import BATCH, build_nac, build_vae, fingerprint
from tests.faults.test_kills import At
from tests.faults.trials import FULL, SCALE, run, whole_run

PRESET = "vae-short"
NEWEST, OLDER = f"step_{4 * BATCH:012d}", f"step_{2 * BATCH:012d}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An uninterrupted run, and one that was killed before its fifth step and holds two checkpoints."""
    root = tmp_path_factory.mktemp("runs")
    whole_run(root / "whole", PRESET)
    assert run(root / "begun", PRESET, At(4 * BATCH, saved_in=root / "begun")).code == -9
    return {"whole": root / "whole", "begun": root / "begun"}


@pytest.fixture
def begun(tmp_path: Path, folders: dict[str, Path]) -> Path:
    return shutil.copytree(folders["begun"], tmp_path / "begun")


def flip(file: Path, start: int, stop: int, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[draw.randrange(start, min(stop, len(content)))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def header_size(file: Path) -> int:
    return 8 + int.from_bytes(file.read_bytes()[:8], "little")


def manifest_of(step: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((step / "MANIFEST.json").read_text())
    return content


GARBAGE = (b"", b"{", b"[]", b"null", b'{"format": 1}', b'{"format": 1, "files": []}', b"\xff" * 99)
GARBAGE += (b'{"format": 1, "files": {}}', b"[" * 5_000, b'{"format": "1"}', b'{"files": null}')


def damage(kind: str, step: Path, draw: random.Random) -> None:
    """Do one kind of damage to a checkpoint, somewhere."""
    files = sorted(step.iterdir())
    tensors = [file for file in files if file.suffix == ".safetensors"]
    file, weights = draw.choice(files), draw.choice(tensors)
    match kind:
        case "truncated":
            file.write_bytes(file.read_bytes()[: draw.randrange(file.stat().st_size)])
        case "longer":
            file.write_bytes(file.read_bytes() + draw.randbytes(draw.randrange(1, 99)))
        case "bit of a header":
            flip(weights, 0, header_size(weights), draw)
        case "bit of data":
            flip(weights, header_size(weights), 1 << 30, draw)
        case "missing file":
            file.unlink()
        case "extra file":
            (step / f"extra{draw.randrange(9)}.safetensors").write_bytes(b"")
        case "files exchanged":
            one, other = draw.sample(tensors, 2)
            one.rename(step / "third")
            other.rename(one)
            (step / "third").rename(other)
        case "link":
            content = weights.read_bytes()
            weights.unlink()
            (step.parent.parent / "elsewhere").write_bytes(content[:-1] + b"?")
            weights.symlink_to(step.parent.parent / "elsewhere")
        case "empty folder":
            for each in files:
                each.unlink()
        case "other format":
            other_format = manifest_of(step) | {"format": draw.randrange(2, 99)}
            (step / "MANIFEST.json").write_text(json.dumps(other_format))
        case "garbage manifest":
            (step / "MANIFEST.json").write_bytes(draw.choice(GARBAGE))


KINDS = ("truncated", "longer", "bit of a header", "bit of data", "missing file", "extra file")
KINDS += ("files exchanged", "link", "empty folder", "other format", "garbage manifest")


def test_every_damaged_checkpoint_is_passed_over(  # type: ignore[no-untyped-def]
    tmp_path: Path, folders: dict[str, Path], capsys: pytest.CaptureFixture[str], record_property
) -> None:
    """Files truncated at any length, longer, a bit flipped in a header or in data, missing, extra,
    exchanged, linked, an empty folder, another format, a manifest of garbage: the checkpoint before is
    read and the reason told; where all are damaged, an error, no fresh start."""
    draw, count = random.Random(0), 40 * SCALE
    whole = {step: folders["begun"] / "checkpoints" / step for step in (OLDER, NEWEST)}
    state = json.loads((whole[OLDER] / "state.json").read_text())
    expected = load_file(whole[OLDER] / "vae.safetensors")
    for trial, kind in zip(range(count), itertools.cycle(KINDS)):
        root = tmp_path / str(trial) / "checkpoints"
        for step, folder in whole.items():
            shutil.copytree(folder, root / step)
        damage(kind, root / NEWEST, draw)
        loaded = load_checkpoint(root)
        assert loaded is not None, kind
        assert loaded[1] == state, kind
        assert all(torch.equal(loaded[0]["vae"][name], value) for name, value in expected.items())
        assert f"{NEWEST} is damaged and passed over: " in capsys.readouterr().err
        damage(kind, root / OLDER, draw)
        with pytest.raises(CheckpointError, match=f"none is whole: .*{OLDER}: "):
            load_checkpoint(root)
        shutil.rmtree(tmp_path / str(trial))
    record_property("trials", count)


@pytest.mark.parametrize("kind", KINDS if FULL else KINDS[:1])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(  # type: ignore[no-untyped-def]
    begun: Path, folders: dict[str, Path], kind: str, record_property
) -> None:
    """The same damage before a run is resumed: it ends bit for bit as the uninterrupted one; with all
    checkpoints damaged, exit code 5 and nothing is trained."""
    draw, spoilt = random.Random(kind), begun.with_name("spoilt")
    damage(kind, begun / "checkpoints" / NEWEST, draw)
    shutil.copytree(begun, spoilt, symlinks=True)
    ended = run(begun, PRESET)
    assert ended.code == 0, ended.output
    assert fingerprint(begun) == fingerprint(folders["whole"])
    damage(kind, spoilt / "checkpoints" / OLDER, draw)
    before = (spoilt / "metrics.jsonl").read_bytes()
    ended = run(spoilt, PRESET)
    assert ended.code == 5, ended.output
    assert "none is whole" in ended.output
    assert (spoilt / "metrics.jsonl").read_bytes() == before
    record_property("trials", 2)


def rewrite(step: Path, part: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change tensors of a checkpoint whose manifest then fits them."""
    file, manifest = step / f"{part}.safetensors", manifest_of(step)
    tensors = load_file(file)
    if change(tensors) is False:
        file.unlink()
        del manifest["files"][file.name]
    else:
        content = save(tensors)
        file.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"][file.name] = {"size": len(content), "sha256": digest}
    (step / "MANIFEST.json").write_text(json.dumps(manifest))


@dataclass(frozen=True)
class WatchModel:
    """Says whether loading left the model as it was, where it fails.

    Args:
        method: Other networks to put in the place of the VAE's, by the name of their builder.
        options: For that builder.
    """

    method: Callable[..., Any] = build_vae
    options: tuple[tuple[str, int], ...] = ()

    def __call__(self) -> None:
        small_runs.METHODS["vae"] = lambda accelerator: self.method(
            accelerator, **dict(self.options)
        )
        train = small_runs.train

        def watched(update: Any, *args: Any, **options: Any) -> Any:
            def content() -> bytes:
                states = (m.state_dict().values() for m in update.modules.values())
                return b"".join(save({"x": v.contiguous()}) for state in states for v in state)

            before = content()
            try:
                return train(update, *args, **options)
            except CheckpointError:
                print("model unchanged" if content() == before else "model changed")
                raise

        small_runs.train = watched


WEIGHT = "decoder.first.weight"
MISFITS: dict[str, tuple[WatchModel, str, Callable[[dict[str, Any]], Any]]] = {
    "another architecture": (WatchModel(build_nac), "vae", lambda t: None),
    "another width": (WatchModel(build_vae, (("latent_dim", 7),)), "vae", lambda t: None),
    "another dtype": (WatchModel(), "vae", lambda t: t.update({WEIGHT: t[WEIGHT].double()})),
    "a missing tensor": (WatchModel(), "vae", lambda t: t.pop(WEIGHT)),
    "a tensor too many": (WatchModel(), "vae", lambda t: t.update(more=torch.zeros(1))),
    "a missing part": (WatchModel(), "watch", lambda t: False),
    "a stranger's slot": (
        WatchModel(),
        "optimizer_vae",
        lambda t: t.update({"exp_avg/vae.more": torch.zeros(1)}),
    ),
    "a slot of another shape": (
        WatchModel(),
        "optimizer_vae",
        lambda t: t.update({f"exp_avg/vae.{WEIGHT}": torch.zeros(3)}),
    ),
}


@pytest.mark.parametrize("misfit", MISFITS if FULL else list(MISFITS)[-2:])
def test_a_checkpoint_that_does_not_fit_leaves_the_model_as_it_was(
    begun: Path, misfit: str
) -> None:
    """A whole checkpoint of another architecture, width or dtype, with a tensor or a part too few or
    too many, with an optimizer's slots that fit no parameter: exit code 5, not a byte of the model
    changed."""
    watch, part, change = MISFITS[misfit]
    rewrite(begun / "checkpoints" / NEWEST, part, change)
    ended = run(begun, PRESET, watch)
    assert ended.code == 5, ended.output
    assert "model unchanged\n" in ended.output


def test_a_run_of_another_configuration_is_refused(begun: Path) -> None:
    """Another length: exit code 2, and the difference is named."""
    ended = run(begun, "vae")
    assert ended.code == 2
    assert "total_images: 48 there, 480 here" in ended.output


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def payloads(canary: Path) -> list[bytes]:
    archive = BytesIO()
    torch.save(Payload(canary), archive)
    return [*(pickle.dumps(Payload(canary), p) for p in (0, 2, 5)), archive.getvalue()]


FOREIGN = ("model.safetensors", "state.json", "optimizer.bin", "pytorch_model.bin", "latest")
FOREIGN += ("custom_checkpoint_0.pkl", ".metadata", "random_states_0.pkl", "scheduler.bin")
OWN = {"config.yaml": 2, "environment.json": 0, "metrics.jsonl": 0, "summary.json": 0, ".lock": 0}


def test_a_pickle_is_never_opened_under_any_name(  # type: ignore[no-untyped-def]
    begun: Path, tmp_path: Path, record_property
) -> None:
    """A pickle of protocol 0, 2 or 5 or a torch archive, which make a file when they are opened: in place
    of each file of a checkpoint it is damage, under other programs' names it is not looked at, in place
    of a file of the run folder it is an error or overwritten. The file is never made."""
    canary, trials = tmp_path / "canary", 0
    with pytest.MonkeyPatch.context():
        pickle.loads(payloads(canary)[0])
        assert canary.exists()  # they do work
        canary.unlink()
    for number, payload in enumerate(payloads(canary)):
        for file in sorted((begun / "checkpoints" / NEWEST).iterdir()):
            root = tmp_path / f"{number}-{file.name}"
            shutil.copytree(begun / "checkpoints", root)
            (root / NEWEST / file.name).write_bytes(payload)
            loaded = load_checkpoint(root)
            assert loaded is not None
            assert loaded[1]["images_seen"] == 2 * BATCH
            trials += 1
        for name, code in [("", 0), *OWN.items()] if FULL else [("", 0)]:
            folder = shutil.copytree(begun, tmp_path / f"{number}-run-{name}")
            for foreign in FOREIGN:
                (folder / foreign).write_bytes(payload)
            if name:
                (folder / name).write_bytes(payload)
            ended = run(folder, PRESET)
            assert ended.code == code, (name, ended.output)
            assert "Traceback" not in ended.output
            trials += len(FOREIGN)
        assert not canary.exists()
    record_property("trials", trials)


LEFTOVER = f"{socket.gethostname()}.99999999.new"  # of a process that no longer runs
PLANTED = (".lock", f".config.yaml.{LEFTOVER}", f".environment.json.{LEFTOVER}", "metrics.jsonl")
PLANTED += (f".metrics.jsonl.{LEFTOVER}", f".summary.json.{LEFTOVER}")


@pytest.mark.parametrize("name", PLANTED)
def test_a_link_in_a_run_folder_leads_nowhere(begun: Path, tmp_path: Path, name: str) -> None:
    """A link to somebody's file, planted under a name that a run writes: refused, exit code 6, or
    replaced; the file stays as it was."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (begun / name).unlink(missing_ok=True)
    (begun / name).symlink_to(victim)
    ended = run(begun, PRESET)
    assert victim.read_text() == "mine"
    assert ended.code in (0, 6), ended.output
    assert "Traceback" not in ended.output
