"""Start a Slurm cluster of two nodes on this machine, for `hydra/launcher=slurm` and tests/sweeps/test_slurm.py.

    apt-get install -y --no-install-recommends slurm-wlm munge      # Debian, Ubuntu
    python scripts/local_slurm.py start /tmp/slurm                  # prints what to export
    python scripts/local_slurm.py stop /tmp/slurm

The daemons run as the user who starts them (which may be root), on free ports, without accounting and without control
groups, so memory limits are not enforced. All files are in the given folder. The node names n1 and n2 cannot be
resolved, so processes that train together on both nodes need MASTER_ADDR=127.0.0.1, which is exported as well.
"""

import argparse
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo", "scancel")
DAEMONS = ("slurmd-n1", "slurmd-n2", "slurmctld", "munged")  # in the order in which they are stopped
SECONDS_TO_START = 30.0
CONFIG = """\
ClusterName=nstexp
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,bf_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=20
Waittime=0
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=8000 State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=1440 State=UP
"""


class NotHere(Exception):
    """Slurm cannot run on this machine; the message says why."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["start", "stop"], help="start or stop the cluster")
    parser.add_argument("folder", type=Path, help="folder for the keys, logs and state of the cluster")
    args = parser.parse_args()
    try:
        if args.action == "stop":
            stop(args.folder)
        else:
            print("".join(f"export {name}={value}\n" for name, value in start(args.folder).items()), end="")
    except NotHere as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def start(folder: Path) -> dict[str, str]:
    """Start the cluster; returns the environment variables that commands need to find it.

    Raises:
        NotHere: Slurm is not installed, or does not start.
    """
    missing = [command for command in COMMANDS if _find(command) is None]
    if missing:
        raise NotHere(f"{', '.join(missing)} is not installed: apt-get install slurm-wlm munge")
    folder = folder.absolute()
    (folder / "state").mkdir(parents=True, exist_ok=True)
    for node in ("n1", "n2"):
        (folder / f"spool-{node}").mkdir(exist_ok=True)
    folder.chmod(0o755)  # munged refuses sockets in folders that others can write to
    key = folder / "munge.key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(user=getpass.getuser(), folder=folder, ports=_free_ports(3)))
    variables = {"SLURM_CONF": str(config), "MASTER_ADDR": "127.0.0.1"}
    environment = {**os.environ, **variables}
    _run(
        ["munged", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
         f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed"], environment,
    )  # fmt: skip
    _run(["slurmctld", "-i"], environment)
    for node in ("n1", "n2"):
        _run(["slurmd", "-N", node], environment)
    given_up = time.monotonic() + SECONDS_TO_START
    while _run(["sinfo", "-h", "-t", "idle", "-o", "%D"], environment).split() != ["2"]:
        if time.monotonic() > given_up:
            stop(folder)
            raise NotHere(f"the nodes do not start; see {folder}/slurmctld.log")
        time.sleep(0.25)
    return variables


def stop(folder: Path) -> None:
    """End all jobs, and the daemons that `start` started."""
    folder = folder.absolute()
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    with suppress(OSError, subprocess.SubprocessError):
        command = ["scancel", "--user", getpass.getuser(), "--signal=KILL", "--full"]
        subprocess.run(command, env=environment, capture_output=True, timeout=20)
    for name in DAEMONS:
        with suppress(OSError, ValueError):
            pid = int((folder / f"{name}.pid").read_text())
            os.kill(pid, signal.SIGTERM)
            for _ in range(50):
                os.kill(pid, 0)  # raises OSError when the process has ended
                time.sleep(0.1)


def _run(command: list[str], environment: dict[str, str]) -> str:
    found = [str(_find(command[0])), *command[1:]]
    try:
        return subprocess.run(found, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    except subprocess.SubprocessError as error:
        raise NotHere(f"{command[0]} does not start: {getattr(error, 'stderr', None) or error}".strip()) from None


def _find(command: str) -> str | None:
    return shutil.which(command) or shutil.which(command, path="/usr/sbin:/sbin:/usr/local/sbin")


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]
    finally:
        for free in sockets:
            free.close()


if __name__ == "__main__":
    main()
