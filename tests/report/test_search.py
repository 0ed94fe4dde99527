"""The trials in Optuna's storage: which count, which keys matter, and what the page says of them."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import pytest
from sweep_folders import make_job

from nstexp import report
from nstexp.core.errors import UserError
from nstexp.report.page import page_data
from nstexp.report.search import FITTED, FOREST, read_searches
from nstexp.sweeps.storage import make_storage

optuna = pytest.importorskip("optuna")
SWEEPER = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
EARLIER = 2  # trials of a sweep that is not in the report
FAILED, PRUNED = 5, 7


def study_in(folder: Path, values, name: str = "try", directions=("minimize", "maximize")):
    """A study in folder/study.db: trial n has x=n and word=a or b, and the values `values(n, word)`; None fails it."""
    url = f"sqlite:///{folder / 'study.db'}"
    make_storage(url)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(study_name=name, storage=url, directions=directions, load_if_exists=True)
        words = optuna.distributions.CategoricalDistribution(("a", "b"))
        for n in range(10):
            study.enqueue_trial({"x": n + 0.1, "word": "ab"[n % 2]})
            trial = study.ask()
            trial.suggest_float("x", 0.1, 100.0)
            trial._suggest("word", words)
            found = values(n, "ab"[n % 2])
            states = optuna.trial.TrialState
            study.tell(trial, found, states.FAIL if found is None else states.COMPLETE)
    return study


def jobs_in(folder: Path, study: str | None = "try", storage: str = "sqlite:///study.db") -> Path:
    """The jobs of the trials from EARLIER on, of a sweep that was started in `folder`."""
    sweep = folder / "sweep"
    for n in range(EARLIER, 10):
        status = {FAILED: "failed", PRUNED: "pruned"}.get(n, "completed")
        config = {"objective": ["style_gram", "ssim"]}
        numbers = {"output": {"style_gram": float(n), "ssim": 0.5}}
        path = make_job(
            sweep, n - EARLIER, {"+x": n + 0.1, "+word": "ab"[n % 2]}, config=config, status=status, metrics=numbers
        )
        sweeper = {"_target_": SWEEPER, "storage": storage, "study_name": study}
        hydra = {"hydra": {"runtime": {"cwd": str(folder)}, "sweeper": sweeper}}
        (path / ".hydra" / "hydra.yaml").write_text(json.dumps(hydra))
    (sweep / "multirun.yaml").touch()
    return sweep


def two_values(n: int, word: str):
    """x is bad for the first number, which has to be small; the word decides the second, which has to be large."""
    return None if n == FAILED else (-50.0 if n == PRUNED else 3.0 * n, (word == "b") + 0.001 * n)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    study_in(folder, two_values)
    return jobs_in(folder)


def test_trials_are_matched_with_their_jobs_and_only_results_count(sweep):
    before = (sweep.parent / "study.db").read_bytes()
    (found,), problems = read_searches(report.read_sweep(sweep))
    assert problems == []
    assert (found.study, found.file, found.version) == ("try", sweep.parent / "study.db", optuna.__version__)
    assert (found.objectives, found.lower) == (["style_gram", "ssim"], [True, False])
    assert [trial.job for trial in found.trials] == [None, None, *range(8)]
    assert found.trials[3].params == {"x": "3.1", "word": "b"}
    assert found.pruned == [PRUNED], "its value, the lowest, is no result"
    assert [trial.number for trial in found.counted] == [0, 1, 2, 3, 4, 6, 8, 9]
    assert [trial.number for trial in found.front] == [0, 1, 3, 9]
    assert (sweep.parent / "study.db").read_bytes() == before
    assert sorted(path.name for path in sweep.parent.iterdir()) == ["study.db", "sweep"]


def test_importances_say_which_key_decides_a_number(sweep, monkeypatch):
    def missing(**_):
        raise ImportError("scikit-learn is not installed")

    monkeypatch.setattr(optuna.importance, "FanovaImportanceEvaluator", missing)
    ((found,), _) = read_searches(report.read_sweep(sweep))
    first, second = (dict(shares) for shares in found.importances)
    assert found.by == FITTED
    assert first["x"] > 0.9 > 0.1 > first["word"] and second["word"] > 0.9 > 0.1 > second["x"]
    assert [key for key, _ in found.importances[1]] == ["word", "x"], "the largest first"


def test_where_optuna_can_it_computes_the_importances(sweep, monkeypatch):
    asked = []

    def importances(study, evaluator, target):
        asked.append([target(trial) for trial in study.trials])
        return {"word": 0.75, "x": 0.25}

    monkeypatch.setattr(optuna.importance, "FanovaImportanceEvaluator", lambda seed: seed)
    monkeypatch.setattr(optuna.importance, "get_param_importances", importances)
    ((found,), _) = read_searches(report.read_sweep(sweep))
    assert (found.by, found.importances[0]) == (FOREST, [("word", 0.75), ("x", 0.25)])
    assert asked[0] == [0.0, 3.0, 6.0, 9.0, 12.0, 18.0, 24.0, 27.0], "neither the failed nor the pruned trial"


@pytest.mark.slow
def test_the_random_forest_of_optuna_agrees(sweep):
    pytest.importorskip("sklearn")
    ((found,), _) = read_searches(report.read_sweep(sweep))
    assert found.by == FOREST and [shares[0][0] for shares in found.importances] == ["x", "word"]


def test_a_study_without_a_name_is_found_by_its_trials(tmp_path):
    study_in(tmp_path, lambda n, word: (float(n), 0.0), name="other")
    study_in(tmp_path, lambda n, word: None if n > 1 else (1.0, 1.0), name="bad")
    ((found,), _) = read_searches(report.read_sweep(jobs_in(tmp_path, study=None)))
    assert (found.study, len(found.counted)) == ("other", 8), "without the failed and the pruned run"
    assert read_searches(
        report.read_sweep(jobs_in(tmp_path / "more", study="unknown", storage=f"sqlite:///{tmp_path}/study.db"))
    ) == ([], [])


def test_one_objective_has_best_trials(tmp_path):
    study_in(tmp_path, lambda n, word: float(abs(n - 4)), directions=("minimize",))
    ((found,), _) = read_searches(report.read_sweep(jobs_in(tmp_path)))
    assert [trial.number for trial in found.front] == [4] and found.objectives == ["objective 1"]


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        ("sqlite:///gone.db", "there is no file"),
        ("sqlite:///text.db", "file is not a database"),
        ("mysql://***@host/db", "a report reads storages in files, sqlite:///..."),
    ],
)
def test_a_storage_that_cannot_be_read_is_one_sentence(tmp_path, storage, reason):
    (tmp_path / "text.db").write_text("no database" * 100)
    jobs = report.read_sweep(jobs_in(tmp_path, storage=storage))
    searches, (problem,) = read_searches(jobs)
    assert searches == [] and problem.startswith(f"the trials in {storage} are not shown: ") and reason in problem
    assert problem in page_data(jobs, tmp_path)["notices"] and not (tmp_path / "gone.db").exists()


def test_without_optuna_or_a_storage_nothing_changes(sweep, tmp_path, monkeypatch):
    make_job(tmp_path, 0, {"+x": 1})
    assert read_searches(report.read_sweep(tmp_path)) == ([], [])
    monkeypatch.setitem(sys.modules, "optuna", None)
    data = page_data(report.read_sweep(sweep), sweep)
    assert data["searches"] == [] and not any("trials" in notice for notice in data["notices"])


@pytest.mark.parametrize("name", ["study.db", "there/study.db"])
def test_a_storage_is_made_so_that_optuna_takes_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if "/" in name:
        with pytest.raises(UserError, match=r"^hydra.sweeper.storage=sqlite:///there/study.db: this storage cannot be"):
            make_storage(f"sqlite:///{name}")
        return
    make_storage(f"sqlite:///{name}")
    make_storage(f"sqlite:///{name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert optuna.create_study(storage=f"sqlite:///{name}", study_name="x", load_if_exists=True).trials == []


def test_the_page_shows_importances_and_the_front_and_where_they_come_from(browser, sweep):
    report.write_report(sweep)
    browser.get("about:blank")
    browser.get((sweep / "report.html").as_uri())
    text = browser.execute_script("return document.getElementById('search').innerText")
    assert (
        "From Optuna's storage study.db, study try: 10 trials, 8 complete, 1 of runs that stopped early, which do not "
        f"count, 1 failed or unfinished; 8 of them are runs of this report, the others are of other sweeps. Read with "
        f"Optuna {optuna.__version__}."
    ) in text
    assert "Front of the trials: 4 trials that no other beats in all of low style_gram and high ssim" in text
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#search tbody tr')].map((r) => [...r.children].map((c) => c.innerText))"
    )
    assert [row[0] for row in rows] == ["0", "1", "3", "9"] and rows[2][1:] == ["9", "1.003", "b", "3.100"]
    bars = "return [...document.querySelectorAll('#importance-0-0 g[data-label]')].map((g) => g.dataset.label)"
    assert browser.execute_script(bars) == ["x", "word"]
    buttons = browser.find_elements("css selector", "#search tbody button")
    assert [button.text for button in buttons] == ["3", "9"], "the others have no run here"
    buttons[0].click()
    assert browser.execute_script("return document.getElementById('compare-a').value") == "row 1"
    shutil.rmtree(sweep / "0" / ".hydra")  # a run without a record of its sweeper
    assert page_data(report.read_sweep(sweep), sweep)["searches"][0]["here"] == 7
