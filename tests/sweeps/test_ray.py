"""The real thing: sweeps on a Ray that is started here. Run by `make test-ray`."""

import csv
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import ROOT, SMOKE, embedded, finish, picture, wait_for

from nstexp.outputs import read_summary

if os.environ.get("NSTEXP_TEST_RAY") != "1":
    pytest.skip("starts a Ray of its own: NSTEXP_TEST_RAY=1 runs these", allow_module_level=True)
pytest.importorskip("ray", reason="Ray is not installed: pip install 'nstexp[ray]'")
pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="its launcher is not installed: 'nstexp[ray]'")

pytestmark = pytest.mark.cluster
PICTURES = (
    *SMOKE, "image_px=64", "content=photo.png", "style=painting.jpg", "logger=csv", "metrics=none",
    "hydra.sweep.dir=sweep",
)  # fmt: skip
LAUNCHER = ("hydra/launcher=ray", "hydra.launcher.ray.remote.num_cpus=1")
OF_TWO = "hydra.launcher.ray.init.num_cpus=2"  # jobs at once, whatever this machine has


@pytest.fixture
def variables() -> Iterator[dict[str, str]]:
    """Of commands whose Ray keeps its files in a folder of their own; nothing of it is there afterwards."""
    # The sockets are in the folder, and a socket's path has at most 107 characters: tmp_path is too long.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        # Who joins a Ray shows a token, which would otherwise be made in the user's home.
        (Path(folder) / "token").write_text(secrets.token_hex(32))
        own = {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{folder}/token"}
        yield {**kept, **own, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        try:
            wait_for(lambda: not users_of(Path(folder)))
        finally:
            for process in users_of(Path(folder)):
                os.kill(process, signal.SIGKILL)


@pytest.fixture
def start(tmp_path, variables) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a command of nstexp's in a folder with pictures."""
    picture(str(tmp_path / "photo.png"), 50, 37, seed=1)
    picture(str(tmp_path / "painting.jpg"), 40, 44, seed=2)
    started = []

    def call(*args: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "nstexp", "-m", *PICTURES, *LAUNCHER, *args]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield call
    for process in started:
        process.kill()  # of a test that failed; the others have ended
        process.communicate()


@pytest.fixture
def nstexp(start):
    """Run a command of nstexp's in the folder; it ends with `code`."""

    def call(*args: str, code: int = 0) -> tuple[str, str]:
        return finish(start(*args), code)

    return call


@pytest.fixture
def cluster(tmp_path_factory, variables) -> Iterator[None]:
    """A Ray that was started in another folder, as that of a cluster is."""
    ray = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
    flags = ("--head", "--port=0", "--num-cpus=2", "--include-dashboard=false", "--block")
    place = tmp_path_factory.mktemp("cluster")
    with (place / "ray.log").open("w") as log:
        head = subprocess.Popen(
            [sys.executable, "-c", ray, "start", *flags], cwd=place, env=variables, stdout=log, stderr=log
        )
        try:
            wait_for(lambda: "Ray runtime started" in (place / "ray.log").read_text())
            yield
        finally:
            head.terminate()
            head.wait(timeout=60)
    assert [entry.name for entry in place.iterdir()] == ["ray.log"]


def users_of(place: Path) -> list[int]:
    """The processes that have a file in a folder open: each of Ray's its log, that of a job also the run's."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile, or another user's
            for file in os.listdir(process / "fd"):
                with suppress(FileNotFoundError):  # closed meanwhile
                    if Path(os.readlink(process / "fd" / file)).is_relative_to(place.resolve()):
                        found.add(int(process.name))
    return sorted(found)


def statuses(sweep: Path, jobs: str = "012") -> list[str]:
    """By the jobs' records, which are those of the table."""
    found = [read_summary(sweep / number).status for number in jobs]
    with (sweep / "table.csv").open() as file:
        assert [(row["job"], row["status"]) for row in csv.DictReader(file)] == [*zip(jobs, found, strict=True)]
    return found


def test_a_sweep_runs_on_ray_and_ends_in_a_report(nstexp, tmp_path):
    sweep = tmp_path / "sweep"
    out, _ = nstexp(OF_TWO, "weights.beta=1,10,100")
    assert statuses(sweep) == ["completed"] * 3
    for number, beta in zip("012", (1, 10, 100), strict=True):
        assert f"weights.beta={beta}" in read_summary(sweep / number).overrides
        assert (sweep / number / "output.png").is_file() and (sweep / number / "csv" / "metrics.csv").is_file()
    assert out.splitlines()[-1] == str(sweep / "report.html")
    assert embedded(sweep)["statuses"] == {"completed": 3} and len(embedded(sweep)["images"]) >= 3
    assert (sweep / "grid.png").is_file()


def test_a_refused_job_is_a_failed_row_and_the_others_finish(nstexp, tmp_path):
    out, err = nstexp(OF_TWO, "weights.beta=1,-3,100", code=1)
    assert statuses(tmp_path / "sweep") == ["completed", "failed", "completed"]
    assert "weights.beta=-3: a weight is a finite number, 0 or larger" in err
    assert out.splitlines()[-1] == str(tmp_path / "sweep" / "report.html")


def test_a_job_that_is_killed_is_a_failed_row_and_the_others_go_on(start, tmp_path):
    """And it is not begun once more: what ran out of memory would do so again."""
    command = start(OF_TWO, "method.max_steps=1500", "weights.beta=1,2,3")
    run = tmp_path / "sweep" / "1"
    wait_for(lambda: (run / "losses.csv").exists())
    (process,) = users_of(run)
    os.kill(process, signal.SIGKILL)  # as the kernel does when memory runs out
    _, err = finish(command, 1)
    assert statuses(tmp_path / "sweep") == ["completed", "failed", "completed"]
    error = read_summary(run).error
    assert error == "its process died (WorkerCrashedError): killed, or out of memory"
    assert error in " ".join(err.split())
    assert (run / "nstexp.log").read_text().count("configuration in") == 1


def test_a_search_has_one_ray_for_all_its_jobs(nstexp, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "objective=total")
    _, err = nstexp(OF_TWO, *search, "weights.beta=interval(1,100)")
    assert statuses(tmp_path / "sweep") == ["completed"] * 3
    assert err.count("Started a local Ray instance") == 1


def test_jobs_on_a_cluster_work_where_the_command_was_called(nstexp, tmp_path, cluster):
    nstexp("hydra.launcher.ray.init.address=auto", "weights.beta=1,10")
    assert statuses(tmp_path / "sweep", "01") == ["completed"] * 2
    # Without an address there is a Ray of the command's own beside it, which is too small for its jobs.
    own = ("hydra.launcher.ray.init.num_cpus=1", "hydra.launcher.ray.remote.num_cpus=2")
    _, err = nstexp(*own, "weights.beta=1,10", code=1)
    assert "hydra.launcher.ray.remote.num_cpus=2: this Ray has 1, so that no job would ever start" in err
