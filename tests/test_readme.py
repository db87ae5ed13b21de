"""README.md and docs/ keep their word: commands compose, paths and links exist, every choice is listed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import distilingua
from distilingua.cli import USAGE
from distilingua.locations import conf_folder

ROOT = Path(__file__).parents[1]
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text("utf-8") for page in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
}
README, RECIPES = PAGES["README.md"], PAGES["docs/recipes.md"]
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
every_page = pytest.mark.parametrize("page", sorted(PAGES))


def prose(text: str) -> str:
    """Without what stands between fences, such as the tree."""
    return FENCE.sub("", text)


def typed(text: str) -> set[str]:
    """What a reader would type: lines between fences, without their comments, and what stands in backticks."""
    fenced = [line.split("  #")[0].strip() for block in FENCE.findall(text) for line in block.splitlines()]
    return {*fenced, *re.findall(r"`([^`\n]+)`", prose(text))}


COMMANDS = sorted(
    {
        line
        for text in PAGES.values()
        for line in typed(text)
        # what test_recipes.py and test_init.py make, and run
        if re.match(r"distilingua train\b", line) and not re.search("corpus=cafe|--config-dir", line)
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_train_commands_compose(compose_run, command: str) -> None:  # type: ignore[no-untyped-def]
    """Every `distilingua train …`, in a code block or in a sentence; of a sweep, its first job."""
    words = [word for word in shlex.split(command)[2:] if word != "-m"]
    if "-m" in command.split():
        words = [word if "[" in word else word.split(",")[0] for word in words]
    assert compose_run(*[word for word in words if not word.startswith("hydra.")])


@every_page
def test_commands_exist(page: str) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    for line in typed(PAGES[page]):
        if found := re.match(r"make (\w+)", line):
            assert found[1] in targets, f"{page}: the Makefile has no {found[1]}"
        if found := re.match(r"distilingua (\w+)", line):
            assert f"distilingua {found[1]} " in USAGE, f"{page}: `distilingua --help` has no {found[1]}"


@every_page
def test_paths_exist(page: str) -> None:
    for name in re.findall(r"`((?:src|conf|tests|notebooks|docs)/[\w./-]*)`", prose(PAGES[page])):
        assert (ROOT / name).exists(), f"{page}: {name} is not there"


@every_page
def test_links_lead_somewhere(page: str) -> None:
    """Seen from the file they stand in; what follows a # is a heading of the page it names."""
    for link in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        if link.startswith("http"):
            continue
        name, _, heading = link.partition("#")
        target = ((ROOT / page).parent / name if name else ROOT / page).resolve()
        assert target.exists(), f"{page}: {link} leads nowhere"
        assert not heading or heading in headings(target.read_text("utf-8")), f"{page}: {link} is no heading"


def headings(text: str) -> set[str]:
    """As GitHub spells them in links."""
    titles = re.findall(r"^#+ (.+)$", prose(text), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


GROUPS = sorted({path.parent.relative_to(conf_folder()).as_posix() for path in conf_folder().glob("*/**/*.yaml")})


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_and_choice_is_listed(group: str) -> None:
    missing = f"conf/{group}/ is not listed: add"
    assert {f"`{group}`", f"`{group.split('/')[0]}`"} & set(re.findall(r"`[^`\n]+`", README)), (
        f"{missing} `{group}` to the groups under Choices in README.md"
    )
    rows = re.findall(rf"^\| `{group}` \| (.+) \|$", RECIPES, re.M)
    assert rows, f"{missing} a row `{group}` to the table Choices in docs/recipes.md"
    listed = set(re.findall(r"`([^`]+)`", rows[0]))
    place = f"the row `{group}` of the table Choices in docs/recipes.md"
    for path in sorted((conf_folder() / group).glob("*.yaml")):
        name = path.stem  # `base` is what others of its group begin with
        assert name in {"base", *listed}, f"conf/{group}/{name}.yaml is not listed: add `{name}` to {place}"
    known = {path.stem for path in conf_folder().rglob("*.yaml")}  # a row may name a choice of another group
    assert listed <= known, f"no YAML is called {', '.join(sorted(listed - known))}: take it out of {place}"


def test_the_readme_is_a_front_page() -> None:
    size = len(README.replace(distilingua.__name__, "").encode())  # which may be a longer one in a fork
    assert size <= 9500, f"README.md has {size} bytes, 9500 at most: move what is not for everyone to a page of docs/"
    for page in PAGES:
        assert page == "README.md" or f"]({page})" in README, f"README.md does not link to {page}"


def test_tables_of_results_name_their_command() -> None:
    for section in re.split(r"^(?=## )", PAGES["docs/results.md"], flags=re.M):
        if re.search(r"^\| ---", section, re.M):
            assert any(re.match(r"(distilingua train|make demo)\b", line) for line in typed(section)), (
                f"docs/results.md: {section.splitlines()[0]!r} has a table and no `distilingua train` that measures it"
            )


def test_the_readme_repeats_measured_figures() -> None:
    """Its short table is part of the table of languages, turned."""
    short = README.split("## Is it good?")[1].split("\n## ")[0]
    long = PAGES["docs/results.md"].split("## Eight languages")[1].split("\n## ")[0]
    names, *measured = cells(long)
    (_, *languages), *rows = cells(short)
    for name, *figures in rows:
        column = names.index(name.split(" (")[0])
        expected = {row[0]: row[column].split(" ±")[0] for row in measured}
        assert dict(zip(languages, figures, strict=True)) == expected, f"README.md: {name}"


def cells(text: str) -> list[list[str]]:
    """Rows of the tables in a text."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip(" *").replace("**", "") for cell in row] for row in rows]


def test_every_fault_that_is_claimed_has_its_test() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/faults.md").read_text("utf-8")))
    defined = {
        found for file in ROOT.glob("tests/**/*.py") for found in re.findall(r"def (\w+)", file.read_text("utf-8"))
    }
    assert len(named) > 30
    assert named <= defined
