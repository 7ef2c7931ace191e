"""Pictures of a whole report page to look at: python -m tests.inspection.page_screenshots report.html --out DIR"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tests.inspection.browser import Page, find_browser


def take(page_file: Path, folder: Path, *, width: int = 1280) -> list[Path]:
    """Two PNG files, the light one first; raises FileNotFoundError where no Chromium is installed."""
    browser = find_browser()
    if browser is None:
        raise FileNotFoundError("no Chromium is installed here")
    files = []
    for scheme in ("light", "dark"):
        files.append(folder / f"{page_file.stem}-{scheme}.png")
        url = page_file.resolve().as_uri()
        with Page(browser, url, size=(width, 1000), dark=scheme == "dark") as page:
            page.settle()
            page.screenshot(files[-1], whole=True)
    return files


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the pictures; default: this one")
    parser.add_argument("--width", type=int, default=1280, help="of the window, in pixels")
    asked = parser.parse_args(arguments)
    for file in take(asked.page, asked.out, width=asked.width):
        print(file)


if __name__ == "__main__":
    main()
