"""Sentences about what a report leaves out, and why."""

from collections.abc import Sequence

from nstexp.report.design import Design, Values
from nstexp.report.inputs import INPUTS
from nstexp.report.job import NO_RECORD, Job
from nstexp.report.page.entries import Entry, named
from nstexp.report.texts import unique

COMPARED_VERSIONS = ("nstexp", "torch")
TIMES = ("stylize_seconds",)  # numbers that differ each time


def notices_of(entries: Sequence[Entry]) -> list[str]:
    """Sentences about missing and damaged files, unfinished runs and different versions."""
    jobs = [entry.job for entry in entries]
    unrecorded = [(job, str(job.error)) for job in jobs if job.status == NO_RECORD]
    running = [
        (job, "still running, or killed; the page shows its results so far") for job in jobs if job.status == "running"
    ]
    damaged = [(job, problem) for job in jobs for problem in job.problems]
    gone = [(job, f"{', '.join(job.missing)} was made and is no longer there") for job in jobs if job.missing]
    # A run that is still running may not have finished its last line.
    lines = [(e.job, e.damaged_lines) for e in entries if e.damaged_lines > (e.job.status == "running")]
    cut = [(job, f"losses.csv has damaged lines, which were left out ({count})") for job, count in lines]
    return [*_grouped([*unrecorded, *running, *damaged, *gone, *cut]), *_mixed_versions(jobs), *_lost_inputs(entries)]


def equal_repeats(design: Design) -> list[str]:
    """A sentence for repeats that change nothing, as the seed of a picture that starts from the photo."""
    if not design.repeats:
        return []
    found: dict[tuple[Values, Values], list[dict[str, float]]] = {}
    for row in design.rows:
        numbers = {name: value for name, value in row.numbers.items() if name not in TIMES}
        found.setdefault((row.at(design.keys), row.at(design.pairs)), []).append(numbers)
    several = [numbers for numbers in found.values() if len(numbers) > 1]
    if not several or any(other != numbers[0] for numbers in several for other in numbers):
        return []
    keys = " and ".join(design.repeats)
    return [f"{keys} changes nothing in these runs: repeats have the same numbers, and say nothing about chance"]


def _grouped(notices: Sequence[tuple[Job, str]]) -> list[str]:
    """Notices as sentences; jobs with the same text share a sentence."""
    texts = unique(text for _, text in notices)
    return [f"{named(*(job for job, other in notices if other == text))}: {text}" for text in texts]


def _mixed_versions(jobs: Sequence[Job]) -> list[str]:
    """A sentence for each package of which the jobs used different versions."""
    sentences = []
    for package in COMPARED_VERSIONS:
        recorded = [(job, version) for job in jobs if (version := versions_of(job).get(package))]
        versions = unique(version for _, version in recorded)
        if len(versions) > 1:
            groups = [f"{v} ({named(*(job for job, other in recorded if other == v))})" for v in versions]
            sentences.append(f"different versions of {package}: {', '.join(groups)}")
    return sentences


def _lost_inputs(entries: Sequence[Entry]) -> list[str]:
    """Sentences about inputs that cannot be found. Failed jobs are left out, since their error already reports it."""
    done = [entry for entry in entries if entry.job.status == "completed" and entry.job.pictures]
    lost = unique(
        (key, text)
        for entry in done
        for key in INPUTS
        if (text := entry.job.text(key)) and not any(kind == key for kind, _, _ in entry.inputs)
    )
    return [f"{key}={text} is not shown: not found, or more than a few pictures" for key, text in lost]


def versions_of(job: Job) -> dict[str, str]:
    """Package -> recorded version."""
    recorded = job.recorded("versions")
    return {str(name): str(version) for name, version in recorded.items()} if isinstance(recorded, dict) else {}
