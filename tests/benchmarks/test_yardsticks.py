import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from detrctl.boxes import Cxcywh
from detrctl.errors import DetrctlError
from detrctl.structures import Batch, ImageBatch, Targets

HERE = Path(__file__).parent


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripts import each other by bare name, as they do when they are run."""
    monkeypatch.syspath_prepend(HERE)
    return lambda name: importlib.import_module(name)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six training and three validation images of 160 x 80, each with one red square; category 7."""
    root = tmp_path / "squares"
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    for split, count, first in (("train", 6, 1), ("val", 3, 100)):
        images, annotations = [], []
        for number in range(first, first + count):
            left = 10 + number % 10 * 10
            picture = Image.new("RGB", (160, 80), (200, 200, 200))
            picture.paste((200, 0, 0), (left, 20, left + 40, 60))
            picture.save(root / "images" / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 160, "height": 80})
            box = {"bbox": [left, 20, 40, 40], "area": 1600, "iscrowd": 0}
            annotations.append({"id": number, "image_id": number, "category_id": 7, **box})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "square"}]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def _images(size: int, original_hw: tuple[int, int]) -> ImageBatch:
    is_padding = torch.zeros(1, size, size, dtype=torch.bool)
    return ImageBatch(torch.zeros(1, 3, size, size), is_padding, torch.tensor([original_hw]), (31,))


class _Answer(nn.Module):
    def __init__(self, answer: Any):
        super().__init__()
        self.answer = answer

    def forward(self, *_: Any) -> Any:
        return self.answer


def test_faster_rcnn_boxes_come_out_in_pixels_of_the_original_image(scripts: Any) -> None:
    opponent = object.__new__(scripts("opponents").FasterRcnn)
    opponent.size = 128
    row = {"boxes": torch.tensor([[0.0, 32, 64, 128]]), "labels": torch.tensor([2]), "scores": torch.tensor([0.5])}
    opponent.module = _Answer([row])
    [found] = opponent.detect(_images(128, (80, 160)))
    assert found.boxes.tolist() == [[0, 20, 80, 80]]
    assert (found.labels.tolist(), found.scores.tolist(), found.image_id) == ([1], [0.5], 31)


def test_faster_rcnn_gets_corner_boxes_in_pixels_of_what_it_sees_and_labels_from_one(scripts: Any) -> None:
    boxes = Cxcywh(torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.5, 0.5, 0.0, 0.1]]))
    target = scripts("opponents").FasterRcnn._target(Targets(torch.tensor([0, 1]), boxes), 64)
    assert target["boxes"].tolist() == [[16, 24, 48, 40]]
    assert target["labels"].tolist() == [1]


def test_rtdetr_keeps_the_best_pairs_of_query_and_class(scripts: Any) -> None:
    opponent = object.__new__(scripts("opponents").RtDetr)
    opponent.keep = 2
    logits = torch.tensor([[[-9.0, 3.0], [1.0, -9.0], [0.0, 0.5]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0], [0.1, 0.1, 0.1, 0.1]]])
    opponent.module = _Answer(SimpleNamespace(logits=logits, pred_boxes=boxes))
    [found] = opponent.detect(_images(128, (80, 160)))
    assert found.boxes.tolist() == [[40, 20, 120, 60], [0, 0, 160, 80]]
    assert (found.labels.tolist(), found.queries.tolist(), found.image_id) == ([1, 0], [0, 1], 31)
    assert torch.equal(found.scores, torch.tensor([3.0, 1.0]).sigmoid())


def test_the_rate_warms_up_and_then_follows_the_clock(scripts: Any) -> None:
    rate = scripts("yardsticks").learning_rate
    assert rate(2.0, step=0, warmup=4, share=0) == pytest.approx(0.5)
    assert [rate(2.0, step=9, warmup=4, share=share) for share in (0, 0.5, 1, 1.1)] == pytest.approx([2, 1, 0, 0])


def test_a_sweep_tries_even_ratios_and_takes_the_best_that_did_not_diverge(scripts: Any) -> None:
    yardsticks = scripts("yardsticks")
    assert yardsticks.sweep_rates(1.0, 3) == pytest.approx((0.4, 1, 2.5))
    rows = [{"lr": 1, "AP": 0.1}, {"lr": 2, "AP": 0.3}, {"lr": 3, "AP": None}]
    assert yardsticks.best_rate(rows) == 2
    with pytest.raises(DetrctlError) as caught:
        yardsticks.best_rate(rows[2:])
    assert str(caught.value) == "every learning rate of the sweep diverged: give a lower --lr"


def test_a_batch_changes_its_size_and_keeps_its_boxes(scripts: Any) -> None:
    targets = (Targets(torch.tensor([0]), Cxcywh(torch.tensor([[0.5, 0.5, 0.2, 0.2]]))),)
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    batch = Batch(ImageBatch(ramp, torch.zeros(1, 64, 64, dtype=torch.bool), torch.tensor([[80, 160]]), (1,)), targets)
    small = scripts("yardstick_data").at_size(batch, 32)
    assert small.images.pixels.shape == (1, 3, 32, 32)
    assert small.images.is_padding.shape == (1, 32, 32)
    assert small.targets is targets
    middle: Tensor = small.images.pixels[0, 0, 16, 1:-1]
    torch.testing.assert_close(middle, ramp[0, 0, 0].view(32, 2).mean(1)[1:-1], atol=1e-5, rtol=0)


def test_epochs_that_begin_in_the_plain_end_see_whole_images(scripts: Any, dataset: Path) -> None:
    data = scripts("yardstick_data")
    fields = {"flip": 0.0, "vertical_flip": 0.0, "photometric": False, "zoom_out": 1.0, "iou_crop": 0.0}
    read = data.Data.read(dataset, augmentation=data.Augmentation(sizes=(64,), **fields), size=64, seed=0)
    args = SimpleNamespace(batch=3, workers=0, seed=0, sizes=[64], plain_end=0.2)
    shares = iter([0.0, 0.79, 0.8])
    found = scripts("yardsticks").batches(read.train, args, lambda: next(shares))
    for is_plain in (False, False, True):
        widths = [target.boxes[0, 2].item() for batch in (next(found), next(found)) for target in batch.targets]
        assert (widths == pytest.approx([0.25] * 6)) == is_plain


def test_training_from_scratch_starts_from_live_norms_and_rare_objects(scripts: Any) -> None:
    pytest.importorskip("transformers")
    module = scripts("opponents").RtDetr(num_classes=3, keep=100).module
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) > 50
    assert all(norm.weight.requires_grad and torch.equal(norm.weight, torch.ones_like(norm.weight)) for norm in norms)
    assert not any("Frozen" in type(part).__name__ for part in module.modules())
    for scores in (module.model.enc_score_head, *module.model.decoder.class_embed):
        torch.testing.assert_close(scores.bias.sigmoid(), torch.full((3,), 0.01), atol=1e-4, rtol=0)


@pytest.mark.parametrize("model", ["FasterRcnn", "RtDetr"])
def test_with_muon_an_opponent_keeps_its_rates_and_decays(scripts: Any, model: str) -> None:
    pytest.importorskip("transformers")
    more = {"size": 64} if model == "FasterRcnn" else {}
    opponent = getattr(scripts("opponents"), model)(num_classes=3, keep=100, **more)
    found = scripts("yardsticks").with_muon(opponent.optimizer(0.01))
    trained = [parameter for parameter in opponent.module.parameters() if parameter.requires_grad]
    assert sum(len(group["params"]) for group in found.param_groups) == len(trained)
    told = {(group["matrices"], group["lr"], group["weight_decay"]) for group in found.param_groups}
    assert told == {(True, 0.01, 1e-4), (False, 0.01, 1e-4), (False, 0.01, 0.0)}


COMMON = "--batch 2 --minutes 0.01 --threads 1 --holdout 2 "


def _run(yardsticks: ModuleType, given: list[str]) -> dict[str, Any]:
    threads = torch.get_num_threads()
    try:
        yardsticks.main(given)
    finally:
        torch.set_num_threads(threads)
    out = Path(given[given.index("--out") + 1])
    report = json.loads(out.read_text())
    report["found"] = json.loads(out.with_name(report["detections"]).read_text())
    assert given[given.index("--data") + 1] not in out.read_text()
    return report


def test_a_sweep_chooses_on_training_images_and_scores_the_validation_split(
    scripts: Any, dataset: Path, tmp_path: Path
) -> None:
    given = ["--data", str(dataset), "--model", "faster_rcnn_r18", "--out", str(tmp_path / "out" / "report.json")]
    more = "--size 64 --rois 16 --sweep 2 --sweep-minutes 0.01"
    report = _run(scripts("yardsticks"), [*given, *(COMMON + more).split()])
    assert report["scored_on"] == "val"
    assert [row["train_images"] for row in report["sweep"]] == [4, 4]
    assert report["training"]["train_images"] == 6
    assert report["training"]["lr"] in [row["lr"] for row in report["sweep"]]
    assert report["training"]["images"] >= 2
    assert report["coco"]["images"] == 3
    assert {row["category_id"] for row in report["found"]} <= {7}
    assert {row["image_id"] for row in report["found"]} <= {100, 101, 102}


def test_a_holdout_is_scored_instead_of_the_validation_split(scripts: Any, dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    given = ["--data", str(dataset), "--model", "rtdetr_r18", "--out", str(tmp_path / "report.json")]
    report = _run(scripts("yardsticks"), [*given, *(COMMON + "--size 128").split()])
    assert report["scored_on"] == "holdout"
    assert report["training"]["train_images"] == 4
    assert report["coco"]["images"] == 2
    # The best 100 pairs of query and class are kept whatever their scores.
    assert sorted({row["image_id"] for row in report["found"]}) == [5, 6]
    assert len(report["found"]) == 200


def test_images_too_small_for_rtdetr_are_refused(scripts: Any, dataset: Path, tmp_path: Path) -> None:
    given = ["--data", str(dataset), "--model", "rtdetr_r18", "--out", str(tmp_path / "report.json"), "--size", "96"]
    with pytest.raises(DetrctlError) as caught:
        _run(scripts("yardsticks"), given)
    assert str(caught.value) == "sizes [96]: RT-DETR needs multiples of 32 from 128 on (it picks 300 places)"


def test_two_result_files_are_compared(
    scripts: Any, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = dataset / "annotations" / "instances_val.json"
    truths = json.loads(annotations.read_text())["annotations"]
    perfect = [{"image_id": t["image_id"], "category_id": 7, "bbox": t["bbox"], "score": 0.9} for t in truths]
    files = [tmp_path / "perfect.json", tmp_path / "empty.json"]
    for file, rows in zip(files, (perfect, []), strict=True):
        file.write_text(json.dumps(rows))
    given = [
        *map(str, files),
        "--annotations",
        str(annotations),
        "--resamples",
        "20",
        "--json",
        str(tmp_path / "c.json"),
    ]
    scripts("bootstrap").main(given)
    line = "AP    first 1.0000  second 0.0000  difference +1.0000  95% interval [+1.0000, +1.0000]  "
    assert capsys.readouterr().out.startswith(line + "first ahead in 100.0% of draws\n")
    assert json.loads((tmp_path / "c.json").read_text())["ap50"]["low"] == pytest.approx(1)
