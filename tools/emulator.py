#!/usr/bin/env python3
"""Run the stop-event SQL through Google's BigQuery client on an emulator, and compare with DuckDB.

`python tools/emulator.py` makes an environment of its own in a temporary folder (about 600 MB), installs bqemulator into it,
starts it on a free port of this machine, loads the four tables of a small sample, and asks for every frame, and for all of
them in the one query that a reading of BigQuery sends: each column has to equal DuckDB's, row for row. Then it asks every literal case of mbta_ml.sources.bigquery.meaning, whose answers are BigQuery's
manual's. One line each; exit code 0 or 1. Where the environment can't be installed it says "skipped: …" and ends with 0.

The emulator is not BigQuery: it translates to DuckDB, as we do, with a translation of its own. It tells whether the text is
accepted, whether Google's client reads the answers as we mean them, and where the two translations part.
"""
import asyncio
import json
import pickle
import signal
import sys
import tempfile
import threading
import time
from datetime import date, timedelta
from pathlib import Path

PACKAGES = ["bqemulator>=1.4,<2", "duckdb==1.5.5", "duckdb-extension-spatial==1.5.5", "numpy", "google-cloud-bigquery>=3.40,<4", "pyarrow>=20"]
START, DAYS = date(2024, 3, 9), 2  # the night on which Boston's clocks change lies between
ROUTES = ["Blue", "Mattapan", "1"]  # subway, light rail, bus: enough to meet every rule, few enough for two minutes
CUT = "2024-03-10 16:00:00+00:00"  # stop events are asked for a second time as they were known then
INSTALL_SECONDS, ASK_SECONDS = 300, 300  # far more than they take, so that a busy machine is no failure
TYPES = {"string": "STRING", "int32": "INT64", "double": "FLOAT64", "bool": "BOOL", "timestamp[us, tz=UTC]": "TIMESTAMP", "date32[day]": "DATE"}
STATED = """
ALTER TABLE vehicle ADD COLUMN start_date DATE; ALTER TABLE vehicle ADD COLUMN start_time VARCHAR; ALTER TABLE schedule ADD COLUMN service_date DATE;
UPDATE vehicle SET start_date = CAST(timezone('America/New_York', updated_at) - INTERVAL 3 HOUR AS DATE) WHERE direction_id = 0;
UPDATE vehicle SET start_time = IF(minute(updated_at) < 30, '07:00:00', '08:00:00') WHERE route_id = 'Mattapan';
UPDATE vehicle SET revenue = 'NON_REVENUE' WHERE trip_id = (SELECT min(trip_id) FROM vehicle);
UPDATE schedule SET service_date = CAST(timezone('America/New_York', coalesce(arrival_time, departure_time)) - INTERVAL 3 HOUR AS DATE) WHERE route_id = '1'
"""  # what records may state and the sample doesn't: dates, start times, trips for nobody


# Inside the environment: the emulator and Google's client, without mbta_ml
def ask(folder: Path):
    "Load `folder`'s tables into an emulator, ask its questions, and leave the answers there"
    import duckdb
    import duckdb_extension_spatial
    import pyarrow.parquet as pq
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    extension = next(Path(duckdb_extension_spatial.__file__).parent.rglob("*.duckdb_extension"))
    duckdb.connect().execute(f"INSTALL '{extension}'")  # into HOME, which is the folder; the emulator would download it

    from bqemulator.config import Settings
    from bqemulator.server import EmulatorServer
    server, loop = EmulatorServer(Settings(rest_port=0, grpc_port=0, enable_format_extensions=False, log_level="error")), asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(60)
    client = bigquery.Client("project", credentials=AnonymousCredentials(), client_options={"api_endpoint": server.rest_url})
    client.create_dataset("mbta")
    for path in sorted((folder / "tables").glob("*.parquet")):
        table = bigquery.Table(f"project.mbta.{path.stem}", [bigquery.SchemaField(field.name, TYPES[str(field.type)]) for field in pq.read_schema(path)])
        client.create_table(table)
        with open(path, "rb") as file:
            client.load_table_from_file(file, table, job_config=bigquery.LoadJobConfig(source_format="PARQUET")).result()

    rows_of = lambda text: client.query(text, retry=None, job_retry=None).result(retry=None)
    questions = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    for name, text in questions["frames"].items():
        pq.write_table(rows_of(text).to_arrow(create_bqstorage_client=False), folder / f"{name}.parquet")
    answers = []
    for text in questions["cases"]:
        try:
            answers.append([dict(row.items()) for row in rows_of(text)])
        except GoogleAPICallError:
            answers.append(None)
    (folder / "answers.pickle").write_bytes(pickle.dumps(answers))
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(60)


# Outside: what to ask, and what DuckDB answers
def prepare(folder: Path) -> dict:
    "Write the tables and questions; frame → what DuckDB answers"
    from mbta_ml.sources.bigquery.read import everything, parameters_of
    from mbta_ml.simulator.sample import make_sample
    from mbta_ml.sources.bigquery.meaning import CASES, INSTEAD, TRAPS
    from mbta_ml.sources.dialects import connect, to_duckdb
    from mbta_ml.sources.stop_event_sql import COLUMNS, FRAMES, query

    def at_once(table: str) -> str:
        "What a reading of BigQuery asks, its parameters written out"
        made = everything({t: f"(SELECT {', '.join(columns)} FROM {table.format(t)})" for t, columns in COLUMNS.items()})
        days = {"first_day": START, "last_day": START + timedelta(DAYS)}
        for name, value in sorted({**parameters_of(*days.values(), None), **days}.items(), reverse=True):
            made = made.replace(f"@{name}", f"DATE '{value}'" if name in days else f"TIMESTAMP '{value}'")
        return made

    always = "2200-01-01 00:00:00+00:00"
    asked = {**{frame: (frame, always) for frame in FRAMES}, "stop_events as known at the cut": ("stop_events", CUT), "all of it at once": None}
    text = lambda name, table: at_once(table) if name == "all of it at once" else query(asked[name][0], {**{t: table.format(t) for t in COLUMNS}, "to": f"TIMESTAMP '{asked[name][1]}'"})
    (folder / "tables").mkdir()
    with connect() as con:
        con.execute(f"ATTACH '{make_sample(folder / 'sample.duckdb', days=DAYS, routes=ROUTES, start=START)}' AS src; USE src")
        con.execute(STATED)
        for table in COLUMNS:
            con.execute(f"COPY src.{table} TO '{folder / 'tables' / table}.parquet'")
        wanted = {name: con.sql(to_duckdb(text(name, "src.`{}`"))).to_arrow_table() for name in asked}
    cases = [case for tries in CASES.values() for case in tries] + INSTEAD + TRAPS
    (folder / "questions.json").write_text(json.dumps({"frames": {name: text(name, "`project.mbta.{}`") for name in asked},
                                                       "cases": [case[0] for case in cases]}), encoding="utf-8")
    return wanted


def difference(wanted, got) -> str:
    "What is not equal in two tables, in one sentence; empty where all is"
    if wanted.column_names != got.column_names:
        return f"DuckDB has the columns {', '.join(wanted.column_names)}; the emulator {', '.join(got.column_names)}"
    if len(wanted) != len(got):
        return f"DuckDB has {len(wanted):,} rows, the emulator {len(got):,}"
    for name in wanted.column_names:
        ours, theirs = wanted[name].to_pylist(), got[name].cast(wanted[name].type).to_pylist()
        rows = [row for row, (settings, other) in enumerate(zip(ours, theirs)) if settings != other]
        if rows:
            return f"{name} differs in {len(rows):,} of {len(ours):,} rows; in row {rows[0]} DuckDB has {ours[rows[0]]!r}, the emulator {theirs[rows[0]]!r}"
    return ""


def compare(folder: Path, wanted: dict) -> bool:
    "Say of every frame and of the literal cases whether they agree; whether all do"
    import pyarrow.parquet as pq
    from mbta_ml.sources.bigquery.meaning import CASES, INSTEAD, TRAPS, as_text

    agreed = True
    for name, ours in wanted.items():
        theirs = pq.read_table(folder / f"{name}.parquet")
        if "reason" in ours.column_names:  # counts by reason come in no order
            ours, theirs = (table.select(ours.column_names).sort_by([(column, "ascending") for column in ours.column_names]) for table in (ours, theirs))
        problem = difference(ours, theirs)
        agreed &= not problem
        print(f"{name}: {problem or f'{len(ours):,} rows, {ours.num_columns} columns, all equal'}")
    said = ["an error" if rows is None else as_text(rows) for rows in pickle.loads((folder / "answers.pickle").read_bytes())]
    ours = [case for tries in CASES.values() for case in tries] + INSTEAD
    wrong = [f"{text}: {other}, not {answer}" for (text, answer, _), other in zip(ours, said) if other != answer]
    print(*wrong, f"literal cases: {len(ours) - len(wrong)} of {len(ours)} answered as BigQuery's manual says", sep="\n")
    right = sum(answer == other for (_, answer, _), other in zip(TRAPS, said[len(ours):]))
    print(f"constructs that we refuse: {right} of {len(TRAPS)} answered as BigQuery's manual says (the emulator's matter, not ours)")
    return agreed and not wrong


def main() -> int:
    "0 where all agree or nothing could be installed, else 1"
    from own_environment import install, run_inside

    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends, too
    with tempfile.TemporaryDirectory(prefix="emulator-") as folder:
        folder = Path(folder)
        problem = install(folder / "venv", PACKAGES, INSTALL_SECONDS)
        if problem:
            print(f"skipped: the emulator can't be installed here ({problem})")
            return 0
        wanted = prepare(folder)
        if problem := run_inside(folder / "venv", __file__, folder, ASK_SECONDS, HOME=str(folder), NO_PROXY="*"):
            print(f"the emulator: {problem}")
            return 1
        agreed = compare(folder, wanted)
    print(f"{'all agree' if agreed else 'they differ'}; {time.monotonic() - began:.0f} seconds")
    return 0 if agreed else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        ask(Path(sys.argv[2]))
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        sys.exit(main())
