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

    def total(self) -> str:
        """Images, boxes, classes and sizes in one line."""
        return (
            f"{self.images} images, {self.boxes} boxes of {len(self.boxes_per_class)} classes: "
            f"{self.small} small, {self.medium} medium, {self.large} large, "
            f"at most {self.most_boxes_in_an_image} in an image"
        )

    def facts(self) -> list[str]:
        """One line for everything odd that was found, with what is done about it."""
        unused = sum(count == 0 for count in self.boxes_per_class)
        counted = (
            ("images without boxes, kept", self.images_without_boxes),
            ("classes without boxes, kept", unused),
            ("images without width and height, taken from the image files", self.images_without_size),
            ("crowd annotations, left out of training, kept for evaluation", self.crowds),
            ("annotations without iscrowd, taken as single objects", self.iscrowd_missing),
            ("annotations without area, taken as width x height of the box", self.areas_derived),
            ("boxes that leave their image, clipped in training", self.leaving_the_image),
            ("boxes without area inside the image, left out of training", self.without_area),
            ("annotations whose box is not four finite numbers, left out", self.unusable_boxes),
            ("annotations of an image that is not listed, left out", self.unknown_image),
            ("annotations of a category that is not listed, left out", self.unknown_category),
        )
        return [f"{what}: {count}" for what, count in counted if count]

    def lines(self) -> list[str]:
        return [self.total(), *self.facts()]
