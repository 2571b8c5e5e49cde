"""An environment of its own for a tool whose packages don't go with ours: made in a temporary folder, and asked as another process."""
import os
import subprocess
import venv
from pathlib import Path


def install(folder: Path, packages: list[str], seconds: int) -> str:
    "Make the environment; says why where it can't be made, in one line"
    try:
        venv.create(folder, with_pip=True)
        done = subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-compile", "--no-input", "--retries", "1",
                               "--disable-pip-version-check", *packages], stderr=subprocess.PIPE, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"pip took more than {seconds} seconds"
    except subprocess.CalledProcessError:
        return "this Python makes no environments with pip"
    problems = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return (problems[-1] if problems else f"pip ended with {done.returncode}") if done.returncode else ""


def run_inside(environment: Path, script: str, folder: Path, seconds: int, *flags: str, **variables: str) -> str:
    "Run `script --inside folder` with the environment's Python, which sees nothing of ours; says why where it failed"
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TMPDIR")}
    try:
        done = subprocess.run([environment / "bin" / "python", *flags, script, "--inside", folder], timeout=seconds, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**kept, **variables})
    except subprocess.TimeoutExpired:
        return f"it didn't answer within {seconds} seconds"
    return f"{done.stdout[-3000:]}\nits process ended with {done.returncode}" if done.returncode else ""
