"""What a training shows on a terminal while it goes on."""

import re
from pathlib import Path

import pytest

from detrctl.cli import render
from detrctl.cli.progress import Telling
from detrctl.engine import events

LOSSES = {"decoder.0.class": 9.0, "decoder.1.class": 0.5, "decoder.1.l1": 0.25, "decoder.1.giou": 1.0}
RATES = {"backbone": 1e-5, "transformer": 2e-4}
NO_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def started(max_minutes=None):
    return events.RunStarted(
        run=Path("runs/r"),
        recipe="r",
        splits=(events.SplitSummary("train", 8, ("8 images",)),),
        classes=("cat",),
        parameters={"transformer": 10},
        parameters_total=10,
        device="cpu",
        precision="fp32",
        processes=1,
        threads=1,
        epochs=3,
        steps_per_epoch=20,
        batch_size=2,
        rates=RATES,
        max_minutes=max_minutes,
    )


def step(total, seconds):
    return events.StepDone(1 + (total - 1) // 20, 1 + (total - 1) % 20, 20, total, seconds)


def logged(total, seconds_left, memory_mb=2048.0):
    return events.StepsLogged(
        epoch=1,
        total_steps=total,
        images_seen=2 * total,
        loss=6.25,
        losses=LOSSES,
        rates=RATES,
        gradient_norm=1.0,
        images_per_second=12.5,
        seconds_left=seconds_left,
        memory_mb=memory_mb,
    )


def epoch_done(seconds_left, scores=None, best=None):
    return events.EpochDone(1, 3, 6.25, LOSSES, RATES, 12.5, 10.0, seconds_left, 2048.0, scores, best)


@pytest.fixture
def shown(terminal):
    """shown(event, ...): the bar as it stands afterwards, and what has been written before it."""

    def tell(*told):
        with terminal(columns=200) as (_, err), render.live("training", time_left=False) as bar:
            telling = Telling(bar)
            for event in told:
                telling(event)
        *lines, last = [line for line in NO_COLOURS.sub("", err.getvalue()).splitlines() if line.strip()]
        return re.sub(r"^training +\S+ +", "", last).rstrip(), lines

    return tell


def test_the_bar_tells_speed_loss_rate_memory_and_what_is_left(shown):
    bar, _ = shown(started(), step(9, 450), step(10, 500), logged(10, 130.4))
    assert bar == (
        "10/60 2:10 left  epoch 1 step 10/20  12.5 images/s  loss 6.250 (class 0.50 l1 0.25 giou 1.00)  "
        "lr 2.0e-04  2.0 GB"
    )


def test_what_is_left_shrinks_with_every_step_however_slow(shown):
    bar, _ = shown(started(), step(10, 500), logged(10, 2500, memory_mb=None), step(11, 550.4))
    assert bar == (
        "11/60 40:50 left  epoch 1 step 11/20  12.5 images/s  loss 6.250 (class 0.50 l1 0.25 giou 1.00)  lr 2.0e-04"
    )
    bar, _ = shown(started(), step(59, 100), logged(59, 1), step(60, 110))
    assert bar.startswith("60/60 0:00 left  ")


def test_before_the_first_forecast_the_time_is_told_by_what_is_done(shown):
    assert shown(started(), step(4, 200))[0] == "4/60 46:40 left  epoch 1 step 4/20"


def test_a_time_limit_is_counted_in_seconds_and_says_so(shown):
    assert shown(started(max_minutes=5), step(4, 20))[0] == "20/300 s  4:40 left  epoch 1 step 4/20"
    bar, _ = shown(started(max_minutes=5), step(10, 60), logged(10, 234), step(11, 66))
    assert bar.startswith("66/300 s  3:48 left  epoch 1 step 11/20  12.5 images/s  loss 6.250 ")


def test_an_evaluation_leaves_the_bar_where_it_is_and_counts_images(shown):
    told = (started(), step(20, 1000), logged(20, 600), events.EvaluationProgress(9, 8))
    assert shown(*told)[0] == "20/60 10:00 left  evaluating 8/8 images"


def test_an_epoch_is_a_line_above_the_bar_with_scores_and_the_next_forecast(shown):
    scores = {"AP": 0.1234, "AP50": 0.3456}
    bar, lines = shown(started(), step(20, 590), epoch_done(3725, scores, best=0.2), step(21, 605))
    assert bar == "21/60 1:02:00 left  epoch 2 step 1/20"
    assert (
        "epoch 1/3  loss 6.250 (class 0.50 l1 0.25 giou 1.00)  AP 0.123  AP50 0.346  best AP 0.200  lr 2.0e-04  "
        "12.5 images/s  2.0 GB  10:00 done, 1:02:05 left"
    ) in lines


def test_a_skipped_step_and_warnings_stand_above_the_bar(shown):
    _, lines = shown(started(), step(1, 5), events.StepSkipped(1, 1, "the loss is NaN", (7,)), events.Warned("odd"))
    assert [line for line in lines if line.startswith("warning: ")] == [
        "warning: step 1 skipped: the loss is NaN",
        "warning: odd",
    ]
