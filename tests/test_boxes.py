import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou

from detrctl.boxes import (
    Cxcywh,
    Xyxy,
    cxcywh_to_xyxy,
    paired_giou,
    pairwise_giou,
    pairwise_iou,
    xyxy_to_cxcywh,
    xyxy_to_pixels,
)


def random_boxes(count: int, seed: int) -> Xyxy:
    low_high = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)).sort(dim=1).values
    return Xyxy(low_high.flatten(1))


def test_a_box_by_hand_in_both_formats() -> None:
    box = Cxcywh(torch.tensor([[0.5, 0.4, 0.2, 0.6]]))
    torch.testing.assert_close(cxcywh_to_xyxy(box), torch.tensor([[0.4, 0.1, 0.6, 0.7]]))


def test_formats_convert_there_and_back() -> None:
    boxes = random_boxes(50, seed=0)
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)


def test_pixels_take_width_for_x_and_height_for_y_and_clip_nothing() -> None:
    boxes = Xyxy(torch.tensor([[[-0.1, 0.5, 1.1, 1.0]]]))
    pixels = xyxy_to_pixels(boxes, torch.tensor([[100, 200]]))
    torch.testing.assert_close(pixels, torch.tensor([[[-20.0, 50.0, 220.0, 100.0]]]))


def test_overlaps_by_hand() -> None:
    a = Xyxy(torch.tensor([[0.0, 0.0, 2.0, 2.0]]))
    b = Xyxy(torch.tensor([[1.0, 1.0, 3.0, 3.0], [4.0, 0.0, 6.0, 2.0]]))
    torch.testing.assert_close(pairwise_iou(a, b), torch.tensor([[1 / 7, 0.0]]))
    # Enclosing boxes: 3 x 3 with 2 uncovered, 6 x 2 with 4 uncovered.
    torch.testing.assert_close(pairwise_giou(a, b), torch.tensor([[1 / 7 - 2 / 9, -4 / 12]]))


def test_overlaps_agree_with_torchvision() -> None:
    a, b = random_boxes(40, seed=1), random_boxes(30, seed=2)
    torch.testing.assert_close(pairwise_iou(a, b), box_iou(a, b))
    torch.testing.assert_close(pairwise_giou(a, b), generalized_box_iou(a, b))


@pytest.mark.parametrize("count", [0, 1, 25])
def test_pairs_are_the_diagonal_of_the_table(count: int) -> None:
    a, b = random_boxes(count, seed=3), random_boxes(count, seed=4)
    torch.testing.assert_close(paired_giou(a, b), pairwise_giou(a, b).diagonal())
