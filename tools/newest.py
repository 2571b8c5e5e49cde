#!/usr/bin/env python3
"""Run the pages of boosting and of the XGBoost trainer with the newest XGBoost there is, beside the one that settings.ini pins.

`python tools/newest.py` installs it into a temporary folder, which comes before the environment's own, and runs the tests of
nbs/ml/03d_boosting.ipynb and 04_xgboost_trainer.ipynb with it: what they hold has to hold there too. Exit code 0 or 1. Where it can't be installed,
or is the pinned one, it says "skipped: …" and ends with 0. The newest asks for a newer Python than ours at times and runs on
it all the same, so that is not asked. What it costs in accuracy stands on the first.
"""
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "xgboost-cpu" if platform.system() == "Linux" else "xgboost"
PAGES = "nbs/ml/03d_boosting.ipynb", "nbs/ml/04_xgboost_trainer.ipynb"
INSTALL_SECONDS, TEST_SECONDS = 180, 900  # far more than they take, so that a busy machine is no failure


def install(folder: str) -> str:
    "Install the newest; says why where that can't be, in one line"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-requires-python", "--only-binary=:all:",
               "--no-input", "--retries", "1", "--disable-pip-version-check", "--target", folder, PACKAGE]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return ([""] + done.stderr.strip().splitlines())[-1] if done.returncode else ""


def main() -> int:
    "Install, test, tell"
    with tempfile.TemporaryDirectory() as folder:
        if why := install(folder):
            print(f"skipped: {PACKAGE} can't be installed ({why})")
            return 0
        newest = next(Path(folder).glob("xgboost*.dist-info")).name.removesuffix(".dist-info").partition("-")[2]
        if newest == version(PACKAGE):
            print(f"skipped: {PACKAGE} {newest} is the newest, and is what is installed")
            return 0
        print(f"{' and '.join(PAGES)} with {PACKAGE} {newest} (installed: {version(PACKAGE)})", flush=True)
        given = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])}
        test = [str(Path(sys.executable).with_name("nbdev_test")), "--do_print", "--n_workers", "0", "--path"]
        try:
            return max(subprocess.run([*test, page], cwd=ROOT, env=given, timeout=TEST_SECONDS).returncode for page in PAGES)
        except subprocess.TimeoutExpired:
            print(f"a page has not ended after {TEST_SECONDS} s")
            return 1


if __name__ == "__main__":
    sys.exit(main())
