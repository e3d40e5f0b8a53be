"""pyproject.toml asks for what is imported; the lock files hold it, hashed, from no registry in
particular."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS = ["runtime.lock", "dev.lock"]
PIN = re.compile(r"^([a-z0-9-]+)(?:\[([a-z0-9,-]+)\])?==(\S+)", re.MULTILINE)


def read_lock(name: str) -> dict[str, Version]:
    text = (ROOT / "requirements" / name).read_text()
    return {package: Version(version) for package, _, version in PIN.findall(text)}


def requirements(*groups: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = list(project["project"]["dependencies"])
    for group in groups:
        lines += [line for line in project["dependency-groups"][group] if isinstance(line, str)]
    return [Requirement(line) for line in lines]


def imported() -> set[str]:
    """Packages that Fiscus imports, by their top-level names."""
    names: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"fiscus"}


def test_what_is_imported_is_asked_for_and_not_left_to_other_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked: set[str] = set()
    for line in project["dependencies"] + project["optional-dependencies"]["envoy"]:
        requirement = Requirement(line)
        asked |= {canonicalize_name(requirement.name), *requirement.extras}  # `redis[hiredis]`
    bringing = packages_distributions()
    assert {
        name for name in imported() if asked.isdisjoint(map(canonicalize_name, bringing[name]))
    } == set()


@pytest.mark.parametrize(
    ("lock", "groups"),
    [("runtime.lock", ["build"]), ("dev.lock", ["build", "test", "bench", "lint"])],
)
def test_lock_satisfies_every_requirement_of_the_project(lock: str, groups: list[str]) -> None:
    pinned = read_lock(lock)
    for requirement in requirements(*groups):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in {lock}: run `make lock`"
        assert version in requirement.specifier, f"{requirement}, but {lock} has {version}"


@pytest.mark.parametrize(
    ("lock", "groups"),
    [("runtime.lock", ["build"]), ("dev.lock", ["build", "test", "bench", "lint"])],
)
def test_lock_pins_the_extras_that_are_asked_for(lock: str, groups: list[str]) -> None:
    """pip holds hashes to the very requirement, so `a` pinned does not pin `a[b]`."""
    text = (ROOT / "requirements" / lock).read_text()
    extras = {
        package: set(filter(None, names.split(","))) for package, names, _ in PIN.findall(text)
    }
    for requirement in requirements(*groups):
        assert requirement.extras <= extras[canonicalize_name(requirement.name)], requirement


def test_both_locks_agree_so_that_one_environment_serves_run_and_test() -> None:
    runtime, dev = read_lock("runtime.lock"), read_lock("dev.lock")
    assert runtime.items() <= dev.items()


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_no_registry_and_hashes_every_pin(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    assert re.search(r"://|index-url|find-links|trusted-host", text) is None
    for pin in re.split(r"^(?=[a-z0-9-]+(?:\[[a-z0-9,-]+\])?==)", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in pin, pin
