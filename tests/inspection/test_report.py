import json
import os
import re
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageStat

from detrctl.boxes import Cxcywh
from detrctl.cli.inspect_matching import write
from detrctl.inspection import report as report_module
from detrctl.inspection.denoising import ImageDenoising, Mask, NoisedQuery, Rebuilt, summarise_denoising
from detrctl.inspection.instability import between_checkpoints
from detrctl.inspection.matching import match_batch, match_rows
from detrctl.inspection.matching_report import (
    DenoisingReport,
    MatchingReport,
    RunMatching,
    Shown,
    Weights,
    as_json,
)
from detrctl.inspection.report import LARGEST, PLANS, Plan, fitting_page, for_page, make_page, picture_urls
from detrctl.inspection.split_matching import summarise
from detrctl.losses.matcher import Matcher, focal_cost
from detrctl.structures import Categories, DetectorOutput, Predictions, Targets, Tokens
from tests.inspection.browser import Page, find_browser
from tests.inspection.page_screenshots import take

CATEGORIES = Categories(("cat</script>", "<b>dog</b>"), (1, 2))
MATCHER = Matcher(focal_cost(alpha=0.25, gamma=2.0), class_weight=2.0, l1=5.0, giou=2.0)
LAYERS = 3


def a_report(*, images=2, truths=4, queries=40, side=(96, 128), depth=LAYERS, empty=0):
    """Of random predictions that differ from layer to layer; the last `empty` images have no truths."""
    generator = torch.Generator().manual_seed(0)

    def boxes(*shape):
        return Cxcywh(torch.rand(*shape, 4, generator=generator) * 0.4 + 0.2)

    layers = tuple(
        Predictions(torch.randn(images, queries, 2, generator=generator), boxes(images, queries)) for _ in range(depth)
    )
    memory = Tokens(torch.zeros(1, 0, 4), torch.zeros(1, 0, 4), torch.zeros(1, 0).bool(), (), torch.ones(1))
    targets = [Targets(torch.randint(2, (truths,), generator=generator), boxes(truths), 30 + i) for i in range(images)]
    for i in range(images - empty, images):
        targets[i] = Targets(torch.zeros(0, dtype=torch.int64), Cxcywh(torch.zeros(0, 4)), 30 + i)
    sizes = torch.tensor([side]).expand(images, -1)
    matched = match_batch(DetectorOutput(layers, memory), targets, sizes, MATCHER, num_classes=2)
    rows = [row for image in matched for row in match_rows(image, CATEGORIES)]
    noise = torch.randint(0, 256, (*side, 3), dtype=torch.uint8, generator=generator)
    split = summarise(rows, name="run", epoch=None, images=images, queries=queries)
    step = between_checkpoints(rows, rows, names=("a", "b"), epochs=1, images=images)
    shown = tuple(Shown(image, noise) for image in matched)
    runs = (RunMatching("run", (split, split), (step,)),)
    return MatchingReport("d", "val", CATEGORIES, Weights(2, 5, 2), runs, {"run": rows}, "run", shown, False)


def a_denoising(report):
    """Of the report's shown images: each truth once to rebuild and once to refuse, in the first of two groups."""
    depth = len(report.shown[0].matching.layers)
    images = tuple(_noised_image(shown.matching, depth) for shown in report.shown)
    known = 2 * max(len(image.queries) for image in images)
    own, half = report.main.use.queries, known // 2
    rows = ((half, (half, half, own)), (half, (0, half, half + own)), (own, (0, known, own)))
    return DenoisingReport(summarise_denoising(images), Mask(known, half, own, rows), images)


def _noised_image(image, depth):
    labels, boxes = image.labels.tolist(), tuple(map(tuple, image.boxes.tolist()))
    told = [
        NoisedQuery(
            slot,
            0,
            truth,
            part,
            1 - label,
            box,
            0.25,
            tuple(Rebuilt(box, label, 0.3 + layer / 10, 0.6 + layer / 10) for layer in range(depth)),
        )
        for slot, (part, truth, label, box) in enumerate(
            (part, truth, label, boxes[truth]) for part in ("rebuild", "refuse") for truth, label in enumerate(labels)
        )
    ]
    return ImageDenoising(image.image_id, tuple(labels), boxes, tuple(told))


def page_of(report):
    return fitting_page(as_json(report), report.shown)


def embedded(page, name):
    return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_holds_the_json_itself_and_asks_for_nothing_outside():
    report = a_report()
    page = page_of(report).text
    assert embedded(page, "data") == json.loads(json.dumps(for_page(as_json(report))))
    assert len(embedded(page, "pictures")) == 2
    assert "default-src 'none'" in page
    assert set(re.findall(r"https?://[^\"'\s]+", page)) == {"http://www.w3.org/2000/svg"}  # a namespace, not an address
    assert not re.search(r"<script[^>]+src=|<link|@import|url\(", page)


def test_a_page_of_20_crowded_images_is_under_5_mb_with_fewer_queries_listed_if_need_be(tmp_path, capsys):
    report = a_report(truths=60, queries=900, side=(480, 640), depth=6)
    report = replace(report, shown=report.shown * 10)
    report = replace(report, denoising=a_denoising(report))
    write(report, tmp_path, picture_format=None)
    file = tmp_path / "report.html"
    content = embedded(file.read_text(encoding="utf-8"), "data")
    assert file.stat().st_size < LARGEST
    cheapest = content["cheapest"]
    assert cheapest < 30
    assert json.loads((tmp_path / "matching.json").read_text())["cheapest"] == 30
    assert capsys.readouterr().err == (
        f"warning: report.html lists the {cheapest} cheapest queries of each truth, not 30, to stay under 5 MB: "
        "--show takes fewer images\n"
    )
    assert len(content["images"]) == 20
    for image in content["images"]:
        assert len(image["layers"]) == 6
        for layer in image["layers"]:
            assert all(str(truth["query"]) in layer["queries"] for truth in layer["truths"])


def test_a_page_gives_up_queries_then_the_size_of_its_pictures_and_then_noised_queries(monkeypatch):
    given_up = [
        [name for name in ("cheapest", "side", "noised") if getattr(more, name) != getattr(less, name)]
        for more, less in pairwise(PLANS)
    ]
    assert given_up == [["cheapest"]] * 4 + [["side"]] * 3 + [["noised"]] + [["cheapest"]] * 2
    report = a_report(images=1, truths=20, queries=100, side=(24, 640))
    report = replace(report, denoising=a_denoising(report))
    content = as_json(report)
    sizes = [len(make_page(for_page(content, p), picture_urls(report.shown, p.side)).encode()) for p in PLANS]
    assert sizes == sorted(sizes, reverse=True)
    for plan, size in zip(PLANS, sizes, strict=True):
        monkeypatch.setattr(report_module, "LARGEST", size + 1)
        page = fitting_page(content, report.shown)
        assert (page.plan, len(page.text.encode())) == (plan, size)
        told = embedded(page.text, "data")
        assert told["cheapest"] == plan.cheapest
        assert (told["denoising"]["images"] is not None) == plan.noised
    monkeypatch.setattr(report_module, "LARGEST", sizes[-1])
    assert fitting_page(content, report.shown).plan == PLANS[-1]


@pytest.mark.parametrize("cheapest", [5, 3, 1])
def test_of_fewer_queries_those_that_play_a_part_stay_with_their_boxes(cheapest):
    report = a_report()
    content, few = as_json(report), for_page(as_json(report), Plan(cheapest, 640))
    pairs = [
        (layer, cut)
        for image, less in zip(content["images"], few["images"], strict=True)
        for layer, cut in zip(image["layers"], less["layers"], strict=True)
    ]
    assert len(pairs) == 2 * LAYERS
    for layer, cut in pairs:
        for truth, told in zip(layer["truths"], cut["truths"], strict=True):
            listed = {row[0] for row in truth["table"][:cheapest]} | {truth["query"], truth["runner_up"]}
            assert told == truth | {"table": [row for row in truth["table"] if row[0] in listed]}
        mentioned = {str(row[0]) for told in cut["truths"] for row in told["table"]}
        assert cut["queries"] == {query: layer["queries"][query] for query in sorted(mentioned, key=int)}


def test_of_noised_queries_the_page_holds_the_last_layer_and_matching_json_all():
    report = a_report()
    content = as_json(replace(report, denoising=a_denoising(report)))
    (first, *_), *_ = (image["queries"] for image in content["denoising"]["images"])
    (told, *_), *_ = (image["queries"] for image in for_page(content)["denoising"]["images"])
    assert len(first["layers"]) == LAYERS
    assert told == first | {"layers": first["layers"][-1:]}


def test_of_many_checkpoints_the_page_holds_the_steps_and_only_the_last_one_in_full():
    report = a_report()
    (run,) = report.runs
    many = replace(run, checkpoints=run.checkpoints[:1] * 300, steps=run.steps * 299)
    page = page_of(replace(report, runs=(many, replace(many, name="other")))).text
    assert len(page.encode()) < LARGEST
    first, other = embedded(page, "data")["runs"]
    assert (len(first["checkpoints"]), len(other["checkpoints"])) == (1, 0)
    assert (len(first["steps"]), len(other["steps"])) == (299, 299)
    assert set(first["steps"][0]["moved"]) == {"all", "by_size"}
    assert embedded(page, "data")["cheapest"] == 30


def test_of_each_run_the_page_holds_the_last_layer_of_the_last_checkpoint():
    report = two_runs()
    content = as_json(report)
    told = for_page(content)
    assert [run["last"]["name"] for run in told["runs"]] == ["run", "other epoch 7"]
    for run, less in zip(content["runs"], told["runs"], strict=True):
        checkpoint = run["checkpoints"][-1]
        assert less["last"]["layers"] == len(checkpoint["layers"])
        assert less["last"]["terms"] == checkpoint["layers"][-1]["all"]
    assert told["runs"][0]["last"]["changes"] == content["runs"][0]["checkpoints"][-1]["between_layers"][-1]["all"]
    assert told["runs"][1]["last"]["changes"] is None


def two_runs():
    """The other one has but one layer, so that nothing moves between layers, and was trained with denoising."""
    report, shallow = a_report(truths=5), a_report(truths=5, queries=30, depth=1)
    (run,) = shallow.runs
    last = replace(shallow.main, name="other epoch 7", epoch=7)
    other = replace(run, name="other", checkpoints=(shallow.main, last), denoising=True)
    return replace(report, runs=(*report.runs, other))


# ---- in a real browser ----


@contextmanager
def opened(text, folder):
    browser = find_browser()
    if browser is None:
        assert "DETRCTL_NEEDS_BROWSER" not in os.environ, "no Chromium is installed here"
        pytest.skip("no Chromium is installed here, so the page was not opened in a browser")
    file = folder / "report.html"
    file.write_text(text, encoding="utf-8")
    with Page(browser, file.as_uri()) as page:
        yield page


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    report = a_report()
    with opened(page_of(report).text, tmp_path_factory.mktemp("page")) as page:
        yield page, as_json(report)


def highlighted(page):
    """(layer, truth, query) that the page shows as chosen: in words, in the picture, in the table of costs."""
    return page.run(
        """(() => {
        const detail = document.getElementById('detail').dataset;
        const group = document.querySelector('.truth-group.chosen');
        const row = document.querySelector('#costs tr.is-match');
        const line = document.querySelector('#truths tr.chosen');
        return {
            layer: Number(detail.layer),
            truths: [detail.truth, group.dataset.truth, line.dataset.truth].map(Number),
            queries: [detail.query, group.querySelector('.pair').dataset.query, row.dataset.query].map(Number),
            runner: Number(document.querySelector('#overlay .runner').dataset.query),
        }; })()"""
    )


def test_after_the_slider_moves_and_a_truth_is_focused_the_pair_is_the_jsons_for_that_layer(made):
    page, content = made
    page.run("document.getElementById('layer').focus()")
    for press in range(LAYERS):
        layer = LAYERS - 1 - press
        for truth, told in enumerate(content["images"][0]["layers"][layer]["truths"]):
            page.run(f"document.querySelector('.truth-group[data-truth=\"{truth}\"]').focus()")
            assert highlighted(page) == {
                "layer": layer,
                "truths": [truth] * 3,
                "queries": [told["query"]] * 3,
                "runner": told["runner_up"],
            }
        page.run("document.getElementById('layer').focus()")
        page.press("ArrowLeft")
    page.run("document.getElementById('layer').focus()")
    for _ in range(LAYERS):
        page.press("ArrowRight")
    assert highlighted(page)["layer"] == LAYERS - 1
    assert page.errors == []


def test_the_cost_terms_that_are_told_are_the_jsons(made):
    page, content = made
    weights = [content["weights"][name] for name in ("class_cost", "l1", "giou")]
    for truth, told in enumerate(content["images"][0]["layers"][LAYERS - 1]["truths"]):
        page.run(f"document.querySelector('.truth-group[data-truth=\"{truth}\"]').focus()")
        sentences = page.run("[...document.querySelectorAll('#detail p')].map((p) => p.textContent)")
        for query, sentence in ((told["query"], sentences[1]), (told["runner_up"], sentences[2])):
            (row,) = [row for row in told["table"] if row[0] == query]
            said = re.search(
                r"cost (\S+) = (\S+) . class (\S+) \+ (\S+) . L1 (\S+) \+ (\S+) . GIoU (-?[\d.]+\d)", sentence
            )
            assert said is not None
            total, *terms = map(float, said.groups())
            assert f"uery {query} " in sentence
            assert terms[0::2] == weights
            assert [*terms[1::2], total] == pytest.approx(row[1:5], abs=6e-4)
            assert total == pytest.approx(sum(a * b for a, b in zip(weights, row[1:4], strict=True)), abs=2e-3)
            shown = f"document.querySelectorAll('#costs tr[data-query=\"{query}\"] > *')"
            cells = page.run(f"[...{shown}].map((cell) => cell.textContent)")
            assert [float(cell) for cell in cells[3:8]] == pytest.approx([row[4], *row[1:4], row[5]], abs=6e-4)
    assert page.errors == []


def test_a_truth_and_a_query_are_also_chosen_by_pointing_at_their_rows(made):
    page, content = made
    page.hover("#truths tbody tr:nth-child(3)")
    told = content["images"][0]["layers"][LAYERS - 1]["truths"][2]
    assert highlighted(page)["queries"] == [told["query"]] * 3
    page.hover("#costs tbody tr:nth-child(5)")
    query = told["table"][4][0]
    assert page.run("Number(document.querySelector('#overlay .query').dataset.query)") == query
    assert page.errors == []


def test_a_truth_is_chosen_in_the_picture_by_pointing_by_clicking_and_by_the_tab_key(made):
    page, content = made
    told = content["images"][0]["layers"][LAYERS - 1]["truths"]
    pointed = []
    for truth in range(1, len(told)):
        page.run("document.querySelector('.truth-group[data-truth=\"0\"]').focus()")
        page.hover(f'.truth-group[data-truth="{truth}"] .tag')
        pointed.append(int(page.run("document.querySelector('.truth-group.chosen').dataset.truth")))
        assert highlighted(page)["queries"] == [told[pointed[-1]]["query"]] * 3
    assert any(truth == chosen for truth, chosen in enumerate(pointed, 1))  # a tag may lie under another one
    page.run("document.querySelector('.truth-group[data-truth=\"1\"]').dispatchEvent(new MouseEvent('click'))")
    assert highlighted(page)["queries"] == [told[1]["query"]] * 3
    page.run("document.querySelector('.truth-group').focus()")
    seen = [highlighted(page)["truths"][0]]
    for _ in told[1:]:
        page.press("Tab")
        seen.append(highlighted(page)["truths"][0])
    assert sorted(seen) == list(range(len(told)))
    assert page.errors == []


def test_the_row_of_the_match_or_the_runner_up_is_marked_by_pointing_at_its_box(made):
    page, content = made
    page.run("document.getElementById('picture').scrollIntoView({block: 'center'})")
    marked = 0
    for truth, told in enumerate(content["images"][0]["layers"][LAYERS - 1]["truths"]):
        page.run(f"document.querySelector('.truth-group[data-truth=\"{truth}\"]').focus()")
        for query, role in ((told["query"], "match"), (told["runner_up"], "runner-up")):
            row = f"document.querySelector('#costs tr[data-query=\"{query}\"]')"
            assert page.run(f"{row}.children[1].textContent") == role
            place = page.run(
                f"""(() => {{
                    const line = document.querySelector('#overlay .edge[data-query="{query}"]');
                    const box = line.getBoundingClientRect(), x = box.x + 1, y = box.y + box.height / 2;
                    return document.elementFromPoint(x, y) === line ? [x, y] : null; }})()"""
            )
            if place is not None:
                page.hover_at(1, 1)
                page.hover_at(*place)
                assert page.run(f"{row}.classList.contains('pointed')")
                marked += 1
    assert marked >= 2
    assert page.errors == []


def test_a_dark_page_is_light_letters_on_a_dark_ground(made):
    page, _ = made
    browser = find_browser()
    shade = """(() => {
        const style = getComputedStyle(document.body);
        const light = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).reduce((sum, x) => sum + Number(x), 0);
        return [light(style.backgroundColor), light(style.color)]; })()"""
    ground, ink = page.run(shade)
    assert ground > ink
    with Page(browser, page.run("location.href"), dark=True) as dark:
        ground, ink = dark.run(shade)
        assert ground < ink
        assert dark.errors == []


def test_pictures_of_the_whole_page_are_taken_light_and_dark(made, tmp_path):
    page, _ = made
    address = page.run("decodeURIComponent(location.pathname)")
    pictures = [Image.open(file).convert("L") for file in take(Path(address), tmp_path)]
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["report-dark.png", "report-light.png"]
    size = page.run("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
    assert [picture.size for picture in pictures] == [tuple(size)] * 2
    light, dark = (ImageStat.Stat(picture).median[0] for picture in pictures)
    assert light > 200
    assert dark < 60


def test_a_query_is_chosen_by_pointing_at_its_box_in_the_picture(made):
    page, content = made
    page.run("document.querySelector('.truth-group[data-truth=\"0\"]').focus()")
    page.run("document.getElementById('others').click()")
    listed = "[...document.querySelectorAll('#overlay .line')].map(line => Number(line.dataset.query))"
    table = content["images"][0]["layers"][LAYERS - 1]["truths"][0]["table"]
    assert page.run(listed) == [row[0] for row in table]
    page.run("document.getElementById('picture').scrollIntoView({block: 'center'})")
    places = page.run(  # on the left sides of boxes, where nothing covers them
        """[...document.querySelectorAll('#overlay .line')].flatMap(line => {
            const box = line.getBoundingClientRect(), x = box.x + 1, y = box.y + box.height / 2;
            return document.elementFromPoint(x, y) === line ? [[Number(line.dataset.query), x, y]] : [];
        })"""
    )
    assert len(places) >= 5
    for query, x, y in places:
        page.hover_at(1, 1)
        page.hover_at(x, y)
        assert page.run("[...document.querySelectorAll('#costs tr.pointed')].map(r => +r.dataset.query)") == [query]
        assert page.run("Number(document.querySelector('#overlay .query').dataset.query)") == query
        # Its row is in sight, in a table that has more rows than fit.
        row, shown = (
            page.run(f"document.querySelector('{selector}').getBoundingClientRect().toJSON()")
            for selector in ("#costs tr.pointed", ".scroll:has(#costs)")
        )
        assert shown["top"] <= row["top"] <= row["bottom"] <= shown["bottom"]
    page.run("document.getElementById('others').click()")
    assert page.run(listed) == []
    assert page.errors == []


@pytest.fixture
def unsorted(tmp_path):
    """A page of its own: a sort that was chosen stays."""
    report = a_report()
    with opened(page_of(report).text, tmp_path) as page:
        yield page, as_json(report)["images"][0]["layers"][LAYERS - 1]["truths"]
        assert page.errors == []


def focus_truth(page, truth):
    page.run(f"document.querySelector('.truth-group[data-truth=\"{truth}\"]').focus()")


def sort_by(page, table, title):
    """A click on the column's head; the column's order then."""
    heads = f"[...document.querySelectorAll('#{table} thead th')]"
    page.run(f"{heads}.find(head => head.textContent === {json.dumps(title)}).querySelector('button').click()")
    return orders(page, table)[title]


def orders(page, table):
    """Title and order of the sorted columns."""
    heads = f"[...document.querySelectorAll('#{table} thead th:not([aria-sort=none])')]"
    return dict(page.run(f"{heads}.map(head => [head.textContent, head.getAttribute('aria-sort')])"))


def listed(page):
    return page.run("[...document.querySelectorAll('#costs tbody tr')].map(row => Number(row.dataset.query))")


def test_a_click_on_a_column_sorts_up_and_another_down(unsorted):
    page, told = unsorted
    focus_truth(page, 1)
    table = told[1]["table"]
    assert listed(page) == [row[0] for row in table]
    assert sort_by(page, "costs", "L1") == "ascending"
    assert listed(page) == [row[0] for row in sorted(table, key=lambda row: row[2])]
    assert sort_by(page, "costs", "L1") == "descending"
    assert listed(page) == [row[0] for row in sorted(table, key=lambda row: -row[2])]
    assert sort_by(page, "costs", "IoU") == "ascending"
    assert orders(page, "costs") == {"IoU": "ascending"}
    assert listed(page) == [row[0] for row in sorted(table, key=lambda row: row[5])]


def test_a_column_of_text_sorts_by_the_alphabet_and_equals_stay_in_their_order(unsorted):
    page, _ = unsorted
    names = dict(enumerate(row[1] for row in cells(page, "#truths")[1:]))
    assert list(names.values()) != sorted(names.values())
    for order, reverse in (("ascending", False), ("descending", True)):
        assert sort_by(page, "truths", "class") == order
        shown = page.run("[...document.querySelectorAll('#truths tbody tr')].map(row => Number(row.dataset.truth))")
        assert shown == sorted(names, key=names.get, reverse=reverse)


def test_rows_without_a_value_come_last_however_a_column_is_sorted(unsorted):
    page, told = unsorted
    focus_truth(page, 0)
    answers = {truth["query"]: number for number, truth in enumerate(told)}
    queries = [row[0] for row in told[0]["table"]]
    some, none = [q for q in queries if q in answers], [q for q in queries if q not in answers]
    assert min(len(some), len(none)) > 1
    for order, reverse in (("ascending", False), ("descending", True)):
        assert sort_by(page, "costs", "matched to") == order
        assert listed(page) == sorted(some, key=answers.get, reverse=reverse) + none


def test_a_chosen_sort_stays_when_another_truth_is_focused_or_another_layer_shown(unsorted):
    page, told = unsorted
    focus_truth(page, 0)
    sort_by(page, "costs", "GIoU")
    sort_by(page, "costs", "GIoU")
    for truth in (2, 3, 1):
        focus_truth(page, truth)
        assert orders(page, "costs") == {"GIoU": "descending"}
        assert listed(page) == [row[0] for row in sorted(told[truth]["table"], key=lambda row: -row[3])]
    sort_by(page, "truths", "margin")
    page.run("document.getElementById('layer').focus()")
    page.press("ArrowLeft")
    assert (orders(page, "costs"), orders(page, "truths")) == ({"GIoU": "descending"}, {"margin": "ascending"})
    margins = [float(row[-1]) for row in cells(page, "#truths")[1:]]
    assert margins == sorted(margins)
    assert sort_by(page, "costs", "GIoU") == "ascending"


def test_everything_that_can_be_focused_has_a_name_and_class_names_are_only_text(made):
    page, content = made
    unnamed = page.run(
        """[...document.querySelectorAll('[tabindex], button, select, input')].filter(e => !(
            e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label'))).length"""
    )
    assert unnamed == 0
    assert page.run("document.querySelectorAll('main b').length") == 0
    names = [CATEGORIES.names[truth["label"]] for truth in content["images"][0]["truths"]]
    assert page.run("[...document.querySelectorAll('#truths td:nth-child(2)')].map(cell => cell.textContent)") == names


def test_another_image_is_shown_from_its_last_layer_whatever_lies_under_a_resting_pointer(made):
    page, content = made
    page.run("document.getElementById('picture').scrollIntoView()")
    picture = page.run("document.getElementById('picture').getBoundingClientRect().toJSON()")
    center_x, center_y = content["images"][1]["truths"][2]["box"][:2]
    place = picture["x"] + center_x * picture["width"], picture["y"] + center_y * picture["height"]
    page.hover_at(*place)
    pick(page, image=1)
    under = "document.elementFromPoint({}, {}).closest('.truth-group').dataset.truth".format(*place)
    assert page.run(under) != "0"
    assert highlighted(page)["queries"] == [content["images"][1]["layers"][LAYERS - 1]["truths"][0]["query"]] * 3
    assert page.errors == []


def cells(page, table):
    """The text of a table's head and rows."""
    return page.run(
        f"[...document.querySelector({json.dumps(table)}).rows].map(r => [...r.cells].map(cell => cell.textContent))"
    )


def test_runs_are_compared_by_their_last_layers_in_a_table_that_sorts(tmp_path):
    report = two_runs()
    with opened(page_of(report).text, tmp_path) as page:
        heads, *rows = cells(page, "#runs table")
        assert heads[:3] == ["run", "checkpoint", "layers"]
        wanted = [
            (run.title, run.checkpoints[-1].name, str(len(run.checkpoints[-1].layers)), run.checkpoints[-1])
            for run in report.runs
        ]
        for row, (title, name, depth, checkpoint) in zip(rows, wanted, strict=True):
            told, terms = dict(zip(heads, row, strict=True)), checkpoint.layers[-1].all
            assert (told["run"], told["checkpoint"], told["layers"]) == (title, name, depth)
            assert float(told["cost"]) == pytest.approx(terms.cost_total, abs=6e-4)
            assert float(told["IoU"]) == pytest.approx(terms.iou, abs=6e-4)
            assert told["found"] == f"{100 * terms.found:.0f} %"
        share = report.main.between_layers[-1].all.value
        assert [row[heads.index("changed last")] for row in rows] == [f"{100 * share:.0f} %", "\N{EN DASH}"]
        page.run("document.querySelector('#runs thead th:nth-child(1) button').click()")
        assert [row[0] for row in cells(page, "#runs table")[1:]] == ["other, with denoising", "run, without denoising"]
        assert page.errors == []


def test_a_single_run_has_no_table_of_runs(made):
    page, _ = made
    assert page.run("document.getElementById('runs-section').hidden && document.querySelector('#runs table') === null")


# ---- two stages, denoising, nothing to show ----


def two_stage_report():
    """With denoising, and an image without truths at the end; the tokens are the slots and 1000."""
    report = a_report(images=3, empty=1)
    shown = tuple(
        replace(each, matching=replace(each.matching, identity=each.matching.identity + 1000)) for each in report.shown
    )
    runs = tuple(replace(run, denoising=True, two_stage=True) for run in report.runs)
    report = replace(report, shown=shown, runs=runs, two_stage=True)
    return replace(report, denoising=a_denoising(report))


@pytest.fixture(scope="module")
def two_stage(tmp_path_factory):
    report = two_stage_report()
    with opened(page_of(report).text, tmp_path_factory.mktemp("two_stage")) as page:
        yield page, report


NOISED = '[aria-label="Noised queries of the shown images, first group"] table'
LAYERS_OF_NOISED = '[aria-label="What the layers make of noised truths"] table'


def test_noised_truths_are_told_layer_by_layer_and_one_by_one(two_stage):
    page, report = two_stage
    heads, given, *layers = cells(page, LAYERS_OF_NOISED)
    assert heads[0] == "layer"
    assert given == ["given", "0.250", "0 %", "none", "none"]
    assert layers == [[f"{i + 1}", f"{0.6 + i / 10:.3f}", "100 %", *[f"{0.3 + i / 10:.3f}"] * 2] for i in range(LAYERS)]
    _, *rows = cells(page, NOISED)
    names = CATEGORIES.names
    assert rows == [
        [
            str(shown.matching.image_id),
            str(truth),
            part,
            names[label],
            names[1 - label],
            "0.250",
            "0.800",
            names[label],
            "0.500",
        ]
        for shown in report.shown
        for part in ("rebuild", "refuse")
        for truth, label in enumerate(shown.matching.labels.tolist())
    ]
    assert len(rows) == 2 * 2 * 4
    assert page.errors == []


def test_the_attention_mask_is_drawn_as_it_is(two_stage):
    page, report = two_stage
    mask = report.denoising.mask
    size = mask.known + mask.own
    wanted = torch.zeros(size, size, dtype=torch.int64)
    y = 0
    for count, runs in mask.rows:
        edges = torch.tensor([0, *runs]).cumsum(0).tolist()
        for start, end in zip(edges[1::2], edges[2::2], strict=False):
            wanted[y : y + count, start:end] = 1
        y += count
    drawn = torch.zeros_like(wanted)
    sides = "['x', 'y', 'width', 'height'].map(side => Number(r.getAttribute(side)))"
    for x, y, width, height in page.run(f"[...document.querySelectorAll('.mask .blocked')].map(r => {sides})"):
        drawn[y : y + height, x : x + width] += 1
    assert torch.equal(drawn, wanted)
    assert 0 < wanted.sum() < wanted.numel()
    label = page.run("document.querySelector('.mask').getAttribute('aria-label')")
    assert label == (
        f"Attention mask: {mask.known} noised queries in groups of {mask.group}, then {mask.own} of the model's own"
    )


def test_in_two_stages_a_query_is_told_with_its_token(two_stage):
    page, report = two_stage
    pick(page, image=0)
    told = report.shown[0].matching.layers[-1]
    words = page.run("document.getElementById('detail').textContent")
    for query in (int(told.matched[0]), int(told.runner_up[0])):
        assert re.search(rf"query {query} \(says [^)]*, token {1000 + query}\)", words)
    assert page.errors == []


def test_an_image_without_truths_says_so_in_every_layer(two_stage):
    page, _ = two_stage
    pick(page, image=2)
    page.run("document.getElementById('layer').focus()")
    for _ in range(LAYERS):
        assert page.run("document.getElementById('detail').textContent") == "This image has no truths."
        assert page.run("document.querySelectorAll('.truth-group, #truths tbody tr, #costs tr').length") == 0
        assert page.run("document.querySelectorAll('#picture image').length") == 1
        page.run("document.getElementById('others').click()")
        page.press("ArrowLeft")
    assert page.run("document.getElementById('layer-name').textContent") == f"1 of {LAYERS}"
    pick(page, image=1)
    assert page.run("document.querySelectorAll('.truth-group').length") == 4
    assert page.errors == []


def pick(page, *, image):
    menu = "document.getElementById('image')"
    page.run(f"{menu}.value = {image}, {menu}.dispatchEvent(new Event('change'))")
    page.settle()


def test_a_page_without_a_shown_image_tells_the_split_and_the_denoising(tmp_path):
    report = two_stage_report()
    report = replace(report, shown=(), denoising=replace(report.denoising, images=()))
    with opened(page_of(report).text, tmp_path) as page:
        assert page.run("document.getElementById('look').hidden")
        assert len(cells(page, "#split table")) == 1 + LAYERS
        assert len(cells(page, LAYERS_OF_NOISED)) == 2 + LAYERS
        assert page.run(f"document.querySelector('{NOISED}')") is None
        assert page.run("document.querySelectorAll('.mask .blocked').length") > 0
        assert page.run("document.getElementById('left-out')") is None
        assert page.errors == []


def test_a_page_cut_to_its_smallest_says_what_is_missing(tmp_path):
    report = two_stage_report()
    content = for_page(as_json(report), PLANS[-1])
    told = content["images"][0]["layers"][-1]["truths"]
    (crowded, *_) = (i for i, truth in enumerate(told) if [row[0] for row in truth["table"]].index(truth["query"]) > 0)
    with opened(make_page(content, picture_urls(report.shown)), tmp_path) as page:
        assert "are left out" in page.run("document.getElementById('left-out').textContent")
        assert page.run(f"document.querySelector('{NOISED}')") is None
        assert len(cells(page, LAYERS_OF_NOISED)) == 2 + LAYERS
        assert "its cheapest query appear" in page.run("document.querySelector('.hint').textContent")
        page.run(f"document.querySelector('.truth-group[data-truth=\"{crowded}\"]').focus()")
        words = page.run("document.getElementById('detail').textContent")
        assert "Cheaper for this truth would be at least one query" in words
        assert page.errors == []


def test_the_words_explained_are_those_of_the_page_and_not_how_the_json_counts(made):
    page, content = made
    words = page.run("[...document.querySelectorAll('#words dt')].map(word => word.textContent)")
    assert words == [word.replace("_", " ") for word in content["meanings"] if word not in ("layers", "boxes")]
    assert len(words) >= 7


def test_what_a_query_is_to_the_truth_is_in_sight_without_scrolling_the_table(made):
    page, _ = made
    box = "document.querySelector('{}').getBoundingClientRect().right"
    assert page.run(box.format("#costs tr.is-match td:nth-child(3)")) < page.run(box.format(".scroll:has(#costs)"))
    assert page.run("[...document.querySelectorAll('#costs th')].map(h => h.textContent).slice(1, 3)") == [
        "here",
        "matched to",
    ]
