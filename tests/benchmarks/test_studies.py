"""Studies of docs/studies: their trials are runs that the recipes accept."""

import runpy
from pathlib import Path

from nacgen.functional.closed_form import temperature_of_channel
from nacgen.pretraining.options import PretrainConfig
from nacgen.pretraining.presets import PRESETS
from nacgen.training.config import parse

ROOT = Path(__file__).parents[2]


def test_the_arms_of_the_objectives_are_as_their_names_say() -> None:
    study = runpy.run_path(str(ROOT / "docs" / "studies" / "objective.py"))
    assert study["PROBES"].keys() <= PRESETS.keys()
    arms = study["all_arms"]()
    assert len({*map(tuple, arms.values())}) == len(arms)
    assert not {*study["SEEDS"]["search"]} & {*study["SEEDS"]["confirm"]}
    assert parse(PretrainConfig, PRESETS, arms["authors-p0.1"]) == PRESETS["digits-authors"]
    for form in ("direction", "closed_form"):  # temperatures and stages are those of SimCLR
        names = {a.removeprefix(form) for a in arms if a.startswith(f"{form}-") and "-K" not in a}
        assert names == {a.removeprefix("simclr") for a in arms if a.startswith("simclr")}
    for name in (
        "sampled",
        "direction-T0.2-stages",
        "closed_form-T0.5",
        "direction_out-T0.2",
        "closed_form-T0.2-K512",
    ):
        config = parse(PretrainConfig, PRESETS, arms[name])
        assert config.stages == (("layer1", "layer2") if name.endswith("stages") else ())
        assert config.nac.own_row == ("out" not in name)
        if name == "sampled":
            assert config == PretrainConfig()
        else:
            found = temperature_of_channel(config.model.flip_probability, config.model.code_dim)
            assert config.model.code_dim == (512 if name.endswith("K512") else 128)
            assert abs(found - float(name.split("-T")[1][:3])) < 1e-3
    assert parse(PretrainConfig, PRESETS, arms["simclr-T0.35-stages"]).temperature == 0.35
