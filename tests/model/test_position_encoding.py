import math

import pytest
import torch

from detrctl.model.position_encoding import LearnedPosition, SinePosition


def by_loop(mask: torch.Tensor, width: int, temperature: float, offset: float, cycles: float) -> torch.Tensor:
    """Every number on its own, straight from the formula."""
    batch, rows, columns = mask.shape
    half = width // 2
    out = torch.zeros(batch, width, rows, columns, dtype=torch.float64)
    for b in range(batch):
        for y in range(rows):
            for x in range(columns):
                seen_y = sum(not mask[b, i, x] for i in range(y + 1))
                seen_x = sum(not mask[b, y, i] for i in range(x + 1))
                all_y = sum(not mask[b, i, x] for i in range(rows))
                all_x = sum(not mask[b, y, i] for i in range(columns))
                for start, seen, total in ((0, seen_y, all_y), (half, seen_x, all_x)):
                    place = (seen + offset) / (total + 1e-6) * 2 * math.pi * cycles
                    for i in range(half):
                        angle = place / temperature ** (2 * (i // 2) / half)
                        out[b, start + i, y, x] = math.sin(angle) if i % 2 == 0 else math.cos(angle)
    return out


@pytest.mark.parametrize(
    ("temperature", "offset", "cycles"),
    [(10000.0, 0.0, 1.0), (10000.0, -0.5, 1.0), (20.0, 0.0, 1.0), (100.0, 0.0, 4.0)],
)
def test_sines_equal_a_plain_loop_with_padding(temperature: float, offset: float, cycles: float) -> None:
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[1, 3:] = True
    mask[1, :, 3:] = True
    ours = SinePosition(width=16, temperature=temperature, offset=offset, cycles=cycles)(mask)
    expected = by_loop(mask, 16, temperature, offset, cycles)
    inside = ~mask[:, None].expand_as(expected)
    torch.testing.assert_close(ours.double()[inside], expected[inside], rtol=1e-5, atol=1e-5)


def test_learned_positions_put_columns_first_and_repeat_beyond_their_table() -> None:
    position = LearnedPosition(width=8, cells=3)
    out = position(torch.zeros(2, 2, 5, dtype=torch.bool))
    assert out.shape == (2, 8, 2, 5)
    for y in range(2):
        for x in range(5):
            expected = torch.cat([position.columns.weight[min(x, 2)], position.rows.weight[min(y, 2)]])
            torch.testing.assert_close(out[1, :, y, x], expected)
