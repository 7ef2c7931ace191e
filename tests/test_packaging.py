"""What is handed out works where there is nothing else."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from detrctl import __version__
from detrctl.recipe.locate import shipped

ROOT = Path(__file__).parents[1]


def done(*command, cwd, **environment):
    """The stdout of a command that must succeed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(command, cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, timeout=170)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    done(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder)
    return folder / f"detrctl-{__version__}.tar.gz", folder / f"detrctl-{__version__}-py3-none-any.whl"


@pytest.fixture
def empty(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_a_wheel_holds_code_recipes_licence_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = wheel.namelist()
    assert {f"detrctl/shipped_recipes/{name}.yaml" for name in shipped()} <= set(names)
    assert f"detrctl-{__version__}.dist-info/licenses/LICENSE" in names
    assert {name.split("/")[0] for name in names} == {"detrctl", f"detrctl-{__version__}.dist-info"}
    assert len([name for name in names if name.endswith(".py")]) == len(list((ROOT / "detrctl").rglob("*.py")))


def test_an_sdist_holds_what_the_tests_and_the_makefile_need(built):
    with tarfile.open(built[0]) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames()}
    assert {"pyproject.toml", "LICENSE", "Makefile", ".ci/run", "recipes/detr_r50.yaml", "tools/make_venv.sh"} <= names
    assert "tests/test_packaging.py" in names
    assert not any(name.startswith((".venv", "runs", "dist", ".git/")) for name in names)


def test_an_unpacked_wheel_finds_its_recipes_from_an_empty_folder(built, empty, tmp_path):
    with zipfile.ZipFile(built[1]) as wheel:
        wheel.extractall(tmp_path / "site")
    listed = done(sys.executable, "-m", "detrctl", "recipes", "list", cwd=empty, PYTHONPATH=str(tmp_path / "site"))
    assert [line.split()[0] for line in listed.splitlines()[1:-2]] == list(shipped())
    resolved = done(
        *(sys.executable, "-m", "detrctl", "recipes", "show", "detr_dc5_r101", "--resolved"),
        cwd=empty,
        PYTHONPATH=str(tmp_path / "site"),
    )
    assert f"    name: resnet101  # {tmp_path}/site/detrctl/shipped_recipes/detr_dc5_r101.yaml:" in resolved


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sdist", "wheel", "editable"])
def test_every_kind_of_install_works_from_an_empty_folder(built, empty, tmp_path, kind):
    """Into a fresh environment that sees this one's dependencies, but not this one's detrctl."""
    source = {"sdist": [str(built[0])], "wheel": [str(built[1])], "editable": ["--editable", str(ROOT)]}[kind]
    done(sys.executable, "-m", "venv", str(tmp_path / "venv"), cwd=empty)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(done(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=empty).strip())
    (site / "zz_dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    done(str(python), *install, *source, cwd=empty)
    command = str(tmp_path / "venv" / "bin" / "detrctl")
    assert done(command, "--version", cwd=empty) == f"detrctl {__version__}\n"
    home = done(str(python), "-c", "import detrctl; print(detrctl.__file__)", cwd=empty)
    assert home.startswith(str(ROOT if kind == "editable" else site))
    assert "detr_r50" in done(command, "recipes", "list", cwd=empty)
    assert "name: resnet50" in done(command, "recipes", "show", "recipes/detr_r50.yaml", cwd=ROOT)
