import io
import re
from contextlib import redirect_stdout

import pytest

from detrctl.cli import render

ROWS = [("AP", "0.5", "mean"), ("AP50", "10.25", "at 0.50"), ("APs", "no ground truth", "small")]


def test_a_piped_table_is_plain_text_with_numbers_to_the_right(capsys):
    render.table(("score", "", "meaning"), ROWS)
    assert capsys.readouterr().out == (
        "score                   meaning\n"
        "AP                 0.5  mean\n"
        "AP50             10.25  at 0.50\n"
        "APs    no ground truth  small\n"
    )


def test_a_terminal_gets_lines_no_wider_than_itself(terminal):
    with terminal() as (out, _):
        render.table(("name", "n", "what"), [("first", "1", "word " * 20), ("[second]", "12", "short")])
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert sum(line.count("word") for line in lines) == 20
    assert any("[second]" in line for line in lines), "brackets are text, not markup"


def test_colours_are_left_out_when_asked(terminal, monkeypatch):
    with terminal() as (_, err):
        render.error("bad [red]")
        render.warn("odd")
        assert err.getvalue() == "bad [red]\nwarning: odd\n"
        monkeypatch.delenv("NO_COLOR")
        render.error("bad")
        assert "\x1b[31mbad" in err.getvalue()


def test_warnings_and_errors_go_to_stderr(capsys):
    render.warn("odd")
    render.error("a\nb")
    assert capsys.readouterr() == ("", "warning: odd\na\nb\n")


def test_piped_progress_leaves_only_the_lines(capsys):
    with render.live("training") as shown:
        shown.bar(1, 2, "loss 1")
        render.say("epoch 1")
    with render.progress("evaluating", "images") as heard:
        heard(1, 2)
    assert capsys.readouterr() == ("epoch 1\n", "")


def test_a_terminal_shows_the_bar_below_the_lines(terminal):
    with terminal() as (_, err), render.live("training") as shown:
        shown.bar(1, 4, "loss [1.5]")
        render.say("epoch 1 [done]")
        shown.bar(2, 4, "loss [1.5]")
    text = err.getvalue()
    assert text.index("epoch 1 [done]") < text.index("2/4")
    assert "training" in text


def test_the_time_that_is_left_is_told_unless_the_text_does(terminal):
    for time_left in (True, False):
        with terminal(columns=100) as (_, err), render.live("training", time_left=time_left) as shown:
            shown.bar(1, 4, "loss")
        assert ("-:--:--" in err.getvalue()) == time_left
        assert re.search(r"1/4 +-:--:-- +loss" if time_left else "1/4 loss", err.getvalue())


def test_a_warning_stands_on_a_line_of_its_own_above_the_bar(terminal):
    with terminal() as (_, err):
        with render.live("training") as shown:
            shown.bar(1, 4, "loss")
            before = len(err.getvalue())
            render.warn("odd")
        assert err.getvalue()[before:].startswith("\r\x1b[2Kwarning: odd\n")
        render.warn("later")
        assert err.getvalue().endswith("warning: later\n")


def test_lines_reach_a_piped_stdout_while_the_bar_is_on_the_terminal(terminal):
    piped = io.StringIO()
    with terminal() as (_, err), redirect_stdout(piped), render.progress("evaluating", "images") as heard:
        heard(1, 2)
        render.say("split val")
    assert piped.getvalue() == "split val\n"
    assert "evaluating" in err.getvalue()


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (["1", "-2.5", "30%"], True),
        (["1", "no ground truth", "no ground truth"], True),
        (["1", "a", "b"], False),
        (["1", "[1, 2]"], False),
        (["a", "a"], False),
        ([], False),
    ],
)
def test_a_column_is_numeric_if_all_but_one_word_are_numbers(cells, numeric):
    assert render._is_numeric(cells) == numeric
