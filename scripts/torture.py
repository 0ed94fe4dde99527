"""Run hostile trials: odd files, wrong commands, Ctrl-C and kill -9; count how many end correctly.

    python scripts/torture.py
    python scripts/torture.py --kinds names values --jobs 4
    python scripts/torture.py --only 'image_px=' --keep /tmp/look

All files are generated in temporary folders, and every command is a separate process. A trial ends correctly if the
result exists and can be read, or if one short message names what to change; and if there is no traceback, no file of
the user has changed, and no file is incomplete. The table goes to stdout as Markdown, failures to stderr; with failures
the exit code is 1.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import median

from hostile import commands, ends, files, pictures
from hostile.ends import Ending, attempts
from hostile.trials import Trial, attempt
from tqdm import tqdm

from nstexp.commands import errors_on_one_line, table_head
from nstexp.core.errors import UserError

Result = tuple[str, bool, str, str | None, float]  # kind, whether a file was tried, name, failure, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", help="run only these rows of the table")
    parser.add_argument("--only", help="run only trials whose name matches this regular expression")
    parser.add_argument("--jobs", type=int, default=2, help="number of commands to run at once (default: 2)")
    parser.add_argument("--keep", type=Path, help="folder that keeps the folders of all trials")
    args = parser.parse_args()
    with errors_on_one_line():
        trials = [*pictures.trials(), *files.trials(), *commands.trials()]
        trials = [trial for trial in trials if _wanted(trial.kind, trial.name, args)]
        endings = [ending for ending in ends.endings() if _wanted(ending.kind, " ".join(ending.words), args)]
        if not trials and not endings:
            raise UserError("--kinds, --only: no trial matches these; leave them out to run all")
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
        results = list(run(trials, endings, args.jobs, args.keep))
        print(table(results))
        _explain_times(trials, results)
    sys.exit(1 if any(wrong for _, _, _, wrong, _ in results) else 0)


def _wanted(kind: str, name: str, args: argparse.Namespace) -> bool:
    return (not args.kinds or kind in args.kinds) and (not args.only or bool(re.search(args.only, name)))


def run(trials: list[Trial], endings: list[Ending], jobs: int, keep: Path | None) -> Iterator[Result]:
    """Run everything, and print failures at once. Runs with signals go one by one, because their timing matters."""
    total = len(trials) + sum(len(ending.moments) for ending in endings)
    with tqdm(total=total, unit="trial", file=sys.stderr, miniters=1) as bar:

        def done(result: Result) -> Result:
            if result[3]:
                bar.write(f"{result[0]}: {result[2]}: {result[3]}", file=sys.stderr)
            bar.update()
            return result

        with ThreadPoolExecutor(jobs) as pool:
            started = {pool.submit(attempt, trial, keep): trial for trial in trials}
            for future in as_completed(started):
                trial, (outcome, wrong) = started[future], future.result()
                yield done((trial.kind, trial.file, trial.name, wrong, outcome.seconds))
        for ending in endings:
            for name, wrong in attempts(ending, keep):
                yield done((ending.kind, False, name, wrong, 0.0))


def table(results: list[Result]) -> str:
    """Count the trials of each kind and their failures, as a Markdown table."""
    tried: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for kind, _, _, problem, _ in results:
        tried[kind] += 1
        wrong[kind] += problem is not None
    rows = [f"| {kind} | {count} | {count - wrong[kind]} | {wrong[kind]} |" for kind, count in tried.items()]
    total = f"| all | {tried.total()} | {tried.total() - wrong.total()} | {wrong.total()} |"
    return "\n".join([table_head("kind", "tried", "right", "wrong"), *sorted(rows), total])


def _explain_times(trials: list[Trial], results: list[Result]) -> None:
    """Print how long it took to refuse wrong values, keys and words; for information, not a test."""
    refused = [seconds for kind, _, _, _, seconds in results if kind in ("values", "keys", "composition")]
    if refused:
        print(f"\nWrong values, keys and words: {median(refused):.2f} s in the median, {max(refused):.2f} s at most.")
    files_tried = sum(trial.file for trial in trials)
    print(f"{files_tried} files, {len(trials) - files_tried} commands.", file=sys.stderr)


if __name__ == "__main__":
    main()
