"""Reports on sweeps: `python -m nstexp.report multirun/nstexp/DATE` compares the runs in a folder.

`read_sweep` reads the run folders into jobs (jobs.py, records.py). `design_of` (design.py) says which of their keys are
settings, pairs and repeats; comparisons.py and explained.py compute what the runs say together, with the plain
mathematics of statistics.py and effects.py. `table` turns jobs into rows (tables.py). `write_table`, `draw_grid` and
`write_page` write table.csv, grid.png (grid.py) and report.html (page/), and overview.py an index of many sweeps. The
report includes runs that failed or were killed, and a damaged file never prevents the rest of the report.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import try_writing
from nstexp.ownership import is_sweep
from nstexp.report.design import design_of
from nstexp.report.evaluations import is_evaluation
from nstexp.report.grid import draw_grid
from nstexp.report.job import NO_RECORD, Job, varying
from nstexp.report.jobs import job_folders, read_sweep, read_sweeps
from nstexp.report.page import write_page
from nstexp.report.tables import comparison, table, write_table

TABLE, GRID, PAGE = "table.csv", "grid.png", "report.html"

__all__ = [
    "NO_RECORD",
    "Job",
    "comparison",
    "draw_grid",
    "job_folders",
    "read_sweep",
    "read_sweeps",
    "table",
    "varying",
    "write_page",
    "write_report",
    "write_table",
]


def write_report(
    folders: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    repeats: Sequence[str] | None = None,
    baseline: Mapping[str, str] | None = None,
) -> tuple[Path, str]:
    """Write table.csv, grid.png (if there are pictures) and report.html.

    Args:
        folders: the folder of a sweep, or several folders to compare.
        output: the folder for the files, created if necessary; None: the folder of a single sweep, a folder `report` in
            that of an evaluation, or ./comparison for several.
        repeats: keys whose values only repeat a setting; None: `report.repeats` of the runs.
        baseline: key -> the value that others are compared with; None: `report.baseline` of the runs.

    Returns:
        The path of report.html, and the text of `comparison`.

    Raises:
        UserError: a folder does not exist or contains no runs, the runs do not differ in a key of `repeats` or
            `baseline`, or the output cannot be written.
    """
    given = [folders] if isinstance(folders, str | Path) else list(folders)
    listed = list(dict.fromkeys(Path(folder).expanduser().absolute() for folder in given))
    if output is None:
        output = _own_place(listed[0]) if len(listed) == 1 else "comparison"
    output = Path(output).expanduser().absolute()
    jobs = read_sweeps(listed)
    design = design_of(jobs, repeats, baseline)
    _check_folder(output)
    write_table(jobs, output / TABLE, design)
    draw_grid(jobs, output / GRID)
    write_page(jobs, output / PAGE, listed, design)
    return output / PAGE, comparison(jobs, design=design)


def _own_place(folder: Path) -> Path:
    """Where the report of a single folder goes: an evaluation has a grid.png of its own."""
    return folder / "report" if is_evaluation(folder) else folder


def _check_folder(output: Path) -> None:
    """Create the output folder, and raise a UserError if the report cannot be written there.

    This comes first, since reading the pictures of a large sweep takes a while.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        try_writing(output)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{output}: the report cannot be written there ({reason}); name another folder with --output"
        ) from error
    for name in (TABLE, GRID, PAGE):
        if (output / name).exists() and not is_sweep(output):
            raise UserError(f"{output / name} was not made by nstexp; name another folder with --output")
