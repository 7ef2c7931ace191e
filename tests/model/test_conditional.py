import pytest
import torch
from torch import Tensor

from detrctl.model.conditional import ConditionalCrossAttention, ConditionalSelfAttention
from detrctl.model.places import AnchorPlaces, ConditionalPlaces, Place
from detrctl.model.position_encoding import coordinate_embedding
from detrctl.structures import Queries, Tokens

BATCH, QUERIES, TOKENS, WIDTH, HEADS = 2, 5, 6, 8, 2


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def memory() -> Tokens:
    """Six tokens, of which the second image lacks the last two."""
    is_padding = torch.zeros(BATCH, TOKENS, dtype=torch.bool)
    is_padding[1, 4:] = True
    values, position = random(BATCH, TOKENS, WIDTH, seed=1), random(BATCH, TOKENS, WIDTH, seed=2)
    return Tokens(values, position, is_padding, ((2, 3),), torch.ones(BATCH, 1, 2))


def attend(q: Tensor, k: Tensor, v: Tensor, may: list[list[bool]]) -> Tensor:
    """Attention of one head of one image, written out: (Q, d), (S, d), (S, d') -> (Q, d')"""
    mixed = torch.zeros(len(q), v.shape[1])
    for i in range(len(q)):
        seen = [j for j in range(len(k)) if may[i][j]]
        scores = torch.stack([(q[i] * k[j]).sum() / q.shape[1] ** 0.5 for j in seen])
        for weight, j in zip(scores.softmax(0), seen, strict=True):
            mixed[i] += weight * v[j]
    return mixed


def heads_of(x: Tensor) -> list[Tensor]:
    return list(x.chunk(HEADS, dim=-1))


def test_self_attention_is_that_of_added_projections_head_by_head() -> None:
    attention = ConditionalSelfAttention(width=WIDTH, heads=HEADS, dropout=0.0)
    content, position = random(BATCH, QUERIES, WIDTH, seed=3), random(BATCH, QUERIES, WIDTH, seed=4)
    blocked = torch.zeros(QUERIES, QUERIES, dtype=torch.bool)
    blocked[0, 3] = blocked[4, 1] = True
    out = attention(content, Place(position), Queries(content, blocked=blocked))
    for image in range(BATCH):
        q = attention.query_content(content[image]) + attention.query_position(position[image])
        k = attention.key_content(content[image]) + attention.key_position(position[image])
        v = attention.value(content[image])
        parts = zip(heads_of(q), heads_of(k), heads_of(v), strict=True)
        mixed = torch.cat([attend(*part, (~blocked).tolist()) for part in parts], dim=-1)
        torch.testing.assert_close(out[image], attention.out_proj(mixed))


def test_groups_of_queries_do_not_see_each_other() -> None:
    attention = ConditionalSelfAttention(width=WIDTH, heads=HEADS, dropout=0.0)
    content, position = random(BATCH, 6, WIDTH, seed=3), random(BATCH, 6, WIDTH, seed=4)
    out = attention(content, Place(position), Queries(content, groups=2))
    alone = attention(content[:, 3:], Place(position[:, 3:]), Queries(content[:, 3:]))
    torch.testing.assert_close(out[:, 3:], alone)


@pytest.mark.parametrize("with_position", [True, False])
def test_cross_attention_has_place_beside_content_in_every_head(with_position: bool) -> None:
    attention = ConditionalCrossAttention(width=WIDTH, heads=HEADS, dropout=0.0, with_position=with_position)
    content, position, sine = (random(BATCH, QUERIES, WIDTH, seed=seed) for seed in (3, 4, 5))
    tokens = memory()
    out = attention(content, Place(position, sine=sine), tokens)
    for image in range(BATCH):
        q, k = attention.query_content(content[image]), attention.key_content(tokens.values[image])
        q_place, k_place = attention.query_sine(sine[image]), attention.key_position(tokens.position[image])
        if with_position:
            q, k = q + attention.query_position(position[image]), k + k_place
        v, may = attention.value(tokens.values[image]), [(~tokens.is_padding[image]).tolist()] * QUERIES
        mixed = [
            attend(torch.cat([q, q_place], -1), torch.cat([k, k_place], -1), v, may)
            for q, q_place, k, k_place, v in zip(*map(heads_of, (q, q_place, k, k_place, v)), strict=True)
        ]
        torch.testing.assert_close(out[image], attention.out_proj(torch.cat(mixed, dim=-1)))


def test_only_cross_attention_with_positions_has_a_projection_for_them() -> None:
    names = {
        with_position: {
            name.split(".")[0]
            for name, _ in ConditionalCrossAttention(
                width=WIDTH, heads=HEADS, dropout=0.0, with_position=with_position
            ).named_parameters()
        }
        for with_position in (True, False)
    }
    assert names[True] - names[False] == {"query_position"}


def test_conditional_places_are_sines_of_y_then_x_weighed_from_the_second_layer_on() -> None:
    places = ConditionalPlaces(width=WIDTH)
    content, position = random(BATCH, QUERIES, WIDTH, seed=3), random(BATCH, QUERIES, WIDTH, seed=4)
    points = torch.rand(BATCH, QUERIES, 2, generator=torch.Generator().manual_seed(5))
    queries = Queries(content, position, points)
    x, y = (coordinate_embedding(points[..., axis, None], width=WIDTH // 2) for axis in (0, 1))
    first, second = (places(layer, content, queries, points, memory()) for layer in (0, 1))
    torch.testing.assert_close(first.sine, torch.cat([y, x], dim=-1))
    torch.testing.assert_close(second.sine, first.sine * places.scale(content))
    assert torch.equal(first.position, position)


def test_a_sine_counts_by_the_expected_size_over_the_boxs_own() -> None:
    """Half as wide a box: its x part counts double, its y part as before; the query's expectation is that of before."""
    places = AnchorPlaces(width=WIDTH)
    content = random(BATCH, QUERIES, WIDTH, seed=3)
    boxes = torch.rand(BATCH, QUERIES, 4, generator=torch.Generator().manual_seed(5)) * 0.5 + 0.25
    slim = boxes * torch.tensor([1.0, 1.0, 0.5, 1.0])
    for layer in (0, 1):
        wide, narrow = (places(layer, content, Queries(content), each, memory()).sine for each in (boxes, slim))
        half = WIDTH // 2
        torch.testing.assert_close(narrow[..., half:], 2 * wide[..., half:])
        torch.testing.assert_close(narrow[..., :half], wide[..., :half])
    y = coordinate_embedding(boxes[..., 1:2], width=half)
    height = places.expected_size(content)[..., 1:].sigmoid()
    first = places(0, content, Queries(content), boxes, memory())
    torch.testing.assert_close(first.sine[..., :half], y * height / boxes[..., 3:])
    second = places(1, content, Queries(content), boxes, memory())
    torch.testing.assert_close(second.sine[..., :half], first.sine[..., :half] * places.scale(content)[..., :half])
    assert torch.equal(first.position, second.position)
