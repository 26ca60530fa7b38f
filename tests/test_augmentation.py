"""Augmentation: each step against its definition, draws against the published values."""
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import data

NOTHING = {'flip': False, 'colour': [], 'blur': None, 'grey': False}


def raw(x):
    """Undo the normalisation."""
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    return x * std + mean


def noise(*shape):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, shape, np.uint8))


def augmented(frames, size, **drawn):
    """Frames after the steps given and no other, not normalised."""
    whole = (0, 0, *frames.shape[2:])
    return raw(data.augment(frames, {'crop': whole, **NOTHING, **drawn}, size))


def test_denormalise():
    frames = noise(2, 3, 4, 5) / 255
    normalised = data.normalise(frames)
    assert torch.allclose(data.denormalise(normalised), frames, atol=1e-6)
    assert torch.allclose(data.denormalise(normalised), raw(normalised), atol=1e-7)


def test_augment_crop_resize_flip():
    frames = noise(3, 3, 40, 60)
    expected = F.interpolate(frames / 255, (32, 32), mode='bilinear')
    assert torch.allclose(augmented(frames, 32), expected, atol=1e-6)
    expected = frames[:, :, 3:35, 7:39] / 255
    assert torch.allclose(augmented(frames, 32, crop=(3, 7, 32, 32)), expected, atol=1e-6)
    out = augmented(frames, 32, crop=(3, 7, 32, 32), flip=True)
    assert torch.allclose(out, expected.flip(-1), atol=1e-6)


def test_resizing_up_is_as_in_pillow():
    """It does not average there: equal to the rounding of its 8 bits."""
    frames = noise(1, 3, 40, 60)
    image = Image.fromarray(frames[0].permute(1, 2, 0).numpy()).crop((7, 3, 31, 21))
    expected = np.array(image.resize((48, 48), Image.BILINEAR))
    out = augmented(frames, 48, crop=(3, 7, 18, 24))[0].permute(1, 2, 0).numpy()
    assert np.abs(out * 255 - expected).max() < 1.01


def blend(factor, frames, other):
    return (factor * frames + (1 - factor) * other).clamp(0, 1)


def test_augment_colour():
    frames = noise(2, 3, 16, 16)
    x = frames / 255
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    grey = (x * weights).sum(1, keepdim=True)
    average = grey.mean((1, 2, 3), keepdim=True)    # of each frame
    expected = {
        ('brightness', 1.5): (1.5 * x).clamp(0, 1),
        ('contrast', 0.4): blend(0.4, x, average),
        ('saturation', 1.7): blend(1.7, x, grey),
    }
    for step, result in expected.items():
        assert torch.allclose(augmented(frames, 16, colour=[step]), result, atol=2e-3), step
    turned = augmented(frames, 16, colour=[('hue', 1 / 3)])
    assert torch.allclose(turned, x[:, [2, 0, 1]], atol=1e-5)
    same = augmented(frames, 16, colour=[('hue', 0.0)])
    assert torch.allclose(same, x, atol=1e-5)
    without = augmented(frames, 16, grey=True)
    assert torch.allclose(without, grey.expand(-1, 3, -1, -1), atol=2e-4)
    order = [('brightness', 1.8), ('contrast', 0.3)]
    one = augmented(frames, 16, colour=order)
    other = augmented(frames, 16, colour=order[::-1])
    assert not torch.allclose(one, other, atol=0.01)


def test_augment_blur_is_5_wide_and_9_high():
    frames = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    frames[:, :, 16, 16] = 255
    out = augmented(frames, 32, blur=2.0)[0, 0]
    rows, columns = torch.nonzero(out > 1e-5, as_tuple=True)
    assert (rows.min(), rows.max()) == (12, 20)
    assert (columns.min(), columns.max()) == (14, 18)
    x = torch.arange(-4, 5.) ** 2
    column = torch.exp(-x / 8)
    row = torch.exp(-x[2:7] / 8)
    expected = (column / column.sum())[:, None] * row / row.sum()
    assert torch.allclose(out[12:21, 14:19], expected, atol=1e-5)


def test_one_draw_serves_a_whole_clip():
    frames = noise(1, 3, 50, 60).expand(4, -1, -1, -1)
    for k in range(10):
        drawn = data.draw_augmentation(np.random.default_rng(k), 50, 60)
        out = data.augment(frames, drawn, 24)
        assert out.shape == (4, 3, 24, 24) and out.dtype == torch.float32
        assert torch.equal(out[0], out[3])


def draws(number, height=224, width=224, **strength):
    drawn = []
    for k in range(number):
        rng = np.random.default_rng(k)
        drawn.append(data.draw_augmentation(rng, height, width, **strength))
    return drawn


def test_draws_of_crops():
    tops, lefts, heights, widths = np.array([drawn['crop'] for drawn in draws(3000)]).T
    area = heights * widths / 224 ** 2
    ratio = widths / heights
    assert 0.79 < area.min() < 0.81 and area.max() <= 1
    assert 0.74 < ratio.min() < 0.85 and 1.2 < ratio.max() < 1.35
    assert tops.min() == lefts.min() == 0
    assert (tops + heights).max() == (lefts + widths).max() == 224
    # no crop of these ratios and 0.8 of the area fits into 640 x 360: all of it, squashed
    assert all(drawn['crop'] == (0, 0, 360, 640) for drawn in draws(50, 360, 640))


def test_draws_of_colours():
    drawn = draws(3000)
    expected = {'flip': 0.5, 'colour': 0.8, 'blur': 0.4, 'grey': 0.2}
    for step, share in expected.items():
        assert abs(np.mean([bool(each[step]) for each in drawn]) - share) < 0.03
    jitters = [each['colour'] for each in drawn if each['colour']]
    orders = {tuple(dict(jitter)) for jitter in jitters}
    assert len(orders) == 24
    limits = dict.fromkeys(('brightness', 'contrast', 'saturation'), (0.2, 1.8))
    limits['hue'] = (-0.2, 0.2)
    for name, (low, high) in limits.items():
        factors = [dict(jitter)[name] for jitter in jitters]
        assert low <= min(factors) < low + 0.05
        assert high - 0.05 < max(factors) <= high
    sigmas = [each['blur'] for each in drawn if each['blur']]
    assert 0.1 <= min(sigmas) < 0.2 and 1.9 < max(sigmas) <= 2


def test_a_draw_of_nothing():
    still, = draws(1, 64, 64, scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, blur=0, grey=0)
    assert still == {**NOTHING, 'crop': (0, 0, 64, 64)}


def test_center():
    parts = {    # height, width: the rows and columns at the centre
        (360, 640): (slice(68, 292), slice(208, 432)),
        (225, 227): (slice(1, 225), slice(2, 226)),
        (224, 224): (slice(0, 224), slice(0, 224)),
    }
    for (height, width), (rows, columns) in parts.items():
        frames = noise(1, 3, height, width)
        expected = frames[:, :, rows, columns] / 255
        assert torch.allclose(raw(data.center(frames, 224)), expected, atol=1e-6)
    frames = noise(2, 3, 100, 300)    # a smaller side whole
    expected = F.interpolate(frames[:, :, :, 38:262] / 255, (224, 224), mode='bilinear')
    assert torch.allclose(raw(data.center(frames, 224)), expected, atol=1e-6)
    black = data.center(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 8)[0, :, 0, 0]
    assert torch.allclose(black, torch.tensor([-2.1179, -2.0357, -1.8044]), atol=1e-4)
