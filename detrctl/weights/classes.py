"""What the columns of a published class head stand for."""

from collections.abc import Sequence

from detrctl.structures import Categories

COCO = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat",
    10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench", 16: "bird", 17: "cat",
    18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe",
    27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
    36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove", 41: "skateboard",
    42: "surfboard", 43: "tennis racket", 44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife",
    50: "spoon", 51: "bowl", 52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot",
    58: "hot dog", 59: "pizza", 60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed",
    67: "dining table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard",
    77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book",
    85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
}  # fmt: skip
"""COCO's classes of 2017 by category id; eleven ids up to 90 are not used."""

RAW = max(COCO) + 1
"""Columns of an official head: one per category id, from 0 on."""


def unused_name(column: int) -> str:
    """What a column is called that no class of its dataset has; no dataset's class has such a name."""
    return f"(unused {column})"


def plain_name(name: str) -> str:
    """As names are compared: upper and lower case alike."""
    return name.strip().casefold()


def is_unused(name: str) -> bool:
    return name.startswith("(unused ")


def published_categories(columns: int, names: Sequence[str] = (), ids: Sequence[int] = ()) -> Categories:
    """The classes of a head of so many columns, `names` and category `ids` where its file tells them.

    91 columns are COCO's by category id, 80 its classes in the order of their ids. All columns are kept, those that
    no class has as well: softmax and top-k then see what they saw in training. Of other heads nothing is known.
    """
    if len(names) == len(ids) == columns:
        return Categories(tuple(names), tuple(ids))
    if columns == RAW and (len(names) != RAW or names[1] == COCO[1]):  # files that tell names call unused ones N/A
        return Categories(tuple(COCO.get(column, unused_name(column)) for column in range(RAW)), tuple(range(RAW)))
    if columns == len(COCO) and (not names or tuple(map(plain_name, names)) == tuple(COCO.values())):
        return Categories(tuple(COCO.values()), tuple(COCO))
    if len(names) == columns:
        return Categories(tuple(names), tuple(range(columns)))
    return Categories(tuple(f"(class {column})" for column in range(columns)), tuple(range(columns)))


def are_known(categories: Categories) -> bool:
    """Whether these are names, and not numbers that stand for them."""
    return not all(name.startswith(("(class ", "(unused ")) for name in categories.names)


def described(categories: Categories) -> str:
    """In a few words, for a report."""
    if len(categories) == RAW and categories.names[1] == COCO[1]:
        return f"{RAW} columns by COCO's category ids, {len(COCO)} of them used"
    if not are_known(categories):
        return f"{len(categories)}, whose names the file does not tell"
    shown = ", ".join(categories.names[:6])
    coco = "COCO's, " if categories.names == tuple(COCO.values()) else ""
    return f"{len(categories)}: {coco}{shown}{', ...' if len(categories) > 6 else ''}"
