"""Decoded images are kept where they fit, and shared between processes."""

import multiprocessing
import pickle

import pytest
import torch

from detrctl.data.cache import ImageCache

SIZES = torch.tensor([[2, 3], [4, 1], [5, 5]])


def pixels(i: int) -> torch.Tensor:
    height, width = SIZES[i].tolist()
    return torch.arange(3 * height * width, dtype=torch.uint8).reshape(3, height, width) + i


def test_what_was_put_comes_back_and_the_rest_is_none() -> None:
    cache = ImageCache(SIZES)
    cache.put(0, pixels(0))
    cache.put(2, pixels(2))
    assert cache.get(1) is None
    for i in (0, 2):
        found = cache.get(i)
        assert found is not None
        assert torch.equal(found, pixels(i))


@pytest.mark.parametrize("cache", [ImageCache(SIZES, limit_bytes=104), ImageCache(torch.tensor([[0, 0], [4, 1]]))])
def test_nothing_is_kept_where_it_would_not_fit_or_sizes_are_unknown(cache: ImageCache) -> None:
    cache.put(1, pixels(1))
    assert not cache.is_used
    assert cache.get(1) is None
    assert ImageCache(SIZES, limit_bytes=105).is_used


def test_an_image_of_another_size_is_not_kept() -> None:
    cache = ImageCache(SIZES)
    cache.put(0, pixels(1))
    assert cache.get(0) is None


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_what_a_forked_process_puts_is_there_for_the_others() -> None:
    cache = ImageCache(SIZES)
    process = multiprocessing.get_context("fork").Process(target=cache.put, args=(1, pixels(1)))
    process.start()
    process.join()
    found = cache.get(1)
    assert found is not None
    assert torch.equal(found, pixels(1))


def test_a_spawned_process_starts_with_an_empty_cache_of_its_own() -> None:
    cache = ImageCache(SIZES)
    cache.put(1, pixels(1))
    other = pickle.loads(pickle.dumps(cache))
    assert other.get(1) is None
    other.put(0, pixels(0))
    assert other.get(0) is not None
    assert cache.get(0) is None
