"""What is handed out works where there is nothing else."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from detrctl import __version__
from detrctl.recipe.locate import shipped
from tests.engine import tiny

ROOT = Path(__file__).parents[1]
SMALL = {
    "model.backbone": "{name: resnet10, weights: none, norm: batch, frozen_stages: 0}",
    "model.width": 16,
    "model.heads": 2,
    "model.feedforward": 16,
    "model.encoder_layers": 1,
    "model.decoder_layers": 1,
    "model.queries": 5,
    "data.augment.policy": "none",
    "data.eval_size": 32,
    "data.eval_max_size": 48,
    "data.workers": 0,
    "train.epochs": 1,
    "train.batch_size": 4,
    "train.reference_batch_size": 4,
    "train.schedule.kind": "constant",
}
"""What makes a shipped recipe a training of a second."""


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
    assert {f"detrctl/inspection/report_template/page.{kind}" for kind in ("html", "css", "js")} <= set(names)
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


@pytest.fixture(scope="module", params=["sdist", "wheel", "editable"])
def installed(built, request, tmp_path_factory):
    """The command of a fresh environment that sees this one's dependencies, but not this one's detrctl."""
    source = {"sdist": [str(built[0])], "wheel": [str(built[1])], "editable": ["--editable", str(ROOT)]}[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    done(sys.executable, "-m", "venv", str(folder / "venv"), cwd=folder)
    python = folder / "venv" / "bin" / "python"
    site = Path(done(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (site / "zz_dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    done(str(python), *install, *source, cwd=folder)
    home = done(str(python), "-c", "import detrctl; print(detrctl.__file__)", cwd=folder)
    assert home.startswith(str(ROOT if request.param == "editable" else site))
    return str(folder / "venv" / "bin" / "detrctl")


@pytest.mark.slow
def test_every_kind_of_install_works_from_an_empty_folder(installed, empty):
    assert done(installed, "--version", cwd=empty) == f"detrctl {__version__}\n"
    assert "detr_r50" in done(installed, "recipes", "list", cwd=empty)
    assert "name: resnet50" in done(installed, "recipes", "show", "recipes/detr_r50.yaml", cwd=ROOT)


@pytest.mark.slow
def test_every_kind_of_install_trains_by_name_and_by_path(installed, empty):
    tiny.dataset(empty / "data")
    changes = [word for field, value in SMALL.items() for word in ("--set", f"{field}={value}")]
    options = ["--data", "data", "--device", "cpu", *changes]
    tried = done(installed, "train", "deformable", "--dry-run", *options, cwd=empty)
    assert tried.splitlines()[-1] == "it fits; nothing was written"
    assert [path.name for path in empty.iterdir()] == ["data"]
    (empty / "recipes").mkdir()
    shutil.copy(ROOT / "recipes" / "deformable.yaml", empty / "recipes")
    said = done(installed, "train", "recipes/deformable.yaml", "--out", "run", *options, cwd=empty)
    assert "epoch 1/1  loss " in said
    assert (empty / "run" / "checkpoints" / "best.pt").is_file()
