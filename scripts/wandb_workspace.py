"""Create a W&B workspace for one sweep: pictures, loss curves and measures, arranged by the settings that vary.

    python -m nstexp -m weights.beta=1,10,100
    wandb sync --entity ME multirun/nstexp/DATE/*/wandb/offline-run-* multirun/nstexp/DATE/wandb/offline-run-*
    python scripts/wandb_workspace.py multirun/nstexp/DATE --entity ME

The second line is needed only for runs that were logged without a network. The script reads from the sweep's folder
which settings vary, and which losses and measures exist. Each call saves a new view of the project, and with --report
also a report; their addresses go to stdout. --dry-run prints as JSON what would be sent, without contacting a server.
Needs `pip install 'nstexp[workspaces]'`.
"""

import argparse
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nstexp import loggers, streams
from nstexp.commands import errors_on_one_line
from nstexp.core.errors import UserError
from nstexp.report.curves import read_curves
from nstexp.report.job import Job, varying
from nstexp.report.jobs import read_sweep
from nstexp.report.texts import as_text, unique

try:
    import wandb
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
except ImportError:
    ws = wr = None

STEP = "trainer/global_step"  # W&B's built-in step counts calls instead
JOB_TYPE = "method"  # W&B stores it as the job type of a run; choices of other config groups are not in its config
TRADE = "content_loss", "style_gram"
MEANS = "mean of "  # prefix of the rows of task=evaluate with the means of a method
NOT_SETTINGS = "run_dir", "logger", "task"  # they always differ, or repeat another setting
UNFILTERABLE = "'\"\\=<>"  # the library writes filters as Python expressions, and changes these characters in names
MOST_SETTINGS, MOST_PICTURES, MOST_COLUMNS, MOST_RUNS = 4, 8, 8, 100


@dataclass(frozen=True)
class Sweep:
    """A sweep, as it is logged to W&B.

    folder: of the sweep.
    runs: number of runs.
    project, group: settings of the runs' logger.
    varied: the settings that differ, by their dotted path in the configuration or as JOB_TYPE; the last changes
        fastest.
    columns: number of values of the last setting.
    losses: term -> history keys, one for each picture; `curves` likewise for validation losses.
    results, pictures: keys of the finished pictures, and of the unfinished or validation pictures.
    measures: name -> summary keys.
    has_table: whether a run has a table of its finished pictures.
    """

    folder: Path
    runs: int
    project: str
    group: str
    varied: tuple[str, ...]
    columns: int
    losses: Mapping[str, Sequence[str]]
    curves: Mapping[str, Sequence[str]]
    results: Sequence[str]
    pictures: Sequence[str]
    measures: Mapping[str, Sequence[str]]
    has_table: bool


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of a sweep, such as multirun/nstexp/DATE")
    parser.add_argument("--entity", required=True, help="W&B user or team that owns the runs")
    parser.add_argument("--project", help="W&B project (default: the one that the sweep logged to)")
    parser.add_argument("--report", action="store_true", help="also create a report with the same panels")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent, and send nothing")
    given = parser.parse_args(args)
    with errors_on_one_line():
        if ws is None:
            raise UserError("wandb-workspaces is not installed: pip install 'nstexp[workspaces]'")
        sweep = read(given.sweep)
        project = sweep.project if given.project is None else given.project
        for option, value in (("--entity", given.entity), ("--project", project)):
            if not value.strip() or "/" in value:
                raise UserError(f"{option} {value!r}: give one name, without a slash")
        if given.dry_run:
            print(json.dumps(described(sweep, given.entity, project, given.report), indent=1))
            return
        for url in saved(sweep, given.entity, project, given.report):
            print(url, flush=True)


def read(folder: Path) -> Sweep:
    """Read from the folders of a sweep's runs what they logged.

    Raises:
        UserError: the folder is not a sweep, or its runs did not log to W&B.
    """
    jobs = read_sweep(folder)
    entry = next(_wandb_entries(jobs), None)
    if entry is None:
        raise UserError(f"{folder}: these runs did not log to W&B; start them with logger=wandb")
    group = str(entry["logger"].get("group") or folder.resolve().name)
    if set(group) & set(UNFILTERABLE):
        raise UserError(
            f"{folder}: W&B cannot filter a group with one of {' '.join(UNFILTERABLE)} in its name, {group}"
        )
    keys = varying(jobs)
    drawn = [(job, curve) for job in jobs for curve in read_curves(job.path)[0]]
    shown = [(_prefix(job, curve.picture), job, curve) for job, curve in drawn]
    finished = [job for job in jobs if job.status == "completed" and job.metrics]
    return Sweep(
        folder=folder,
        runs=len(jobs),
        project=str(entry["logger"].get("project") or "nstexp"),
        group=group,
        varied=tuple(unique(path for key in keys for path in settings(jobs, key))),
        columns=min(len({job.text(keys[-1]) for job in jobs}), MOST_COLUMNS) if keys else 3,
        losses=_by_name((term, f"{prefix}loss/{term}") for prefix, _, curve in shown for term in curve.terms),
        curves=_by_name((name, f"validation/{name}") for job in jobs for name in _validated(job)),
        results=unique(f"{prefix}result" for prefix, job, _ in shown if not _trains(job))[:MOST_PICTURES],
        pictures=unique(
            "validation/pictures" if _trains(job) else f"{_prefix(job, name)}picture"
            for job in jobs
            for name in job.progress
        )[:MOST_PICTURES],
        measures=_by_name(
            (name, f"{prefix}final/{name}") for job in finished for prefix, name in _final(job, _measured(jobs))
        ),
        has_table=any(job.pictures for job in finished),
    )


def settings(jobs: Sequence[Job], key: str) -> list[str]:
    """The places in W&B's config of what an override set.

    These are the key itself, or the first settings in a config group that differ, or, for a choice without a key of its
    own (experiment=...), any settings that differ.
    """
    if key == JOB_TYPE:
        return [JOB_TYPE]
    path = (key.partition("@")[2] or key).replace("/", ".")
    flat = [dict(_flat(job.config)) for job in jobs if job.config]
    found = unique(name for config in flat for name in config)
    inside = [name for name in found if f"{name}.".startswith(f"{path}.")]
    inside = inside or [name for name in found if name.split(".")[0] not in NOT_SETTINGS]
    differ = [name for name in inside if len({as_text(config.get(name)) for config in flat}) > 1]
    return sorted(differ, key=lambda name: name.count("."))[:MOST_SETTINGS]


def accessor(path: str) -> str:
    """W&B's name of a setting; values at the top level of its config are stored under `value`."""
    top, dot, rest = path.partition(".")
    return "run:jobType" if path == JOB_TYPE else f"config:{top}.value{dot}{rest}"


def workspace(sweep: Sweep, entity: str, project: str) -> "ws.Workspace":
    """The view: the runs of the sweep, sorted by the settings that vary, which are pinned as columns."""
    parts = [
        ws.Section(
            name=name,
            panels=panels,
            is_open=True,
            layout_settings=ws.SectionLayoutSettings(columns=1 if len(panels) == 1 else 2, rows=2),
            panel_settings=ws.SectionPanelSettings(x_axis=STEP),
        )
        for name, panels in sections(sweep).items()
    ]
    finals = [f"summary:{key}" for keys in sweep.measures.values() for key in keys[:1]]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"sweep {sweep.group}",
        sections=parts,
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=_most_runs(sweep)),
        runset_settings=ws.RunsetSettings(
            filters=_filters(sweep, reports=False),
            groupby=[_metric(path) for path in _repeated(sweep)],
            # Unlike `groupby`, the order needs the key as it is stored.
            order=[ws.Ordering(_metric(path, as_stored=True)) for path in sweep.varied] or [_oldest_first()],
            pinned_columns=["run:displayName", *map(accessor, sweep.varied), *finals],
        ),
    )


def report(sweep: Sweep, entity: str, project: str) -> "wr.Report":
    """A report with the same panels in one column, and the table of all runs that the sweep's report run logged."""
    return wr.Report(
        entity=entity,
        project=project,
        title=f"Sweep {sweep.group}"[:128],
        description=_summary(sweep),
        blocks=blocks(sweep, entity, project),
        width="fluid",
    )


def blocks(sweep: Sweep, entity: str, project: str) -> list["wr.interface.Block"]:
    """Text and panels of the report. With an empty entity they can be exported without contacting the server."""
    runs = wr.Runset(
        entity=entity,
        project=project,
        name="runs",
        filters=_filters(sweep, reports=False),
        groupby=["run.jobType" if path == JOB_TYPE else f"config.{path}" for path in _repeated(sweep)],
        order=[
            wr.OrderBy("JobType" if path == JOB_TYPE else wr.Config(_stored(path)), ascending=True)
            for path in sweep.varied
        ]
        or [wr.OrderBy("CreatedTimestamp", ascending=True)],
        pinned_columns=["run:displayName", *map(accessor, sweep.varied)],
    )
    found: list[Any] = [wr.P(_summary(sweep))]
    for name, panels in sections(sweep).items():
        found += [wr.H2(name), wr.PanelGrid(runsets=[runs], panels=_arranged(panels))]
    of_report = wr.Runset(entity=entity, project=project, name="report", filters=_filters(sweep, reports=True))
    table = _arranged([wr.WeavePanelSummaryTable(table_name="sweep")])
    text = "The table that the sweep's report run logged. This run also stores report.html as an artifact."
    return [*found, wr.H2("All runs"), wr.P(text), wr.PanelGrid(runsets=[of_report], panels=table)]


def sections(sweep: Sweep) -> dict[str, list["wr.interface.Panel"]]:
    """Title -> panels, for the sections that have panels."""
    compared = [wr.RunComparer(diff_only="split")]
    found = {
        "Pictures": _pictures(sweep),
        "Losses": _lines(sweep),
        "Measures": _plots(sweep),
        "Runs compared": compared,
    }
    return {title: panels for title, panels in found.items() if panels}


def described(sweep: Sweep, entity: str, project: str, with_report: bool) -> dict[str, Any]:
    """The data that would be sent, as dictionaries; for a report only its blocks, because the rest needs the server."""
    found = {"workspace": workspace(sweep, entity, project)._to_model().model_dump(by_alias=True, exclude_none=True)}
    if with_report:
        models = [block._to_model() for block in blocks(sweep, "", project)]
        found["report"] = [model.model_dump(mode="json", by_alias=True, exclude_none=True) for model in models]
    return found


def saved(sweep: Sweep, entity: str, project: str, with_report: bool) -> Iterator[str]:
    """Save the workspace, and the report if wanted; yield their addresses.

    Raises:
        UserError: there is no account or no network, the runs do not exist, or the server refuses.
    """
    settings = wandb.setup().settings
    reason = loggers.why_offline(settings) if settings.mode in loggers.ONLINE else f"its mode is {settings.mode}"
    if reason is not None:
        raise UserError(f"W&B cannot be contacted: {reason}; --dry-run shows what would be sent")
    try:
        found = wandb.Api().runs(f"{entity}/{project}", filters={"group": sweep.group}, per_page=1)
        if not len(found):
            raise UserError(f"{entity}/{project} has no runs in the group {sweep.group}; {_sync(sweep, entity)}")
        yield workspace(sweep, entity, project).save().url
        if with_report:
            yield report(sweep, entity, project).save().url
    except UserError:
        raise
    except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
        raise UserError(f"W&B does not accept the account ({_line(error)}): wandb login --relogin") from error
    except Exception as error:  # W&B and the libraries raise many exception types
        raise UserError(f"W&B refused {entity}/{project} ({_line(error)}); {_sync(sweep, entity)}") from error


def _pictures(sweep: Sweep) -> list[Any]:
    panels: list[Any] = []
    if sweep.results:
        panels.append(wr.MediaBrowser(title="results", media_keys=sweep.results, num_columns=sweep.columns))
    if sweep.pictures:
        panels.append(wr.MediaBrowser(title="on the way", media_keys=sweep.pictures, num_columns=sweep.columns))
    if sweep.has_table:
        panels.append(wr.WeavePanelSummaryTable(table_name="results"))
    return panels


def _lines(sweep: Sweep) -> list[Any]:
    """One plot for each loss, and for each validation loss."""
    legend = ["run:displayName", *map(accessor, sweep.varied)]
    return [
        wr.LinePlot(
            title=f"{title}{term}",
            x=STEP,
            y=list(keys),
            log_y=True,
            title_x="step",
            smoothing_type="none",
            legend_fields=legend,
            max_runs_to_show=_most_runs(sweep),
        )
        for title, found in (("", sweep.losses), ("validation: ", sweep.curves))
        for term, keys in found.items()
    ]


def _plots(sweep: Sweep) -> list[Any]:
    """Plots of the measures: two against each other, all against the settings that vary, and one by one."""
    name = " ".join(["${run:displayName}", *(f"{path}={_in_template(path)}" for path in sweep.varied)])
    most = _most_runs(sweep)
    panels: list[Any] = []
    for x, y in zip(*(sweep.measures.get(key, ()) for key in TRADE), strict=False):
        title = f"{x.removesuffix(TRADE[0]).removesuffix('final/')}{TRADE[1]} against {TRADE[0]}"
        axes = {"x": wr.SummaryMetric(x), "y": wr.SummaryMetric(y)}
        panels.append(wr.ScatterPlot(title=title, **axes, legend_template=name))
    if sweep.varied and sweep.measures:
        axis_metrics = [(path, wr.Metric("JobType") if path == JOB_TYPE else wr.Config(path)) for path in sweep.varied]
        axis_metrics += [(key, wr.SummaryMetric(keys[0])) for key, keys in sweep.measures.items()]
        axes = [wr.ParallelCoordinatesPlotColumn(metric=metric, display_name=label) for label, metric in axis_metrics]
        panels.append(wr.ParallelCoordinatesPlot(title="what varies, and what came of it", columns=axes))
    bars = {"legend_template": name, "max_runs_to_show": most, "max_bars_to_show": most}
    return [*panels, *(wr.BarPlot(title=key, metrics=list(keys), **bars) for key, keys in sweep.measures.items())]


def _wandb_entries(jobs: Sequence[Job]) -> Iterator[Mapping[str, Any]]:
    """Yield the settings of each run's W&B logger."""
    for job in jobs:
        entries = job.config.get("logger")
        for entry in entries.values() if isinstance(entries, dict) else ():
            if isinstance(entry, dict) and isinstance(entry.get("logger"), dict) and "group" in entry["logger"]:
                yield entry


def _prefix(job: Job, picture: str) -> str:
    """Prefix of the keys of a picture; '' for a run with one picture."""
    if _trains(job):
        return ""
    several = job.recorded("task") == "evaluate" or len({*job.metrics, *job.progress, picture}) > 1
    return f"{picture}/" if several else ""


def _final(job: Job, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (prefix, name) of the numbers of a finished run: for each picture, or the means of each method."""
    rows = [row for row in job.metrics if row.startswith(MEANS)] or list(job.metrics)
    for row in rows:
        prefix = "" if len(job.metrics) == 1 else f"{row}/"
        yield from ((prefix, name) for name in names if name in job.metrics[row])


def _measured(jobs: Sequence[Job]) -> list[str]:
    """The names of the measures; if nothing was measured, the names of the losses."""
    measures = unique(name for job in jobs for name in job.recorded("measured_with") or ())
    return measures or unique(name for job in jobs for numbers in job.metrics.values() for name in numbers)


def _trains(job: Job) -> bool:
    return job.recorded("task") == "train"


def _validated(job: Job) -> list[str]:
    """The names of the validation losses of a training."""
    try:
        with (job.path / "validation.csv").open(newline="", encoding="utf-8") as file:
            return [name for name in next(csv.reader(file), []) if name != "step"]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _by_name(pairs: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """Name -> its keys without duplicates, at most MOST_PICTURES."""
    found: dict[str, list[str]] = {}
    for name, key in pairs:
        keys = found.setdefault(name, [])
        if key not in keys and len(keys) < MOST_PICTURES:
            keys.append(key)
    return found


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _stored(path: str) -> str:
    return accessor(path).partition(":")[2]


def _metric(path: str, as_stored: bool = False) -> "ws.Metric | ws.Config":
    return ws.Metric("JobType") if path == JOB_TYPE else ws.Config(_stored(path) if as_stored else path)


def _oldest_first() -> "ws.Ordering":
    return ws.Ordering(ws.Metric("CreatedTimestamp"), ascending=True)


def _filters(sweep: Sweep, reports: bool) -> "ws.And":
    """Select the runs of the sweep without the report run, or only the report run."""
    kind = ws.Metric("JobType")
    return ws.And(ws.Metric("Group") == sweep.group, kind == "report" if reports else kind != "report")


def _repeated(sweep: Sweep) -> list[str]:
    """Settings to group by: all but the seed, if the seed varies. Otherwise groups would average different settings."""
    return [path for path in sweep.varied if path != "seed"] if "seed" in sweep.varied else []


def _in_template(path: str) -> str:
    return "${run:jobType}" if path == JOB_TYPE else f"${{config:{path}}}"


def _most_runs(sweep: Sweep) -> int:
    return min(sweep.runs, MOST_RUNS)


def _arranged(panels: Sequence["wr.interface.Panel"]) -> list["wr.interface.Panel"]:
    """Arrange panels in a report, 24 units wide: pictures, tables and comparisons use the full width, plots a third."""
    wide = wr.MediaBrowser, wr.WeavePanelSummaryTable, wr.ParallelCoordinatesPlot, wr.RunComparer
    left, top = 0, 0
    for panel in panels:
        width, height = (24, 12) if isinstance(panel, wide) else (8, 8)
        if left + width > 24:
            left, top = 0, top + 12
        panel.layout = wr.Layout(x=left, y=top, w=width, h=height)
        left += width
    return list(panels)


def _summary(sweep: Sweep) -> str:
    what = f"varying {', '.join(sweep.varied)}" if sweep.varied else "with equal settings"
    return f"{sweep.runs} runs of nstexp, {what}."


def _sync(sweep: Sweep, entity: str) -> str:
    runs = f"{sweep.folder}/*/wandb/offline-run-* {sweep.folder}/wandb/offline-run-*"
    return f"if the runs are not synced yet: wandb sync --entity {entity} {runs}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    streams.prepare()
    main()
