#!/usr/bin/env python3
"""Hold an hour of our TripUpdates against the timetable they belong to, with a validator and readers that others wrote.

`python tools/gtfs_rt_validator.py` makes an environment of its own in a temporary folder, installs gtfs-rt-validator and
gtfs-realtime-bindings into it, writes the simulator's timetable as a GTFS zip and an hour of a simulated rush hour as feeds
(120 of them, with added and cancelled trips, skipped stops, predictions that cross, trips told of twice and vehicles on the
trip before), and lets the validator find errors: there must be none. Then it plants four errors, each of which has to be
found. Two readers, MobilityData's bindings for Python and for Node, have to find in the bytes what our JSON says.

Exit code 0 or 1. Where the packages can't be installed it says "skipped: …" and ends with 0; without npm it leaves out Node.
"""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

PACKAGES = ["gtfs-rt-validator>=0.3,<0.4", "gtfs-realtime-bindings>=2.2,<4"]
NODE_PACKAGE = "gtfs-realtime-bindings@2"
ROUTES = ["Red", "Mattapan", "1"]  # subway with two branches, light rail, bus
DAY = date(2024, 3, 6)  # a Wednesday
FROM, SECONDS, EVERY = 8 * 3600, 3600, 30  # since midnight; more than 30 s apart would be told as slow (P004)
INSTALL_SECONDS, ASK_SECONDS = 300, 300  # far more than they take, so that a busy machine is no failure
READ_IN_NODE = """
const rt = require('gtfs-realtime-bindings').transit_realtime, fs = require('fs');
const has = (o, f) => Object.prototype.hasOwnProperty.call(o, f), number = v => v === null ? null : Number(v);
const feed = rt.FeedMessage.decode(fs.readFileSync(process.argv[2]));
const event = (s, f) => has(s, f) && s[f] ? [number(s[f].time), has(s[f], 'uncertainty') ? s[f].uncertainty : null] : null;
console.log(JSON.stringify([number(feed.header.timestamp), feed.entity.map(e => [e.id, e.tripUpdate.trip.tripId,
  rt.TripDescriptor.ScheduleRelationship[e.tripUpdate.trip.scheduleRelationship], number(e.tripUpdate.timestamp),
  e.tripUpdate.stopTimeUpdate.map(s => [s.stopId, s.stopSequence, rt.TripUpdate.StopTimeUpdate.ScheduleRelationship[s.scheduleRelationship],
    event(s, 'arrival'), event(s, 'departure')])])]));
"""


# Inside the environment: the validator and Python's reader, without mbta_ml (and with -P, since this file has the package's name)
def ask(folder: Path):
    "Validate the feeds in `folder`, read one of them, and leave the answers there"
    from google.transit import gtfs_realtime_pb2 as rt
    from gtfs_rt_validator.api import VERSION, Mode, Request, SortBy, prepare_feed, resolve, validate

    feed = prepare_feed(folder / "gtfs.zip", mode=Mode.MODERN)
    answers = {"version": VERSION}
    for feeds in sorted(path for path in folder.iterdir() if path.name.startswith("feeds")):
        result = validate(Request(mode=Mode.MODERN, gtfs=feed, inputs=resolve(str(feeds), sort_by=SortBy.DATE_MODIFIED)))
        result.write(feeds / "report")
        answers[feeds.name] = {"errors": result.error_ids(), **json.loads((feeds / "report" / "report.json").read_text())}
        answers[feeds.name]["unread"] = json.loads((feeds / "report" / "system_errors.json").read_text())
    event = lambda stop, name: [getattr(stop, name).time, getattr(stop, name).uncertainty if getattr(stop, name).HasField("uncertainty") else None] if stop.HasField(name) else None
    message = rt.FeedMessage.FromString((folder / "TripUpdates.pb").read_bytes())
    answers["read"] = [message.header.timestamp, [
        [e.id, e.trip_update.trip.trip_id, rt.TripDescriptor.ScheduleRelationship.Name(e.trip_update.trip.schedule_relationship), e.trip_update.timestamp,
         [[s.stop_id, s.stop_sequence, rt.TripUpdate.StopTimeUpdate.ScheduleRelationship.Name(s.schedule_relationship), event(s, "arrival"), event(s, "departure")]
          for s in e.trip_update.stop_time_update]] for e in message.entity]]
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")


# Outside: the timetable, the feeds, and what has to be answered
def install_in_node(folder: Path) -> str:
    "Install Node's reader; says why where that can't be"
    npm = shutil.which("npm")
    if not npm or not shutil.which("node"):
        return "node and npm are not here"
    folder.mkdir()
    try:
        done = subprocess.run([npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", "--silent", NODE_PACKAGE],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return ([f"npm ended with {done.returncode}"] + done.stdout.strip().splitlines())[-1] if done.returncode else ""


def clock(seconds: float) -> str:
    "Seconds since midnight as GTFS writes them"
    return f"{int(seconds) // 3600:02d}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def write_zip(path: Path, net, plan, stops, truth):
    "The simulator's timetable as a GTFS zip, whose blocks are the vehicles that truly ran"
    import pandas as pd

    vehicle = truth.drop_duplicates("trip_id").set_index("trip_id").vehicle_id
    trips = plan.drop_duplicates("trip_id")
    kinds = net.drop_duplicates("route_id").set_index("route_id")["mode"].map({"heavy": 1, "light": 0, "bus": 3})
    station = ~stops["id"].isin(net.stop_id)
    files = {
        "agency": pd.DataFrame([("1", "Simulated", "https://example.com", "America/New_York")], columns=["agency_id", "agency_name", "agency_url", "agency_timezone"]),
        "routes": pd.DataFrame({"route_id": kinds.index, "agency_id": "1", "route_short_name": kinds.index, "route_type": kinds.fillna(1).astype(int)}),
        "stops": pd.DataFrame({"stop_id": stops["id"], "stop_name": stops["name"].str.split().str.join(" "), "stop_lat": stops.latitude, "stop_lon": stops.longitude,
                               "location_type": station.astype(int), "parent_station": stops.parent_station}),
        "trips": pd.DataFrame({"route_id": trips.route_id, "service_id": "weekday", "trip_id": trips.trip_id, "direction_id": trips.direction_id,
                               "block_id": trips.trip_id.map(vehicle)}),
        "stop_times": pd.DataFrame({"trip_id": plan.trip_id, "arrival_time": plan.arrival_seconds.map(clock), "departure_time": plan.departure_seconds.map(clock),
                                    "stop_id": plan.stop_id, "stop_sequence": plan.stop_sequence}),
        "calendar": pd.DataFrame([("weekday", 1, 1, 1, 1, 1, 0, 0, "20240101", "20241231")], columns="service_id monday tuesday wednesday thursday friday saturday sunday start_date end_date".split()),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, frame in files.items():
            archive.writestr(f"{name}.txt", frame.to_csv(index=False))


def hour(plan, truth):
    "An hour of publications: what somebody would expect who errs by a tenth of the time ahead"
    from mbta_ml.realtime.messages import Publication, StopForecast, TripForecast

    noon = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=ZoneInfo("America/New_York")).astimezone(UTC)
    midnight, day, draws = (noon - timedelta(hours=12)).timestamp(), f"{DAY:%Y%m%d}", random.Random(7)
    starts = plan.groupby("trip_id").departure_seconds.min()
    runs = [(rows[0], rows) for _, frame in truth.groupby("trip_id", sort=False) for rows in [list(frame.itertuples())]]
    cancelled = {first.trip_id for n, (first, _) in enumerate(runs) if n % 25 == 3 and not first.added and first.departure_seconds > FROM}
    for now in range(FROM, FROM + SECONDS, EVERY):
        told = []
        for n, (first, rows) in enumerate(runs):
            waits = first.departure_seconds > now  # a vehicle that is still on the trip before, or stands at its terminal
            if not first.departure_seconds - 600 <= now < rows[-1].arrival_seconds:
                continue
            off = first.trip_id in cancelled
            ahead, skipped = [], [(r.stop_id, r.stop_sequence) for r in rows[5:6] if n % 17 == 2 and r.arrival_seconds > now]
            for row in rows:
                if now < row.arrival_seconds < now + 2400 and not off:
                    error = 5 + 0.1 * (row.arrival_seconds - now)
                    at = midnight + row.arrival_seconds + draws.gauss(0, error)
                    planned = None if first.added else midnight + row.scheduled_arrival_seconds
                    ahead.append(StopForecast(row.stop_id, int(row.stop_sequence), at, at - 1.28 * error, at + 1.28 * error, planned, midnight + now))
            heard = midnight + now - draws.uniform(1, 40)
            status = "CANCELED" if off else "ADDED" if first.added else "SCHEDULED"
            start = None if first.added else clock(starts[first.trip_id])
            trip = TripForecast(first.trip_id, first.route_id, int(first.direction_id), day, start, status, None if off else first.vehicle_id, None if off else first.vehicle_id[2:],
                                heard, tuple(ahead), tuple(skipped))
            told.append(trip)
            if n % 31 == 0 and not waits:
                told.append(trip._replace(heard_at=heard - 5))  # another vehicle's old claim to the trip
        yield Publication(midnight + now + 0.7, midnight + now, tuple(told))


def planted(message: dict, kind: str) -> dict:
    "A feed with one error"
    message = json.loads(json.dumps(message))
    updates = next(e["trip_update"] for e in message["entity"] if len(e["trip_update"].get("stop_time_update", ())) > 4 and e["trip_update"]["trip"]["schedule_relationship"] == "SCHEDULED")
    stops = updates["stop_time_update"]
    if kind == "E002":  # stops out of order
        stops[1], stops[2] = stops[2], stops[1]
    if kind == "E022":  # times that run backwards
        for name in ("arrival", "departure"):
            stops[2][name]["time"] = stops[0]["arrival"]["time"] - 60
    if kind == "E003":  # a trip that nobody knows
        updates["trip"]["trip_id"] = "nobody-knows-it"
    if kind == "E012":  # a time after the feed's own
        updates["timestamp"] = message["header"]["timestamp"] + 90
    return message


def prepare(folder: Path) -> dict:
    "Write the zip and the feeds; what was mended in them, and what the readers have to find"
    from collections import Counter

    from mbta_ml.realtime.trip_updates import feed_message, json_of, protobuf_of, tidy
    from mbta_ml.simulator.network import network, timetable
    from mbta_ml.simulator.sample import stop_table
    from mbta_ml.simulator.world import simulate_day

    net = network(ROUTES)
    plan = timetable(net, "Weekday")
    truth = simulate_day(net, DAY, 7, plan)
    write_zip(folder / "gtfs.zip", net, plan, stop_table(net), truth)
    last = plan.groupby("trip_id").stop_sequence.max().astype(int).to_dict()
    counts, statuses, feeds = Counter(), Counter(), folder / "feeds"

    def write(where: Path, message: dict):
        where.parent.mkdir(exist_ok=True)
        where.write_bytes(protobuf_of(message))
        os.utime(where, (message["header"]["timestamp"] + 1,) * 2)  # the validator's clock

    for number, publication in enumerate(hour(plan, truth)):
        fit, mended = tidy(publication, 300)
        counts += mended
        message = feed_message(fit, last)
        statuses.update(e["trip_update"]["trip"]["schedule_relationship"] for e in message["entity"])
        statuses.update(s["schedule_relationship"] + " stop" for e in message["entity"] for s in e["trip_update"].get("stop_time_update", ()))
        write(feeds / f"{number:04d}.pb", message)
    for kind in ("E002", "E003", "E012", "E022"):
        write(folder / f"feeds-{kind}" / "0000.pb", planted(message, kind))
    shutil.copy(feeds / f"{number:04d}.pb", folder / "TripUpdates.pb")
    event = lambda stop, name: [stop[name]["time"], stop[name].get("uncertainty")] if name in stop else None
    said = json.loads(json_of(message))
    read = [said["header"]["timestamp"], [[e["id"], u["trip"]["trip_id"], u["trip"]["schedule_relationship"], u["timestamp"], [
        [s["stop_id"], s["stop_sequence"], s["schedule_relationship"], event(s, "arrival"), event(s, "departure")] for s in u.get("stop_time_update", ())]]
        for e in said["entity"] for u in [e["trip_update"]]]]
    return {"mended": counts, "statuses": statuses, "feeds": number + 1, "read": read}


def judge(answers: dict, wanted: dict) -> bool:
    "Say what the validator found; whether that is as it should be"
    report = answers["feeds"]
    ran = report["summary"]["rulesRun"]
    print(f"gtfs-rt-validator {answers['version']}: {report['summary']['messagesValidated']} of {wanted['feeds']} feeds against {len(ran)} rules: {' '.join(ran)}")
    print("told of:", ", ".join(f"{number:,} {status}" for status, number in wanted["statuses"].items()))
    print("mended or left out before:", ", ".join(f"{number:,} {reason}" for reason, number in wanted["mended"].items()))
    unread = answers["feeds"]["unread"]
    unread = unread.get("notices", unread) if isinstance(unread, dict) else unread
    for notice in report["notices"]:
        print(f"{notice['severity']} {notice['code']}: {notice['totalNotices']:,}, such as {json.dumps(notice['sampleNotices'][0])}")
    print(f"errors: {', '.join(report['errors']) or 'none'}")
    good = not report["errors"] and not unread and report["summary"]["messagesValidated"] == wanted["feeds"]
    for name, found in answers.items():
        if name.startswith("feeds-"):
            kind = name.partition("-")[2]
            good &= kind in found["errors"]
            print(f"planted {kind}: {'found' if kind in found['errors'] else 'NOT FOUND'} (errors: {', '.join(found['errors']) or 'none'})")
    same = answers["read"] == wanted["read"]
    print(f"gtfs-realtime-bindings for Python: {'reads what our JSON says' if same else 'reads something else'} ({len(wanted['read'][1])} trips)")
    return good and same


def judge_in_node(folder: Path, wanted: dict) -> bool:
    "Whether Node's reader finds what we said; true where it can't be installed"
    if why := install_in_node(folder / "node"):
        print(f"left out: gtfs-realtime-bindings for Node can't be installed here ({why})")
        return True
    (folder / "node" / "read.js").write_text(READ_IN_NODE, encoding="utf-8")
    done = subprocess.run(["node", folder / "node" / "read.js", folder / "TripUpdates.pb"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=ASK_SECONDS)
    same = not done.returncode and json.loads(done.stdout) == wanted["read"]
    print(f"gtfs-realtime-bindings for Node: {'reads what our JSON says' if same else 'reads something else: ' + done.stdout[:500]}")
    return same


def main() -> int:
    "0 where there is no error or nothing could be installed, else 1"
    from own_environment import install, run_inside

    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends, too
    with tempfile.TemporaryDirectory(prefix="gtfs-rt-") as folder:
        folder = Path(folder)
        if problem := install(folder / "venv", PACKAGES, INSTALL_SECONDS):
            print(f"skipped: gtfs-rt-validator can't be installed here ({problem})")
            return 0
        wanted = prepare(folder)
        if problem := run_inside(folder / "venv", __file__, folder, ASK_SECONDS, "-P"):
            print(f"the validator: {problem}")
            return 1
        good = judge(json.loads((folder / "answers.json").read_text(encoding="utf-8")), wanted)
        good &= judge_in_node(folder, wanted)
    print(f"{'all is well' if good else 'something is wrong'}; {time.monotonic() - began:.0f} seconds")
    return 0 if good else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        ask(Path(sys.argv[2]))
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        sys.exit(main())
