"""What `import detrctl` offers, and what it costs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import detrctl

ROOT = Path(__file__).parents[1]


def test_exported_names_are_sorted_and_every_one_is_there_and_documented():
    assert len(detrctl.__all__) >= 14
    assert detrctl.__all__ == sorted(detrctl.__all__)
    for name in set(detrctl.__all__) - {"__version__"}:
        assert getattr(detrctl, name).__doc__, name
    assert set(detrctl.__all__) <= set(dir(detrctl))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError) as error:
        _ = detrctl.evalute
    assert str(error.value) == "module 'detrctl' has no attribute 'evalute'"


def test_importing_the_package_does_not_load_torch():
    code = "import sys, detrctl; detrctl.DetrctlError; print('torch' in sys.modules, 'pydantic' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout == "False False\n"


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == detrctl.__version__
