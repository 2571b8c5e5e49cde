#!/usr/bin/env python3
"""Write README.md from nbs/index.ipynb, with its pictures in nbs/index_files/.

`python tools/readme.py` writes, `python tools/readme.py --check` only says whether it is up to date.
Nothing is executed: the README shows the outputs that the notebook holds. A cell that starts with
`#| hide` is left out, `#| echo: false` shows its output alone, `#| fig-alt: words` describes its picture (lines of it are joined).
"""
import argparse
import os
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "nbs" / "index.ipynb"
PICTURES = "nbs/index_files"  # GitHub shows files, not pictures inside a page


def shown(cell) -> bool:
    "Whether a cell belongs on the page; takes nbdev's directives out of it"
    lines = cell.source.splitlines()
    directives = [line[2:].strip() for line in lines if line.startswith("#|")]
    if cell.cell_type == "code":
        if alt := [line.split(":", 1)[1].strip() for line in directives if line.startswith("fig-alt:")]:
            cell.metadata["alt"] = " ".join(alt)
        cell.source = "\n".join(line for line in lines if not line.startswith("#|")).strip()
        if not cell.source or "echo: false" in directives:
            cell.metadata["transient"] = {"remove_source": True}
        for output in cell.outputs:
            if "text/html" in output.get("data", {}):  # GitHub shows a table, and its style as text
                output.data["text/html"] = re.sub(r"<style.*?</style>\s*", "", output.data["text/html"], flags=re.S)
    else:  # links count from the notebook, the README stands one folder higher
        cell.source = re.sub(r"\]\((?!#|/|[a-z]+:)(?:\.\./([^)]*)|([^)]*))\)",
                             lambda link: f"]({link[1] if link[1] is not None else 'nbs/' + link[2]})", cell.source)
    return "hide" not in directives and (cell.cell_type != "code" or bool(cell.source))


def render() -> dict[Path, bytes]:
    "What the README and its pictures should hold, by path"
    page = nbformat.read(NOTEBOOK, as_version=4)
    page.cells = [cell for cell in page.cells if shown(cell)]
    text, resources = MarkdownExporter().from_notebook_node(page, resources={"unique_key": "index", "output_files_dir": PICTURES})
    for at, cell in enumerate(page.cells):  # what a picture shows, in words
        if "alt" in cell.metadata:
            text = text.replace(f"![png]({PICTURES}/index_{at}_", f"![{cell.metadata['alt']}]({PICTURES}/index_{at}_")
    text = re.sub(r"(?:[ \t]*\n){4,}", "\n\n", text).strip() + "\n"
    return {ROOT / "README.md": text.encode(), **{ROOT / name: data for name, data in resources["outputs"].items()}}


def main() -> int:
    "Write the files, or say which of them differ"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is not up to date")
    check = parser.parse_args().check
    files = render()
    there = set((ROOT / PICTURES).glob("*")) | {ROOT / "README.md"}
    stale = sorted(path for path in there | set(files) if not path.is_file() or path.read_bytes() != files.get(path))
    for path in stale:
        name = path.relative_to(ROOT)
        if check:
            print(f"{name} is not what nbs/index.ipynb renders to; run `python tools/readme.py`", file=sys.stderr)
        elif path not in files:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(path.name + ".new")
            fresh.write_bytes(files[path])
            os.replace(fresh, path)
            print(name)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
