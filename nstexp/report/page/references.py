"""The scores of the unchanged photos and paintings."""

import json
from collections.abc import Sequence
from typing import Any

from nstexp.report.job import Job, value_of
from nstexp.report.page.json_values import as_json_number
from nstexp.report.texts import is_number

MOST_REFERENCES = 24  # rows of references; more would hide the runs


def references_of(jobs: Sequence[Job], keys: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """`references` of `page_data`, and a list of notices.

    Jobs with equal references share a row, which has the values that these jobs have in common. If there are too many
    rows, there are none, but a notice.
    """
    groups: dict[tuple[str, str, str], list[Job]] = {}
    numbers: dict[tuple[str, str, str], dict[str, float]] = {}
    for job in jobs:
        for picture, kind, measured in _reference_numbers(job):
            # Every run measures its references again, so that equal ones can differ by rounding.
            rounded = json.dumps({key: f"{value:.5g}" for key, value in measured.items()})
            groups.setdefault((picture, kind, rounded), []).append(job)
            numbers.setdefault((picture, kind, rounded), measured)
    if len(groups) > MOST_REFERENCES:
        return [], [f"{len(groups)} different photos and paintings are too many to show their scores beside the runs"]
    rows = []
    for group, group_jobs in groups.items():
        picture, kind, _ = group
        texts = {key: {value_of(job, picture, key) for job in group_jobs} for key in keys}
        rows.append({
            "picture": picture,
            "kind": kind,
            "values": {key: values.pop() if len(values) == 1 else None for key, values in texts.items()},
            "numbers": {name: as_json_number(value) for name, value in numbers[group].items()},
        })  # fmt: skip
    return rows, []


def _reference_numbers(job: Job) -> list[tuple[str, str, dict[str, float]]]:
    """The recorded scores of the job's photos and paintings: (picture, kind, numbers)."""
    found = []
    references = job.recorded("references")
    for picture, kinds in references.items() if isinstance(references, dict) else []:
        for kind, numbers in kinds.items() if isinstance(kinds, dict) else []:
            if isinstance(numbers, dict):
                found.append((picture, kind, {name: value for name, value in numbers.items() if is_number(value)}))
    return found
