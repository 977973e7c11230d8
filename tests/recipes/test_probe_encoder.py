import json
from pathlib import Path

import pytest

from nacgen.errors import ConfigurationError
from recipes.probe_encoder import PRESETS, ProbeConfig, main

PICTURES = ("precision_recall.png", "regions.png", "neighbors_0.png", "neighbors_1.png")


def test_everything_is_measured_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "probe"
    config = ProbeConfig(**{**vars(PRESETS["smoke"]), "run_dir": str(folder)})
    main(config)
    untrained, trained = json.loads((folder / "results.json").read_text())
    assert (untrained["name"], trained["name"]) == ("untrained", "NAC")
    for found in (untrained["results"], trained["results"]):
        assert set(found) == {"linear", "knn", "retrieval", "health", "regions"}
    accuracies = [m["results"]["linear"]["1"]["top_1"] for m in (untrained, trained)]
    assert accuracies[0] < 0.96 < accuracies[1]  # what pretraining is for
    precisions = [
        m["results"]["retrieval"]["code"]["mean_average_precision"] for m in (untrained, trained)
    ]
    assert precisions[0] + 0.1 < precisions[1]
    report = (folder / "report.md").read_text()
    for name in PICTURES:
        assert (folder / name).is_file()
        assert name in report
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["run_dir"] == str(folder)
    with pytest.raises(ConfigurationError, match=f"but {folder} does"):
        main(config)


def test_one_of_the_encoders_must_be_trained() -> None:
    with pytest.raises(ConfigurationError, match="got untrained x=untrained"):
        ProbeConfig(encoders=("untrained", "x=untrained"))


def test_seeds_of_one_encoder_share_their_name(tmp_path: Path) -> None:
    folder = tmp_path / "probe"
    main(
        ProbeConfig(
            encoders=("NAC=checkpoints/digits-nac", "NAC=checkpoints/digits-nac"),
            evaluators=("knn",),
            run_dir=str(folder),
        )
    )
    names = [m["name"] for m in json.loads((folder / "results.json").read_text())]
    assert names == ["NAC", "NAC"]
    assert "| NAC | 2 |" in (folder / "report.md").read_text()
