"""One version: the package's, the npm package's, the API's and the changelog's."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import yaml

from mobync import __version__

HOME = Path(__file__).resolve().parents[1]
CHANGELOG = (HOME / "CHANGELOG.md").read_text(encoding="utf-8")
RELEASES = re.findall(r"^## \[(.+?)\] - \d{4}-\d\d-\d\d$", CHANGELOG, re.M)


def test_the_changelog_begins_with_this_version() -> None:
    assert RELEASES[0] == __version__


def test_the_changelog_links_the_changes_of_each_version() -> None:
    repository = "https://github.com/mobync/python-server"
    linked = dict(re.findall(r"^\[([\d.]+)\]: (\S+)$", CHANGELOG, re.M))
    expected = {
        new: f"{repository}/compare/v{old}...v{new}" for new, old in itertools.pairwise(RELEASES)
    }
    assert linked == {**expected, RELEASES[-1]: f"{repository}/releases/tag/v{RELEASES[-1]}"}


def test_no_part_of_the_changelog_is_empty() -> None:
    below = re.findall(r"^###+ .*\n\n(.*)", CHANGELOG, re.M)
    assert len(below) > 3
    for line in below:
        assert line.startswith(("- ", "#### "))


def test_the_npm_package_has_the_version_of_the_server() -> None:
    package = json.loads((HOME / "clients" / "javascript" / "package.json").read_text())
    assert package["version"] == __version__


def test_the_description_of_the_api_has_the_version_of_the_server() -> None:
    described = yaml.safe_load((HOME / "docs" / "openapi.yaml").read_text(encoding="utf-8"))
    assert described["info"]["version"] == __version__


def test_the_form_for_bugs_shows_this_version() -> None:
    form = (HOME / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8")
    assert re.findall(r"mobync (\d[\d.]*\d)", form) == [__version__]


def test_pages_name_no_file_of_a_version() -> None:
    for page in [HOME / "README.md", *HOME.glob("docs/**/*.md"), *HOME.glob("deploy/*")]:
        assert not re.search(r"mobync-\d", page.read_text(encoding="utf-8")), page.name
