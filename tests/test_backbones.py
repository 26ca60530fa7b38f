"""The backbones against the reference numbers (tests/golden) and against plain forms."""
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch

import model
from backbones.build import build_backbone
from backbones import names
from model import ViT
from backbones.dinov2 import DINOv2, DINOv2WithRegisters
from backbones.dinov3 import DINOv3
from backbones.weights import backbone_state, load_strictly
from running.errors import UserError

GOLDEN = Path(__file__).parent / 'golden'


@cache
def golden(name):
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f'{name}.npz').items()}


def assert_close(ours, reference, tolerance=1e-5):
    """Within `tolerance` of the largest magnitude in the reference."""
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= tolerance * reference.abs().max()


CASES = {    # of each generation: its class and sizes, its file of reference numbers
    'dino': (partial(ViT, trained_size=32, patch_size=8), 'dino_vit'),
    'dinov2': (partial(DINOv2, trained_size=56, patch_size=14), 'dinov2_vit'),
    'dinov2_reg': (partial(DINOv2WithRegisters, trained_size=56, patch_size=14), 'dinov2_vit'),
    'dinov3': (partial(DINOv3, patch_size=16), 'dinov3_vit'),
}


def official_state(case):
    """As in an official file."""
    prefixes = ('sd/', 'sd_reg/') if case == 'dinov2_reg' else 'sd/'
    numbers = golden(CASES[case][1])
    return {key.split('/')[1]: numbers[key] for key in numbers if key.startswith(prefixes)}


def reference(case, layers=None):
    """A backbone with the weights in a file of reference numbers, and those numbers."""
    make, file = CASES[case]
    vit = make(layers, width=32, depth=4, heads=2)
    state, _ = backbone_state(official_state(case), vit, 'the reference')
    load_strictly(vit, state, 'the reference')
    return vit.eval(), golden(file)


# ---------------------------------------------------------------------- reference numbers

@torch.no_grad()
def test_dino_golden():
    vit, g = reference('dino', (1, 2, 3, 4))
    features = vit(g['x'])
    assert_close(features.patches, torch.cat(list(g['blocks'][:, :, 1:]), -1))
    assert_close(features.cls, g['norm'][:, 0])
    assert_close(vit.attention_map(g['x']), g['last_attn'][:, :, 0, 1:])


@torch.no_grad()
@pytest.mark.parametrize('case, prefix', [('dinov2', ''), ('dinov2_reg', 'reg_'), ('dinov3', '')])
def test_later_generations_golden(case, prefix):
    vit, g = reference(case, (1, 2, 3, 4))
    features = vit(g['x'])
    assert_close(features.patches, torch.cat(list(g[prefix + 'blocks']), -1))
    assert_close(features.cls, g[prefix + 'cls'])
    assert_close(vit.norm(features.patches[..., -32:]), g[prefix + 'norm'])
    assert_close(vit.attention_map(g['x']), g[prefix + 'attn'])


@pytest.mark.parametrize('case, prefix', [('dinov2', ''), ('dinov2_reg', 'reg_')])
def test_positions_of_other_sizes_golden(case, prefix):
    vit, g = reference(case)
    for side in (3, 6):
        assert_close(vit.positions(side, side).detach(), g[f'{prefix}positions_{side}x{side}'])


def test_rotation_golden():
    vit, g = reference('dinov3')
    angles = vit.angles(2, 3)
    assert_close(torch.cat([angles, angles], -1).sin(), g['rope_sin_2x3'])
    assert_close(torch.cat([angles, angles], -1).cos(), g['rope_cos_2x3'])


# --------------------------------------------------------------------------- the contract

@pytest.mark.parametrize('case', CASES)
@torch.no_grad()
def test_layers_are_counted_from_one_and_pictures_need_not_be_square(case):
    every, g = reference(case, (1, 2, 3, 4))
    some, _ = reference(case, (3, 1))
    tall = g['x'][..., :2 * some.patch_size]
    blocks = every(tall).patches.split(32, -1)
    assert torch.equal(some(tall).patches, torch.cat([blocks[2], blocks[0]], -1))
    assert some(tall).patches.shape == (2, 8, 64)
    assert some.attention_map(tall).shape == (2, 2, 8)
    assert (some.width, some.channels) == (32, 64)


# --------------------------------------------------------------------------------- the rows

@pytest.mark.parametrize('name', [                        # one of each kind
    'dino_vits8', 'dinov2_vits14', 'dinov2_vits14_reg', 'dinov3_vits16', 'resnet50', 'tiny'])
def test_a_row_says_what_its_module_is(name):
    row = model.backbones()[name]
    with torch.device('meta'):
        backbone = row.make(None)
        features = backbone(torch.empty(2, 3, row.image_size, row.image_size))
    backbone.image_size = row.image_size
    assert features.patches.shape == (2, backbone.grid ** 2, backbone.channels)
    assert (features.cls is not None) == row.cls
    assert not row.cls or features.cls.shape == (2, backbone.width)
    assert hasattr(backbone, 'attention_map') == row.cls
    assert backbone.patch_size == row.patch_size
    assert len(getattr(backbone, 'blocks', [0])) == row.layers
    assert row.weights or '--weights' in row.where


@pytest.mark.parametrize('name, keys', [
    ('dino_vitb8', 150), ('dino_vits16', 150), ('dinov2_vits14', 174), ('dinov2_vitb14_reg', 175),
    ('dinov2_vitl14', 342), ('dinov3_vitb16', 175)])
def test_parameters_are_those_of_the_official_files(name, keys):
    """But for mask_token and, in DINOv3, the bias masks: 188 = 175 + 1 + 12 in its files."""
    with torch.device('meta'):
        state = model.backbones()[name].make(None).state_dict()
    assert len(state) == keys
    assert all(names.rename(key) == key for key in state)


@pytest.mark.parametrize('name, options, words', [
    ('dinov2_vits14', dict(image_size=100), '--image-size 100.*multiple of 14'),
    ('dinov3_vits16', dict(image_size=15), '--image-size 15.*16'),
    ('resnet50', dict(layers=[2]), 'layers 2.*1 to 1.*resnet50'),
    ('dinov3_vitb16', {}, 'dinov3_vitb16.*gated.*--weights')])
def test_what_a_backbone_cannot_take_is_said(name, options, words):
    with pytest.raises(UserError, match=words):
        build_backbone(name, **options)


@torch.no_grad()
def test_resnet_is_torchvisions():
    """Up to the feature map before its pooling, in eval mode, for sizes that 32 does not divide."""
    from torchvision.models import resnet50
    theirs = resnet50().eval()
    ours = model.backbones()['resnet50'].make(None).eval()
    state, _ = backbone_state(theirs.state_dict(), ours, 'torchvision')
    load_strictly(ours, state, 'torchvision')
    x = torch.randn(1, 3, 70, 70)
    ours.image_size = 70
    features = ours(x)
    assert features.cls is None and features.patches.shape == (1, ours.grid ** 2, 2048)
    assert_close(theirs.fc(features.patches.mean(1)), theirs(x))


# --------------------------------------------------------------------------------------------------
# The tiny one whose patches see their neighbours only

def test_after_k_blocks_a_local_patch_knows_what_lies_within_k_patches():
    """One patch of the picture is painted over; which tokens change?"""
    row = model.backbones()['tiny_local']
    vit = row.make([1, 2, 3, 4]).eval()
    vit.load_state_dict(build_backbone('tiny_local').state_dict())
    picture = torch.randn(1, 3, 72, 72)
    other = picture.clone()
    other[:, :, 12:18, 30:36] = 0                                     # patch in row 2, column 5
    with torch.no_grad():
        before, after = vit(picture), vit(other)
    changed = (before.patches != after.patches).view(144, 4, 96).any(-1)
    row_of, column_of = torch.arange(144) // 12, torch.arange(144) % 12
    distance = torch.maximum((row_of - 2).abs(), (column_of - 5).abs())
    for k in range(4):
        assert torch.equal(changed[:, k], distance <= k + 1)
    assert not torch.equal(before.cls, after.cls)                     # CLS sees all
