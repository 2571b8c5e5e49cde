#!/usr/bin/env python
"""Kill commands at random instants and see what is left after the next command.

    python tools/kills.py                          100 times SIGKILL, 30 times SIGTERM
    python tools/kills.py --kill 10 --term 5       fewer
    python tools/kills.py --only search --term 9 --kill 0

Seven commands take turns (train, search, predict, extract, examples, promote, rollback), on a day of a simulated trolley line in a
home folder of their own. Each is killed at an instant drawn between its imports and its end. `registry list` then runs, and after it
nothing may be left over, nothing half-written may stand under a name of ours, and no process may be alive. After SIGTERM the exit
status is 143 (or 0, where the command was faster), there is no stack trace, and no run that has nothing to go on with.
"""
import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from mbta_ml.config import Settings
from mbta_ml.etl.extract import read_extract
from mbta_ml.etl.sample import make_sample
from mbta_ml.files import read_lines
from mbta_ml.registry import load_model, promote, runs, state

MARK = "MBTA_KILLS"  # a variable by which our processes are found


def module(name: str, *arguments) -> list[str]:
    "A command line"
    return [sys.executable, "-m", f"mbta_ml.{name}", *map(str, arguments)]


def commands(home: Path) -> dict[str, list[str]]:
    "What is killed, by name"
    source = ("--source", f"duckdb:{home.parent / 'tiny.duckdb'}")
    best = home / "production_models" / "final_best_xgboost.json"
    return {
        "train": module("ml.xgboost_trainer", *source, "--params", home.parent / "params.json"),
        "search": module("ml.xgboost_trainer", *source, "--trials", 3),
        "predict": module("predict", *source, "--model", best, "--out", home / "data" / "predictions.parquet"),
        "extract": module("etl.gcp_dataloader", *source, "--out", home / "data" / "extract"),
        "examples": module("etl.xgboost_etl", *source, "--out", home / "data" / "examples"),
        "promote": module("registry", "promote", "RUN"),
        "rollback": module("registry", "rollback"),
    }


def alive(mark: str) -> list[str]:
    "The command lines of our processes"
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:80].strip())
        except OSError:
            continue
    return [line for line in found if line]


def hidden(folder: Path) -> list[str]:
    "What is left over below a folder: names that begin with a dot, and are no lock"
    names = (str(p.relative_to(folder)) for p in folder.rglob(".*"))
    return [name for name in names if not name.endswith(".lock")]


def damaged(home: Path) -> list[str]:
    "What stands under a name of ours and is not whole"
    found = []

    def check(path, look):
        try:
            look()
        except Exception as error:
            found.append(f"{path.relative_to(home)}: {type(error).__name__}: {str(error)[:80]}")

    for path in home.rglob("*.parquet"):
        check(path, lambda: pq.read_table(path, partitioning=None))
    for path in home.rglob("*.json"):
        check(path, lambda: json.loads(path.read_bytes()))
    for path in (p for p in home.rglob("*.jsonl")):
        check(path, lambda: [json.loads(line) for line in path.read_bytes().splitlines()[:-1]])
    for model in [*home.glob("models/*/*/xgboost.json"), *home.glob("production_models/*_xgboost.json")]:
        check(model, lambda: load_model(model))
    if (home / "data" / "extract").exists():
        check(home / "data" / "extract", lambda: read_extract(home / "data" / "extract"))
    return found


def idle_runs(home: Path) -> list[str]:
    "Runs that are unfinished and have nothing to go on with"
    return [run.name for run in runs(Settings(home=home)) if state(run) == "unfinished"
            and not read_lines(run.experiment / "trials.jsonl")]


class Kills:
    "A home folder, and what happened in it"

    def __init__(self, top: Path, seed: int):
        self.home, self.temporary, self.rng = top / "home", top / "t", random.Random(seed)
        self.temporary.mkdir()
        make_sample(top / "tiny.duckdb", days=6, routes=["Mattapan"])
        (top / "params.json").write_text('{"rounds": 10}')
        self.env = {**os.environ, "MBTA_ML_HOME": str(self.home), "TMPDIR": str(self.temporary), MARK: str(os.getpid()),
                    "WANDB_MODE": "disabled", "MBTA_ML_MAX_THREADS": "1", "MBTA_ML_TRAIN_ROWS": "3000"}
        self.lines, self.seconds, self.wrong = commands(self.home), {}, []

    def start(self, what: str) -> subprocess.Popen:
        "Begin a command"
        line = self.lines[what]
        if what in ("promote", "rollback"):
            line = [self.rng.choice(self.finished()).name if part == "RUN" else part for part in line]
        if what == "rollback":  # to something that stood there
            for run in self.rng.sample(self.finished(), 2):
                promote(run.model / "xgboost.json", self.home / "production_models" / "final_best_xgboost.json")
        if what in ("train", "search"):
            line = [*line, "--seed", str(self.rng.randrange(1000))]
        return subprocess.Popen(line, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finished(self) -> list:
        "The runs whose models may be promoted"
        return [run for run in runs(Settings(home=self.home)) if state(run) == "finished"]

    def prepare(self, wanted: list[str]) -> None:
        "Run each command once, and see how long it takes"
        for what in dict.fromkeys(["train", "train", *wanted]):
            for _ in range(2 if what == "train" else 1):
                began, run = time.monotonic(), self.start(what)
                errors = run.communicate()[1]
                self.seconds[what] = time.monotonic() - began
                if run.returncode and "not promoted" not in errors:
                    sys.exit(f"{what} fails by itself: {errors}")
            print(f"{what:<9} takes {self.seconds[what]:5.1f} s", flush=True)

    def after(self, what: str, number: int, status: int, errors: str) -> list[str]:
        "Run the next command; what is wrong afterwards"
        began = time.monotonic()
        while alive(self.env[MARK]) and time.monotonic() - began < 60:  # Ray's agents look for their parents now and then
            time.sleep(0.2)
        wrong = [f"still alive: {line}" for line in alive(self.env[MARK])]
        listed = subprocess.run(module("registry", "list"), env=self.env, capture_output=True, text=True)
        wrong += [f"list: {listed.stderr}"] if listed.returncode or "Traceback" in listed.stderr else []
        wrong += [f"left over: {name}" for name in (*hidden(self.home), *hidden(self.temporary))]
        wrong += [f"left in the temporary folder: {p.name}" for p in self.temporary.iterdir()]
        wrong += [f"half-written: {name}" for name in damaged(self.home)]
        if number == signal.SIGTERM:
            wrong += [f"exit status {status}: {errors[-300:]}"] if status not in (143, 0, -15) else []
            wrong += [f"trace: {errors[:300]}"] if "Traceback" in errors or "***" in errors else []
            wrong += [f"an idle run: {name}" for name in idle_runs(self.home)]
        return wrong

    def kill(self, what: str, number: int) -> str:
        "Kill a command once; the word for how it ended"
        run, wait = self.start(what), self.rng.uniform(0.2, 1.0) * self.seconds[what]
        try:
            errors = run.communicate(timeout=wait)[1]
        except subprocess.TimeoutExpired:
            run.send_signal(number)
            errors = run.communicate()[1]
        wrong = self.after(what, number, run.returncode, errors)
        self.wrong += [f"{what}, {signal.Signals(number).name} after {wait:.2f} s: {each}" for each in wrong]
        print(*self.wrong[len(self.wrong) - len(wrong):], sep="\n", end="\n" if wrong else "", flush=True)
        for name in idle_runs(self.home):  # a SIGKILL leaves one, as it should: it can be gone on with
            for run_ in runs(Settings(home=self.home)):
                if run_.name == name:
                    subprocess.run(["rm", "-r", run_.experiment, run_.model])
        return {0: "faster", 143: "143", -9: "killed", -15: "before it listened"}.get(run.returncode, str(run.returncode))


def main() -> None:
    "The command"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", type=int, default=100, help="so many times SIGKILL")
    parser.add_argument("--term", type=int, default=30, help="so many times SIGTERM")
    parser.add_argument("--seed", type=int, default=20240207, help="of the instants")
    parser.add_argument("--only", action="append", help="a command; may be repeated (default: all seven)")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="k") as folder:
        kills = Kills(Path(folder), a.seed)
        wanted = a.only or list(kills.lines)
        kills.prepare(wanted)
        counted = collections.Counter()
        for number, times in ((signal.SIGTERM, a.term), (signal.SIGKILL, a.kill)):
            for n in range(times):
                what = wanted[n % len(wanted)]
                counted[what, number.name, kills.kill(what, number)] += 1
        for (what, name, ended), times in sorted(counted.items()):
            print(f"{what:<9} {name}  {ended:<18} {times:>3}")
    print(f"{a.kill} SIGKILL, {a.term} SIGTERM: {len(kills.wrong)} things wrong")
    sys.exit(bool(kills.wrong))


if __name__ == "__main__":
    main()
