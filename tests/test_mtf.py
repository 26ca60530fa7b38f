"""MTF: position code, padding, ids, readouts, merged frames. Reference numbers: test_model.py."""
import numpy as np
import pytest
import torch

from mtf import MTF, merge_frames, position_code


def small(**options):
    """Of entities of width 8, three a frame."""
    return MTF(8, 3, **dict(frames=6, width=16, heads=2, hidden=16) | options).eval()


def test_position_code_against_its_formula():
    code = position_code(5, 9, 6)
    for s in range(5):
        p = s * 8 / 4                                     # 5 frames over the trained positions 0..8
        for c in range(6):
            f = np.sin if c % 2 == 0 else np.cos
            assert code[s, c].item() == pytest.approx(f(p / 10000 ** (c / 6)), abs=1e-6)
    assert position_code(1, 9, 6)[0, 0] == 0


@pytest.mark.parametrize('merge', [1, 4])
def test_padding_is_never_looked_at(merge):
    torch.manual_seed(0)
    mtf = small(frames=8, merge=merge)
    entities = torch.randn(2, 8, 3, 8)
    valid = torch.arange(8) < torch.tensor([[8], [5]])
    other = entities.clone()
    other[1, 5:] = 100 * torch.randn(3, 3, 8)
    with torch.no_grad():
        a = mtf(entities, valid)
        b = mtf(other, valid)
    assert torch.allclose(a[valid], b[valid], atol=1e-6)


def test_readouts_and_ids():
    torch.manual_seed(0)
    average = small(readout='avg')
    first = small(readout='cls')
    first.load_state_dict(average.state_dict())
    x = torch.randn(1, 6, 3, 8)
    swapped = x[:, :, [0, 2, 1]]
    with torch.no_grad():
        assert not torch.allclose(average(x), first(x), atol=1e-4)
        # ids tell entities apart; without them nothing does
        assert not torch.allclose(average(x), average(swapped), atol=1e-4)
        average.ids.zero_()
        assert torch.allclose(average(x), average(swapped), atol=1e-5)


def plain_merge(x, valid, k):
    """Loops over groups of k frames; the mean of the valid ones, zeros where there is none."""
    groups = [range(start, min(start + k, x.shape[1])) for start in range(0, x.shape[1], k)]
    merged = torch.zeros(x.shape[0], len(groups), *x.shape[2:], dtype=x.dtype)
    there = torch.zeros(x.shape[0], len(groups), dtype=torch.bool)
    for b in range(len(x)):
        for number, group in enumerate(groups):
            frames = [x[b, t] for t in group if valid[b, t]]
            if frames:
                merged[b, number] = torch.stack(frames).mean(0)
                there[b, number] = True
    return merged, there


@pytest.mark.parametrize('frames, k', [(8, 2), (7, 3), (5, 8), (1, 2)])
def test_merged_tokens_are_the_means_of_valid_frames(frames, k):
    x = torch.randn(2, frames, 3, 4, dtype=torch.float64)
    valid = torch.arange(frames) < torch.tensor([[frames], [max(1, frames // 3)]])
    for ours, theirs in zip(merge_frames(x, valid, k), plain_merge(x, valid, k)):
        assert torch.allclose(ours, theirs)
    ours, there = merge_frames(x, None, k)
    assert there.all() and torch.allclose(ours, plain_merge(x, torch.ones_like(valid), k)[0])


def test_merging_shortens_the_sequence_and_repeats_the_readout():
    mtf = small(frames=10, embedding=5, merge=4)
    lengths = []
    mtf.blocks[0].register_forward_hook(lambda _, __, output: lengths.append(output.shape[1]))
    with torch.no_grad():
        z = mtf(torch.randn(2, 10, 3, 8))
    assert z.shape == (2, 10, 5) and lengths == [3 * 3]
    assert torch.equal(z[:, 0], z[:, 3]) and not torch.allclose(z[:, 3], z[:, 4])
