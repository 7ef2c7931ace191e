"""Paired intervals between runs, from detections that are made once and kept."""

import json
import shutil
from pathlib import Path

import pytest

from detrctl.cli.app import run
from detrctl.engine import compare_detections
from detrctl.engine.compare import grouped
from detrctl.engine.compare_detections import bootstrap, fingerprint
from detrctl.engine.evaluate import evaluate_checkpoint
from detrctl.engine.run_records import read_runs
from detrctl.errors import CheckpointError, DataError
from detrctl.evaluation.bootstrap import match_images, paired_bootstrap
from detrctl.evaluation.ground_truth import GroundTruth
from tests.cli import made_runs, tiny

NAMES = [f"{n}.png" for n in range(6)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset cells, and the runs good (whose answers are the truths), bad and worse."""
    folder = tmp_path_factory.mktemp("compare")
    for seed, name in enumerate(("good", "bad", "worse")):
        changed = {"data": {"root": str(folder / "cells")}, "train": {"lr": seed / 10}}
        made_runs.make_run(folder / name, [0.1, 0.2], changed=changed)
        tiny.make_run(folder / name, folder / "cells", seed=seed)
    tiny.make_dataset(folder / "cells", folder / "good" / "checkpoints" / "best.pt", NAMES)
    return folder


@pytest.fixture
def copy(workplace: Path, tmp_path: Path) -> Path:
    """Runs of one's own to write into, on the dataset of all."""
    for name in ("good", "bad", "worse"):
        shutil.copytree(workplace / name, tmp_path / name, ignore=shutil.ignore_patterns("detections"))
    return tmp_path


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The checkpoints that are evaluated from here on."""
    seen: list[Path] = []

    def spy(checkpoint, **options):
        seen.append(checkpoint)
        return evaluate_checkpoint(checkpoint, **options)

    monkeypatch.setattr(compare_detections, "evaluate_checkpoint", spy)
    return seen


def groups_of(folder: Path, *names: str, by="none"):
    return grouped(read_runs([folder / name for name in names]), by)


def test_the_interval_is_the_paired_bootstraps_on_all_validation_images(copy: Path, workplace: Path):
    found = bootstrap(groups_of(copy, "bad", "good"), resamples=30, device="cpu")
    truths = GroundTruth.from_file(workplace / "cells" / "annotations" / "instances_val.json")
    results = [evaluate_checkpoint(copy / name, device="cpu").results for name in ("good", "bad")]
    expected = paired_bootstrap(*(match_images(truths, one)["all"] for one in results), resamples=30, seed=0)
    (difference,) = found.differences
    assert (difference.intervals["AP"], difference.intervals["AP50"]) == (expected.ap, expected.ap50)
    assert expected.ap.difference > 0.1
    assert (found.images, found.resamples, found.max_dets) == (6, 30, 100)
    assert found.scores[1]["AP"] == evaluate_checkpoint(copy / "good", device="cpu").scores["AP"]


def test_seeds_of_a_recipe_count_as_their_mean(copy: Path):
    runs = read_runs([copy / name for name in ("bad", "good", "worse")])
    alone = bootstrap(grouped(runs, "none"), resamples=10, device="cpu")
    together = bootstrap([*grouped(runs[:1], "none"), *grouped(runs[1:], "recipe")], resamples=10, device="cpu")
    both = [one.intervals["AP"].difference for one in alone.differences]
    assert together.differences[0].intervals["AP"].difference == pytest.approx(sum(both) / 2)


def test_detections_are_made_once_for_a_checkpoint_and_a_split(copy: Path, evaluations: list[Path]):
    groups = groups_of(copy, "good", "bad")
    first = bootstrap(groups, resamples=5, device="cpu")
    kept = [file for name in ("good", "bad") for file in (copy / name / "detections").iterdir()]
    assert len(evaluations) == len(kept) == 2
    assert bootstrap(groups, resamples=5, device="cpu") == first
    assert len(evaluations) == 2

    retrained = tiny.make_run(copy / "good", Path(groups[0].runs[0].fields["data.root"]), seed=9)
    assert bootstrap(groups, resamples=5, device="cpu").scores[0] != first.scores[0]
    assert evaluations[2:] == [retrained]
    (new,) = (copy / "good" / "detections").iterdir()
    assert new not in kept


def test_a_file_of_detections_that_was_cut_short_is_made_anew(copy: Path, evaluations: list[Path]):
    groups = groups_of(copy, "good", "bad")
    first = bootstrap(groups, resamples=5, device="cpu")
    (kept,) = (copy / "bad" / "detections").iterdir()
    whole = kept.read_text()
    kept.write_text(whole[:-20])
    assert bootstrap(groups, resamples=5, device="cpu") == first
    assert evaluations[2:] == [copy / "bad" / "checkpoints" / "best.pt"]
    assert json.loads(kept.read_text()) == json.loads(whole)


def test_other_images_are_refused(copy: Path, workplace: Path, tmp_path: Path):
    shutil.copytree(workplace / "cells", tmp_path / "fewer")
    file = tmp_path / "fewer" / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "images": content["images"][:-1]}))
    tiny.make_run(copy / "bad", tmp_path / "fewer", seed=1)  # its recipe.yaml still names the other folder
    with pytest.raises(DataError) as caught:
        bootstrap(groups_of(copy, "good", "bad"), resamples=5, device="cpu")
    assert str(caught.value) == ("--bootstrap needs the same images and truths, but those of bad are not those of good")


def test_a_checkpoint_that_cannot_be_used_is_named(copy: Path):
    broken = copy / "bad" / "checkpoints" / "best.pt"
    broken.write_bytes(broken.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match=f"^{broken}: cut short: "):
        bootstrap(groups_of(copy, "good", "bad"), resamples=5, device="cpu")


def test_truths_that_differ_in_anything_have_other_fingerprints(workplace: Path):
    content = json.loads((workplace / "cells" / "annotations" / "instances_val.json").read_text())
    moved = {**content, "annotations": [{**one, "bbox": [0, 0, 9, 9]} for one in content["annotations"]]}
    renamed = {**content, "categories": [{**one, "name": "x" + one["name"]} for one in content["categories"]]}
    fewer = {**content, "images": content["images"][1:]}
    found = {fingerprint(GroundTruth.from_coco_dict(one)) for one in (content, moved, renamed, fewer)}
    assert len(found) == 4
    assert fingerprint(GroundTruth.from_coco_dict(content)) in found


def test_the_command_shows_scores_and_intervals(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(copy)
    assert run(["compare", "bad", "good", "--bootstrap", "20", "--device", "cpu", "--json", "a.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("run   AP, 6 images  to the first run"))
    assert lines[head + 1].split()[2] == "-"
    written = json.loads(Path("a.json").read_text())["bootstrap"]
    apart = written["differences"]["good"]["AP"]
    expected = f"{apart['first']:.3f}  {apart['difference']:+.3f} [{apart['low']:+.3f}, {apart['high']:+.3f}]"
    assert expected in lines[head + 2]
    assert lines[head + 3] == (
        "In brackets: 95% of 20 draws of the images. What another training run would give is not in it: that takes "
        "several seeds."
    )
    assert (written["against"], written["resamples"]) == ("bad", 20)
