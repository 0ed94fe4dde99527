"""What the storage of an Optuna search says: which keys matter for its objectives, and its best trials.

With `hydra.sweeper.storage=sqlite:///study.db` a search keeps its trials in a file, beside those of earlier searches of
the same study. The file is never opened itself: a copy of it is.
"""

import math
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nstexp.core.secrets import without_secrets
from nstexp.report.effects import additive
from nstexp.report.explained import WIDE
from nstexp.report.job import Job
from nstexp.report.numbers import objectives
from nstexp.report.texts import as_text, unique

SQLITE = "sqlite:///"
FOREST = "functional ANOVA of a random forest, by optuna.importance"
FITTED = "shares of variance of a fitted model, as under Effects (Optuna's own random forest needs scikit-learn)"
LEAST_TRIALS = 4  # of fewer, nothing can be said about which key matters


@dataclass(frozen=True)
class Trial:
    """One trial of a study.

    Args:
        number: its number in the study.
        params: key -> value as a text.
        values: of the objectives; None unless the trial is complete.
        job: the index of its job in the report; None for a trial of another sweep.
    """

    number: int
    params: Mapping[str, str]
    values: tuple[float, ...] | None
    job: int | None


@dataclass(frozen=True)
class Search:
    """A study in a storage.

    Args:
        file: of the storage.
        study: its name.
        version: of the installed Optuna, which has read it.
        objectives: the names of the objectives.
        lower: for each objective, whether lower is better.
        trials: all trials, also those of earlier sweeps.
        pruned: numbers of trials whose jobs were pruned: Optuna has a value for them, which is no result.
        importances: for each objective, (key, importance), the largest first; empty if nothing can be said.
        by: how the importances were computed.
    """

    file: Path
    study: str
    version: str
    objectives: list[str]
    lower: list[bool]
    trials: list[Trial]
    pruned: list[int]
    importances: list[list[tuple[str, float]]]
    by: str

    @property
    def counted(self) -> list[Trial]:
        """The complete trials of jobs that were not pruned."""
        return [trial for trial in self.trials if trial.values is not None and trial.number not in self.pruned]

    @property
    def front(self) -> list[Trial]:
        """The trials that no other trial beats in all objectives; with one objective, the best ones."""
        return [one for one in self.counted if not any(self._beats(other, one) for other in self.counted)]

    def _beats(self, other: Trial, one: Trial) -> bool:
        pairs = [
            (a, b) if lower else (-a, -b)
            for a, b, lower in zip(other.values or (), one.values or (), self.lower, strict=True)
        ]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def read_searches(jobs: Sequence[Job]) -> tuple[list[Search], list[str]]:
    """The searches that the jobs belong to, and sentences about storages that cannot be read.

    Without Optuna, or without a storage, both are empty.
    """
    searches, problems = [], []
    for url, study in unique((job.search["storage"], job.search.get("study_name")) for job in jobs if job.search):
        of_search = [
            n for n, job in enumerate(jobs) if (job.search.get("storage"), job.search.get("study_name")) == (url, study)
        ]
        try:
            found = _read(jobs, of_search, str(url), study)
        except ImportError:
            return [], []
        except Exception as error:  # of Optuna, SQLAlchemy or SQLite, about a file of any kind
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            problems.append(without_secrets(f"the trials in {url} are not shown: {reason}"))
        else:
            searches += [found] if found is not None else []
    return searches, problems


def _read(jobs: Sequence[Job], places: Sequence[int], url: str, name: str | None) -> Search | None:
    """The study of some jobs; None if the storage has no study with trials of theirs."""
    import optuna

    if not url.startswith(SQLITE):
        raise ValueError("a report reads storages in files, sqlite:///...")
    first = jobs[places[0]]
    file = (first.origin or Path()) / url.removeprefix(SQLITE).partition("?")[0]
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    with _quiet(optuna), tempfile.TemporaryDirectory() as folder:
        storage = _opened(optuna, file, Path(folder))
        names = [one.study_name for one in optuna.get_all_study_summaries(storage)]
        studies = {
            one: optuna.load_study(study_name=one, storage=storage) for one in names if name is None or one == name
        }
        trials = {one: _trials(study, jobs, places) for one, study in studies.items()}
        best = max(trials, key=lambda one: sum(trial.job is not None for trial in trials[one]), default=None)
        if best is None or not any(trial.job is not None for trial in trials[best]):
            return None
        study, found = studies[best], trials[best]
        lower = [direction == optuna.study.StudyDirection.MINIMIZE for direction in study.directions]
        pruned = [t.number for t in found if t.job is not None and jobs[t.job].status != "completed" and t.values]
        named = objectives([jobs[n] for n in places])
        if len(named) != len(lower):
            named = [f"objective {n + 1}" for n in range(len(lower))]
        importances, by = _importances(optuna, study, {*pruned}, found)
        return Search(file, best, str(optuna.__version__), named, lower, found, pruned, importances, by)


def _opened(optuna: Any, file: Path, folder: Path) -> Any:
    """Optuna's storage on a copy of a file, which another process may be writing."""
    copy = folder / "study.db"
    original = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    with closing(original), closing(sqlite3.connect(copy)) as target:
        original.backup(target)
    # Each statement is a transaction, see sweeps/storage.py.
    return optuna.storages.RDBStorage(f"{SQLITE}{copy}", engine_kwargs={"isolation_level": "AUTOCOMMIT"})


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Without Optuna's messages about studies, and warnings about how it uses its libraries."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _trials(study: Any, jobs: Sequence[Job], places: Sequence[int]) -> list[Trial]:
    """The trials of a study, each with the job that has its values."""
    free = list(places)
    found = []
    for trial in study.trials:
        params = {str(key): as_text(value) for key, value in trial.params.items()}
        job = next((n for n in free if params and all(_same(jobs[n].text(k), v) for k, v in params.items())), None)
        if job is not None:
            free.remove(job)
        complete = trial.state.name == "COMPLETE" and all(math.isfinite(value) for value in trial.values)
        values = tuple(map(float, trial.values)) if complete else None
        found.append(Trial(trial.number, params, values, job))
    return found


def _same(one: str | None, other: str) -> bool:
    try:
        return one is not None and (one == other or float(one) == float(other))
    except ValueError:
        return False


def _importances(
    optuna: Any, study: Any, left_out: set[int], trials: Sequence[Trial]
) -> tuple[list[list[tuple[str, float]]], str]:
    """For each objective the importance of each key, and how it was computed.

    The random forest is Optuna's, where scikit-learn is installed.
    """
    counted = [trial for trial in trials if trial.values is not None and trial.number not in left_out]
    count = len(study.directions)
    if len(counted) < LEAST_TRIALS:
        return [[] for _ in range(count)], FITTED
    kept = optuna.create_study(directions=study.directions)
    kept.add_trials([trial for trial in study.trials if trial.number in {one.number for one in counted}])
    try:
        found = []
        for n in range(count):
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            scale = _scale_of([trial.values[n] for trial in counted if trial.values])

            def scaled(trial: Any, n: int = n, scale: Any = scale) -> float:
                return float(scale(trial.values[n]))

            shares = optuna.importance.get_param_importances(kept, evaluator=evaluator, target=scaled)
            found.append([(str(key), float(share)) for key, share in shares.items()])
        return found, FOREST
    except (ImportError, ValueError, RuntimeError):  # no scikit-learn, or trials without a key in common
        return [_fitted(counted, n) for n in range(count)], FITTED


def _fitted(trials: Sequence[Trial], objective: int) -> list[tuple[str, float]]:
    """The importances by `additive`, from the keys that all trials have."""
    keys = [key for key in trials[0].params if all(key in trial.params for trial in trials)]
    values = [trial.values[objective] for trial in trials if trial.values]
    scale = _scale_of(values)
    settings = [[trial.params[key] for key in keys] for trial in trials]
    effects = additive(settings, [scale(value) for value in values], keys)
    single = [] if effects is None else [(one.keys[0], one.share) for one in effects.effects if len(one.keys) == 1]
    return sorted(single, key=lambda pair: -pair[1])


def _scale_of(values: Sequence[float]) -> Any:
    """The logarithm for positive values that span more than a factor of 30, else the value itself."""
    return math.log10 if min(values) > 0 and max(values) > WIDE * min(values) else float
