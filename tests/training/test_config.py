import dataclasses
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from nacgen.errors import ConfigurationError, DataError, StorageError
from nacgen.gan.options import GANConfig
from nacgen.gan.presets import PRESETS as GAN_PRESETS
from nacgen.system.documents import flatten, read_yaml
from nacgen.training.command import run_recipe
from nacgen.training.config import DataConfig, RunConfig, TrainingConfig, parse, to_dict


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """One option of each kind."""

    rate: float = 0.1
    channels: tuple[int, ...] = (3, 2)
    flip: bool = True
    limit: float | None = None
    kind: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallConfig(TrainingConfig):
    """A recipe's configuration."""

    grayscale: bool = False
    optim: OptimConfig = OptimConfig()


PRESETS = {
    "digits": SmallConfig(),
    "large": SmallConfig(total_images=128, seed=5, optim=OptimConfig(rate=0.2, limit=3.0)),
}


def read(*flags: str) -> SmallConfig:
    return parse(SmallConfig, PRESETS, list(flags))


@pytest.fixture
def file(tmp_path: Path) -> Callable[[Any], str]:
    """Writes a YAML file and gives its path."""

    def write(values: Any) -> str:
        path = tmp_path / "options.yaml"
        path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
        return str(path)

    return write


def refusal(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """What a wrong command line prints, on one line and without its box."""
    with pytest.raises(SystemExit) as end:
        read(*flags)
    assert end.value.code == 2
    return " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().err).split())


def test_flags_overrule_the_file_the_file_the_preset_and_that_the_defaults(
    file: Callable[[Any], str],
) -> None:
    path = file({"seed": 6, "optim": {"rate": 0.3, "flip": False}})
    defaults, preset = read(), read("--preset", "large")
    both = read("--preset", "large", "--config", path)
    flags = read("--preset", "large", "--config", path, "--optim.rate", "0.4")
    assert [c.optim.rate for c in (defaults, preset, both, flags)] == [0.1, 0.2, 0.3, 0.4]
    assert [c.seed for c in (defaults, preset, both, flags)] == [0, 5, 6, 6]
    assert [c.optim.flip for c in (defaults, preset, both, flags)] == [True, True, False, False]
    assert {c.optim.limit for c in (preset, both, flags)} == {3.0}  # what nobody overrules stays
    assert (flags.preset, flags.config) == ("large", path)
    order_of_flags = read("--optim.rate", "0.4", "--config", path, "--preset", "large")
    assert order_of_flags == flags


def test_the_first_preset_is_the_default_and_a_file_may_name_one(
    file: Callable[[Any], str],
) -> None:
    assert read() == SmallConfig()
    path = file({"preset": "large", "seed": 9})
    config = read("--config", path)
    assert (config.preset, config.total_images, config.seed) == ("large", 128, 9)
    assert read("--config", path, "--preset", "digits").total_images == 25_600


@pytest.mark.parametrize(
    "config",
    [
        SmallConfig(),
        PRESETS["large"],
        SmallConfig(
            data_dir="a b/ü",
            grayscale=True,
            optim=OptimConfig(rate=1e-7, channels=(1,), flip=False, limit=-2.5, kind="b"),
        ),
        SmallConfig(optim=OptimConfig(channels=())),
    ],
)
def test_a_written_configuration_is_a_valid_file(
    config: SmallConfig, file: Callable[[Any], str]
) -> None:
    path = file(yaml.safe_dump(to_dict(config), sort_keys=False))
    assert dataclasses.replace(read("--config", path), config=None) == config


def test_numbers_without_a_dot_and_flags_without_a_value_are_read_from_files(
    file: Callable[[Any], str],
) -> None:
    path = file("grayscale: yes\noptim:\n  rate: 1e-3\n  channels: [4, 5, 6]\n  limit: null\n")
    config = read("--preset", "large", "--config", path)  # YAML 1.1 takes 1e-3 for a string
    assert config.optim == OptimConfig(rate=1e-3, channels=(4, 5, 6), limit=None)
    assert config.grayscale


@pytest.mark.parametrize(
    ("values", "flags", "named"),
    [
        ({"sede": 1}, ["--sede", "1"], "--sede"),
        ({"optim": {"rat": 0.1}}, ["--optim.rat", "0.1"], "--optim.rat"),
        ({"seed": "one"}, ["--seed", "one"], "'one'"),
        ({"seed": 1.5}, ["--seed", "1.5"], "'1.5'"),
        ({"optim": {"rate": "fast"}}, ["--optim.rate", "fast"], "'fast'"),
        ({"optim": {"kind": "c"}}, ["--optim.kind", "c"], "'c'"),
        ({"optim": {"channels": [1, "x"]}}, ["--optim.channels", "1", "x"], "x"),
        ({"seed": None}, ["--seed", "None"], "'None'"),
    ],
)
def test_a_file_is_refused_in_the_words_of_the_command_line(
    values: dict[str, Any],
    flags: list[str],
    named: str,
    file: Callable[[Any], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = file(values)
    on_the_command_line = refusal(capsys, *flags)
    in_the_file = refusal(capsys, "--config", path)
    assert named in on_the_command_line
    assert in_the_file == f"{on_the_command_line} The fault lies in {path}."


def test_a_wrong_flag_beside_a_right_file_is_not_laid_to_the_file(
    file: Callable[[Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = file({"seed": 1})
    assert "The fault lies" not in refusal(capsys, "--config", path, "--sede", "1")


def test_unknown_presets_list_the_known_ones(file: Callable[[Any], str]) -> None:
    with pytest.raises(ConfigurationError, match="one of digits, large, got 'huge'"):
        read("--preset", "huge")
    with pytest.raises(ConfigurationError, match="one of digits, large, got 'tiny'"):
        read("--config", file({"preset": "tiny"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n- 2\n", "must hold a mapping of options, got a list"),
        ("[]", "must hold a mapping of options, got a list"),
        ("just words", "must hold a mapping of options, got a str"),
        ("a: [1", "is not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_files_that_hold_no_options_are_named(
    text: str, message: str, file: Callable[[Any], str]
) -> None:
    path = file(text)
    with pytest.raises(ConfigurationError, match=f"{path} {message}"):
        read("--config", path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"must name a YAML file, but {tmp_path}/no.yaml"):
        read("--config", str(tmp_path / "no.yaml"))


def test_a_failing_disk_is_no_fault_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("nacgen.system.documents.read_regular", fail)
    with pytest.raises(StorageError, match=r"x\.yaml cannot be read .*Mend the disk"):
        read_yaml(Path("x.yaml"))


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_a_configuration_that_is_no_file_is_refused_without_waiting(
    kind: str, tmp_path: Path
) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / "config.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(ConfigurationError, match=f"YAML file, but {path}: it is a {kind}"):
        read("--config", str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"seed: {'9' * 20}",
            r"seed must be a number below 9\.2e\+18 in size, got 9{20}\. Correct",
        ),
        (f"seed: {'9' * 400}", r"options\.yaml is not valid YAML: a whole number .* got 9{24};"),
        ("data_dir: 1.10", r"data_dir must be text, but .* has 1\.1 of type float, .* in quotes"),
        ("dataset: 2024-01-01", r"dataset must be text, but .* of type date, .* in quotes"),
        ("help: true", r"options\.yaml must hold options, but help belongs on the command line"),
        ("tyro-write-completion: [bash, x]", r"but tyro-write-completion belongs on the command"),
        ("optim: {limit: 1.0e+300}", r"optim\.limit must be a number .*3\.4e\+38 .* got 1e\+300\."),
        (
            "optim: {limit: .nan}",
            r"optim\.limit must be a number .* got nan\. Correct --optim\.limit",
        ),
        ("dataset: --fresh", r"a value of dataset in a file must not begin with --, got '--fresh'"),
        (
            "optim: {channels: [--seed, 3]}",
            r"optim\.channels .* must not begin with --, got '--seed'",
        ),
        (
            "optim: {rate: 1}\noptim.rate: 2",
            r"one value, but optim\.rate is given twice\. Leave one",
        ),
    ],
)
def test_values_that_no_run_can_have_are_refused_by_name(
    text: str, message: str, file: Callable[[Any], str]
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read("--config", file(text))


def test_a_file_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfseed: 3\r\noptim:\r\n  rate: 1.e-4\r\n")
    config = read("--config", str(tmp_path / "c.yaml"))
    assert (config.seed, config.optim.rate) == (3, 1e-4)


def test_a_seed_is_0_or_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert "seed must be 0 or more, got -1. Change --seed." in refusal(capsys, "--seed", "-1")


def test_what_no_machine_has_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="image_size must be between 1 and 4096, got 5000"):
        DataConfig(image_size=5_000)
    with pytest.raises(
        ConfigurationError, match=r"timeout must be between 1 and 31536000, got 10{12}"
    ):
        RunConfig(timeout=10**12)


def test_an_empty_file_changes_nothing(file: Callable[[Any], str]) -> None:
    path = file("# nothing yet\n")
    assert read_yaml(Path(path)) == {}
    assert read("--config", path) == SmallConfig(config=path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_images": 0}, r"total_images must be above 0, got 0\. Change --total-images"),
        ({"batch_size": -1}, r"batch_size must be above 0, got -1\. Change --batch-size"),
        (
            {"total_images": 100, "batch_size": 64},
            r"multiple of batch_size, got 100 and 64\. Use --total-images 64",
        ),
        ({"total_images": 10}, r"got 10 and 64\. Use --total-images 64"),
    ],
)
def test_numbers_that_contradict_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SmallConfig(**options)


def test_contradictions_are_found_whichever_way_they_come(
    file: Callable[[Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in (
        ["--total-images", "100"],
        ["--config", file({"total_images": 100})],
        ["--batch-size", "64", "--total-images", "100", "--preset", "large"],
    ):
        message = "must be a multiple of batch_size, got 100 and 64. Use --total-images 64."
        assert message in refusal(capsys, *flags)


def test_nested_values_are_flattened_with_dots() -> None:
    nested = to_dict(PRESETS["large"])
    flat = flatten(nested)
    assert flat["optim.rate"] == 0.2
    assert flat["optim.channels"] == [3, 2]  # as YAML gives it back
    assert flat["run.tracker"] == "tensorboard"
    assert not any(isinstance(value, dict | tuple) for value in flat.values())
    assert len(flat) == sum(len(v) if isinstance(v, dict) else 1 for v in nested.values())


@pytest.mark.parametrize(
    ("flags", "is_refused"),
    [
        (["--preset", "cifar10"], False),  # sets trunk_lr_multiplier to 1
        (["--preset", "cifar10", "--discriminator.trunk-lr-multiplier", "0.3"], False),  # default
        (["--preset", "cifar10", "--discriminator.trunk-lr-multiplier", "0.5"], True),
        (["--discriminator.trunk-lr-multiplier", "1"], True),
    ],
)
def test_an_option_without_effect_is_refused_unless_the_preset_sets_it(
    flags: list[str], is_refused: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def read() -> GANConfig:
        return parse(GANConfig, GAN_PRESETS, [*flags, "--discriminator.mode", "frozen"])

    if is_refused:
        with pytest.raises(SystemExit):
            read()
        assert "trunk_lr_multiplier has no effect with" in capsys.readouterr().err
    else:
        config = dataclasses.replace(read(), run_dir="elsewhere")  # as a run does
        assert config.discriminator.mode == "frozen"


def test_extractors_may_be_spelled_with_hyphens_as_the_folders_of_classifiers() -> None:
    for name in ("digits-classifier", "digits_classifier"):
        config = parse(GANConfig, GAN_PRESETS, ["--score.extractor", name])
        assert config.score.extractor == "digits_classifier"
    with pytest.raises(SystemExit):
        parse(GANConfig, GAN_PRESETS, ["--score.extractor", "no-classifier"])


def test_an_error_of_a_recipe_is_one_line_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(config: SmallConfig) -> None:
        error = DataError(f"seed {config.seed} has no data in 'a\n\x1b[31m.png'.")
        error.add_note("the end of a log,\nas it is\n")
        raise error

    monkeypatch.setattr("sys.argv", ["recipe", "--seed", "3"])
    for rank, start in (("0", "error: "), ("1", "error on process 1: ")):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as end:
            run_recipe(main, SmallConfig, PRESETS)
        assert end.value.code == 4
        assert capsys.readouterr().err == (
            f"{start}seed 3 has no data in 'a\\n\\x1b[31m.png'.\nthe end of a log,\nas it is\n"
        )


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(config: SmallConfig) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sys.argv", ["recipe"])
    with pytest.raises(ZeroDivisionError):
        run_recipe(main, SmallConfig, PRESETS)
