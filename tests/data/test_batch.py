"""Images of several sizes share one canvas, and the mask says which part of it is theirs."""

import torch

from detrctl.boxes import Cxcywh
from detrctl.data.batch import Sample, collate
from detrctl.structures import Targets


def sample(height: int, width: int, image_id: int) -> Sample:
    targets = Targets(torch.tensor([image_id]), Cxcywh(torch.rand(1, 4)), image_id)
    return Sample(torch.rand(3, height, width) + 1, targets, (10 * height, 10 * width), image_id)


def test_images_lie_in_the_top_left_corner_and_the_rest_is_masked_zeros() -> None:
    samples = [sample(4, 7, 11), sample(6, 3, 12)]
    batch = collate(samples)
    assert batch is not None
    assert batch.images.pixels.shape == (2, 3, 6, 7)
    for pixels, is_padding, one in zip(batch.images.pixels, batch.images.is_padding, samples, strict=True):
        _, height, width = one.pixels.shape
        expected = torch.ones(6, 7, dtype=torch.bool)
        expected[:height, :width] = False
        assert torch.equal(is_padding, expected)
        assert torch.equal(pixels[:, :height, :width], one.pixels)
        assert not pixels[:, expected].any()
    assert batch.images.original_sizes_hw.tolist() == [[40, 70], [60, 30]]
    assert batch.images.image_ids == (11, 12)
    assert [targets.image_id for targets in batch.targets] == [11, 12]


def test_images_that_could_not_be_read_are_left_out_and_none_are_no_batch() -> None:
    batch = collate([None, sample(4, 7, 11), None])
    assert batch is not None
    assert batch.images.image_ids == (11,)
    assert len(batch.targets) == 1
    assert collate([None, None]) is None
