"Packaging, with everything read from settings.ini."
import atexit
import shlex
import shutil
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
if not (here / "settings.ini").is_file():  # `gcloud ai custom-jobs local-run` copies setup.py alone
    sys.exit("error: setup.py needs settings.ini beside it; install from the project's folder, or run its image:"
             " gcloud ai custom-jobs local-run --executor-image-uri=IMAGE")
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
extras = {name: shlex.split(cfg[f"{name}_requirements"]) for name in ("train", "gcp", "dl", "serve", "live", "pipeline", "completion", "notebook", "docs", "dev")}
extras["dev"] += extras["train"] + extras["gcp"] + extras["dl"] + extras["serve"] + extras["live"] + extras["pipeline"]  # the tests use all of them

fresh = tempfile.mkdtemp()  # not `build/`, where setuptools keeps modules that are deleted here, and packs them again
atexit.register(shutil.rmtree, fresh, ignore_errors=True)

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    packages=find_packages(include=["mbta_ml", "mbta_ml.*"]),
    python_requires=f">={cfg['min_python']}",
    install_requires=shlex.split(cfg["requirements"]),
    extras_require=extras,
    entry_points={"nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
                  "console_scripts": [f"mbta-ml={cfg['lib_path']}.commands:main"]},
    zip_safe=False,
    options={"build": {"build_base": fresh}},
)
