"""scripts/claims_table.py on sweeps whose effects are known."""

import json
import re
from itertools import product
from pathlib import Path

import pytest
from helpers import SCRIPTS
from sweep_folders import make_job

from nstexp.core.errors import UserError

SCRIPT = SCRIPTS / "claims_table.py"
PAIRS = ["a", "b", "c", "d", "e", "f"]
# One number per pair, so that pairs differ far more than what is compared.
OF_PAIR = dict(zip(PAIRS, [1.0, 30.0, 5.0, 80.0, 2.0, 11.0], strict=True))


def make_sweep(folder: Path, key: str, values: dict[str, dict[str, float]], **status: str) -> Path:
    """A sweep over a key, on six pairs and with three seeds, whose numbers differ from value to value as given.

    Args:
        values: value of the key -> name of a number -> the factor on the number of the pair.
        status: name of a pair -> the status of its runs.
    """
    for number, (pair, seed, value) in enumerate(product(PAIRS, (1, 2, 3), values)):
        noise = 1 + 0.01 * ((7 * number) % 5 - 2)
        numbers = {name: OF_PAIR[pair] * factor * noise for name, factor in values[value].items()}
        path = make_job(
            folder, number, {"content": pair, "seed": seed, key: value}, color=(9, 9, 9),
            config={"style": f"{pair}2", "image_px": 96, "method": {"max_steps": 20, "init": "noise"}},
            status=status.get(pair, "completed"),
        )  # fmt: skip
        (path / "metrics.json").write_text(json.dumps({"output": numbers}))
    (folder / "multirun.yaml").touch()
    return folder


def lines(script, folder: Path) -> dict[str, list[str]]:
    """Claim -> the cells of its line."""
    rows = [line.strip("| ").split(" | ") for line in script.table(folder).splitlines() if line.startswith("| ")]
    return {claim: cells for claim, *cells in rows}


def test_a_claim_holds_partly_or_not_by_its_intervals(script, tmp_path):
    numbers = {
        "1": {"content_loss": 8.0, "style_gram": 1.0},
        "10": {"content_loss": 4.0, "style_gram": 2.0},
        "100": {"content_loss": 2.0, "style_gram": 1.5},  # less than before
        "1000": {"content_loss": 1.0, "style_gram": 1.5},  # neither
    }
    found = lines(script, make_sweep(tmp_path, "weights.alpha", numbers))
    assert found["A larger alpha keeps more of the photo (`content_loss`)"][0] == "holds"
    verdict, parts = found["A larger alpha costs style (`style_gram`)"]
    assert verdict == "holds partly"
    found = dict(re.match(r"(\w+ to \w+): (\S+) %", part).groups() for part in parts.split("<br>"))
    assert [*found] == ["1 to 10", "10 to 100", "100 to 1000"]
    assert [float(number) for number in found.values()] == pytest.approx([100, -25, 0], abs=1.5)
    low, high = map(float, re.search(r"1 to 10: .*?\((\S+) % to (\S+) %\)", parts).groups())
    assert 97 < low < high < 103  # of the ratios: the pairs differ by a factor of 80


def test_what_is_the_other_way_does_not_hold_and_what_is_neither_is_not_decided(script, tmp_path):
    numbers = {weight: {"tv": 1.0, "style_gram": 1.0 if weight == "0" else 1.5} for weight in ("0", "0.01", "0.1", "1")}
    found = lines(script, make_sweep(tmp_path, "weights.tv", numbers))
    assert found["Total variation smooths the picture (`tv`)"][0] == "not decided"
    assert found["It costs less than 10 % in style (`style_gram`)"][0] == "does not hold"


def test_claims_about_one_setting_and_about_a_range(script, tmp_path):
    numbers = {
        "weighted_loss": {"luminance_std": 1.0, "gram_trace_ratio": 1.0},
        "mean_gram": {"luminance_std": 1.0, "gram_trace_ratio": 1.0},
        "sum_gram": {"luminance_std": 1.0},
    }
    found = lines(script, make_sweep(tmp_path, "style_combine", numbers))
    assert found["It gives a stronger one: more contrast (`luminance_std`)"][0] == "not decided"
    assert found["It gives a stronger one: more energy (`gram_trace_ratio`)"][0] == "no numbers"
    same = found["Adding losses is the same as averaging Gram matrices: energy within 5 % (`gram_trace_ratio`)"]
    assert same[0] == "holds" and same[1].count(" %") == 3
    weak = found["Adding losses gives a weak picture: less than 90 % of the paintings' energy (`gram_trace_ratio`)"]
    mean = sum(OF_PAIR.values()) / len(OF_PAIR)
    assert float(re.match(r"weighted_loss: (\S+) \(", weak[1])[1]) == pytest.approx(mean, rel=0.01)


def test_a_line_says_what_the_sweep_consists_of_and_which_runs_are_missing(script, tmp_path):
    numbers = {weight: {"tv": 2.0 - float(weight), "style_gram": 1.0} for weight in ("0", "0.01", "0.1", "1")}
    table = script.table(make_sweep(tmp_path, "weights.tv", numbers, c="failed", d="pruned"))
    about = "48 runs, 4 pairs, seeds of each 3, longer side in px 96, steps 20, start noise, 24 runs not completed."
    assert table.startswith(f"`weights.tv`: {about}\n")


def test_another_sweep_is_one_sentence(script, tmp_path):
    make_sweep(tmp_path / "other", "method.init", {"noise": {"tv": 1.0}, "gray": {"tv": 1.0}})
    with pytest.raises(UserError, match=r"other: none of weights\.alpha, layers, .* varies in this sweep"):
        script.table(tmp_path / "other")
    every = dict.fromkeys(PAIRS[1:], "failed")
    make_sweep(tmp_path / "few", "weights.tv", {"0": {"tv": 1.0}, "1": {"tv": 0.5}}, **every)
    with pytest.raises(UserError, match=r"few: 1 completed pair, but an interval needs 2"):
        script.table(tmp_path / "few")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "claims"),
    [("pairs_two_styles", 5), ("pairs_alpha_beta", 2), ("pairs_layers", 2), ("pairs_total_variation", 2)],
)
def test_a_small_version_of_the_experiments_runs_to_its_end(nstexp, script, tmp_path, monkeypatch, experiment, claims):
    monkeypatch.chdir(tmp_path)
    small = ("image_px=64", "method.max_steps=2", "method.levels=1", "method.margin_px=0", "seed=1", "logger=none")
    networks = ("backbone=random", "backbone@metrics.encoder=random", "metrics.names=[style_gram,content_loss]")
    photos = "content=sample:chelsea,sample:coffee"
    result = nstexp.bare(f"experiment={experiment}", *small, *networks, photos, "hydra.sweep.dir=sweep")
    assert result.code == 0, result.err
    found = lines(script, Path("sweep"))
    assert len(found) - 1 == claims  # and the head of the table
    assert all(cells[0] != "no numbers" for cells in found.values())
