"""Measures: which way is better, and which of several is best."""

import math

import pytest

from hires.report import panels
from hires.report.measures import best, direction, flat, is_file, shown, single, stands_on
from tests.report.fabricate import evaluation, opened, statuses, write


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("swd", "lower"), ("swd_floor", ""), ("reconstruction_mse", "lower"), ("reconstruction_rmse", "lower"), ("fid", "lower"),
        ("kid", "lower"), ("frechet_random0", "lower"), ("inception_score", "higher"), ("precision", "higher"), ("recall_x", "higher"),
        ("diversity", "one"), ("detection.noise.auroc", "higher"), ("detection.noise.fpr95", "lower"), ("auprc", "higher"),
        ("probe_error", "lower"), ("probe_labels", ""), ("burnt", "lower"), ("band_sd_log_real", ""), ("barriers", ""),
    ],
)  # fmt: skip
def test_which_way_is_better(name, way):
    assert direction(name) == way


def test_the_best_is_marked_only_where_there_is_one():
    assert best({"a": 1.0, "b": 2.0, "c": 3.0}, "lower") == {"a"}
    assert best({"a": 1.0, "b": 2.0}, "higher") == {"b"}
    assert best({"a": 0.7, "b": 1.2, "c": 2.0}, "one") == {"b"}
    assert best({"a": 1.0, "b": 1.0, "c": 2.0}, "lower") == {"a", "b"}
    assert best({"a": 1.0, "b": 1.0}, "lower") == best({"a": 1.0}, "lower") == best({"a": 1.0, "b": 2.0}, "") == set()


def test_findings_are_flattened_and_worded():
    record = {"of": "x", "data": "y", "swd": [1.0, 22.123456], "detection": {"noise": {"auroc": 0.5, "histogram": "detection.png"}}}
    assert dict(flat(record)) == {"swd": [1.0, 22.123456], "detection.noise.auroc": 0.5, "detection.noise.histogram": "detection.png"}
    assert shown([1.0, 22.123456]) == "1  22.12"
    assert shown([[1.0, 2.0], [3.0, 4.0]]) == "1  2\n3  4"
    assert shown(list(range(100))).endswith("11  … 100 in all")
    assert [shown(v) for v in (True, None, 12345, float("nan"), "no weights")] == ["yes", "–", "12,345", "–", "no weights"]
    record = {
        "x_columns": "[AUROC] [FPR], with intervals",
        "x_noise": [[0.9, 0.8, 0.95], [0.2, 0.1, 0.3]],
        "x_pictures": "ten",
        "y": [1, 2],
    }
    found = dict(flat(record))
    assert list(found) == ["x_noise AUROC", "x_noise FPR", "x_pictures", "y"]
    assert shown(found["x_noise AUROC"]) == "0.9 (0.8 – 0.95)" and single(found["x_noise AUROC"]) == 0.9
    assert (single([1, 2]), single("ten"), single([]), single(float("nan")), single(True)) == (1.5, None, None, None, None)
    assert is_file("detection.png") and not is_file("no weights: x/y.png") and not is_file(3)


def test_measures_become_curves_that_break_between_levels(tmp_path):
    """Those of training and of hires evaluate apart; a list is its mean; the floor lies in the chart of what it is the floor of."""
    taken = [{"images": 200, "level": 4, "measures": {"swd": [3.0, 5.0]}}, {"images": 300, "level": 4, "measures": {"swd": [2.0, 4.0]}}]
    taken.append({"images": 800, "level": 8, "measures": {"swd": [6.0]}})
    folder = write(tmp_path / "run", [*statuses(), *taken])
    evaluation(folder, 800, swd=[10.0], swd_floor=[5.0], detection={"noise": {"auroc": 0.9}})
    evaluation(folder, 1000, swd=[8.0], swd_floor=[6.0], detection={"noise": {"auroc": 0.9}})
    judging, describing = panels.measures(opened(folder))
    (chart,) = judging  # the AUROC never changed
    assert describing == []
    curves = {one.name: one.points for one in chart.series}
    assert list(curves) == ["swd", "swd in training", "swd_floor"]
    assert curves["swd"] == [(800, 10.0), (1000, 8.0)]
    points = curves["swd in training"]
    assert [at for at, _ in points] == [200, 300, 800, 800]
    assert [value for _, value in points if math.isfinite(value)] == [4.0, 3.0, 6.0] and math.isnan(points[2][1])
    assert panels.newest(opened(folder), "swd") == 8.0


def test_a_curve_breaks_where_other_pictures_were_measured(tmp_path):
    folder = write(tmp_path / "run")
    for images, pictures, swd in ((700, 50, 9.0), (800, 50, 8.0), (1000, 500, 2.0)):
        evaluation(folder, images, pictures=pictures, swd=[swd])
    ((chart,), _) = panels.measures(opened(folder))
    assert [math.isnan(value) for _, value in chart.series[0].points] == [False, False, True, False]


@pytest.mark.parametrize(
    ("name", "key", "told"),
    [
        ("frechet_random0", "pictures_random0", "200 samples against 300 of train"),
        ("fid", "features_inception", "2048 of inception; ab12"),
        ("detection_energy_noise AUROC", "detection_noise", "100 against 100"),
        ("probe_error", "probe_labels", 100),
    ],
)
def test_what_a_measure_stands_on(name, key, told):
    assert stands_on({key: told, "unrelated_words": "x", "swd": [1.0]}, name) == [(key, told)]
    assert stands_on({key: told}, "swd") == []
