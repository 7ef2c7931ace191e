"""report.html: one file that needs no network, made of the JSON, the pictures and the template beside this file."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from detrctl.inspection.matching_report import CHEAPEST, Shown

TEMPLATE = Path(__file__).with_name("report_template")
LARGEST = 5_000_000
"""Bytes of a page."""

PICTURE_SIDES, QUALITY = (640, 480, 320, 200), 82
PICTURES_SHARE = 0.4
"""At most this part of the page's bytes are pictures; else they get smaller."""


@dataclass(frozen=True)
class Plan:
    """How much a page holds: cheapest queries of each truth, the longest side of a picture, whether noised queries."""

    cheapest: int
    side: int
    noised: bool = True


PLANS = (
    *(Plan(cheapest, 640) for cheapest in (CHEAPEST, 20, 12, 8, 5)),
    *(Plan(5, side) for side in (480, 320, 200)),
    *(Plan(cheapest, 200, noised=False) for cheapest in (5, 3, 1)),
)
"""From the fullest page to the smallest."""


@dataclass(frozen=True)
class Page:
    """HTML, and the plan that it keeps to."""

    text: str
    plan: Plan


def fitting_page(content: dict[str, Any], shown: Sequence[Shown]) -> Page:
    """Of a report's JSON and its images: by the first of the plans that stays under 5 MB, by the last if none does."""
    pictures = cache(lambda side: picture_urls(shown, side))
    for plan in PLANS:
        text = make_page(for_page(content, plan), pictures(plan.side))
        if len(text.encode()) < LARGEST:
            break
    return Page(text, plan)


def for_page(content: dict[str, Any], plan: Plan = PLANS[0]) -> dict[str, Any]:
    """Of the JSON what the page tells: in full the checkpoint that is shown, of the others the steps between them.

    Of each run there is the `last` checkpoint's last layer. Where noised queries are left out, the images of
    `denoising` are null.
    """
    first, *others = map(_run, content["runs"])
    denoising = content["denoising"]
    if denoising is not None:
        images = [_noised(image) for image in denoising["images"]] if plan.noised else None
        denoising = denoising | {"images": images}
    return content | {
        "runs": [first | {"checkpoints": first["checkpoints"][-1:]}, *(run | {"checkpoints": []} for run in others)],
        "cheapest": plan.cheapest,
        "images": [
            image | {"layers": [_layer(layer, plan.cheapest) for layer in image["layers"]]}
            for image in content["images"]
        ],
        "denoising": denoising,
    }


def _layer(layer: dict[str, Any], cheapest: int) -> dict[str, Any]:
    """With no more than the cheapest queries of each truth, its match and its runner-up."""
    truths = []
    for truth in layer["truths"]:
        parts = (truth["query"], truth["runner_up"])
        rows = [row for place, row in enumerate(truth["table"]) if place < cheapest or row[0] in parts]
        truths.append(truth | {"table": rows})
    mentioned = {str(row[0]) for truth in truths for row in truth["table"]}
    queries = {query: told for query, told in layer["queries"].items() if query in mentioned}
    return {"queries": queries, "truths": truths}


def _run(run: dict[str, Any]) -> dict[str, Any]:
    """`last`: the terms of the last layer, and its changes from the layer before, where there are such."""
    checkpoint = run["checkpoints"][-1]
    terms = [layer["all"] for layer in checkpoint["layers"][-1:]]
    changes = [step["all"] for step in checkpoint["between_layers"][-1:]]
    last = {
        "name": checkpoint["name"],
        "layers": len(checkpoint["layers"]),
        "terms": terms[0] if terms else None,
        "changes": changes[0] if changes else None,
    }
    return run | {"steps": [_step(step) for step in run["steps"]], "last": last}


def _step(step: dict[str, Any]) -> dict[str, Any]:
    return step | {"moved": {name: part for name, part in step["moved"].items() if name != "by_class"}}


def _noised(image: dict[str, Any]) -> dict[str, Any]:
    return image | {"queries": [query | {"layers": query["layers"][-1:]} for query in image["queries"]]}


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


def picture_urls(shown: Sequence[Shown], largest: int = PICTURE_SIDES[0]) -> list[str]:
    """The pictures as data URLs, no side above `largest` pixels, or smaller where they would fill the page."""
    for side in (side for side in PICTURE_SIDES if side <= largest):
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
