"""What the runs of a sweep say together: its design, means over seeds and pairs, comparisons, effects."""

import json
from itertools import product

import numpy as np
import pytest
from sweep_folders import make_job, make_repeats

from nstexp import report
from nstexp.core.errors import UserError
from nstexp.report.comparisons import (
    SETTING,
    cell_estimates,
    comparisons,
    rounded,
    sentence,
    setting_estimates,
    values_of,
)
from nstexp.report.design import design_of
from nstexp.report.explained import explain

PHOTOS = [f"{name}.png" for name in "abcd"]


def harder(photo: str) -> int:
    return 10 * PHOTOS.index(photo)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> list[report.Job]:
    """3 betas x 2 layers x 4 photos x 3 seeds. beta lowers the number by 0.1 a step, more so for later photos."""
    generator = np.random.default_rng(0)

    def measure(beta: float, layers: str, photo: str, seed: int) -> float:
        step = {1: 0, 10: 1, 100: 2}[beta]
        effect = -0.1 * step * (1 + 0.2 * PHOTOS.index(photo)) + 0.03 * (layers == "two")
        return harder(photo) + effect + 0.01 * generator.normal()

    folder = tmp_path_factory.mktemp("runs") / "sweep"
    values = {"weights__beta": [1, 10, 100], "layers": ["one", "two"]}
    return report.read_sweep(make_repeats(folder, measure, PHOTOS, [1, 2, 3], **values))


def test_keys_are_settings_pairs_and_repeats(jobs):
    design = design_of(jobs)
    assert (design.keys, design.pairs, design.repeats) == (["weights.beta", "layers"], ["content"], ["seed"])
    assert (len(design.settings), len(design.rows), design.unit, design.folds) == (6, 72, "photo", True)
    other = design_of(jobs, repeats=["layers", "seed"])
    assert (other.keys, other.repeats) == (["weights.beta"], ["layers", "seed"])
    assert design_of(jobs, repeats=[]).keys == ["weights.beta", "layers", "seed"]


def test_the_configuration_names_repeats_and_a_baseline(tmp_path):
    for number, (x, y) in enumerate(product((1, 2), (3, 4))):
        config = {"report": {"repeats": ["y"], "baseline": ["x=2"]}}
        make_job(tmp_path, number, {"+x": x, "+y": y}, config=config)
    design = design_of(report.read_sweep(tmp_path))
    assert (design.keys, design.repeats, design.baseline) == (["x"], ["y"], {"x": "2"})
    assert values_of(design, "x") == ["2", "1"]


def test_wrong_names_are_one_sentence(jobs):
    with pytest.raises(UserError, match=r"--repeats sed: the runs do not differ in this key; they differ in weights\."):
        design_of(jobs, repeats=["sed"])
    with pytest.raises(UserError, match=r"--baseline seed: the runs are not compared by this key, but by weights"):
        design_of(jobs, baseline={"seed": "1"})
    with pytest.raises(UserError, match=r"--baseline layers=three: no run has this value, only one, two"):
        design_of(jobs, baseline={"layers": "three"})


def test_what_failed_or_still_runs_does_not_count(tmp_path):
    for number, status in enumerate(("completed", "failed", "running", "completed")):
        make_job(tmp_path, number, {"+x": number}, status=status)
    assert [row.values["x"] for row in design_of(report.read_sweep(tmp_path)).rows] == ["0", "3"]


def test_a_key_that_follows_from_another_is_not_compared_twice(tmp_path):
    for number, (x, y, seed) in enumerate((x, 10 * x, seed) for x, seed in product((1, 2), (1, 2))):
        make_job(tmp_path / "both", number, {"+x": x, "+y": y, "seed": seed})
    assert design_of(report.read_sweep(tmp_path / "both")).keys == ["x"]
    for number in range(6):
        make_job(tmp_path / "search", number, {"+x": number / 7, "layers": "one" if number % 2 else "two"})
    assert design_of(report.read_sweep(tmp_path / "search")).keys == ["x", "layers"], "nothing follows from x"


def test_photos_are_the_units_of_a_setting_and_seeds_those_of_a_cell(jobs):
    design = design_of(jobs)
    of_settings, of_cells = setting_estimates(design, "style_gram"), cell_estimates(design, "style_gram")
    assert {one.n for one in of_settings.values()} == {4} and {one.n for one in of_cells.values()} == {3}
    mine = [row.numbers["style_gram"] for row in design.rows if row.at(design.keys) == ("10", "two")]
    assert of_settings["10", "two"].mean == pytest.approx(np.mean(mine))
    cell = of_cells[("10", "two"), ("c.png",)]
    assert 19.8 < cell.low < cell.mean < cell.high < 20.0


def test_differences_are_paired(jobs):
    design = design_of(jobs)
    found = {(one.key, one.value): one for one in comparisons(design, "style_gram")}
    assert [*found] == [
        ("weights.beta", "10"), ("weights.beta", "100"), ("layers", "two"), *((SETTING, text) for text in (
            "weights.beta=1, layers=two", "weights.beta=10, layers=one", "weights.beta=10, layers=two",
            "weights.beta=100, layers=one", "weights.beta=100, layers=two"))
    ]  # fmt: skip
    one = found["weights.beta", "100"]
    assert (one.baseline, one.difference.n) == ("1", 4)
    assert one.difference.mean == pytest.approx(-0.26, abs=0.02), "what differs between the photos is left out"
    assert one.difference.low < -0.26 < one.difference.high < 0
    assert one.p == 0.125 and one.corrected == 0.25
    assert sentence(one, "style_gram", design.unit).startswith("weights.beta 100 against 1: style_gram -0.26")
    assert sentence(one, "style_gram", "photo").endswith("4 photos"), "no test can be significant"


def test_every_value_can_be_the_baseline(jobs):
    found = {(one.key, one.value, one.baseline): one for one in comparisons(design_of(jobs), "style_gram", True)}
    assert len(found) == 3 * 2 + 2 * 1 + 6 * 5
    there, back = found["weights.beta", "100", "10"], found["weights.beta", "10", "100"]
    assert there.difference.mean == -back.difference.mean and there.difference.low == -back.difference.high
    assert (there.p, there.corrected) == (back.p, back.corrected)


def test_without_pairs_seeds_are_the_units(tmp_path):
    make_repeats(tmp_path, lambda x, seed: x + 0.1 * seed, seeds=[1, 2, 3], image_px=[8, 16])
    design = design_of(report.read_sweep(tmp_path))
    (one,) = comparisons(design, "style_gram")
    assert (one.difference.n, design.unit) == (3, "seed")
    assert one.difference.low == pytest.approx(8) == one.difference.high, "the same seeds, the same difference"
    assert sentence(one, "x", "seed").startswith("image_px 16 against 8: x +8, 95 % 8 to 8, 3 seeds")


def test_one_pair_and_one_seed_have_no_interval(tmp_path):
    make_repeats(tmp_path, lambda x: x / 2, image_px=[8, 16])
    design = design_of(report.read_sweep(tmp_path))
    (one,) = comparisons(design, "style_gram")
    assert one.p is None and one.difference.low is None
    assert sentence(one, "x", design.unit) == "image_px 16 against 8: x +4.0, one run only, so there is no interval"
    assert not design.folds and cell_estimates(design, "style_gram") == {}


def test_only_what_has_both_values_is_compared(tmp_path):
    make_repeats(tmp_path, lambda x, photo: x + harder(photo), PHOTOS, image_px=[8, 16])
    record = json.loads((tmp_path / "7" / "summary.json").read_text()) | {"status": "failed"}
    (tmp_path / "7" / "summary.json").write_text(json.dumps(record))
    (one,) = comparisons(design_of(report.read_sweep(tmp_path)), "style_gram")
    assert (one.difference.n, one.difference.mean) == (3, 8)


def test_many_photos_and_paintings_get_an_interval_for_new_ones(tmp_path):
    generator = np.random.default_rng(0)
    photos, paintings = generator.normal(size=(2, 3))
    for number, (x, a, b) in enumerate(product((8, 16), range(3), range(3))):
        values = {"image_px": x, "content": f"{a}.png", "style": f"{b}.png"}
        score = {"output": {"style_gram": x / 8 * (1 + 0.3 * photos[a] + 0.3 * paintings[b])}}
        make_job(tmp_path, number, values, (), metrics=score)
    design = design_of(report.read_sweep(tmp_path))
    (one,) = comparisons(design, "style_gram")
    assert (design.unit, one.difference.n) == ("pair", 9)
    assert one.crossed[0] < one.difference.low and one.difference.high < one.crossed[1]
    assert one.p == one.corrected < 0.05
    assert "9 pairs (Wilcoxon p = 0.00" in sentence(one, "x", "pair")


@pytest.mark.parametrize(
    ("numbers", "texts"),
    [
        ([-0.12345, -0.151, -0.0904], ["-0.12", "-0.15", "-0.09"]),
        ([12.3, -4.0, 30.2], ["+12", "-4", "30"]),
        ([0.6, 0.034, 1.13], ["+0.60", "0.03", "1.13"]),
        ([0.6, -0.002, 1.13], ["+0.600", "-0.002", "1.130"]),
        ([-1.234, -2.86, 0.391], ["-1.2", "-2.9", "0.4"]),
        ([1234.5, 1100.0, 1400.0], ["+1234", "1100", "1400"]),
        ([3.2e-8, 1.1e-8, 6.4e-8], ["+3.2e-08", "1.1e-08", "6.4e-08"]),
        ([0.0, 0.0, 0.0], ["0", "0", "0"]),
        ([-0.001, -0.06, 0.05], ["-0.00", "-0.06", "0.05"]),
        ([8.0, 8.0, 8.0 + 1e-12], ["+8", "8", "8"]),
    ],
)
def test_numbers_are_rounded_by_the_width_of_their_interval(numbers, texts):
    assert rounded(numbers) == texts


def test_the_grid_of_a_sweep_is_split_exactly(jobs):
    found = explain(design_of(jobs), "style_gram")
    assert found.effects.exact and not found.logarithm
    assert [" x ".join(one.keys) for one in found.effects.effects] == [
        "weights.beta",
        "layers",
        "weights.beta x layers",
    ]
    assert found.effects.rest.keys() == {"differs between photos", "seeds"}
    means = dict(found.means["weights.beta"])
    assert means["100"].mean - means["1"].mean == pytest.approx(-0.26, abs=0.02)
    assert means["100"].high - means["100"].low < 0.5, "the photos differ by 10, which is left out"


def test_a_search_is_fitted(tmp_path):
    generator = np.random.default_rng(0)
    for number, x in enumerate(generator.uniform(0, 1, 24)):
        layers = ("one", "two")[number % 2]
        score = {"output": {"style_gram": 0.1 + (x - 0.5) ** 2 + 0.01 * generator.normal()}}
        make_job(tmp_path, number, {"+x": float(x), "layers": layers}, (), metrics=score)
    found = explain(design_of(report.read_sweep(tmp_path)), "style_gram").effects
    assert not found.exact and [one.keys for one in found.effects] == [("x",), ("layers",), ("x", "layers")]
    assert found.effects[0].corrected < 0.001 < 0.05 < found.effects[1].corrected
    assert found.effects[0].share > 0.8 and len(found.curves["x"]) == 24


def test_an_evaluation_has_photo_painting_and_method_as_keys(tmp_path):
    rows = ["content,style,method,new_style,stylize_seconds,style_gram"]
    numbers = {}
    for content, style, method in product(("a", "b_c"), ("c", "s"), ("adain", "gatys")):
        name = f"{content}_{style}_{method}"
        numbers[name] = {"style_gram": 1.0 + (method == "gatys") + (content == "a"), "stylize_seconds": 0.1}
        rows.append(f"{content},{style},{method},True,0.1,1")
        rows.append(f"{content},{style},photo,,,3")
    numbers |= {"mean of adain": {"style_gram": 1.5}, "mean of gatys": {"style_gram": 2.5}}
    path = make_job(tmp_path, "run", {}, (), metrics=numbers)
    (path / "scores.csv").write_text("\n".join(rows))
    make_job(tmp_path, "other", {"seed": 3}, ())
    design = design_of(report.read_sweeps([path, tmp_path / "other"]))
    assert (design.keys, design.pairs) == (["sweep", "method"], ["content", "style"]) or design.keys == ["method"]
    (one,) = [one for one in comparisons(design, "style_gram") if one.key == "method"]
    assert (one.value, one.baseline, one.difference.n, one.difference.mean) == ("gatys", "adain", 4, 1.0)


def test_pictures_of_an_evaluation_whose_names_collide_keep_their_labels(tmp_path):
    lines = ["content,style,method", "a_b,c,m", "a,b_c,m"]
    path = make_job(tmp_path, 0, {}, ())
    (path / "scores.csv").write_text("\n".join(lines))
    (job,) = report.read_sweep(tmp_path)
    assert job.labels["a_b_c_m"] == {"content": "a_b", "style": "c", "method": "m"}
    assert job.labels["a_b_c_m_2"] == {"content": "a", "style": "b_c", "method": "m"}
