"""Hooks of mkdocs.yml: notebooks become pages, and nbs/index.ipynb becomes the navigation.

A page is its notebook without nbdev's directives: cells that start with `#| hide` are left out, `#| echo: false` shows its
output alone, links to notebooks lead to pages. The navigation is the order in which nbs/index.ipynb links to notebooks: what
its paragraphs alone link to, by number, then its tables, whose rows are the sections; what it doesn't link to follows by
folder. So a new notebook, or a moved one, is a page without a list to keep.
"""
import re
import tempfile
from collections import Counter
from pathlib import Path

import nbformat
from mkdocs.utils import get_relative_url, write_file

NOTEBOOK_LINK = re.compile(r"\]\((?!#|/|[a-z]+:)([^)#\s]+)\.ipynb(#[^)\s]*)?\)")
STYLE = "assets/notebook.css"
WIDE = ".md-grid { max-width: 82rem; } /* lines of code have up to 100 columns */\n"
_folder = None  # the notebooks made ready, for as long as the build lasts


def ready(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    "A notebook as a reader wants it: no directives, no housekeeping, links to pages"
    cells = []
    for cell in notebook.cells:
        directives = [line[2:].strip() for line in cell.source.splitlines() if line.startswith("#|")]
        if "hide" in directives:
            continue
        if cell.cell_type == "code":
            cell.source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("#|")).strip()
            if "echo: false" in directives:
                cell.metadata["tags"] = ["output-only"]
            if not cell.source and not cell.outputs:
                continue
        else:
            cell.source = NOTEBOOK_LINK.sub(lambda link: f"]({link[1]}.html{link[2] or ''})", cell.source)
        cells.append(cell)
    notebook.cells = cells
    return notebook


def title(notebook: nbformat.NotebookNode, path: str) -> str:
    "The first heading, else the file's name"
    found = next((re.match(r"# (.+)", cell.source) for cell in notebook.cells if cell.cell_type == "markdown"), None)
    return found[1].strip() if found else Path(path).stem


def navigation(index: str, titles: dict[str, str]) -> list:
    "MkDocs' `nav` from the Markdown of the index and the titles of the other pages, by path"
    left = dict(titles)

    def take(line: str) -> list:
        paths = dict.fromkeys(f"{link[1]}.ipynb" for link in NOTEBOOK_LINK.finditer(line))
        return [{left.pop(path): path} for path in paths if path in left]

    lines = index.splitlines()
    rows = {line.split("|")[1].replace("`", "").strip(): take(line) for line in lines if line.startswith("|")}
    told = [page for line in lines for page in take(line)]
    sections = {"first to read": sorted(told, key=lambda page: [*page.values()]), **rows}
    for path in sorted(left):
        sections.setdefault(str(Path(path).parent.name or "more"), []).append({left[path]: path})
    headed = {re.sub(r"/: |/$", ": ", name).removesuffix(": "): pages for name, pages in sections.items() if pages}
    return [{"mbta_ml": "index.ipynb"}] + [{name[:1].upper() + name[1:]: pages} for name, pages in headed.items()]


def on_config(config):
    "Make the notebooks ready in a folder of their own, and read the navigation from the index"
    global _folder
    source = Path(config.docs_dir)
    _folder = tempfile.TemporaryDirectory()
    titles, index = {}, ""
    for path in sorted(source.rglob("*.ipynb")):
        name = path.relative_to(source).as_posix()
        if any(part.startswith(".") for part in Path(name).parts):
            continue
        notebook = nbformat.read(path, as_version=4)
        if name == "index.ipynb":
            index = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        else:
            titles[name] = title(notebook, name)
        made = Path(_folder.name, name)
        made.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(ready(notebook), made)
    config.docs_dir, config.nav = _folder.name, navigation(index, titles)
    return config


def on_page_content(html: str, page, config, files) -> str:
    "As the theme and its search expect it: headings with an id of their own and a mark that is no text; outputs are not searched"
    seen = Counter()

    def own(heading: re.Match) -> str:
        seen[heading[2]] += 1
        return heading[1] + heading[2] + (f"_{seen[heading[2]] - 1}" if seen[heading[2]] > 1 else "") + '"'

    html = re.sub(r'(<h[1-6] id=")([^"]+)"', own, html)
    html = re.sub(r'<div (?=class="(?:jp-Cell-outputWrapper|zeroclipboard-container|clipboard-copy-txt))', "<div data-search-exclude ", html)
    return html.replace('class="anchor-link"', 'class="headerlink"')


def on_post_page(output: str, page, config) -> str:
    "The half megabyte of styles that every notebook brings is kept once"
    styles = [style for style in re.findall(r"<style[^>]*>.*?</style>", output, flags=re.S) if len(style) > 100_000]
    for style in styles:
        write_file((re.sub(r"</?style[^>]*>", "", style) + WIDE).encode(), str(Path(config.site_dir, STYLE)))
        output = output.replace(style, f'<link rel="stylesheet" href="{get_relative_url(STYLE, page.url)}">')
    return output


def on_shutdown():
    "The folder goes with the build"
    if _folder is not None:
        _folder.cleanup()
