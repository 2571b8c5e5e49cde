#!/usr/bin/env python
"""Kill a collector at random instants while it hears an archived hour, and look for what is lost or doubled.

    python tools/collector_kills.py                          50 times SIGKILL
    python tools/collector_kills.py --kill 5 --seed 2        fewer, and others

The hour of the MBTA's vehicle positions below MBTA_ML_REAL_DATA (where it is absent: twenty minutes of trains by hand) is served over HTTP as
fast as it is asked for, and one request in ten goes wrong: 503, 429, slow, truncated, stale, malformed, doubled, or back in time. A
collector polls it, keeps each snapshot, merges its journal every 40 snapshots (two kills in five wait for a merge and fall into it), and says through a
pipe what it has acknowledged. It is killed, started again, and killed again; the last one comes to the end.

Whatever was acknowledged, the next one has to know: it goes on after it, and is never served it again. Afterwards the file has to hold each change of each vehicle once, with the time of the snapshot that told it first, all columns
compared with the archive; and as many snapshots as were served. One line each; exit code 0 or 1.
"""
import argparse
import collections
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mbta_ml.config import Settings, real_files
from mbta_ml.realtime.collector import Collector, opened
from mbta_ml.realtime.decode import decode_positions, fit_pings
from mbta_ml.realtime.feed_stand_in import FeedStandIn, archived, drawn_faults, reel_of
from mbta_ml.realtime.feeds import Feed
from mbta_ml.realtime.messages import Ping, Snapshot
from mbta_ml.sources.tables import read_tables

FEED = "vehicle_positions"
MERGE_EVERY, FAULTY_SHARE, LONGEST_SECONDS = 40, 0.1, 1500


def by_hand(snapshots: int = 600, trains: int = 40):
    "Trains that move, stand and turn back, every two seconds"
    start, rng, told = 1683547204.0, random.Random(1), {}
    made = []
    for n in range(snapshots):
        at = start + 2 * n
        for train in range(trains):
            if n == 0 or rng.random() < 0.1:
                stop = n // 30
                status = rng.choice(["STOPPED_AT", "IN_TRANSIT_TO", "INCOMING_AT"])
                told[train] = Ping(f"R-{train}", f"T{train}", "Red", train % 2, f"7{stop:04}", status, stop, "20230508", "08:00:00", "SCHEDULED",
                                   latitude=round(42.3 + n / 10_000, 5), longitude=round(-71.1 + train / 1000, 5), speed=float(n % 9), updated_at=at - rng.randrange(2, 9))
        made.append(Snapshot(at, tuple(ping._replace(recorded_at=at) for ping in told.values())))
    return reel_of(made)


def child(address: str, file: Path, last: float) -> None:
    "A collector that tells what it does, until it has heard the last snapshot"
    tell, began = lambda *words: os.write(1, (" ".join(map(str, words)) + "\n").encode()), time.monotonic()
    with Collector(file, Settings(), say=lambda line: tell("said", line)) as collector:
        tell("ready", time.monotonic() - began, collector.since(FEED) or 0.0)
        how = {"poll_seconds": 0.002, "timeout_seconds": 0.5, "stale_seconds": 1e9}
        feed = Feed(address, decode_positions, since=collector.since(FEED), say=lambda line: tell("feed", line), **how)
        kept = 0
        for poll in feed:
            if poll.snapshot and collector.keep(poll.snapshot, FEED) is not None:
                tell("kept", poll.snapshot.recorded_at)
                kept += 1
                if kept % MERGE_EVERY == 0:
                    tell("merging")
                    collector.merge()
                    tell("merged")
            if collector.since(FEED) == last:
                break
        feed.close()
        tell("merging")
    tell("done")


class Child:
    "A collector in a process of its own"

    def __init__(self, address: str, file: Path, last: float):
        line = [sys.executable, __file__, "--child", address, str(file), repr(last)]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.left, self.lines = b"", []

    def hear(self, seconds: float) -> list[str]:
        "What it says meanwhile; nothing more once it has ended"
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        piece = os.read(self.process.stdout.fileno(), 65536) if ready else b""
        *lines, self.left = (self.left + piece).split(b"\n")
        new = [line.decode() for line in lines]
        self.lines += new
        return new if piece or not ready else [*new, "ended"]

    def kill(self) -> None:
        "SIGKILL, and what it had said before"
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        while "ended" not in self.hear(0.1):
            pass


def run_until(child: Child, snapshots: int | None, delay: float, merging: bool) -> str:
    "Let it hear so many snapshots, and begin a merge where that is asked, and a little more; then kill it. None: let it come to its end"
    count, last = 0, ""
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        for line in child.hear(1.0):
            count += line.startswith("kept")
            last = line
            if line == "ended":
                child.process.wait()
                return "ended"
        if snapshots is not None and count >= snapshots and (last == "merging" or not merging):
            time.sleep(delay)
            child.kill()
            return "killed"
    child.kill()
    raise SystemExit("a collector hung: " + " / ".join(child.lines[-3:]))


def expected_of(reel) -> dict:
    "Each change of each vehicle, with the time of the snapshot that told it first"
    first = {}
    for n in range(len(reel)):
        at, pings, _ = reel[n]
        for ping in fit_pings(list(pings), collections.Counter()):
            first.setdefault(in_table(ping), at)
    return first


def in_table(ping: Ping) -> tuple:
    "A ping as a row of the table, without the snapshot's time"
    day = ping.start_date and f"{ping.start_date[:4]}-{ping.start_date[4:6]}-{ping.start_date[6:]}"
    bearing = None if ping.bearing is None else round(ping.bearing)
    start = None if ping.schedule_relationship == "ADDED" else ping.start_time
    status = ping.current_status or "IN_TRANSIT_TO"
    return ping._replace(start_date=day, bearing=bearing, start_time=start, current_status=status)[:-1]


def found_in(file: Path) -> list[tuple]:
    "The rows of the table, and their times"
    names = {"start_date": "CAST(start_date AS VARCHAR)", "updated_at": "epoch(updated_at)"}
    columns = ", ".join(names.get(name, name) for name in Ping._fields[:-1])
    with opened(file, read_only=True) as con:
        rows = con.sql(f"SELECT {columns}, epoch(recorded_at) FROM vehicle").fetchall()
        heard = con.sql("SELECT sum(snapshots), count(*) FROM heard").fetchall()[0]
    return [(row[:-1], row[-1]) for row in rows], heard


def check(reel, file: Path, acknowledged: set) -> list[str]:
    "What is wrong with the file"
    expected, (rows, (snapshots, spans)) = expected_of(reel), found_in(file)
    counted = collections.Counter(row for row, _ in rows)
    wrong = {
        "changes are lost": len(set(expected) - set(counted)),
        "changes are doubled": sum(n - 1 for n in counted.values()),
        "rows are no change that the archive knows": len(set(counted) - set(expected)),
        "rows have another time than the first snapshot's": sum(expected.get(row, at) != at for row, at in rows),
        "snapshots more or fewer than were served": abs(int(snapshots) - len(reel)),
    }
    unsaid = len(set(reel.times) - acknowledged)  # on the disk, and killed before it could say so
    print(f"{len(acknowledged):,} snapshots acknowledged, {unsaid} kept and killed before they were")
    print(f"{len(rows):,} rows of {len(expected):,} changes, {snapshots:,} snapshots of {len(reel):,}, in {spans} span(s), {file.stat().st_size / 1e6:.1f} MB")
    return [f"{count:,} {what}" for what, count in wrong.items() if count]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kill", type=int, default=50, metavar="N", help="how often it is killed")
    parser.add_argument("--seed", type=int, default=1, help="of the instants and of the faults")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]), float(options.child[2]))
        return 0
    rng, began = random.Random(options.seed), time.monotonic()
    hour = real_files("gtfs_rt")
    reel = archived(hour / "2023-05-08T12Z", FEED) if hour else by_hand()
    states, starts, acknowledged, killed, forgotten = collections.Counter(), [], set(), 0, 0
    faults = drawn_faults(FAULTY_SHARE, options.seed)
    with tempfile.TemporaryDirectory() as folder, FeedStandIn({FEED: reel}, None, faults, slow_seconds=1.0) as server:
        file, address, last = Path(folder) / "heard.duckdb", f"{server.address}/VehiclePositions.pb", reel.times[-1]
        places = sorted(rng.randrange(int(0.97 * len(reel))) for _ in range(options.kill))  # after which snapshot
        for nth, place in enumerate([*places, None]):
            final = place is None
            snapshots = None if final else max(0, place - len(acknowledged))
            one = Child(address, file, last)
            merging = rng.random() < 0.4
            end = run_until(one, snapshots, rng.random() * (0.2 if merging else rng.choice([0, 0.1]) if snapshots else 2.5), merging)
            taken_up = [float(line.split()[2]) for line in one.lines if line.startswith("ready")]
            forgotten += any(since < max(acknowledged, default=0.0) for since in taken_up)
            acknowledged |= {float(line.split()[1]) for line in one.lines if line.startswith("kept")}
            says = [line for line in one.lines if not line.startswith("feed")]
            doing = says[-1].split()[0] if says else "starting"
            states["done" if doing == "done" else f"while {doing if doing in ('merging', 'starting') else 'listening'}"] += 1
            states["torn lines found"] += sum("torn" in line for line in one.lines)
            states["a log of DuckDB's left"] += end == "killed" and Path(f"{file}.wal").exists()
            starts += [float(line.split()[1]) for line in one.lines if line.startswith("ready")]
            killed += end == "killed"
            if end == "ended" and one.process.returncode:
                print(f"failed: a collector ended with {one.process.returncode}: {one.process.stderr.read().decode()[-800:]}")
                return 1
        print(f"{killed} kills: " + "; ".join(f"{count} {what}" for what, count in states.items()))
        print(f"taken up what was left in {1000 * statistics.median(starts):.0f} ms in the median, {1000 * max(starts):.0f} ms at most")
        asked = collections.Counter(fault or "none" for _, fault, *_ in server.requests)
        print(f"{sum(asked.values()):,} requests, faults: " + ", ".join(f"{n} {fault}" for fault, n in sorted(asked.items()) if fault != "none"))
        wrong = check(reel, file, acknowledged)
        left = [path.name for path in Path(folder).rglob("*") if path.suffix in (".jsonl", ".wal")]
        wrong += [f"{forgotten} times it went on before what it had acknowledged"] if forgotten else []
        wrong += [f"left over: {', '.join(left)}"] if left else []
        events = read_tables(file, Settings()).stop_events.num_rows
    print(f"read as a source: {events:,} stop events; {time.monotonic() - began:.0f} s")
    for line in wrong:
        print(f"failed: {line}")
    print("nothing is lost, nothing is doubled" if not wrong else f"{len(wrong)} kinds of fault")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
