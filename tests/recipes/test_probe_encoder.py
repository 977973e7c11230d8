import json
from pathlib import Path

import pytest

from nacgen.errors import ConfigurationError, DataError
from nacgen.models.encoder import NACEncoder
from nacgen.probes import suite
from nacgen.probes.options import PRESETS, ProbeConfig, name_and_path
from recipes.probe_encoder import main

PICTURES = ("precision_recall.svg", "regions.png", "neighbors_0.png", "neighbors_1.png")
TRAINED = "NAC=checkpoints/digits-nac"


def test_everything_is_measured_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "SLICE_RESOLUTION", 24)
    folder = tmp_path / "probe"
    config = ProbeConfig(**{**vars(PRESETS["smoke"]), "run_dir": str(folder)})
    main(config)
    untrained, trained = json.loads((folder / "results.json").read_text())
    assert (untrained["name"], trained["name"]) == ("untrained", "NAC")
    for found in (untrained["results"], trained["results"]):
        assert set(found) == {"linear", "knn", "retrieval", "health", "regions", "seconds"}
        assert 0 < found["seconds"]["regions"] < 300
    accuracies = [m["results"]["linear"]["1"]["top_1"] for m in (untrained, trained)]
    assert accuracies[0] < 0.96 < accuracies[1]  # what pretraining is for
    precisions = [
        m["results"]["retrieval"]["code"]["mean_average_precision"] for m in (untrained, trained)
    ]
    assert precisions[0] + 0.1 < precisions[1]
    report = (folder / "report.md").read_text()
    assert "| Encoder | Seeds | features | linear | knn | retrieval | health | regions |" in report
    for name in PICTURES:
        assert (folder / name).is_file()
        assert name in report
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["run_dir"] == str(folder)
    for step in ("measuring NAC", "  regions", "collecting examples of NAC", "drawing the report"):
        assert step in printed.err
    with pytest.raises(ConfigurationError, match=f"but {folder} holds results.json"):
        config.check_inputs()


def test_options_that_cannot_work_are_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="got untrained x=untrained"):
        ProbeConfig(encoders=("untrained", "x=untrained"))
    with pytest.raises(
        ConfigurationError, match=r"must be between 2 and 100000, got 1\. Change --num-segments"
    ):
        ProbeConfig(num_segments=1)
    with pytest.raises(ConfigurationError, match=r"got 10000000000\. Change --num-segments"):
        ProbeConfig(num_segments=10**10)


def test_a_path_with_an_equals_sign_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=0.1,bs=64/encoder").mkdir(parents=True)
    path = "lr=0.1,bs=64/encoder"
    assert name_and_path(path) == ("encoder", path)
    assert name_and_path(f"NAC={path}") == ("NAC", path)
    assert name_and_path("NAC=a=b/c") == ("NAC", "a=b/c")
    assert name_and_path("user/model") == ("model", "user/model")
    assert name_and_path("runs/lr=0.1/nowhere") == ("nowhere", "runs/lr=0.1/nowhere")
    assert name_and_path("=some/model") == ("model", "some/model")


def test_a_run_or_a_model_in_the_folder_of_the_report_is_kept(tmp_path: Path) -> None:
    for name in ("report.md", "config.yaml", "config.json"):
        (tmp_path / name).write_text("precious")
        with pytest.raises(ConfigurationError, match=f"but {tmp_path} holds {name}"):
            ProbeConfig(run_dir=str(tmp_path)).check_inputs()
        (tmp_path / name).unlink()


def test_seeds_of_one_encoder_share_their_name(tmp_path: Path) -> None:
    folder = tmp_path / "probe"
    main(ProbeConfig(encoders=(TRAINED, TRAINED), evaluators=("knn",), run_dir=str(folder)))
    names = [m["name"] for m in json.loads((folder / "results.json").read_text())]
    assert names == ["NAC", "NAC"]
    assert "| NAC | 2 |" in (folder / "report.md").read_text()


def test_a_failure_at_the_second_encoder_keeps_the_results_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, encoders = suite.EncoderSuite.__call__, []

    def fail_at_the_second(self: suite.EncoderSuite, encoder: NACEncoder) -> dict[str, object]:
        encoders.append(encoder)
        if len(encoders) == 2:
            raise DataError("broken")
        return measure(self, encoder)

    monkeypatch.setattr(suite.EncoderSuite, "__call__", fail_at_the_second)
    with pytest.raises(DataError, match="broken"):
        main(ProbeConfig(encoders=(TRAINED, TRAINED), evaluators=("knn",), run_dir=str(tmp_path)))
    (kept,) = json.loads((tmp_path / "results.json").read_text())
    assert kept["results"]["knn"]["20"]["top_1"] > 0.9
