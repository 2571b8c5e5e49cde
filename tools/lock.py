#!/usr/bin/env python3
"""Write the lock files of the two images: every package with its exact version and the hashes of its wheels.

`python tools/lock.py` asks pip to resolve what settings.ini asks for, anew, and writes requirements/:
  training.txt  the package's own requirements and the extras `train` and `gcp`, without XGBoost
  cpu.txt       XGBoost without CUDA;  gpu.txt  the build with CUDA, and NCCL
  dl.txt        what the extra `dl` adds: PyTorch's CPU build and ONNX
  build.txt     what builds the package
  serve.txt     the image that serves: the extra `serve`, and those of the package's own requirements that a service imports
`python tools/lock.py serve` writes that one alone.
`python tools/lock.py --check` only says whether they were made from what settings.ini says now; it needs no network.

Run it with Python 3.11 on Linux, x86_64 (the image's Python; pip reads markers for where it runs) and pip 23.3 or newer
(older ones download every file). Wheels of both machines that Linux images are made for go into one lock. No file names
a place to download from: that is pip's to know. PyTorch's CPU builds are not on PyPI, so pip needs to know their place:
PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu python tools/lock.py
"""
import argparse
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
SERVED = ("numpy", "python-dotenv")  # of the package's own requirements
PYTHON = "3.11"  # the one of the image
GLIBC = 36  # of Debian 12; the image's may be newer
MACHINES = ("x86_64", "aarch64")
# PyTorch's CPU build: no range can ask for it, since it differs from the CUDA build in its local version alone. Its hashes stand
# here because the lock is also made where one of its two wheels, or neither, can be had; pip compares them when it installs.
TORCH = "2.13.0+cpu"
TORCH_HASHES = {"x86_64": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
                "aarch64": "84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7"}


def asked() -> dict[str, list[str]]:
    "What the project asks for, by group"
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    own, train, gcp, dl = (shlex.split(config["DEFAULT"][name]) for name in ("requirements", "train_requirements", "gcp_requirements", "dl_requirements"))
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    return {"training": own + train + gcp, "dl": dl + [f"torch=={TORCH}"], "build": build}


def served() -> dict[str, list[str]]:
    "What the image that serves holds: no pandas, no Arrow, nothing that trains"
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    own, serve = (shlex.split(config["DEFAULT"][name]) for name in ("requirements", "serve_requirements"))
    return {"serve": [line for line in own if re.match(r"[\w-]+", line)[0] in SERVED] + serve}


def fingerprint(groups: dict[str, list[str]]) -> str:
    "One name for what is asked for, and for which machines"
    said = {name: sorted(lines) for name, lines in groups.items()} | {"python": PYTHON, "machines": MACHINES, "torch": TORCH_HASHES}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def resolve(lines: list[str], *arguments: str, constraints: dict[str, str] | None = None) -> dict[str, tuple[str, str]]:
    "What pip would install: name → version and SHA-256 of the wheel; nothing is installed"
    with tempfile.TemporaryDirectory() as folder:
        wanted, kept, report = (Path(folder) / name for name in ("wanted.txt", "kept.txt", "report.json"))
        wanted.write_text("\n".join(lines) + "\n")
        kept.write_text("".join(f"{name}=={version}\n" for name, version in (constraints or {}).items()))
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--only-binary=:all:", "--report", report,
                        "-r", wanted, "-c", kept, *arguments], check=True, stdout=subprocess.DEVNULL)
        found = json.loads(report.read_text())["install"]
    return {re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(): (item["metadata"]["version"], item["download_info"]["archive_info"]["hashes"]["sha256"]) for item in found}


def hashes(versions: dict[str, str]) -> dict[str, list[str]]:
    "The hashes of the wheels of these exact versions, for every machine: name → SHA-256s"
    found = {name: set() for name in versions}
    for machine in MACHINES:
        for name in versions.keys() & {"torch"}:
            found[name].add(TORCH_HASHES[machine])
        rest = [f"{name}=={version}" for name, version in versions.items() if name != "torch"]
        tags = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 16, -1)] + [f"--platform=manylinux2014_{machine}", f"--platform=linux_{machine}"]
        with tempfile.TemporaryDirectory() as folder:
            for name, (_, sha256) in resolve(rest, "--no-deps", "--target", folder, f"--python-version={PYTHON}", *tags).items():
                found[name].add(sha256)
    return {name: sorted(all_of_it) for name, all_of_it in found.items()}


def text(versions: dict[str, str], groups: dict[str, list[str]]) -> str:
    "A lock file"
    head = f"# Written by tools/lock.py, for Python {PYTHON} on Linux ({', '.join(MACHINES)}); don't edit.\n# Made from {fingerprint(groups)}\n"
    return head + "".join(f"{package}=={versions[package]}" + "".join(f" \\\n    --hash=sha256:{sha256}" for sha256 in sha256s) + "\n"
                          for package, sha256s in sorted(hashes(versions).items()))


def lock() -> dict[Path, str]:
    "The text of every lock file but the one of what serves"
    groups = asked()
    version = {name: version for name, (version, _) in resolve(groups["training"]).items()}
    files = {"training": {name: v for name, v in version.items() if name != "xgboost-cpu"}, "cpu": {"xgboost-cpu": version["xgboost-cpu"]}}
    for name, lines in {"gpu": [f"xgboost=={version['xgboost-cpu']}"], "dl": groups["dl"]}.items():  # beside what is there already
        files[name] = {other: v for other, (v, _) in resolve(lines, constraints=version).items() if other not in version}
    files["build"] = {name: v for name, (v, _) in resolve(groups["build"]).items()}
    return {FOLDER / f"{name}.txt": text(versions, groups) for name, versions in files.items()}


def lock_served() -> dict[Path, str]:
    "The text of the lock file of what serves: the versions of the training image, where it has them"
    trained = dict(re.findall(r"^([\w.-]+)==([^ \n]+)", "".join((FOLDER / f"{name}.txt").read_text() for name in ("training", "cpu", "dl")), re.M))
    trained = {name: version for name, version in trained.items() if "+" not in version}
    return {FOLDER / "serve.txt": text({name: v for name, (v, _) in resolve(served()["serve"], constraints=trained).items()}, served())}


def main() -> int:
    "Write the files, or say which of them are not of today's settings"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a lock was made from other requirements")
    parser.add_argument("which", nargs="?", choices=["serve"], help="write this lock alone")
    a = parser.parse_args()
    if a.check:
        made = {name: fingerprint(asked()) for name in ("training", "cpu", "gpu", "dl", "build")} | {"serve": fingerprint(served())}
        paths = {FOLDER / f"{name}.txt": f"# Made from {now}" for name, now in made.items()}
        stale = [path.relative_to(ROOT) for path, now in paths.items() if not path.is_file() or now not in path.read_text(encoding="utf-8").splitlines()]
        for path in stale:
            print(f"{path} was not made from what settings.ini and pyproject.toml ask for; run `python tools/lock.py`", file=sys.stderr)
        return bool(stale)
    if (platform.system(), platform.machine(), "{}.{}".format(*sys.version_info)) != ("Linux", "x86_64", PYTHON):
        sys.exit(f"tools/lock.py resolves for the Python it runs on: run it with Python {PYTHON} on Linux, x86_64")
    for write in (lock_served,) if a.which else (lock, lock_served):  # the second reads what the first has written
        for path, content in write().items():
            fresh = path.with_name(path.name + ".new")
            fresh.write_text(content, encoding="utf-8")
            os.replace(fresh, path)
            print(path.relative_to(ROOT), content.count("=="), "packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
