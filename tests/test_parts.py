"""A part of the user's own that cannot be had is one line that helps whoever wrote it."""

from pathlib import Path

import pytest

from detrctl.errors import DetrctlError
from detrctl.parts import load_part


@pytest.mark.parametrize(
    ("code", "name", "said"),
    [
        ("class A(:\n", "A", "importing '{module}' fails: SyntaxError: invalid syntax ({module}.py, line 1)"),
        (
            "x = 1\nclass A(x.y): pass\n",
            "A",
            "importing '{module}' fails: AttributeError: 'int' object has no attribute",
        ),
        (
            "\nclass A(Base): pass\n",
            "A",
            "importing '{module}' fails: NameError: name 'Base' is not defined ({module}.py, line 2)",
        ),
        ("import no_such_thing\n", "A", "cannot import '{module}' (No module named 'no_such_thing'); is its folder on"),
        ("class A: pass\n", "B", "module '{module}' has no 'B'"),
        ("class A: pass\n", "A", "is not a subclass of builtins.int"),
    ],
)
def test_a_part_that_cannot_be_had_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, code: str, name: str, said: str
) -> None:
    module = f"own_part_{abs(hash(request.node.name))}"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DetrctlError) as caught:
        load_part(f"{module}:{name}", int)
    assert str(caught.value).startswith(f"{module}:{name}: {said.format(module=module)}")
    assert "\n" not in str(caught.value)
