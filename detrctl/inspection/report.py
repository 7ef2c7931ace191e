"""report.html: one file that needs no network, made of the JSON, the pictures and the template beside this file."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from detrctl.inspection.matching_report import CHEAPEST, MatchingReport, Shown, as_json

TEMPLATE = Path(__file__).with_name("report_template")
LARGEST = 5_000_000
"""Bytes of a page."""

FEWER = (CHEAPEST, 20, 12, 8, 5)
PICTURE_SIDES, QUALITY = (640, 480, 320, 200), 82
PICTURES_SHARE = 0.4
"""At most this part of the page's bytes are pictures; else they get smaller."""


def fitting_page(report: MatchingReport) -> str:
    """With the 30 cheapest queries of each truth, or fewer where the page would pass 5 MB; never fewer than five."""
    pictures = picture_urls(report.shown)
    for cheapest in FEWER:
        page = make_page(for_page(as_json(report, cheapest=cheapest)), pictures)
        if len(page.encode()) < LARGEST:
            break
    return page


def for_page(content: dict[str, Any]) -> dict[str, Any]:
    """Of the JSON what the page tells: of all checkpoints but the one that is shown only the steps between them."""
    first, *others = content["runs"]
    runs = [first | {"checkpoints": first["checkpoints"][-1:]}, *(run | {"checkpoints": []} for run in others)]
    return content | {"runs": runs}


def make_page(content: dict[str, Any], pictures: Sequence[str]) -> str:
    """`pictures` are data URLs, one for each of the content's images."""
    parts = {
        "/*CSS*/": _read("page.css"),
        "/*JS*/": _read("page.js"),
        "/*PICTURES*/": embedded(pictures),
        "/*DATA*/": embedded(content),  # last: a class may be called like one of the marks
    }
    page = _read("page.html")
    for mark, text in parts.items():
        page = page.replace(mark, text, 1)
    return page


def compact(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def embedded(content: Any) -> str:
    """JSON that cannot end the script element it stands in, whatever a class is called."""
    return compact(content).replace("<", "\\u003c")


def picture_urls(shown: Sequence[Shown]) -> list[str]:
    """The pictures as data URLs, no side above 640 pixels, or smaller where they would fill the page."""
    for side in PICTURE_SIDES:
        urls = [_picture_url(image, side) for image in shown]
        if sum(map(len, urls)) < PICTURES_SHARE * LARGEST:
            break
    return urls


def _picture_url(shown: Shown, side: int) -> str:
    picture = Image.fromarray(shown.picture.numpy())
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _read(name: str) -> str:
    return (TEMPLATE / name).read_text(encoding="utf-8")
