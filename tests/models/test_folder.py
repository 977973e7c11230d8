"""Model folders: strict, whole or not there at all. What a model keeps is tested with each model."""

import json
import shutil
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nacgen.errors import CheckpointError, CheckpointNotFoundError, ConfigurationError, StorageError
from nacgen.models.folder import PretrainedModel, resolve_folder
from nacgen.system.files import write_file
from nacgen.system.tensor_file import list_differences

ROOT = Path(__file__).parents[2]


class Line(nn.Module, PretrainedModel):
    """The smallest model with two tensors and two arguments."""

    def __init__(self, width: int = 3, name: str = "a") -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be one or more, got {width}.")
        self.name = name
        self.weight = nn.Parameter(torch.arange(float(width)))
        self.register_buffer("count", torch.tensor(7))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Line(3, name="b").save_pretrained(tmp_path / "line")
    return tmp_path / "line"


def rewrite(folder: Path, **changes: Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors") | changes
    kept = {name: value for name, value in tensors.items() if value is not None}
    save_file(kept, folder / "model.safetensors")


def test_a_folder_gives_the_model_back(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert json.loads((folder / "config.json").read_text()) == {"width": 3, "name": "b"}
    line = Line.from_pretrained(folder)
    assert (line.name, line.training) == ("b", False)
    assert line.weight.tolist() == [0, 1, 2]
    assert line.weight.requires_grad


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({"weight": None}, "1 differences: weight is missing"),
        ({"other": torch.zeros(2)}, "1 differences: other is unexpected"),
        ({"weight": torch.zeros(4)}, r"1 differences: weight: \(4,\) in the file, \(3,\) in"),
        ({"weight": torch.zeros(1, 3)}, r"weight: \(1, 3\) in the file, \(3,\) in the model"),
        ({"weight": torch.zeros(3).int()}, "weight: torch.int32 in the file, torch.float32 in"),
        (
            {"weight": torch.zeros(3).to(torch.float8_e4m3fn)},
            "weight: torch.float8_e4m3fn in the file, torch.float32 in",
        ),
        ({"count": torch.tensor(7.0)}, "count: torch.float32 in the file, torch.int64 in"),
        (
            {"weight": None, "bias": torch.zeros(3), "count": torch.zeros(2)},
            r"3 differences: weight is missing; bias is unexpected; count: \(2,\) in the file, \(\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_listed(
    folder: Path, changes: dict[str, Tensor | None], differences: str
) -> None:
    rewrite(folder, **changes)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors does not fit .*{differences}"):
        Line.from_pretrained(folder)


def test_no_more_than_ten_differences_are_listed(folder: Path) -> None:
    rewrite(folder, **{f"extra_{i:02d}": torch.zeros(1) for i in range(12)})
    with pytest.raises(CheckpointError, match="12 differences: ") as caught:
        Line.from_pretrained(folder)
    assert str(caught.value).count("is unexpected") == 10


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n",
            "a Git LFS pointer",
        ),
        (b"\n<!DOCTYPE html><html></html>", "an HTML page"),
        (b"<html>", "an HTML page"),
        (b'{"metadata": {}, "weight_map": {}}', "JSON, as the index of a model in shards"),
        (b"Entry not found", "text, as a download that failed leaves"),
        (b"PK\x03\x04" + bytes(99), "a zip archive, as torch.save writes"),
    ],
)
def test_text_in_the_place_of_weights_is_called_what_it_is(
    folder: Path, content: bytes, kind: str
) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"no whole safetensors file \(it is {kind}"):
        Line.from_pretrained(folder)


def test_shards_are_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointNotFoundError, match=r"no model\.safetensors; its .* in shards"):
        Line.from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"x", b"\x80\x04cos\nsystem\n.", None])
def test_a_damaged_weights_file_is_named(folder: Path, content: bytes | None) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] if content is None else content)
    with pytest.raises(CheckpointError, match=rf"{file} is no whole safetensors file \("):
        Line.from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config\.json is not valid JSON \("),
        ("", r"config\.json is not valid JSON \("),
        ('{"width": 3, "depth": 2}', r"arguments of Line \(name, width\), got also depth\. Load"),
        ("[3]", r"arguments of Line \(name, width\), got \[3\]\. Load"),
        ('{"width": 0}', r"config\.json does not describe a Line: width must be .* got 0"),
        ('{"width": "3"}', r"config\.json does not describe a Line: "),
        ('{"width": null}', r"config\.json does not describe a Line: "),
        ("null", r"arguments of Line \(name, width\), got None\. Load"),
        ('{"width": %s}' % ("9" * 400), r"config\.json is not valid JSON \("),
        ('{"width": %s}' % ("9" * 5000), r"config\.json is not valid JSON \("),
    ],
    ids=lambda value: value[:20],
)
def test_a_configuration_that_cannot_be_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        Line.from_pretrained(folder)


def test_a_configuration_that_is_no_text_is_named(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON"):
        Line.from_pretrained(folder)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named_and_no_other_is_read(folder: Path, file: str) -> None:
    (folder / file).rename(folder / "pytorch_model.bin")  # which would be unpickled
    with pytest.raises(CheckpointNotFoundError, match=rf"but {folder} has no {file}\. .* pickled"):
        Line.from_pretrained(folder)


@pytest.mark.parametrize(
    "name",
    [
        *("nowhere", "./a/b", "/no/such", "checkpoints/none", "a/b/c", "../x/y", "é/encoder"),
        *("my runs/encoder", "~/encoder", "a--b/encoder", "lr=0.1/encoder", "a/b.git", "a/" * 400),
    ],
)
def test_what_is_neither_folder_nor_hub_name_asks_nobody(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*args: Any, **options: Any) -> str:
        raise AssertionError(args)

    monkeypatch.setattr("nacgen.models.folder.download", ask)
    with pytest.raises(CheckpointNotFoundError, match=rf"{name} is no model folder, and no Hub id"):
        Line.from_pretrained(name)


def test_a_hub_model_is_read_like_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, files: tuple[str, ...], revision: str | None) -> list[Path]:
        asked.append((name, files, revision))
        return [folder / file for file in files]

    monkeypatch.setattr("nacgen.models.folder.download", download)
    assert Line.from_pretrained("someone/line", revision="v1").name == "b"
    assert asked == [("someone/line", ("config.json", "model.safetensors"), "v1")]


def test_links_inside_a_folder_and_in_the_hubs_cache_are_followed(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    assert Line.from_pretrained(folder).name == "b"
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        shutil.copy(folder / file, blobs / file)
        (snapshot / file).symlink_to(Path("../../blobs") / file)
    assert Line.from_pretrained(snapshot).name == "b"


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_links_out_of_a_folder_are_refused(folder: Path, tmp_path: Path, file: str) -> None:
    (folder / file).rename(tmp_path / "outside")
    for target in (tmp_path / "outside", Path("..") / "outside"):
        (folder / file).symlink_to(target)
        with pytest.raises(CheckpointError, match=rf"{file} must .* is a link that leads out of"):
            Line.from_pretrained(folder)
        (folder / file).unlink()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    rewrite(folder, weight=torch.tensor([1.0, value, 2.0]))
    with pytest.raises(
        CheckpointError, match=r"finite, but 1 in .*model\.safetensors .*: weight\."
    ):
        Line.from_pretrained(folder)
    rewrite(folder, weight=torch.tensor([1e38, 1e-45, -0.0]))  # odd, but numbers
    assert Line.from_pretrained(folder).weight.tolist()[0] > 9e37


def test_no_memory_is_taken_for_what_the_weights_do_not_bear_out(folder: Path) -> None:
    rewrite(folder)  # as another program, without our digest
    (folder / "config.json").write_text(json.dumps({"width": 10**15}))
    with pytest.raises(CheckpointError, match=r"weight: \(3,\) in the file, \(10{15},\) in the"):
        Line.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"width": 10**30}))
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON"):
        Line.from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "a", "name": "b"}', "is not valid JSON .a key stands twice"),
        ('{"width": NaN}', "is not valid JSON .NaN is no JSON"),
        ('{"width": -Infinity}', "is not valid JSON .-Infinity is no JSON"),
        ("[" * 100_000, "is not valid JSON .it is nested too deeply"),
        ('{"name": "%s"}' % ("x" * 1_000_000), "must be a small file .* larger than 1,000,000 b"),
        ('{"auto_map": "modeling.Evil", "width": 3}', r"got also auto_map\."),
        ('{"__class__": "os.system"}', r"got also __class__\."),
    ],
    ids=lambda value: value[:20],
)
def test_hostile_configurations_are_refused(folder: Path, text: str, message: str) -> None:
    (folder / "modeling.py").write_text("raise SystemExit('run')")
    (folder / "config.json").write_text(text)
    with pytest.raises(
        CheckpointError, match=rf"config\.json {message}" if "also" not in message else message
    ):
        Line.from_pretrained(folder)


def test_released_models_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_folder("checkpoints/digits-nac") == ROOT / "checkpoints" / "digits-nac"
    assert resolve_folder("checkpoints/none") is None
    (tmp_path / "checkpoints" / "digits-nac").mkdir(parents=True)
    found = resolve_folder("checkpoints/digits-nac")
    assert found is not None
    assert not found.is_absolute()  # a folder of that name here comes first


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_saving_again_replaces_its_own_files_and_leaves_the_others(folder: Path) -> None:
    (folder / ".git" / "refs").mkdir(parents=True)
    (folder / ".git" / "config").write_text("[core]")
    (folder / "thesis.tex").write_text("years of work")
    killed = folder / f".model.safetensors.{socket.gethostname()}.99999999.new"
    killed.write_bytes(b"half of the weights")  # whose writer no longer runs
    before = everything(folder)
    Line(2, name="new").save_pretrained(folder)
    after = everything(folder)
    assert Line.from_pretrained(folder).name == "new"
    assert before.keys() - after.keys() == {killed.name}
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"config.json", "model.safetensors"}
    assert [path.name for path in folder.parent.iterdir()] == ["line"]  # no debris


def test_a_readme_of_somebody_else_is_kept(folder: Path) -> None:
    card = folder / "README.md"
    ours, older = card.read_text(), Line()
    older.model_card = lambda: "an older model's figures \udcff"  # type: ignore[method-assign]
    older.save_pretrained(folder)
    assert "figures" in card.read_text()
    Line().save_pretrained(folder)
    assert card.read_text() == ours
    card.write_text("# My thesis\n")
    Line().save_pretrained(folder)
    assert card.read_text() == "# My thesis\n"


def test_a_file_in_the_place_of_the_folder_is_kept_and_named(tmp_path: Path) -> None:
    (tmp_path / "line").write_text("a thesis")
    with pytest.raises(
        StorageError, match=rf"model folder {tmp_path / 'line'} cannot be .* File exists"
    ):
        Line().save_pretrained(tmp_path / "line")
    assert (tmp_path / "line").read_text() == "a thesis"


def test_a_model_without_numbers_is_not_saved(folder: Path) -> None:
    before = everything(folder)
    with pytest.raises(ConfigurationError, match=r"Line must hold numbers .* on the meta device"):
        Line().to("meta").save_pretrained(folder)
    assert everything(folder) == before


def test_a_card_that_was_edited_is_kept(folder: Path) -> None:
    card = folder / "README.md"
    written = card.read_text()
    card.write_text(written.replace("# Line", "# Line\n\nThree weeks of results."))
    Line(4).save_pretrained(folder)
    assert "Three weeks of results." in card.read_text()
    card.write_text(written)
    card.write_bytes(b"x" * 2_000_000)  # too large for a card
    Line(4).save_pretrained(folder)
    assert card.stat().st_size == 2_000_000


def extended() -> Line:
    line = Line()
    line.other = nn.Linear(2, 2)
    return line


def changed(weight: Tensor) -> Line:
    line = Line()
    line.weight = nn.Parameter(weight, requires_grad=False)
    return line


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (extended, r"could not be loaded again, but has 2 differences: other\.weight is unexp"),
        (lambda: changed(torch.zeros(4)), r"weight: \(4,\) here, \(3,\) in the model"),
        (lambda: changed(torch.zeros(3).to(torch.complex64)), "weight: torch.complex64 here"),
        (lambda: changed(torch.zeros(3).to(torch.float8_e4m3fn)), "weight: torch.float8_e4m3fn"),
        (lambda: changed(torch.full((3,), torch.nan)), "Line to be saved are not: weight"),
        (lambda: Line(name=float("inf")), "to be saved, but Infinity is no JSON"),  # type: ignore[arg-type]
    ],
)
def test_what_could_not_be_loaded_again_does_not_replace_what_can(
    folder: Path, model: Any, message: str
) -> None:
    before = everything(folder)
    with pytest.raises((ConfigurationError, CheckpointError), match=message):
        model().save_pretrained(folder)
    assert everything(folder) == before


def test_numbers_of_numpy_are_saved_as_numbers(folder: Path) -> None:
    Line(5).save_pretrained(folder, config={"width": np.int64(5), "name": "b"})
    assert Line.from_pretrained(folder).weight.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigurationError, match="plain, finite values by name to be saved, but"):
        Line(5).save_pretrained(folder, config={"width": 5, "name": {1, 2}})


def test_weights_that_kept_their_length_and_lost_their_content_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-12] + bytes(12))
    with pytest.raises(CheckpointError, match="its tensors are not those of content_sha256"):
        Line.from_pretrained(folder)


def test_a_prefix_before_all_names_is_seen(folder: Path) -> None:
    state = {f"t{i}": torch.zeros(1) for i in range(8)}
    expected = {f"module.{name}": tensor for name, tensor in state.items()}
    found = list_differences(state, expected, cast=True)
    assert "16 differences: module.t0 is missing; " in found
    assert found.endswith("; t7 is unexpected")


def test_equal_models_are_equal_bytes(folder: Path, tmp_path: Path) -> None:
    Line(3, name="b").save_pretrained(tmp_path / "again")
    assert everything(tmp_path / "again") == everything(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_become_float32(folder: Path, dtype: torch.dtype) -> None:
    Line(3, name="b").to(dtype).save_pretrained(folder)
    line = Line.from_pretrained(folder)
    assert (line.weight.dtype, line.count.dtype) == (torch.float32, torch.int64)
    assert line.weight.tolist() == [0, 1, 2]
    rewrite(folder, weight=torch.full((3,), 1e300, dtype=torch.float64))  # no float32
    with pytest.raises(CheckpointError, match="must be finite"):
        Line.from_pretrained(folder)


def test_the_callers_default_dtype_and_device_do_not_count(folder: Path) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            with torch.device("meta"):
                line = Line.from_pretrained(folder)
            assert torch.get_default_dtype() == dtype
        finally:
            torch.set_default_dtype(torch.float32)
        assert (line.weight.dtype, line.weight.tolist()) == (torch.float32, [0, 1, 2])


def test_a_folder_that_is_not_there_is_made_with_its_parents(tmp_path: Path) -> None:
    Line().save_pretrained(tmp_path / "a" / "b" / "line")
    assert Line.from_pretrained(tmp_path / "a" / "b" / "line").name == "a"


def test_saving_that_fails_leaves_the_old_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    before = everything(folder)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Line(2, name="new").save_pretrained(folder)
    assert everything(folder) == before


def test_weights_and_configuration_that_do_not_belong_together_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(path: Path, content: Any) -> None:
        if path.name == "config.json":
            raise KeyboardInterrupt
        write_file(path, content)

    monkeypatch.setattr("nacgen.models.folder.PAUSE_S", 0)
    with monkeypatch.context() as patch:
        patch.setattr("nacgen.models.folder.write_file", stopped)
        with pytest.raises(KeyboardInterrupt):
            Line(3, name="new").save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"config\.json must be the .* that model\.safetens"):
        Line.from_pretrained(folder)
    Line(3, name="new").save_pretrained(folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text())) + "\n")  # only white space
    assert Line.from_pretrained(folder).name == "new"


def test_pushing_uses_the_name_of_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = []
    monkeypatch.setattr(Line, "push_to_hub", lambda self, repo_id, **_: pushed.append(repo_id))
    Line().save_pretrained(folder, push_to_hub=True)
    Line().save_pretrained(folder, push_to_hub=True, repo_id="someone/else")
    assert pushed == ["line", "someone/else"]


def test_a_reader_between_the_two_files_waits_for_the_second(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[Future[Line]] = []

    def watched(path: Path, content: Any) -> None:
        write_file(path, content)
        if path.name == "model.safetensors":
            readers.append(pool.submit(Line.from_pretrained, folder))
            time.sleep(0.05)

    monkeypatch.setattr("nacgen.models.folder.write_file", watched)
    with ThreadPoolExecutor(1) as pool:
        Line(2, name="new").save_pretrained(folder)
        line = readers[0].result()
    assert (line.name, len(line.weight)) == ("new", 2)


def test_a_folder_that_was_moved_still_loads(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder, tmp_path / "elsewhere")
    assert Line.from_pretrained(tmp_path / "elsewhere").name == "b"
