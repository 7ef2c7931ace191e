"""What an annotation file holds, in numbers and in words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageRecord:
    """An image as the annotation file describes it; height and width are 0 where it does not say."""

    id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True)
class CocoSummary:
    """What an annotation file holds, what was mended, and what was left out."""

    images: int
    annotations: int
    boxes: int
    """Annotations that training uses: no crowds, some area left inside the image."""
    boxes_per_class: tuple[int, ...]
    small: int
    medium: int
    large: int
    most_boxes_in_an_image: int
    images_without_boxes: int
    images_without_size: int
    crowds: int
    iscrowd_missing: int
    areas_derived: int
    leaving_the_image: int
    without_area: int
    unusable_boxes: int
    """Boxes that are not four finite numbers."""
    unknown_image: int
    unknown_category: int

    def lines(self) -> list[str]:
        """The totals, then one line for everything that was found, mended or left out."""
        totals = (
            f"{self.images} images, {self.boxes} boxes of {len(self.boxes_per_class)} classes: "
            f"{self.small} small, {self.medium} medium, {self.large} large, "
            f"at most {self.most_boxes_in_an_image} in an image"
        )
        unused = sum(count == 0 for count in self.boxes_per_class)
        facts = (
            (self.images_without_boxes, "images without boxes: kept"),
            (unused, "classes without boxes: kept"),
            (self.images_without_size, "images without width and height: taken from the image files"),
            (self.crowds, "crowd annotations: left out of training, kept for evaluation"),
            (self.iscrowd_missing, "annotations without iscrowd: taken as single objects"),
            (self.areas_derived, "annotations without area: width x height of the box"),
            (self.leaving_the_image, "boxes that leave their image: clipped in training"),
            (self.without_area, "boxes without area inside the image: left out of training"),
            (self.unusable_boxes, "annotations whose box is not four finite numbers: left out"),
            (self.unknown_image, "annotations of an image that is not listed: left out"),
            (self.unknown_category, "annotations of a category that is not listed: left out"),
        )
        return [totals, *(f"{count} {what}" for count, what in facts if count)]
