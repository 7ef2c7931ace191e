"""The learning rate follows the epochs, the warm-up its steps, and a time limit bends the former only."""

import pytest

from detrctl.engine.schedule import batch_size_factor, rate_factor
from detrctl.recipe.schema import Train


def train(**fields: object) -> Train:
    return Train.model_validate(fields)


def test_step_drops_after_its_epochs_and_not_a_step_earlier() -> None:
    setting = train(epochs=4, schedule={"kind": "step", "drop_epochs": [2, 3], "drop_factor": 0.1})
    steps = 3  # an epoch
    factors = [rate_factor(setting, step=step, progress=step / (4 * steps)) for step in range(4 * steps)]
    assert factors == pytest.approx([1.0] * 6 + [0.1] * 3 + [0.01] * 3)


def test_a_drop_is_exact_for_every_number_of_steps() -> None:
    for epochs, steps in [(300, 7), (7, 13), (90, 1001)]:
        setting = train(epochs=epochs, schedule={"kind": "step", "drop_epochs": [epochs - 1]})
        first = (epochs - 1) * steps
        before, after = (rate_factor(setting, step=s, progress=s / (epochs * steps)) for s in (first - 1, first))
        assert (before, after) == (1.0, pytest.approx(0.1))


def test_cosine_ends_at_its_final_share() -> None:
    setting = train(schedule={"kind": "cosine", "final_factor": 0.2})
    factors = [rate_factor(setting, step=0, progress=progress) for progress in (0, 0.5, 1, 1.5)]
    assert factors == pytest.approx([1.0, 0.6, 0.2, 0.2])


def test_constant_stays() -> None:
    setting = train(schedule={"kind": "constant"})
    assert [rate_factor(setting, step=0, progress=progress) for progress in (0, 0.9)] == [1.0, 1.0]


def test_warm_up_counts_steps_whatever_the_progress() -> None:
    setting = train(schedule={"kind": "constant", "warmup_steps": 4})
    assert [rate_factor(setting, step=step, progress=0.5) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


@pytest.mark.parametrize(("how", "factor"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0)])
def test_rates_follow_the_batch_size_as_chosen(how: str, factor: float) -> None:
    assert batch_size_factor(train(batch_size=64, reference_batch_size=16, scale_lr=how)) == factor
