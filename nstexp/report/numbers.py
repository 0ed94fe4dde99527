"""The numbers of pictures: what they mean, which direction is better, and whether the runs can be compared by them."""

from collections.abc import Mapping, Sequence
from typing import Any

from nstexp.report.job import Job, loss_terms, varying
from nstexp.report.texts import as_text, unique

FIRST_COLUMNS, LAST_COLUMNS = ("job", "picture", "status"), ("seconds", "error")  # of table.csv
ABOUT_PICTURES = ("luminance_mean", "luminance_std", "clipped_share")
MAIN_MEASURES = ("style_gram", "content_loss", "ssim")
HIGHER_IS_BETTER = ("ssim",)  # for records that do not contain this list


def number_columns(jobs: Sequence[Job], more: Sequence[str] = ()) -> dict[str, str]:
    """Name of a number -> name of its column, for every number of any job, and for the names in `more`."""
    taken = {*FIRST_COLUMNS, *varying(jobs), *LAST_COLUMNS}
    names = unique([*(name for job in jobs for numbers in job.metrics.values() for name in numbers), *more])
    return {name: f"metrics.{name}" if name in taken else name for name in names}


def describe_numbers(jobs: Sequence[Job], names: Sequence[str]) -> list[dict[str, Any]]:
    """What numbers mean, and which direction is better.

    Args:
        jobs: the jobs of the report.
        names: the numbers of any of their pictures.

    Returns:
        For each name {name, label, group, better, comparable, title}. `label` is its column in table.csv; `group` is
        losses, measures or picture; `better` is "lower", "higher", or None for a number that has no direction or is
        not comparable between these jobs, and `title` says why. `comparable` is whether runs can be compared by it.
    """
    labels = number_columns(jobs, names)
    terms = unique(term for job in jobs for term in loss_terms(job.config))
    described = {name: unique(d for job in jobs if (d := _described(job, name))) for name in names}
    result = []
    for name in names:
        is_term = name == "total" or any(name == term or name.startswith(f"{term}_style") for term in terms)
        group = "losses" if is_term else "measures" if described[name] or name in HIGHER_IS_BETTER else "picture"
        better, title = _direction(jobs, name, group, described[name])
        comparable = better is not None or group == "picture"
        facts = {"name": name, "label": labels[name], "group": group, "better": better}
        result.append({**facts, "comparable": comparable, "title": title})
    return result


def objectives(jobs: Sequence[Job]) -> list[str]:
    """The numbers that a search optimizes."""
    return unique(name for job in jobs for name in _objectives(job.config))


def _objectives(config: Mapping[str, Any]) -> list[str]:
    """The numbers in the key `objective` of a configuration."""
    names = config.get("objective") or []
    return [names] if isinstance(names, str) else [str(name) for name in names] if isinstance(names, list) else []


def _described(job: Job, name: str) -> str | None:
    """The job's description of a measure, see `Summary.measured_with`."""
    measured = job.recorded("measured_with")
    return str(measured[name]) if isinstance(measured, dict) and name in measured else None


def _higher_is_better(job: Job) -> Sequence[str]:
    """The measures of the job for which a higher value is better."""
    recorded = job.recorded("higher_is_better")
    return recorded if isinstance(recorded, list) else HIGHER_IS_BETTER


def _direction(jobs: Sequence[Job], name: str, group: str, described: Sequence[str]) -> tuple[str | None, str | None]:
    """(better, title) of a number: "lower", "higher", or None if it has no direction or the jobs are not comparable."""
    title = "; ".join(described) or None
    if name == "total":
        return None, "the weighted sum of the terms: not comparable between runs with different weights"
    if group == "picture" or name in ABOUT_PICTURES:
        return None, title
    if group == "losses" and not _same_term(jobs, name):
        return None, "unweighted; not comparable, as the runs have different encoders or settings of the term"
    if len(described) > 1:
        return None, f"not comparable, as the runs were measured differently: {title}"
    directions = unique(name in _higher_is_better(job) for job in jobs if _described(job, name) is not None)
    if len(directions) > 1:
        return None, f"not comparable, as the runs do not agree on which direction is better: {title}"
    better = "higher" if (directions or [name in HIGHER_IS_BETTER])[0] else "lower"
    return better, f"{title or ('unweighted' if group == 'losses' else name)}; {better} is better"


def _same_term(jobs: Sequence[Job], name: str) -> bool:
    """Whether all jobs with the term compute the same formula on the same layers of the same encoder."""
    with_term = [job for job in jobs if any(name in numbers for numbers in job.metrics.values())]
    settings = {as_text(job.config.get("loss")) for job in with_term if not loss_terms(job.config)}
    settings |= {as_text(loss_terms(job.config).get(name.partition("_style")[0])) for job in with_term}
    return len(settings) <= 1 and len({str(job.recorded("encoder")) for job in with_term}) <= 1
