import errno
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer

from detrctl import __version__
from detrctl.cli import app as app_module
from detrctl.cli.app import COMMANDS, command_words, run
from detrctl.cli.mistakes import mistake
from detrctl.errors import DetrctlError, Problem, RecipeError

ROOT = Path(__file__).parents[2]


def detrctl(*arguments, **options):
    command = [sys.executable, "-m", "detrctl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.fixture
def failing(monkeypatch):
    """failing(error) puts in an app whose one command raises it, and gives the exit code of running that."""

    def run_it(error):
        made = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)

        @made.command()
        def command():
            raise error

        monkeypatch.setattr(app_module, "app", made)
        return run([])

    return run_it


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DetrctlError("a.jpg: no such file"), 2, "a.jpg: no such file\n"),
        (RecipeError([Problem("a.yaml:1", "x", "no"), Problem("--set", "", "y")]), 2, "a.yaml:1: x: no\n--set: y\n"),
        (KeyboardInterrupt(), 130, ""),
        (OSError(errno.ENOSPC, "No space left on device", "out.pt"), 2, "out.pt: no space left on the device\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "no space left on the device\n"),
        (PermissionError(errno.EACCES, "Permission denied", b"runs"), 2, "runs: permission denied\n"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n" * 300), 2, f"{'n' * 300}: file name too long\n"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), 2, "a/b: not a directory\n"),
        (OSError(errno.EIO, "Input/output error", b"a.jpg"), 2, "a.jpg: input/output error\n"),
        (typer.Exit(1), 1, ""),
        (SystemExit(), 0, ""),
    ],
)
def test_what_a_user_can_put_right_is_plain_lines_and_an_exit_code(failing, capsys, error, code, said):
    assert failing(error) == code
    assert capsys.readouterr() == ("", said)


def test_our_own_mistakes_keep_their_traceback(failing):
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())
    with pytest.raises(FileNotFoundError):
        failing(FileNotFoundError(errno.ENOENT, "No such file", "x"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        failing(OSError(errno.EBADF, "Bad file descriptor"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "n" * 300),
        ("predict", "x.jpg", "--ckpt", "n" * 300),
        ("eval", "--ckpt", "n" * 300),
        ("eval", "--predictions", "n" * 300, "--annotations", "n" * 300),
        ("train", "quickstart", "--data", "n" * 300, "--set", "train.processes=1"),
        ("train", "n" * 300),
    ],
)
def test_a_name_that_no_file_can_have_is_one_line(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.jpg").touch()
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "n" * 300 in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("trian", "detrctl: no such command 'trian'. Did you mean 'train'? (see detrctl --help)"),
        ("recipes lst", "detrctl recipes: no such command 'lst'. Did you mean 'list'? (see detrctl recipes --help)"),
        ("recipes list --loud", "detrctl recipes list: no such option: --loud (see detrctl recipes list --help)"),
        ("recipes show", "detrctl recipes show: missing argument 'NAME' (see detrctl recipes show --help)"),
        ("predict", "detrctl predict: missing argument 'SOURCE...' (see detrctl predict --help)"),
        ("train a b", "detrctl train: got unexpected extra argument(s) (b) (see detrctl train --help)"),
        ("predict x --top", "detrctl predict: option '--top' requires an argument (see detrctl predict --help)"),
        ("--csv=3", "detrctl: no such option: --csv (see detrctl --help)"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_one_line(capsys, line, said):
    assert run(line.split()) == 2
    assert capsys.readouterr() == ("", f"{said}\n")


def test_an_option_that_there_is_not_is_told_what_is_meant(capsys):
    assert run(["predict", "x.jpg", "--scroe", "1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("detrctl predict: no such option: --scroe")
    assert "--score" in said
    assert said.endswith("(see detrctl predict --help)\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("predict x --score 2", "--score: found 2, expected at most 1"),
        ("predict x --score abc", "--score: found abc, expected a number"),
        ("predict x --top 0", "--top: found 0, expected at least 1"),
        ("eval --batch 1.5", "--batch: found 1.5, expected a whole number"),
        ("train detr_r50 --seed -1", "--seed: found -1, expected at least 0"),
        ("compare a --group bad", "--group: 'bad' is not one of 'seed', 'recipe', 'none'"),
    ],
)
def test_a_value_that_cannot_be_meant_is_one_line_that_names_it(capsys, line, said):
    assert run(line.split()) == 2
    assert capsys.readouterr().err == f"detrctl {line.split()[0]}: {said}\n"


def test_a_value_that_click_itself_judged_is_told_in_its_words():
    """As by Typer's versions on the click package."""
    error = typer.BadParameter("2.0 is not in the range 0<=x<=1.", param_hint="'--score'")
    assert mistake(error, ["predict", "x", "--score", "2"], ["predict"]) == (
        "detrctl predict: invalid value for '--score': 2.0 is not in the range 0<=x<=1 (see detrctl predict --help)"
    )


def test_no_command_at_all_is_answered_with_the_help(capsys):
    for words in ([], ["recipes"]):
        run(words)
        said = "".join(capsys.readouterr())
        assert said.startswith("Usage: ")
        assert "Commands:" in said


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ("predict", "[OPTIONS] SOURCE..."),
        ("compare", "[OPTIONS] RUN..."),
        ("recipes show", "[OPTIONS] NAME"),
        ("train", "[OPTIONS] [RECIPE]"),
    ],
)
def test_the_usage_says_what_a_command_takes(capsys, words, usage):
    assert run([*words.split(), "--help"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"Usage: detrctl {words} {usage}"


def test_the_version_is_the_packages(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"detrctl {__version__}\n"
    assert detrctl("--version").stdout == f"detrctl {__version__}\n"


def test_every_command_that_is_here_is_listed_with_its_line(capsys):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert len(COMMANDS) >= 9
    for name, home, line in COMMANDS:
        assert f"  {name} " in text
        assert line in text
        module, attribute = home.split(":")
        assert callable(getattr(import_module(module), attribute))


def test_every_help_answers_without_anything_heavy():
    code = f"""
import sys
from detrctl.cli.app import run
names = {command_words()}
heavy = {{"torch", "torchvision", "numpy", "scipy", "matplotlib", "PIL", "pycocotools", "rich"}}
assert run(["--help"]) == 0
assert not {{*heavy, "pydantic", "yaml", "detrctl.cli.train"}} & set(sys.modules)
for name in names:
    assert run([*name, "--help"]) == 0, name
    assert not heavy & set(sys.modules), (name, heavy & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert done.stdout.count("Usage: detrctl") == len(command_words()) + 1 >= 18


SMALLEST_PROGRAM = """
from typing import Annotated
import typer
app = typer.Typer(rich_markup_mode=None)
@app.callback()
def root(version: Annotated[bool, typer.Option("--version")] = False): pass
@app.command()
def one(name: str = ""): pass
try: app(["one", "--help"])
except SystemExit: pass
"""
OURS = "from detrctl.cli.app import run; run([*words, '--help'])"


def _loaded(program, words):
    code = f"import sys; words = {words}\n{program}\nprint('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize("command", command_words(), ids=" ".join)
def test_help_loads_hardly_more_than_the_smallest_program(command):
    """How fast it answers is measured by tests/benchmarks/help_seconds.py; what it loads does not depend on a clock."""
    more = {name.partition(".")[0] for name in _loaded(OURS, command) - _loaded(SMALLEST_PROGRAM, command)}
    others = more - {"detrctl"}
    assert "detrctl" in more
    assert others <= set(sys.stdlib_module_names)
    assert len(others) <= 10


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["train", "bad.yaml"], {}),
        (["train", "bad.yaml", "--dry-run"], {}),
        (["train", "bad.yaml"], {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}),
        (["recipes", "show", "bad.yaml", "--resolved"], {}),
        (["recipes", "show", "bad.yaml", "--cost"], {}),
        (["train", "finetune", "--init-from", "runs/x", "--set", "train.epohcs=3"], {}),
    ],
    ids=lambda part: " ".join(part),
)
def test_a_recipes_mistakes_are_answered_without_torch(tmp_path, arguments, environment):
    (tmp_path / "bad.yaml").write_text("train: {epohcs: 3}\n")
    code = """
import sys
from detrctl.cli.app import run
code = run(sys.argv[1:])
assert not {"torch", "torchvision", "numpy"} & set(sys.modules)
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("train.epohcs: no such field. Did you mean 'epochs'?\n")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_stops_early_is_not_an_error():
    many = "from detrctl.cli import app, render; app.app = lambda **_: [render.say('x' * 99) for _ in range(9999)]"
    for program, first in ((f'-c "{many}; exit(app.run())"', "x" * 99), ("-m detrctl recipes explain", "field")):
        command = f"{sys.executable} {program} | head -1; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
        assert done.stderr == ""
        line, code = done.stdout.splitlines()
        assert line.startswith(first)
        assert code in ("0", "141"), "0 where all was written before the reader stopped"


def test_the_shell_completes_commands_and_recipes():
    def complete(words, cursor):
        asked = {"_DETRCTL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(cursor)}
        return detrctl(env={**os.environ, **asked}).stdout.split()

    assert "detr_dc5_r50" in complete("detrctl recipes show detr_d", 3)
    assert complete("detrctl train quic", 2) == ["quickstart"]
    # Whatever started the tests may be no shell, in which Typer would look for the shell to complete for.
    told = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    assert detrctl("--show-completion", "bash", env={**os.environ, **told}).returncode == 0
