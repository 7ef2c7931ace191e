"""Imports go down the floors only, and each heavy library has one door."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "detrctl"

FLOORS = (
    {"errors", "boxes", "structures", "parts", "coco_values"},
    {"recipe", "model", "losses", "data", "evaluation"},
    {"families", "weights", "inspection"},
    {"engine"},
    {"cli"},
    {"__init__", "__main__"},
)
DOORS = {
    "scipy": {"losses/matcher.py"},
    "pycocotools": {"evaluation/coco_metrics.py"},
    "rich": {"cli/render.py"},
    "typer": {"cli"},
    "pydantic": {"recipe", "engine/checkpoint.py"},
}
"""A library, and the files or folders that may import it."""

FREE_OF_TORCH = ("recipe", "cli")

FILES = sorted(PACKAGE.rglob("*.py"))


def parts_of(file):
    return file.relative_to(PACKAGE).with_suffix("").parts


def imports_of(file):
    """The full names of the modules that a file imports anywhere, those inside functions included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute here"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module):
    """detrctl.model.backbone -> model; None for other packages and for the package itself."""
    names = module.split(".")
    if names[0] != "detrctl" or len(names) < 2:
        return None
    return names[1] if (PACKAGE / names[1]).is_dir() or (PACKAGE / f"{names[1]}.py").is_file() else None


def floor_of(room):
    found = [floor for floor, rooms in enumerate(FLOORS) if room in rooms]
    assert found, f"{room} stands on no floor: put it on one in {Path(__file__).name}"
    return found[0]


def test_the_walk_below_sees_the_project():
    assert len(FILES) >= 50
    rooms = {parts_of(file)[0] for file in FILES}
    assert rooms >= {"errors", "recipe", "model", "losses", "data", "evaluation", "families", "engine", "cli"}
    edges = sum(room_of(name) is not None for file in FILES for name in imports_of(file))
    assert edges >= 100


@pytest.mark.parametrize("file", FILES, ids=lambda file: "/".join(parts_of(file)))
def test_imports_go_down_and_siblings_stay_apart(file):
    own = parts_of(file)[0]
    for name in imports_of(file):
        room = room_of(name)
        if room is None or room == own:
            continue
        assert floor_of(room) < floor_of(own) or floor_of(own) == 0, f"{own} imports {name}"


@pytest.mark.parametrize("library", DOORS)
def test_a_library_comes_in_by_its_own_door(library):
    users = {file for file in FILES if any(name.split(".")[0] == library for name in imports_of(file))}
    assert users, f"nobody imports {library}"
    for file in users:
        inside = file.relative_to(PACKAGE)
        assert any(inside.as_posix() == door or inside.parts[0] == door for door in DOORS[library]), inside


@pytest.mark.parametrize("room", FREE_OF_TORCH)
def test_recipes_and_commands_do_not_name_torch(room):
    files = [file for file in FILES if parts_of(file)[0] == room]
    assert len(files) >= 5
    for file in files:
        libraries = {name.split(".")[0] for name in imports_of(file)}
        assert not libraries & {"torch", "torchvision"}, file


def test_recipes_import_nothing_of_the_project_but_errors():
    for file in FILES:
        if parts_of(file)[0] == "recipe":
            assert {room_of(name) for name in imports_of(file)} <= {None, "recipe", "errors"}, file


def test_every_import_is_declared_as_a_dependency():
    """Or is the standard library's, or an extra that is asked for by name."""
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8").lower()
    distribution = {"PIL": "pillow", "yaml": "pyyaml"}
    for file in FILES:
        for name in imports_of(file):
            library = name.split(".")[0]
            if library in sys.stdlib_module_names or library == "detrctl":
                continue
            assert f'"{distribution.get(library, library).lower()}' in declared, f"{file}: {library}"
