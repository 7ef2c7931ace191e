"""A time limit leaves time to finish, and its clock goes on where an interrupted run stopped."""

from detrctl.engine.clock import CLOSING_SECONDS, Clock, Pace, TimeLimit


def test_the_clock_counts_earlier_parts_of_the_run() -> None:
    times = iter([100.0, 107.0])
    assert Clock(before=50.0, now=lambda: next(times)).elapsed == 57.0


def test_time_for_one_evaluation_and_one_step_is_kept_back() -> None:
    limit = TimeLimit(300.0)
    assert limit.for_training(evaluation=20.0, step=2.0) == 300 - 22 - 2 - CLOSING_SECONDS
    assert limit.share(136.5, evaluation=20.0, step=2.0) == 0.5
    assert limit.share(290.0, evaluation=20.0, step=2.0) == 1.0


def test_never_more_than_half_the_limit_is_kept_back() -> None:
    assert TimeLimit(4.0).for_training(evaluation=100.0, step=1.0) == 2.0


def test_an_evaluation_only_while_training_can_go_on_after_it() -> None:
    limit = TimeLimit(100.0)  # 100 - 11 - 3 = 86 for training
    assert limit.has_room_for(10.0, 75.0, step=0.0)
    assert not limit.has_room_for(10.0, 76.0, step=0.0)


def test_the_pace_is_seconds_per_step_without_what_lies_between() -> None:
    times = iter([0.0, 10.0, 12.0, 13.0])
    pace = Pace(now=lambda: next(times))
    pace.start()
    assert (pace.step_done(), pace.step) == (2.0, 2.0)
    assert pace.step_done() == 1.0
    assert pace.step == 0.95 * 2 + 0.05 * 1
