"""What a run begins with: the data that was asked for, wherever it is gone on from."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from detrctl.engine.evaluate import evaluate_checkpoint
from detrctl.engine.start import begin, placed
from detrctl.engine.train import train
from detrctl.errors import DetrctlError
from detrctl.recipe.schema import Data
from tests.engine import tiny

OWN = "tests.engine.test_build:OwnImages"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A path relative to the working folder, which is `here`; the dataset is ../data from there."""
    tiny.dataset(tmp_path / "data")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "tiny.yaml").write_text(yaml.safe_dump(tiny.fields(None, epochs=1)))
    monkeypatch.chdir(tmp_path / "here")
    return "tiny.yaml"


def data_of(recipe: str, *overrides: str, data: str | None = None) -> Data:
    return begin(recipe, overrides=overrides, data=data, out=None, resume=None, init_from=None).recipe.data


def test_a_run_on_a_relative_path_is_used_from_another_folder(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(recipe, data="../data", out=tmp_path / "run", device="cpu").run
    monkeypatch.chdir("/")
    assert evaluate_checkpoint(run, device="cpu", trust=True).data == str(tmp_path / "data")
    train(trust=True, resume=run, overrides=["train.epochs=2"], device="cpu")


def test_every_path_of_the_data_becomes_absolute(recipe: str, tmp_path: Path) -> None:
    parts = [f"data.{split}.{part}=../data/x-{split}-{part}" for split in ("train", "val") for part in ("images",)]
    found = data_of(recipe, *parts, "data.val.annotations=v.json")
    assert found.train is not None
    assert found.val is not None
    assert (found.train.images, found.train.annotations) == (str(tmp_path / "data/x-train-images"), None)
    assert found.val.annotations == str(tmp_path / "here/v.json")
    assert data_of(recipe, "data.root=~/pictures").root == str(Path.home().resolve() / "pictures")


def test_what_is_no_path_stays_as_it_is(recipe: str) -> None:
    assert data_of(recipe, data="shapes").root == "shapes"
    assert data_of(recipe).root is None
    assert data_of(recipe, f"data.dataset={OWN}", "data.root=s3://bucket").root == "s3://bucket"
    assert data_of(recipe, f"data.dataset={OWN}", "data.root=../data").root != "../data"


def test_data_goes_with_what_is_set_beside_it(recipe: str, tmp_path: Path) -> None:
    found = data_of(recipe, f"data.dataset={OWN}", data="../data")
    assert (found.root, found.dataset) == (str(tmp_path / "data"), OWN)
    found = data_of(recipe, "data.train.images=a", "data.train.annotations=b", data="../data")
    assert found.root == str(tmp_path / "data")
    assert found.train is not None
    assert found.train.images == str(tmp_path / "here/a")


def test_data_replaces_what_the_recipe_itself_says() -> None:
    hand = {"train": {"images": "a"}, "val": {"images": "b"}, "dataset": OWN}
    found = placed(tiny.recipe(None, data=hand), "shapes", ["data.workers=1"]).data
    assert (found.root, found.train, found.val, found.dataset) == ("shapes", None, None, None)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.root=x"], "--data y and --set data.root name two datasets: leave one of them away"),
        (
            ["data.train.images=a", "data.val.images=b"],
            "--data y beside --set data.train and data.val, so that nothing is read from it: leave it away",
        ),
    ],
)
def test_two_datasets_at_once_are_one_line(recipe: str, overrides: list[str], expected: Any) -> None:
    with pytest.raises(DetrctlError) as caught:
        data_of(recipe, *overrides, data="y")
    assert str(caught.value) == expected
