#!/usr/bin/env python3
"""Run a command with its output through a pipe and say how long it was silent at most.

`python tools/silence.py python -m mbta_ml.ml.xgboost_trainer --source 'bus:…/*.csv'` passes on what the command says,
with the seconds at which it came, and ends with its longest silence (a bar or a line of progress is no silence).
With `--terminal` before the command it runs on a terminal, where a bar is drawn instead.
It exits with 1 where a silence was longer than ten seconds, else as the command does.
"""
import os
import pty
import subprocess
import sys
import time

MOST_SECONDS = 10.0


def spoken(
    command: list[str],
    terminal: bool,
) -> tuple[float, int]:  # the longest silence, how the command ended
    "Pass on what a command says, and see when"
    reader, writer = pty.openpty() if terminal else os.pipe()
    began = heard = time.monotonic()
    longest = 0.0
    with subprocess.Popen(command, stdout=writer, stderr=writer, stdin=subprocess.DEVNULL) as process:
        os.close(writer)
        while True:
            try:
                said = os.read(reader, 1 << 16)
            except OSError:  # a terminal whose last writer has gone
                said = b""
            now = time.monotonic()
            longest, heard = max(longest, now - heard), now
            if not said:
                break
            for line in said.decode(errors="replace").splitlines():
                print(f"{now - began:7.1f}  {line}", flush=True)
    return longest, process.returncode


def main() -> int:
    "Run, and say how silent it was"
    terminal, command = sys.argv[1:2] == ["--terminal"], sys.argv[1:]
    longest, status = spoken(command[terminal:], terminal)
    print(f"longest silence {longest:.1f} s; ended with {status}")
    return 1 if longest > MOST_SECONDS else status


if __name__ == "__main__":
    sys.exit(main())
