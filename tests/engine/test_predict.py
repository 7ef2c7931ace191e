"""Prediction with a learner that finds the whole image, its upper half and its left half."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detrctl.boxes import XyxyPx
from detrctl.engine.predict import Predictor, predict_files, to_pixels
from detrctl.errors import DataError, DetrctlError
from detrctl.evaluation.drawing import class_colour
from detrctl.recipe.schema import Recipe
from detrctl.structures import Categories, Detections, ImageBatch

CPU = torch.device("cpu")
CATEGORIES = Categories(names=("whole", "upper", "left"), ids=(1, 5, 9))


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def detect(self, images: ImageBatch) -> list[Detections]:
        self.batches.append(len(images))
        return [
            Detections(
                scores=torch.tensor([0.9, 0.6, 0.3]),
                labels=torch.tensor([0, 1, 2]),
                boxes=XyxyPx(torch.tensor([[0, 0, w, h], [0, 0, w, h // 2], [0, 0, w // 2, h]]).float()),
                queries=torch.arange(3),
                image_id=image_id,
            )
            for image_id, (h, w) in zip(images.image_ids, images.original_sizes_hw.tolist(), strict=True)
        ]


@pytest.fixture
def learner() -> Halves:
    return Halves()


@pytest.fixture
def predictor(learner: Halves) -> Predictor:
    recipe = Recipe.model_validate({"data": {"eval_size": 32, "eval_max_size": 64}, "evaluate": {"batch_size": 2}})
    return Predictor(learner, recipe=recipe, categories=CATEGORIES, device=CPU)


def photo(width: int = 40, height: int = 30) -> Image.Image:
    ramp = np.linspace(0, 255, width * height * 3).astype(np.uint8).reshape(height, width, 3)
    return Image.fromarray(ramp)


def test_a_result_names_what_was_found_in_pixels_of_the_image(predictor: Predictor):
    (result,) = predictor.predict(photo())
    assert (result.names, result.size_hw, len(result)) == (("whole", "upper"), (30, 40), 2)
    assert result.boxes.tolist() == [[0, 0, 40, 30], [0, 0, 40, 15]]
    assert result.scores.tolist() == pytest.approx([0.9, 0.6])


def test_score_and_top_choose_and_the_score_itself_is_still_in(predictor: Predictor):
    def names(**choice):
        return predictor.predict(photo(), **choice)[0].names

    assert names(score=0.0) == ("whole", "upper", "left")
    assert names(score=0.0, top=1) == ("whole",)
    assert names(score=0.95) == ()
    assert names(score=float(torch.tensor(0.6))) == ("whole", "upper")


def test_all_kinds_of_pictures_are_the_same_picture(tmp_path: Path, predictor: Predictor):
    image = photo()
    image.save(tmp_path / "a.png")
    array = np.asarray(image)
    kinds = [tmp_path / "a.png", str(tmp_path / "a.png"), image, array, torch.tensor(array).permute(2, 0, 1)]
    expected = torch.tensor(array).permute(2, 0, 1)
    for kind in kinds:
        assert torch.equal(to_pixels(kind), expected)
        assert predictor.predict(kind)[0].size_hw == (30, 40)
    assert [result.size_hw for result in predictor.predict(kinds)] == [(30, 40)] * 5


def test_grey_pictures_become_rgb():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    expected = torch.tensor(grey).expand(3, 3, 4)
    assert torch.equal(to_pixels(grey), expected)
    assert torch.equal(to_pixels(Image.fromarray(grey)), expected)


def test_many_pictures_come_back_in_order_and_in_batches(predictor: Predictor, learner: Halves):
    sizes = [(20, 30), (50, 10), (33, 44), (9, 60), (31, 31)]
    results = predictor.predict(photo(w, h) for h, w in sizes)
    assert [result.size_hw for result in results] == sizes
    assert [tuple(result.boxes[0].tolist()[::-1][:2]) for result in results] == sizes
    assert learner.batches == [2, 2, 1]
    predictor.predict([photo()] * 5, batch_size=4)
    assert learner.batches[3:] == [4, 1]


def test_a_fourth_axis_is_many_pictures_and_none_give_none(predictor: Predictor):
    assert len(predictor.predict(np.zeros((3, 20, 30, 3), np.uint8))) == 3
    assert len(predictor.predict(torch.zeros(2, 3, 20, 30, dtype=torch.uint8))) == 2
    assert predictor.predict([]) == []


def test_photographs_are_turned_as_a_viewer_shows_them(tmp_path: Path, predictor: Predictor):
    sideways = photo(40, 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways.save(tmp_path / "sideways.jpg", exif=exif)
    with Image.open(tmp_path / "sideways.jpg") as opened:
        assert [result.size_hw for result in predictor.predict([tmp_path / "sideways.jpg", opened])] == [(40, 30)] * 2


@pytest.mark.parametrize(
    ("picture", "what"),
    [
        (np.zeros((4, 4, 3)), "float64 (4, 4, 3)"),
        (np.zeros((4, 4, 4), np.uint8), "uint8 (4, 4, 4)"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), "torch.uint8 (4, 4, 3)"),
        (torch.zeros(3, 4, 4), "torch.float32 (3, 4, 4)"),
        ([7], "int"),
    ],
)
def test_what_is_no_picture_is_one_line(predictor: Predictor, picture, what):
    with pytest.raises(DataError) as error:
        predictor.predict(picture)
    assert str(error.value) == (
        f"predict: an image is {what}; "
        "a path, a Pillow image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W) is needed"
    )


def test_a_batch_of_none_is_one_line(predictor: Predictor):
    with pytest.raises(DetrctlError) as error:
        predictor.predict(photo(), batch_size=0)
    assert str(error.value) == "predict: batch_size is 0, at least 1 is needed"


def test_a_result_is_drawn_on_its_picture(predictor: Predictor):
    image = Image.new("RGB", (300, 200), (90, 90, 90))
    (result,) = predictor.predict(image)
    drawn = result.draw(image)
    assert drawn.size == (300, 200)
    assert drawn.getpixel((0, 180)) == class_colour(0)
    assert drawn.getpixel((150, 100)) == class_colour(1)


def test_files_come_back_in_order_and_broken_ones_say_why(tmp_path: Path, predictor: Predictor, learner: Halves):
    paths = [tmp_path / f"{name}.png" for name in "abcde"]
    for i, path in enumerate(paths):
        photo(20 + i, 20).save(path)
    paths[1].write_bytes(b"not an image")
    paths[2].write_bytes(paths[0].read_bytes()[:60])
    files = list(predict_files(predictor, paths, batch_size=3))
    assert [file.path for file in files] == paths
    assert [file.result and file.result.size_hw for file in files] == [(20, 20), None, None, (20, 23), (20, 24)]
    assert [len(file.result) for file in files if file.result] == [3, 3, 3]  # whatever the score
    assert files[1].problem is not None
    assert files[1].problem.startswith(f"{paths[1]}: cannot be decoded as an image (")
    assert files[2].problem is not None
    assert learner.batches == [1, 2]


def test_only_broken_files_do_not_reach_the_model(tmp_path: Path, predictor: Predictor, learner: Halves):
    (file,) = predict_files(predictor, [tmp_path / "none.jpg"])
    assert file.problem == f"{tmp_path / 'none.jpg'}: no such image file"
    assert learner.batches == []


@pytest.mark.parametrize(("emulated", "precision"), [(True, torch.float32), (False, torch.bfloat16)])
def test_bf16_that_is_emulated_is_fp32_and_said(
    monkeypatch: pytest.MonkeyPatch, emulated: bool, precision: torch.dtype
) -> None:
    monkeypatch.setattr("detrctl.engine.distributed.emulates_bf16", lambda device: emulated)
    used: list[torch.dtype] = []

    class Multiplying(Halves):
        def detect(self, images: ImageBatch) -> list[Detections]:
            used.append((torch.ones(1, 1) @ torch.ones(1, 1)).dtype)
            return super().detect(images)

    recipe = Recipe.model_validate({"train": {"precision": "bf16"}, "data": {"eval_size": 32, "eval_max_size": 64}})
    predictor = Predictor(Multiplying(), recipe=recipe, categories=CATEGORIES, device=CPU)  # type: ignore[arg-type]
    predictor.predict(photo())
    assert used == [precision]
    said = ("this CPU has no bf16 arithmetic, so that fp32 is used where training used bf16",)
    assert predictor.notes == (said if emulated else ())
