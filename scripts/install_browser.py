"""Install chromium and chromium-driver of Debian, which the tests of report.html need, where that is possible.

Without them these tests are skipped. Therefore this script never fails, but prints what it did or why it could not.
"""

import os
import shutil
import subprocess
import sys

PROGRAMS = ("chromium", "chromedriver")
PACKAGES = ("chromium", "chromium-driver")


def main() -> None:
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if not missing:
        print("the browser tests will run: chromium and chromedriver are installed")
        return
    reason = _obstacle() or _install()
    if reason is None:
        print("the browser tests will run: chromium and chromium-driver were installed with apt-get")
    else:
        print(f"the browser tests will be skipped: {' and '.join(missing)} not found and not installed ({reason})")


def _obstacle() -> str | None:
    """Why an installation is not possible; None if it is."""
    if shutil.which("apt-get") is None:
        return "there is no apt-get here"
    if os.geteuid() != 0:
        return f"not root; as root: apt-get install {' '.join(PACKAGES)}"
    return None


def _install() -> str | None:
    """Install the packages; returns None on success, else the reason of the failure."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    commands = (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES])
    for arguments in commands:
        try:
            done = subprocess.run(["apt-get", "-qq", *arguments], env=env, capture_output=True, text=True, timeout=900)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"apt-get {arguments[0]}: {error}"
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines()
            return f"apt-get {arguments[0]}: {lines[-1] if lines else f'exit status {done.returncode}'}"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"the packages do not contain {' and '.join(missing)}" if missing else None


if __name__ == "__main__":
    main()
    sys.exit(0)
