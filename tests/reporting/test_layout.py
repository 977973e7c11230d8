"""Reports in a browser."""

from pathlib import Path

from nacgen.reporting.classifier_report import write_classifier_report
from nacgen.reporting.encoders.pretraining_report import write_pretraining_report
from nacgen.reporting.run_report import write_run_report
from tests.reporting.browser import lay_out, needs_browser
from tests.reporting.encoders.test_pretraining_report import write_pretraining
from tests.reporting.folders import MakeRun
from tests.reporting.test_classifier_report import write_classifier


@needs_browser
def test_reports_fit_a_phone_and_a_screen_light_and_dark(make_run: MakeRun, tmp_path: Path) -> None:
    long = "a_path_without_a_space_that_is_far_wider_than_the_screen_of_a_phone_is" * 2
    run = make_run(
        {640: 9.0, 1280: 3.0},
        metric="fd_a_classifier_of_my_own",
        protocol={"reference_fingerprint": "sha256:" + "c9" * 32, "reference": long},
        config={"data_dir": long},
    )
    (run / "samples/real.png").write_bytes((run / "samples/images_00000640.png").read_bytes())
    num_charts = {
        write_run_report(run)[1]: 1,
        write_pretraining_report(write_pretraining(tmp_path / "encoder"))[1]: 2,
        write_classifier_report(write_classifier(tmp_path / "classifier"))[1]: 1,
    }
    for (report, width, scheme), page in lay_out(list(num_charts), tmp_path).items():
        assert page["overflow"] <= 0
        assert page["isDark"] == (scheme == "dark")
        assert all(size > 0 and 0 <= left < right <= width for size, left, right in page["images"])
        assert len(page["charts"]) == num_charts[report]
        for chart in page["charts"]:
            assert 12 * chart["scale"] > 9  # pixels of a text of 9 points: it can be read
            paper = f"rgb({', '.join(map(str, chart['paper'][:3]))})"
            assert paper == page["background"]
