"""Where recipes lie: those that ship with the package, by name, and the user's own, by path."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from detrctl.errors import DetrctlError

SUFFIXES = (".yaml", ".yml")


def shipped_folder() -> Path:
    """`detrctl/shipped_recipes` in an installed wheel; `recipes` beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "shipped_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def shipped() -> dict[str, Path]:
    """Name -> file of every recipe that ships with the package, sorted by name."""
    return {path.stem: path for path in sorted(shipped_folder().glob("*.yaml"))}


def find_recipe(name: str, *, beside: Path | None = None) -> Path:
    """The file of a recipe named by path or by the name of a shipped one; a folder stands for its `recipe.yaml`.

    Paths are relative to `beside`, or to the working folder. Raises DetrctlError naming what comes closest.
    """
    if name in shipped():
        return shipped()[name]
    path = (beside or Path()) / expanded(name)
    if (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    if path.is_file():
        return path
    raise DetrctlError(_not_found(name, path))


def expanded(name: str) -> Path:
    """`~/a` under the home folder. DetrctlError where the home of `~somebody` is not known."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        user = Path(name).parts[0]
        raise DetrctlError(f"{name}: nobody's home is known as {user}; ./{name} if a file is called so") from None


def display(path: Path) -> str:
    """A path as messages show it: relative where it lies under the working folder."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def closest(word: str, options: Iterable[str]) -> str | None:
    """The option that `word` is probably a misspelling of."""
    by_lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The question, with a leading space, or nothing."""
    option = closest(word, options)
    return f" Did you mean '{option}'?" if option else ""


def _not_found(name: str, path: Path) -> str:
    looks_like_a_path = path.suffix in SUFFIXES or len(Path(name).parts) > 1
    if path.is_dir():
        return f"'{name}' is a folder without a recipe.yaml; name a recipe file or a shipped recipe"
    if not looks_like_a_path:
        hint = did_you_mean(name, shipped()) or " `detrctl recipes list` shows them all."
        return f"no recipe '{name}'.{hint}"
    if path.suffix in SUFFIXES and path.stem in shipped():
        return f"no file '{name}'. Did you mean the shipped recipe '{path.stem}'?"
    neighbours = (
        [item.name for item in path.parent.glob("*") if item.suffix in SUFFIXES] if path.parent.is_dir() else []
    )
    hint = did_you_mean(path.name, neighbours) or did_you_mean(path.stem, shipped())
    return f"no file '{name}'.{hint}"
