#!/usr/bin/env python
"""Kill commands at random instants and see what is left after the next command.

    python tools/kills.py                          100 times SIGKILL, 30 times SIGTERM
    python tools/kills.py --kill 10 --term 5       fewer
    python tools/kills.py --only search --term 9 --kill 0
    python tools/kills.py --only promote --only rollback --only pull --term 0

Eight commands take turns (train, search, predict, extract, examples, promote, rollback, pull), on a day of a simulated trolley
line in a home folder of their own. Each is killed at an instant drawn between its imports and its end. `registry list` then runs,
and after it nothing may be left over, nothing half-written may stand under a name of ours, and no process may be alive. After
SIGTERM the exit status is 143 (or 0, where the command was faster), there is no stack trace, and no run that has nothing to go
on with.

Promote, rollback and pull have a rival that isn't killed: another of the three, at the same time, in the same home folder or in
that of a second machine. Where a server for gs:// is installed, the two machines share their models through it. Afterwards
production holds one whole model that answers, on both machines and in the shared copy; no line of a history is lost; and `pull`
brings all three to the same model.
"""
import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from mbta_ml.config import Settings
from mbta_ml.sources.extract import read_extract
from mbta_ml.simulator.sample import make_sample
from mbta_ml.files import read_lines
from mbta_ml.models.predictors import load_model
from mbta_ml.models.on_disk import read_sidecar
from mbta_ml.registry import promote, pull
from mbta_ml.remote import head_of, remote_of, storage_server
from mbta_ml.runs import runs, state

MARK = "MBTA_KILLS"  # a variable by which our processes are found
REGISTRY = ("promote", "rollback", "pull")  # that change what is in production, and have a rival
BEST = Path("production_models") / "final_best_xgboost.json"


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
        "promote": module("registry", "promote", "RUN", "--force", "--why", "to be killed"),
        "rollback": module("registry", "rollback"),
        "pull": module("registry", "pull"),
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


def as_command(line: list[str], env: dict, errors: str) -> None:
    "What `python -m` does, in a process that has everything imported already"
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.argv = line[2:]
    runpy.run_module(line[2], run_name="__main__", alter_sys=True)


class Warm:
    "A command without the seconds that its imports take, so that kills fall into its work"

    context = multiprocessing.get_context("forkserver")  # whose children are forked from a clean one
    context.set_forkserver_preload(["mbta_ml.registry", "google.cloud.storage", "xgboost"])

    def __init__(self, line: list[str], env: dict):
        file, self.errors = tempfile.mkstemp()
        os.close(file)
        self.process = self.context.Process(target=as_command, args=(line, env, self.errors))
        self.process.start()

    @property
    def returncode(self) -> int | None:
        "As of `Popen`"
        return self.process.exitcode

    def wait(self) -> None:
        "Until it has ended"
        self.process.join()

    def send_signal(self, number: int) -> None:
        "Kill it"
        os.kill(self.process.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[None, str]:
        "Wait, and read what went to standard error"
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("", timeout)
        said = Path(self.errors).read_text(errors="replace")
        os.unlink(self.errors)
        return None, said


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
        self.there, self.server = top / "there", storage_server()
        self.ended, self.rivals, self.known = collections.Counter(), [], {}
        if self.server:
            remote_of(self.settings(self.home)).bucket.client.create_bucket("kills")

    def settings(self, home: Path) -> Settings:
        "Those of a machine that shares its models"
        shared = ("gs://kills/mbta", self.server.url) if self.server else ("", "")
        return Settings(home=home, remote=shared[0], storage_address=shared[1])

    def environment(self, home: Path) -> dict:
        "The same, as variables"
        settings = self.settings(home)
        shared = {"MBTA_ML_REMOTE": settings.remote, "STORAGE_EMULATOR_HOST": settings.storage_address}
        return {**self.env, "MBTA_ML_HOME": str(home), **(shared if self.server else {})}

    def agree(self) -> None:
        "Two machines with the same model in production, on top of another"
        here = self.settings(self.home)
        if self.server and head_of(remote_of(here), BEST.stem).generation:
            pull(here)
        for run in self.rng.sample(self.finished(), 2):
            said = promote(run.model / "xgboost.json", self.home / BEST, "to be killed", here)
            if said.startswith("not promoted"):
                sys.exit(said)
        if self.server:
            pull(self.settings(self.there))
        for home in (self.home, self.there):
            lines = home / BEST.with_name("history.jsonl")
            self.known[home] = lines.read_bytes() if lines.exists() else b""

    def rival(self, run) -> Warm:
        "Another command that changes what is in production, at the same time"
        usual = [self.home, self.there] if self.server else [self.home]
        home, what = self.rng.choice(usual), self.rng.choice(REGISTRY if self.server else REGISTRY[:2])
        line = [str(run.model) if part == "RUN" else part for part in self.lines[what]]
        if home == self.there and what == "promote":
            line[line.index(str(run.model))] = self.brought(run)
        return Warm(line, self.environment(home))

    def brought(self, run) -> str:
        "A run, copied to the second machine"
        for folder in (run.experiment, run.model):
            place = self.there / folder.relative_to(self.home)
            shutil.copytree(folder, place, dirs_exist_ok=True)
        return str(place)

    def after_rivals(self) -> list[str]:
        "What is wrong with what two writers left in production"
        wrong = []
        for rival in self.rivals:
            errors = rival.communicate()[1]
            self.ended["rival", rival.returncode] += 1
            if "Traceback" in errors or rival.returncode and "error: " not in errors:
                wrong.append(f"rival: exit status {rival.returncode}: {errors[-300:]}")
        self.rivals = []
        models = set()
        for home in (self.home, self.there) if self.server else (self.home,):
            try:
                load_model(home / BEST)  # whole and verified, before anything is mended
                lines = (home / BEST.with_name("history.jsonl")).read_bytes()
                if not lines.startswith(self.known[home]):
                    wrong.append(f"a line of the history is lost in {home.name}")
                if self.server:
                    pull(self.settings(home))
                load_model(home / BEST)
                models.add(read_sidecar(home / BEST.with_suffix(".meta.json"))["model_sha256"])
            except Exception as error:
                wrong.append(f"production of {home.name}: {type(error).__name__}: {error}")
        if self.server:
            models.add(head_of(remote_of(self.settings(self.home)), BEST.stem).entry["model_sha256"])
        return wrong + ([f"{len(models)} models where one should be"] if len(models) != 1 else [])

    def start(self, what: str) -> subprocess.Popen | Warm:
        "Begin a command"
        line, env = self.lines[what], self.env
        if what in REGISTRY:
            self.agree()
            run, env = self.rng.choice(self.finished()), self.environment(self.home)
            line = [str(run.model) if part == "RUN" else part for part in line]
            self.rivals = [self.rival(run)]
            return Warm(line, env)
        if what in ("train", "search"):
            line = [*line, "--seed", str(self.rng.randrange(1000))]
        return subprocess.Popen(line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finished(self) -> list:
        "The runs whose models may be promoted"
        return [run for run in runs(Settings(home=self.home)) if state(run) == "finished"]

    def prepare(self, wanted: list[str]) -> None:
        "Run each command once, and see how long it takes"
        for what in dict.fromkeys(["train", "train", *wanted]):
            for _ in range(2 if what == "train" else 1):
                run, began = self.start(what), time.monotonic()
                errors = run.communicate()[1]
                self.seconds[what] = time.monotonic() - began
                if run.returncode and what not in REGISTRY:
                    sys.exit(f"{what} fails by itself: {errors}")
                if wrong := self.after_rivals() if what in REGISTRY else []:
                    sys.exit(f"{what} fails by itself: {errors} {wrong}")
            print(f"{what:<9} takes {self.seconds[what]:5.1f} s", flush=True)

    def after(self, what: str, number: int, status: int, errors: str) -> list[str]:
        "Run the next command; what is wrong afterwards"
        began = time.monotonic()
        for rival in self.rivals:
            rival.wait()
        while alive(self.env[MARK]) and time.monotonic() - began < 60:  # Ray's agents look for their parents now and then
            time.sleep(0.2)
        wrong = [f"still alive: {line}" for line in alive(self.env[MARK])]
        wrong += self.after_rivals() if what in REGISTRY else []
        listed = Warm(module("registry", "list"), self.env)
        said = listed.communicate()[1]
        wrong += [f"list: {said}"] if listed.returncode or "Traceback" in said else []
        Warm(module("registry", "list"), self.environment(self.there)).communicate()
        places = (self.home, self.there, self.temporary)
        wrong += [f"left over: {name}" for place in places for name in hidden(place)]
        wrong += [f"left in the temporary folder: {p.name}" for p in self.temporary.iterdir()]
        wrong += [f"half-written: {name}" for home in places[:2] for name in damaged(home)]
        if number == signal.SIGTERM:
            fine = (143, 0, -15, *([1] if what in REGISTRY and "error: " in errors else []))
            wrong += [f"exit status {status}: {errors[-300:]}"] if status not in fine else []
            wrong += [f"trace: {errors[:300]}"] if "Traceback" in errors or "***" in errors else []
            wrong += [f"an idle run: {name}" for name in idle_runs(self.home)]
        return wrong

    def kill(self, what: str, number: int) -> str:
        "Kill a command once; the word for how it ended"
        least = 0.02 if what in REGISTRY else 0.2  # its imports
        run, wait = self.start(what), self.rng.uniform(least, 1.0) * self.seconds[what]
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
    parser.add_argument("--only", action="append", help="a command; may be repeated (default: all eight)")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="k") as folder:
        kills = Kills(Path(folder), a.seed)
        wanted = a.only or [what for what in kills.lines if what != "pull" or kills.server]
        kills.prepare(wanted)
        counted = collections.Counter()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's & takes away
        plan = [(wanted[n % len(wanted)], signal.SIGTERM) for n in range(a.term)]
        plan += [(wanted[n % len(wanted)], signal.SIGKILL) for n in range(a.kill)]
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C: what was done until then
            for what, number in plan:
                counted[what, number.name, kills.kill(what, number)] += 1
        for (what, name, ended), times in sorted(counted.items()):
            print(f"{what:<9} {name}  {ended:<18} {times:>3}")
        for (_, status), times in sorted(kills.ended.items()):
            print(f"rivals with exit status {status}: {times}")
        if kills.server:
            kills.server.stop()
    done = collections.Counter(name for (_, name, _), n in counted.items() for _ in range(n))
    print(f"{done['SIGKILL']} SIGKILL, {done['SIGTERM']} SIGTERM: {len(kills.wrong)} things wrong")
    sys.exit(bool(kills.wrong))


if __name__ == "__main__":
    main()
