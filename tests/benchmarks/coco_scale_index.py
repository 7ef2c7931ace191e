"""Reads an annotation file of COCO's size: seconds, peak memory, and what loader workers add to it.

    python tests/benchmarks/coco_scale_index.py [--images 118000] [--boxes 860000] [--workers 2]

Writes the file into a temporary folder (about 480 MB), indexes it in a fresh process, and lets loader workers walk all
targets, once with the whole index and once with that of a single image; the difference is what the index costs a
worker. Linux only: memory is read from /proc. PSS counts a shared page in parts, USS only pages of one's own.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from detrctl.data.coco import CocoIndex

CATEGORY_IDS = [number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
MOST_SECONDS, MOST_MEGABYTES = 20, 2048
"""What indexing may take; the exit code is 1 beyond."""


def write_annotations(path: Path, *, images: int, boxes: int) -> None:
    """A file with the fields, the numbers and the lengths of instances_train2017.json; polygons from a pool."""
    rng = np.random.default_rng(0)
    polygons = [json.dumps([np.round(rng.random(2 * int(n)) * 400, 2).tolist()]) for n in rng.integers(12, 40, 2000)]
    owners = rng.integers(1, images + 1, boxes)
    sides = np.round(rng.random((boxes, 4)) * 200 + 1, 2).tolist()
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": {"description": "made up"}, "licenses": [], "images": [')
        file.write(", ".join(_image(i) for i in range(1, images + 1)))
        file.write('], "annotations": [')
        for i, (owner, box) in enumerate(zip(owners, sides, strict=True)):
            file.write(
                f'{", " if i else ""}{{"segmentation": {polygons[i % 2000]}, "area": {box[2] * box[3] * 0.6:.4f}, '
                f'"iscrowd": 0, "image_id": {owner}, "bbox": {box}, "category_id": {CATEGORY_IDS[i % 80]}, "id": {i}}}'
            )
        categories = [{"supercategory": "any", "id": number, "name": f"class {number}"} for number in CATEGORY_IDS]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def _image(number: int) -> str:
    return json.dumps(
        {
            "license": 3,
            "file_name": f"{number:012d}.jpg",
            "coco_url": f"http://images.cocodataset.org/train2017/{number:012d}.jpg",
            "height": 480,
            "width": 640,
            "date_captured": "2013-11-14 11:18:45",
            "flickr_url": "http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg",
            "id": number,
        }
    )


class Walk(Dataset[int]):
    """Item i reads everything that the index knows of image i."""

    def __init__(self, index: CocoIndex):
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> int:
        self.index.image(i)
        return len(self.index.targets(i)[1])


def memory_of(pid: int | str) -> dict[str, float]:
    """MB: resident, proportional and own memory of a process."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0]) / 1024
    return {"RSS": fields["Rss"], "PSS": fields["Pss"], "USS": fields["Private_Clean"] + fields["Private_Dirty"]}


def worker_memory(index: CocoIndex, method: str, workers: int) -> Iterator[dict[str, float]]:
    """The memory of each worker after they have walked the whole index together."""
    loader = DataLoader(
        Walk(index), batch_size=256, num_workers=workers, multiprocessing_context=method, persistent_workers=True
    )
    for _ in loader:
        pass
    for worker in multiprocessing.active_children():
        yield memory_of(worker.pid or 0)


def report(name: str, memory: dict[str, float]) -> None:
    print(f"  {name:34}" + "  ".join(f"{kind} {megabytes:7.0f} MB" for kind, megabytes in memory.items()), flush=True)


def measure(path: Path, small: Path, workers: int) -> None:
    """Runs in a fresh process, so that writing the file does not count."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    index = CocoIndex.read(path)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{index.summary.images} images, {index.summary.annotations} annotations, {path.stat().st_size / 1e6:.0f} MB")
    print(f"indexed in {seconds:.1f} s; peak RSS {peak:.0f} MB (before, with torch imported: {before:.0f} MB)")
    held = sum(value.nbytes for value in vars(index).values() if isinstance(value, torch.Tensor))
    if seconds > MOST_SECONDS or peak > MOST_MEGABYTES:
        sys.exit(f"more than {MOST_SECONDS} s or {MOST_MEGABYTES} MB")
    print(f"the index holds {held / 2**20:.0f} MB")
    report("main process", memory_of("self"))
    for method in ("fork", "spawn"):
        for name, shown in (("whole index", index), ("index of one image", CocoIndex.read(small))):
            for memory in worker_memory(shown, method, workers):
                report(f"{method} worker, {name}", memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "instances_train2017.json", Path(folder) / "one.json"
        write_annotations(path, images=options.images, boxes=options.boxes)
        write_annotations(small, images=1, boxes=1)
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(path, small, options.workers))
        process.start()
        process.join()
        raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
