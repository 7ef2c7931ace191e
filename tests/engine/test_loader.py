"""Loader workers fail in one line, and the program ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from detrctl.engine.loader import Loader
from detrctl.errors import DataError

SCRIPT = """
from detrctl.engine.interrupt import ignore_in_worker
from detrctl.engine.loader import Loader
from detrctl.errors import DataError

class Broken:
    def __len__(self):
        return 8
    def __getitem__(self, i):
        if i == 5:
            raise DataError("five.jpg: cannot be decoded")
        return i

loader = Loader(Broken(), num_workers=2, persistent_workers=True, worker_init_fn=ignore_in_worker)
try:
    for batch in loader:
        pass
except DataError as error:
    kept = error  # with its traceback, and so with the workers
    print(error)
"""


def test_a_workers_error_is_one_line_and_the_program_ends():
    command = [sys.executable, "-c", SCRIPT]
    root = Path(__file__).parents[2]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=root)
    assert (answer.stdout, answer.stderr) == ("five.jpg: cannot be decoded\n", "")


def test_without_workers_the_error_is_as_it_was_raised():
    class Broken:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, i: int) -> int:
            raise DataError("one.jpg: cannot be decoded")

    with pytest.raises(DataError) as error:
        list(Loader(Broken()))
    assert str(error.value) == "one.jpg: cannot be decoded"


def test_every_batch_comes_again_in_the_next_pass():
    loader = Loader([1, 2, 3], batch_size=2, collate_fn=list)
    assert list(loader) == list(loader) == [[1, 2], [3]]
    assert len(loader) == 2
