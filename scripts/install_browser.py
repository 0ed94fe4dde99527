"""Installs what the tests of report.html need, Debian's chromium and chromium-driver, where that is possible.

Without them those tests are skipped, so this never fails: it says in one sentence what it did or why it could not.
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
    """Why it is not even tried."""
    if shutil.which("apt-get") is None:
        return "there is no apt-get here"
    if os.geteuid() != 0:
        return f"not root; as root: apt-get install {' '.join(PACKAGES)}"
    return None


def _install() -> str | None:
    """None when all is there afterwards, else the reason."""
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
    return f"the packages hold no {' and '.join(missing)}" if missing else None


if __name__ == "__main__":
    main()
    sys.exit(0)
