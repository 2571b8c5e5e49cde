#!/usr/bin/env python3
"""Hold a release's tag against settings.ini and CHANGELOG.md: `python tools/release.py --check v1.2.3`.

Prints what CHANGELOG.md says of that version, for the release's page; ends with a sentence where the tag isn't the version in
settings.ini, or the version has no section, no date or nothing in it.
"""
import argparse
import re
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def version() -> str:
    "The version in settings.ini"
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]["version"]


def notes(changelog: str, of: str) -> str:
    "The section of one version, without its heading"
    section = re.search(rf"^## \[{re.escape(of)}\] - \d{{4}}-\d\d-\d\d$\n(.*?)(?=^## |^\[[^]]+\]: |\Z)", changelog, re.M | re.S)
    if not section:
        raise ValueError(f"CHANGELOG.md has no section '## [{of}] - YYYY-MM-DD'; rename '## [Unreleased]' to it, and begin a new one above")
    if not section[1].strip():
        raise ValueError(f"CHANGELOG.md says nothing of {of}")
    return section[1].strip() + "\n"


def main() -> None:
    "Print the notes of a tag, or say why it is no release"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", required=True, metavar="TAG", help="such as v1.2.3")
    tag = parser.parse_args().check
    try:
        if tag != f"v{version()}":
            raise ValueError(f"the tag is {tag}, the version in settings.ini {version()}; expected the tag v{version()}")
        print(notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version()), end="")
    except (ValueError, OSError) as why:
        sys.exit(f"error: {why}")


if __name__ == "__main__":
    main()
