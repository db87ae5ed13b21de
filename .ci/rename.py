"""Turns a clone of the template into a project of your own: `make rename NAME=myproject`."""

from __future__ import annotations

import keyword
import re
import subprocess
import sys
from pathlib import Path

OLD = "distilingua"
STUB = """\
# {name}

What it is for, for whom, and how good it is, goes here. Made from the template distilingua, whose front page follows.

"""


def main(name: str = "") -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        sys.exit(f"make rename: {name!r} is no name of a package. Type small letters: make rename NAME=myproject")
    listed = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    paths = [Path(path) for path in listed.split("\0") if path]
    for path in paths:
        if path == Path(".ci/rename.py") or path.name == "LICENSE" or not path.is_file():
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        if OLD in text:
            path.write_text(text.replace(OLD, name), "utf-8")
    readme = Path("README.md")
    readme.write_text(
        re.sub(r"\A.+?(?=```bash)", STUB.format(name=name), readme.read_text("utf-8"), flags=re.S), "utf-8"
    )
    Path(f"src/{OLD}").rename(f"src/{name}")
    print(f"src/{name}, the command {name}, conf/ and docs/ are called so now. Go on with `make test`, then README.md.")


if __name__ == "__main__":
    main(*sys.argv[1:])
