from collections.abc import Callable
from pathlib import Path

import pytest

from detrctl.errors import RecipeError
from detrctl.recipe.load import load_recipe


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """write("heads: 3", name="my.yaml") puts a recipe into the working folder and gives its name."""
    monkeypatch.chdir(tmp_path)

    def write_file(text: str, name: str = "my.yaml") -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write_file


@pytest.fixture
def report(write: Callable[..., str]) -> Callable[..., list[str]]:
    """report("heads: 3", "train.lr=1") loads a text under overrides and gives the lines of its error."""

    def lines(text: str, *overrides: str) -> list[str]:
        name = write(text)
        with pytest.raises(RecipeError) as caught:
            load_recipe(name, overrides)
        return str(caught.value).splitlines()

    return lines
