"""The command that scores images, as a user meets it."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nacgen.data.datasets import load_dataset
from nacgen.data.decoders import Decoders
from nacgen.errors import CheckpointNotFoundError, ConfigurationError, DataError, NacgenError
from nacgen.metrics import sources
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.metrics.extractors.build import build_extractor
from nacgen.metrics.options import PRESETS, EvaluateConfig, SelfcheckConfig, StatsConfig
from nacgen.training.config import parse
from recipes.evaluate_images import score, selfcheck, stats
from tests.recipes.test_recipes import start


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    """The same 60 digits as PNG files and as an archive."""
    images = load_dataset("digits", "test").read(torch.arange(60)).permute(0, 2, 3, 1).numpy()
    (tmp_path / "png").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "png" / f"{i:02}.png")
    np.savez(tmp_path / "images.npz", images)
    return str(tmp_path / "png"), str(tmp_path / "images.npz")


def scored(
    capsys: pytest.CaptureFixture[str], *sources: str, **options: object
) -> dict[str, float]:
    reference, generated = sources
    options = {"extractor": "digits-classifier"} | options
    score(EvaluateConfig(reference=reference, generated=generated, json=True, **options))  # type: ignore[arg-type]
    captured = capsys.readouterr()
    result = json.loads(captured.out)  # and nothing else on stdout
    assert "16x16 px" in captured.err
    assert "protocol:" not in captured.err  # stdout has the whole of it
    return {name: found["value"] for name, found in result["scores"].items()}


def test_files_and_archives_score_alike(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    files, archive = folders
    metrics = ("fid", "is", "kid", "prdc")
    from_files = scored(capsys, "digits/train", files, metrics=metrics)
    assert from_files == scored(capsys, "digits/train", archive, metrics=metrics)
    assert list(from_files)[:3] == [
        f"{name}_digits_classifier" for name in ("fd", "inception_score", "kd")
    ]
    same = scored(capsys, files, archive, metrics=("fid", "prdc"), batch_size=7)
    assert same["fd_digits_classifier"] == pytest.approx(0, abs=1e-6)
    assert same["precision_digits_classifier"] == same["coverage_digits_classifier"] == 1


def test_names_of_files_stay_in_their_line(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = Path(folders[1]).rename(Path(folders[1]).with_name("a\n\x1b[31m.npz"))
    score(
        EvaluateConfig(
            reference="digits/train", generated=str(hostile), extractor="digits-classifier"
        )
    )
    printed = capsys.readouterr().err
    assert "a\\n\\x1b[31m" in printed
    assert "\x1b" not in printed
    assert printed.endswith(
        "\nprotocol: extractor digits_classifier, reference digits/train, 1,442 reference images, 60 samples; "
        "--json prints all of it, to report a score with\n"
    )


def test_statistics_score_as_their_images_do(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "reference.npz")
    stats(StatsConfig(reference="digits/train", output=path, keep_features=True))
    assert capsys.readouterr().out == f"{path}: digits_classifier of 1442 images of digits/train\n"
    expected = scored(capsys, "digits/train", folders[0], metrics=("fid", "kid"))
    assert scored(capsys, path, folders[0], metrics=("fid", "kid")) == expected
    with pytest.raises(ConfigurationError, match=r"reference.npz holds statistics already"):
        stats(StatsConfig(reference=path, output=str(tmp_path / "again.npz")))
    with pytest.raises(ConfigurationError, match=r"output must end in \.npz, got out\.csv"):
        stats(StatsConfig(output="out.csv"))


def test_the_output_is_none_of_the_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pics.npz").write_bytes(b"images")
    Path("link.npz").symlink_to("pics.npz")
    Path("hard.npz").hardlink_to("pics.npz")
    Path("folder").mkdir()
    for output in ("pics.npz", "./pics.npz", "folder/../pics.npz", "link.npz", "hard.npz"):
        for inputs in ({"reference": "pics.npz"}, {"weights": str(tmp_path / "pics.npz")}):
            with pytest.raises(
                ConfigurationError, match=rf"but {output} is .*pics\.npz, which is read"
            ):
                StatsConfig(output=output, **inputs)
    Path("reference.npz").write_bytes(b"images")
    with pytest.raises(ConfigurationError, match=r"but reference\.npz is reference\.npz"):
        StatsConfig(reference="reference.npz")
    StatsConfig(reference="pics.npz", output="new.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 10**6}, "image_size must be between 1 and 4096, got 1000000"),
        ({"image_size": 0}, "image_size must be between 1 and 4096, got 0"),
        ({"num_samples": 10**12}, "num_samples must be between 2 and 100000000, got 1000000000000"),
        ({"foreign_images": 1}, "foreign_images must be between 2 and"),
        ({"batch_size": 0}, "batch_size must be above 0, got 0"),
    ],
)
def test_absurd_sizes_are_refused_at_once(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EvaluateConfig(**options)  # type: ignore[arg-type]


def test_what_pytorch_fid_wrote_needs_the_number_of_images(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "foreign.npz")
    np.savez(path, mu=np.zeros(64), sigma=np.eye(64))
    with pytest.raises(DataError, match=rf"{path} must say which features"):
        scored(capsys, path, folders[0])
    found = scored(capsys, path, folders[0], foreign_images=100)["fd_digits_classifier"]
    own = str(tmp_path / "own.npz")
    stats(StatsConfig(reference=folders[0], output=own, extractor="digits-classifier"))
    score(
        EvaluateConfig(
            reference=path,
            generated=own,
            foreign_images=100,
            json=True,
            extractor="digits-classifier",
        )
    )
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["scores"]["fd_digits_classifier"]["value"] == pytest.approx(found, rel=1e-6)
    with pytest.raises(ConfigurationError, match=r"none are given, got 100\. Leave"):
        scored(capsys, own, folders[0], foreign_images=100)


def test_options_that_nothing_heeds_and_single_images_are_refused(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing here is a run, got 5\. Leave"):
        scored(capsys, *folders, num_samples=5)
    with pytest.raises(ConfigurationError, match=r"none are given, got 100\. Leave"):
        scored(capsys, *folders, foreign_images=100)
    (tmp_path / "one").mkdir()
    (tmp_path / "png" / "07.png").rename(tmp_path / "one" / "07.png")
    with pytest.raises(DataError, match=r"two images or more, but .*one holds 1"):
        scored(capsys, folders[0], str(tmp_path / "one"))


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave Inception without weights and without a network to get them from."""

    def no_network(*args: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)


@pytest.mark.usefixtures("no_weights")
def test_without_weights_an_installed_judge_scores_or_the_remedies_are_named(
    folders: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sources, "is_installed", lambda: True)
    score(EvaluateConfig(reference=folders[0], generated=folders[1]))
    captured = capsys.readouterr()
    assert captured.out.startswith("fd_efficientnet_lite0  ")
    assert "scores are fd_efficientnet_lite0, no FID, since Inception's weights" in captured.err
    assert "For FID run this once with a connection, " in captured.err
    assert ".pth: --extractor inception --weights FILE.\n" in captured.err
    message = r"no route to host.*Give the path.*Or choose other features.*digits_classifier"
    with pytest.raises(CheckpointNotFoundError, match=message):
        score(EvaluateConfig(reference=folders[0], generated=folders[1], dims=2048))
    # Statistics of other features would be those of nobody, or fit none that are there.
    written = str(tmp_path / "written.npz")
    with pytest.raises(CheckpointNotFoundError, match=message):
        score(EvaluateConfig(reference=folders[0], generated=written, save_stats=True))
    foreign = str(tmp_path / "pytorch_fid.npz")
    np.savez(foreign, mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(CheckpointNotFoundError, match=message):
        score(EvaluateConfig(reference=foreign, generated=folders[1], foreign_images=9))
    monkeypatch.setattr(sources, "is_installed", lambda: False)
    with pytest.raises(CheckpointNotFoundError, match=message):
        score(EvaluateConfig(reference=folders[0], generated=folders[1]))


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("has_judge", [True, False])
def test_processes_agree_on_the_features(
    rank: int,
    has_judge: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Another process has Inception's weights and perhaps the judge; this one has the judge alone."""
    answers = iter([True, has_judge])  # that it is built there; that the judge is installed there

    def gather(own: torch.Tensor, group: object = None) -> list[torch.Tensor]:
        other = torch.zeros_like(own) if own.ndim else torch.full_like(own, next(answers))
        return [own, other] if rank == 0 else [other, own]

    monkeypatch.setattr("nacgen.system.processes.gather_parts", gather)
    monkeypatch.setattr(sources, "is_installed", lambda: True)
    here = SimpleNamespace(process_index=rank, num_processes=2, device=torch.device("cpu"))
    if has_judge:
        assert sources.load_extractor(EvaluateConfig(), [], here).name == "efficientnet_lite0"
    else:
        with pytest.raises(CheckpointNotFoundError, match="Or choose other features"):
            sources.load_extractor(EvaluateConfig(), [], here)
    assert next(answers, None) is None
    assert ("scores are fd_eff" in capsys.readouterr().err) == (has_judge and rank == 0)


def test_copies_of_training_images_are_found(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The generated images are among the training images here, and unlike the reference."""
    options = {"metrics": ("memorization",), "training_images": "digits/test"}
    found = scored(capsys, "digits/train", folders[0], **options)
    assert found["memorization_digits_classifier"] > 0.99


def test_metrics_are_words_and_may_be_joined_by_commas(tmp_path: Path) -> None:
    for words in (["fid", "is", "kid"], ["fid,is,kid"], ["fid,is", "kid"]):
        config = parse(EvaluateConfig, PRESETS, ["A", "B", "--metrics", *words])
        assert (config.reference, config.generated) == ("A", "B")
        assert config.metrics == ("fid", "is", "kid")
    for text in ("fid,kid", "[fid, kid]"):
        (tmp_path / "file.yaml").write_text(f"metrics: {text}")
        flags = ["A", "B", "--config", str(tmp_path / "file.yaml")]
        config = parse(EvaluateConfig, PRESETS, flags)
        assert (config.reference, config.metrics) == ("A", ("fid", "kid"))
    with pytest.raises(ConfigurationError, match=r"got 'A', 'B'\. .* give REFERENCE .* before"):
        EvaluateConfig(metrics=("fid,is", "A", "B"))
    with pytest.raises(
        ConfigurationError, match="training_images go together, got memorization alone"
    ):
        EvaluateConfig(metrics=("memorization",))


def test_selfcheck_says_what_it_verified(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nacgen.metrics import selfcheck as checks

    made = [checks.Check("one", 1, 1), checks.Check("two", 2, 2.5)]
    monkeypatch.setattr(checks, "selfcheck", lambda: iter(made))
    with pytest.raises(NacgenError, match="1 checks failed"):
        selfcheck(SelfcheckConfig())
    assert capsys.readouterr().out == "ok   one = 1, got 1\nFAIL two = 2, got 2.5\n"


def test_the_flags_of_pytorch_fid_are_taken(
    folders: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[dict[str, object]] = []

    def build(name: str, **options: object) -> FeatureExtractor:
        asked.append({"name": name, **options})
        return build_extractor("digits_classifier", device="cpu")

    monkeypatch.setattr(sources, "build_extractor", build)
    monkeypatch.setattr(Decoders, "num_threads", Decoders.num_threads)
    flags = ["--batch-size", "7", "--num-workers", "3", "--device", "cpu", "--dims", "2048"]
    images, written = folders[0], str(tmp_path / "stats.npz")
    score(parse(EvaluateConfig, PRESETS, ["--save-stats", *flags, images, written]))
    assert capsys.readouterr().out == f"{written}: digits_classifier of 60 images of {images}/all\n"
    score(parse(EvaluateConfig, PRESETS, [written, images, *flags]))
    assert float(capsys.readouterr().out.split()[1]) == pytest.approx(0, abs=1e-4)
    assert Decoders.num_threads == 3
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ
    # The file says which features it holds, here those of the one that was built in Inception's place.
    assert [each["name"] for each in asked] == ["inception", "digits_classifier"]
    assert {(each["dims"], str(each["device"])) for each in asked} == {(2048, "cpu")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"save_stats": True}, r"output must end in \.npz, got digits/test"),
        (
            {"save_stats": True, "generated": "B.npz", "json": True},
            "json has no effect with --save-stats, got True",
        ),
        ({"num_workers": -1}, "num_workers must be between 0 and 1024, got -1"),
    ],
)
def test_flags_of_pytorch_fid_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EvaluateConfig(**options)


def test_a_device_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigurationError, match=r"device must be one that torch .* got 'cuda:77' \("
    ):
        score(EvaluateConfig(device="cuda:77"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigurationError, match="left to the launcher of several processes, got"):
        score(EvaluateConfig(device="cpu"))


def test_two_paths_are_enough(capsys: pytest.CaptureFixture[str]) -> None:
    score(parse(EvaluateConfig, PRESETS, ["digits/test", "digits/test"]))
    captured = capsys.readouterr()
    assert captured.out.startswith("fd_digits_classifier  ")
    assert captured.err.count("digits/test: 355 images, 16x16 px") == 2
    assert "passing the images through digits_classifier\n" in captured.err


def test_what_cannot_be_scored_has_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = start("recipes/evaluate_images.py", str(tmp_path / "empty"), "digits/test")
    assert (done.returncode, done.stdout) == (4, "")
    assert f"error: {tmp_path}/empty must hold images" in done.stderr
