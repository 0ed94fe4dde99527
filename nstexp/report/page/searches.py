"""The searches of Optuna whose trials are in a storage, for the page."""

from collections.abc import Sequence
from typing import Any

from nstexp.report.job import Job
from nstexp.report.page.images import Images
from nstexp.report.page.json_values import brief
from nstexp.report.search import Search, read_searches
from nstexp.report.texts import unique

MOST_ON_FRONT = 200


def searches_of(jobs: Sequence[Job], images: Images) -> tuple[list[dict[str, Any]], list[str]]:
    """The searches that the jobs belong to, and sentences about storages that cannot be read.

    Returns:
        For each search {file, link, study, version, trials, complete, here, pruned, by, keys, objectives, front}.
        trials, complete, here (with a job of the report) and pruned are counts. objectives is [{name, better,
        importances: [[key, share]]}]. front is [{trial, run, values, params}], at most 200 trials; run is the index of
        the job or null, and params has one text or null for each of `keys`.
    """
    found, problems = read_searches(jobs)
    return [_search(one, images) for one in found], problems


def _search(one: Search, images: Images) -> dict[str, Any]:
    keys = unique(key for trial in one.trials for key in trial.params)
    front = sorted(one.front, key=lambda trial: trial.values or ())[:MOST_ON_FRONT]
    return {
        "file": one.file.name,
        "link": images.link(one.file),
        "study": one.study,
        "version": one.version,
        "trials": len(one.trials),
        "complete": sum(trial.values is not None for trial in one.trials) - len(one.pruned),
        "here": sum(trial.job is not None for trial in one.trials),
        "pruned": len(one.pruned),
        "by": one.by,
        "keys": keys,
        "objectives": [
            {
                "name": name,
                "better": "lower" if lower else "higher",
                "importances": [[key, brief(share)] for key, share in importances],
            }
            for name, lower, importances in zip(one.objectives, one.lower, one.importances, strict=True)
        ],
        "front": [
            {
                "trial": trial.number,
                "run": trial.job,
                "values": [brief(value) for value in trial.values or ()],
                "params": [trial.params.get(key) for key in keys],
            }
            for trial in front
        ],
    }
