import pytest

from detrctl.recipe.document import ROOT, merged, read_document, read_value, show


def parse(text):
    return read_document(text, source="my.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("+7", 7),
        ("010", 10),
        ("1_000", 1000),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1e-4'", "1e-4"),
        ("yes", "yes"),
        ("off", "off"),
        ("none", "none"),
        ("2017-01-01", "2017-01-01"),
        ("1:30", "1:30"),
        ("1e", "1e"),
        ("[1, 2.5, a]", [1, 2.5, "a"]),
        ("{a: {b: 1e-3}}", {"a": {"b": 1e-3}}),
    ],
)
def test_scalars_are_read_as_yaml_1_2_reads_them(text, value):
    result = read_value(text)
    assert result == value
    assert type(result) is type(value)


def test_every_value_keeps_its_line():
    document = parse("model:\n  width: 8\n\n  backbone: {name: a}\ndata:\n  augment:\n    sizes:\n    - 1\n    - 2\n")
    lines = {path: place.line for path, place in document.places.items()}
    assert lines == {
        ROOT: 1,
        ("model",): 1,
        ("model", "width"): 2,
        ("model", "backbone"): 4,
        ("model", "backbone", "name"): 4,
        ("data",): 5,
        ("data", "augment"): 6,
        ("data", "augment", "sizes"): 7,
        ("data", "augment", "sizes", 0): 8,
        ("data", "augment", "sizes", 1): 9,
    }


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "the recipe is empty; `extends: NAME` alone would do"),
        ("# only a comment\n", 1, "the recipe is empty; `extends: NAME` alone would do"),
        ("- 1\n- 2\n", 1, "found [1, 2], expected fields such as `model:` and `train:`"),
        (
            "a: 1\nb: [1, 2\n",
            3,
            "not valid YAML: while parsing a flow sequence expected ',' or ']', but got '<stream end>'",
        ),
        (
            "a:\n\tb: 1\n",
            2,
            "not valid YAML: while scanning for the next token found character '\\t' that cannot start any token; "
            "indent with spaces, not tabs",
        ),
        ("a: &x 1\nb: *x\n", 2, "not valid YAML: recipes know no aliases (*x): write the value out"),
        ("a: 1\n---\nb: 2\n", 2, "not valid YAML: expected a single document in the stream but found another document"),
        (
            "a: 1\nb: !!python/name:os.system x\n",
            2,
            "found the YAML tag 'tag:yaml.org,2002:python/name:os.system'; recipes hold plain values only",
        ),
        ("a: 1\nb: !!int x\n", 2, "found 'x', which cannot be read as int"),
        ('a: 1\nb: "x\\ud800"\n', 2, "found 'x\\ud800', half of a pair of surrogates; write the letter itself"),
        ("a: 1\n? [x, y]\n: 2\n", 2, "a field's name must be plain text"),
    ],
)
def test_text_that_is_no_recipe_is_named_with_its_line(text, line, message):
    [finding] = parse(text).findings
    assert (finding.place.source, finding.place.line, finding.message) == ("my.yaml", line, message)


def test_control_characters_are_findings_too():
    assert parse("a: \x00").findings[0].message.startswith("not valid YAML: ")


@pytest.mark.parametrize("deep", ["[" * 60, "\n".join(f"{' ' * level}a:" for level in range(60)), "[" * 100_000])
def test_nesting_without_end_is_found_whatever_depth_python_allows(deep):
    [finding] = parse(f"b: 1\na: {deep}" if deep[0] == "[" else deep).findings
    assert finding.message == "not valid YAML: nested too deeply for a recipe"
    assert finding.place.line == (2 if deep[0] == "[" else 50)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_value(deep)


def test_a_double_key_is_found_at_the_second_place_and_the_first_stays():
    document = parse("train:\n  lr: 1\n  epochs: 2\n  lr: 3\n")
    [finding] = document.findings
    assert (str(finding.place), finding.path) == ("my.yaml:4", "train.lr")
    assert finding.message == "stands here twice, first at line 2; keep one"
    assert document.values == {"train": {"lr": 1, "epochs": 2}}


def test_sections_merge_field_by_field_and_lists_replace():
    base = read_document("a: {x: 1, y: [1, 2, 3], z: {p: 1}}\nb: 1\n", source="base", rank=-1)
    top = read_document("\na:\n  y: [9]\n  z: {q: 2}\nb: {c: 1}\n", source="top")
    both = merged(base, top)
    assert both.values == {"a": {"x": 1, "y": [9], "z": {"p": 1, "q": 2}}, "b": {"c": 1}}
    assert str(both.place(("a", "x"))) == "base:1"
    assert str(both.place(("a", "y"))) == "top:3"
    assert str(both.place(("a", "z", "p"))) == "base:1"
    assert ("a", "y", 2) not in both.places, "a place of a list that is no longer there"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing"),
        (True, "true"),
        ("a", "'a'"),
        (1e-4, "0.0001"),
        ([1, "a", None], "[1, 'a', nothing]"),
        ({"a": 1}, "a section"),
        ("x" * 100, "'" + "x" * 56 + "..."),
    ],
)
def test_values_are_shown_in_plain_words(value, words):
    assert show(value) == words
