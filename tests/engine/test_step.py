"""A step is the same however its batch is cut up, and a step with a NaN in it is not made."""

import math
from collections.abc import Sequence

import pytest
import torch

from detrctl.data.batch import collate
from detrctl.engine.build import build_data, build_learner
from detrctl.engine.distributed import Alone
from detrctl.engine.optim import build_optimizer
from detrctl.engine.step import Means, Meter, Outcome, Skip, Stepper
from detrctl.families.learner import Learner
from detrctl.recipe.schema import Recipe
from detrctl.structures import Batch
from tests.engine import tiny


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return tiny.recipe(tiny.dataset(tmp_path_factory.mktemp("data"), empty=(3, 4)), clip_norm=0.0)


def batches(setting: Recipe, *parts: Sequence[int]) -> list[Batch | None]:
    split = build_data(setting, "train", augment=True)
    return [collate([split.dataset[i] for i in part]) for part in parts]


def stepper(setting: Recipe) -> tuple[Stepper, Learner]:
    torch.manual_seed(0)
    learner = build_learner(setting, build_data(setting, "train").categories).train()
    optimizer = build_optimizer(learner.parameter_groups(), setting.train)
    return Stepper(learner, optimizer, setting.train, device=torch.device("cpu"), processes=Alone()), learner


def weights(learner: Learner) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learner.network.parameters()])


def gradients(setting: Recipe, *parts: Sequence[int]) -> tuple[torch.Tensor, Outcome]:
    """The gradients that a step uses: the optimizer is kept from making it."""
    make, learner = stepper(setting)
    kept: list[torch.Tensor] = []
    make._optimizer.step = lambda: kept.append(  # type: ignore[method-assign]
        torch.cat(
            [parameter.grad.flatten() for parameter in learner.network.parameters() if parameter.grad is not None]
        )
    )
    outcome = make(batches(setting, *parts))
    return kept[0], outcome


def test_gradients_are_clipped_before_the_step(setting: Recipe) -> None:
    whole, _ = gradients(setting, [0, 1])
    bound = 0.5 * float(whole.norm())
    train = setting.train.model_copy(update={"clip_norm": bound})
    clipped, outcome = gradients(setting.model_copy(update={"train": train}), [0, 1])
    torch.testing.assert_close(clipped, whole / 2, rtol=1e-5, atol=1e-5 * float(whole.abs().max()))
    assert outcome.gradient_norm == pytest.approx(2 * bound, rel=1e-5)


def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(setting: Recipe) -> None:
    whole, together = gradients(setting, [0, 1, 2, 3, 5])
    # Uneven parts, one of them an image without objects: a mean of the parts' means would differ.
    cut, apart = gradients(setting, [3], [0, 1, 5], [2])
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-5 * float(whole.abs().max()))
    assert apart.images == together.images == 5
    assert set(apart.losses) == set(together.losses)
    for name, value in together.losses.items():
        if not name.endswith("_error"):
            torch.testing.assert_close(apart.losses[name], value, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(apart.loss, together.loss)


def test_a_batch_of_images_without_objects_is_a_step_too(setting: Recipe) -> None:
    gradient, outcome = gradients(setting, [3, 4])
    assert outcome.skip is None
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_micro_batches_that_could_not_be_read_are_left_out(setting: Recipe) -> None:
    whole, _ = gradients(setting, [0, 1])
    make, learner = stepper(setting)
    before = weights(learner)
    assert make([None, *batches(setting, [0, 1])]).images == 2
    assert not torch.equal(weights(learner), before)
    outcome = make([None, None])
    assert outcome.skip == Skip("no image of this process's part of the batch could be read", ())


def test_a_step_with_a_nan_image_is_not_made_and_the_image_is_named(setting: Recipe) -> None:
    make, learner = stepper(setting)
    before = weights(learner)
    good, broken = batches(setting, [0, 1], [2, 5])
    assert broken is not None
    broken.images.pixels[1] = float("nan")
    outcome = make([good, broken])
    assert outcome.skip is not None
    assert outcome.skip.image_ids == (10, 11, 12, 15)
    assert outcome.skip.reason == "image 15: the predictions of decoder layer 1 of 2 are NaN or infinite"
    assert torch.equal(weights(learner), before)
    assert all(parameter.grad is None for parameter in learner.network.parameters())
    assert make([good]).skip is None


def test_a_step_with_a_broken_gradient_names_the_parameters(setting: Recipe) -> None:
    make, learner = stepper(setting)
    before = weights(learner)
    hook = learner.network.queries.position.weight.register_hook(lambda gradient: gradient * float("inf"))
    outcome = make(batches(setting, [0, 1]))
    assert outcome.skip is not None
    assert outcome.skip.reason == "the gradient of queries.position.weight is NaN or infinite"
    assert torch.equal(weights(learner), before)
    hook.remove()
    assert make(batches(setting, [0, 1])).skip is None


def test_bf16_is_close_to_fp32_and_its_losses_are_fp32(setting: Recipe) -> None:
    _, full = gradients(setting, [0, 1])
    half = setting.model_copy(update={"train": setting.train.model_copy(update={"precision": "bf16"})})
    _, mixed = gradients(half, [0, 1])
    assert mixed.loss.dtype == torch.float32
    assert float(mixed.loss) != float(full.loss)
    torch.testing.assert_close(mixed.loss, full.loss, rtol=0.05, atol=0.0)


def test_the_meter_gives_means_over_steps_and_leaves_out_skipped_ones() -> None:
    meter = Meter()
    for value in (1.0, 3.0):
        meter.add(Outcome(4, torch.tensor(value), {"decoder.0.l1": torch.tensor(2 * value)}, 1.0))
    meter.add(Outcome(4, torch.tensor(float("nan")), {}, float("nan"), Skip("x", ())))
    assert meter.read(Alone()) == Means(2.0, {"decoder.0.l1": 4.0}, {})
    again = meter.read(Alone())
    assert math.isnan(again.loss)
    assert (again.losses, again.shares) == ({}, {})


def test_a_share_is_what_a_term_adds_to_the_total_as_weighted() -> None:
    meter = Meter()
    weights = {"decoder.0.l1": 5.0, "denoising.0.l1": 1.0}
    # Only the second step has something to denoise.
    meter.add(Outcome(4, torch.tensor(10.0), {"decoder.0.l1": torch.tensor(2.0)}, 1.0, weights={"decoder.0.l1": 5.0}))
    losses = {"decoder.0.l1": 1.0, "denoising.0.l1": 25.0, "decoder.0.class_error": 40.0}
    meter.add(Outcome(4, torch.tensor(30.0), {k: torch.tensor(v) for k, v in losses.items()}, 1.0, weights=weights))
    means = meter.read(Alone())
    assert means.losses == {"decoder.0.l1": 1.5, "denoising.0.l1": 25.0, "decoder.0.class_error": 40.0}
    assert means.shares == {"decoder.0.l1": 15 / 40, "denoising.0.l1": 25 / 40}


def test_a_total_of_zero_or_no_number_has_no_shares() -> None:
    for total in (0.0, float("nan"), float("inf")):
        meter = Meter()
        meter.add(Outcome(1, torch.tensor(total), {"a": torch.tensor(1.0)}, 1.0, weights={"a": 1.0}))
        assert meter.read(Alone()).shares == {}


def test_the_shares_of_a_real_step_sum_to_one_however_the_batch_is_cut(setting: Recipe) -> None:
    found = []
    for parts in ([[0, 1, 2, 3, 5]], [[3], [0, 1, 5], [2]]):
        _, outcome = gradients(setting, *parts)
        meter = Meter()
        meter.add(outcome)
        found.append(meter.read(Alone()).shares)
    whole, cut = found
    assert list(whole) == [f"decoder.{layer}.{term}" for layer in (0, 1) for term in ("class", "l1", "giou")]
    assert sum(whole.values()) == pytest.approx(1.0, abs=1e-6)
    assert cut == pytest.approx(whole, rel=1e-4)
