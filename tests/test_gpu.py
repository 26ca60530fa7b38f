"""The GPU's branches, on a machine without one: two walks through train.py and evaluate.py.

In the first, tensors on 'cuda' are PyTorch's fake ones, without values. It fails where a tensor was
left on the CPU, meets NumPy in the wrong place or type, or makes the CPU wait for the GPU. But fake
tensors multiply 16 bits with 32, which kernels refuse: the second is in real 16 bits, on the CPU.
"""
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.cuda.amp.common
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

import data
import evaluate
import train
from datasets.synthetic import synthetic
from evaluation import command
from evaluation.focus import focus
from lstp import POOLERS
from pictures import figures

DEVICE = torch.device('cuda', 0)
HALVES = [torch.bfloat16, torch.float16]
VIDEOS = {split: few[:2] for split, few in synthetic(train=1, val=1).items()}
SMALL = dict(backbone='tiny', weights='random', frames=4, batch=2, epochs=1, workers=0,
             layers=[1], depth=1, fc_width=16, entity_width=16, embedding=16, image_size=24,
             compile=False, jitter=0., hue=0.)
# every objective and pooler, one of each kind of backbone, parts of one that are trained
OBJECTIVES = [dict(loss=name) for name in train.OBJECTIVES]
MODELS = [dict(readout='avg', merge=2, disjoint=True, negatives='batch', jitter=0.8, hue=0.2),
          dict(pool='avg', train_backbone=['patch_embed'], compile=True),
          dict(pool='fwb', backbone='dinov2_vits14_reg', image_size=56),
          dict(pool='cls', backbone='dinov3_vits16', image_size=64),
          dict(pool='max', backbone='resnet50', image_size=64, train_backbone=['layer4'])]
assert {kind.get('pool', 'lstp') for kind in MODELS} == set(POOLERS)
CASES = [(torch.bfloat16, kind) for kind in OBJECTIVES + MODELS]
CASES += [(torch.float16, kind) for kind in MODELS]


class Gpu(TorchDispatchMode):
    """Over a FakeTensorMode: what is on the CPU stays real. Collects the copies between the two
    that the CPU waits for, and float64, which MPS lacks. (To read a fake value, as .item() and
    nonzero do, is an error.)"""

    faults = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        fake = FakeTensor in types or torch.device(kwargs.get('device') or 'cpu') == DEVICE
        with nullcontext() if fake else unset_fake_temporarily():
            out = function(*args, **kwargs)
        if function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            goes_on = kwargs.get('non_blocking') or args[-1] is True
            devices = {each.device for each in (*args, out) if torch.is_tensor(each)}
            if len(devices) > 1 and not goes_on:
                self.faults.append(str(function))
        if isinstance(out, FakeTensor) and out.dtype == torch.float64:
            self.faults.append(f'{function} in float64')
        return out


def as_array(tensor):
    """FakeTensor.numpy: zeros, where a real tensor could be an array."""
    assert tensor.device.type == 'cpu' and tensor.dtype != torch.bfloat16
    return np.zeros(tuple(tensor.shape), str(tensor.dtype).removeprefix('torch.'))


def moved(module, to):
    """Module.to: PyTorch's own cannot exchange fake weights."""
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            weight = torch.nn.Parameter(weight.detach().to(to), weight.requires_grad)
            part._parameters[name] = weight
        for name, buffer in part.named_buffers(recurse=False):
            if isinstance(to, torch.device) or buffer.is_floating_point():
                part._buffers[name] = buffer.to(to)
    return module


@pytest.fixture
def gpu(half, monkeypatch):
    """A machine whose GPU has bfloat16 or not."""
    replace = monkeypatch.setattr
    replace(torch.cuda.amp.common, 'amp_definitely_not_available', lambda: False)
    replace(torch.cuda, 'is_bf16_supported', lambda **_: half == torch.bfloat16)
    replace(train, 'join_processes', lambda name: (0, 1, DEVICE))
    replace(torch.nn.init, 'trunc_normal_', lambda weight, **_: weight)
    replace(torch.nn.Module, 'to', moved)
    replace(FakeTensor, '__deepcopy__', lambda weight, _: weight.detach().clone(), raising=False)
    replace(torch.nn.utils, 'clip_grad_norm_', lambda weights, most: weights[0].norm())
    for owner, name in [(torch.optim.Adam, 'step'), (torch.nn.Module, 'compile'),
                        (torch.Tensor, 'backward'), (train, 'save_checkpoint'),
                        (train.Log, 'report')]:
        replace(owner, name, lambda *_, **__: None)
    replace(data, 'load', lambda *_, **__: VIDEOS)
    data.statistics.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True), Gpu() as gpu:
        yield gpu


def take_a_step(gpu, monkeypatch, folder, **changes):
    """train.train for one step -> its model, and what it logs of the step."""
    logged, trained = [], []

    def one_batch(s, clips, *_):
        data.statistics(DEVICE)                           # sent once, before the first step
        gpu.faults.clear()
        yield data.collate([clips[0, 0], clips[0, 1]])

    monkeypatch.setattr(train, 'loader', one_batch)
    monkeypatch.setattr(train.Log, 'add', lambda log, *values: logged.extend(values[3:]))
    monkeypatch.setattr(evaluate, 'evaluate', lambda model, *_, **__: trained.append(model))
    train.train(train.Settings(**SMALL | dict(out=str(folder)) | changes).resolve())
    return trained[0], logged


@pytest.mark.parametrize('half, changes', CASES, ids=str)
def test_a_step_stays_on_the_gpu(half, changes, gpu, monkeypatch, tmp_path):
    model, logged = take_a_step(gpu, monkeypatch, tmp_path, **changes)
    assert not gpu.faults
    assert all(value.device == DEVICE for value in logged)
    assert logged[0].dtype == torch.float32
    stays = 'train_backbone' in changes or half == torch.float16 and 'dinov3' in str(changes)
    assert next(model.backbone.parameters()).dtype == (torch.float32 if stays else half)


@pytest.mark.parametrize('half', HALVES, ids=str)
def test_an_evaluation_ends_in_numpy(half, gpu, monkeypatch, tmp_path):
    for name, value in dict(numpy=as_array, item=lambda _: 0., __bool__=lambda _: True).items():
        monkeypatch.setattr(FakeTensor, name, value, raising=False)
    model, _ = take_a_step(gpu, monkeypatch, tmp_path)
    settings = vars(train.Settings(**SMALL))
    result = evaluate.assess({'a': model}, VIDEOS, settings, controls=False)
    assert result['embeddings']['a']['val'][0].dtype == np.float32
    look = figures.look_at(model, VIDEOS['val'][0], [0, 1])
    for attention in look.entities, look.heads:
        for values in focus(attention, look.actor).values():
            assert values.device == DEVICE and values.dtype == torch.float32
        assert figures.tinted(look.images, attention[:, 0]).dtype == np.uint8
    features = model.features(look.images).patches
    assert features.device == DEVICE and features.dtype == torch.float32


@pytest.mark.parametrize('half', HALVES, ids=str)
@pytest.mark.parametrize('pool', ['lstp', 'fwb'])
def test_training_and_evaluation_in_half_precision(half, pool, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(data, 'load', lambda *_, **__: VIDEOS)
    for place in train, command:
        monkeypatch.setattr(place, 'half_dtype', lambda device: half)
    autocast = torch.autocast('cpu', torch.bfloat16) if half == torch.bfloat16 else nullcontext()
    monkeypatch.setattr(train, 'mixed_precision', lambda device: autocast)
    settings = train.Settings(**SMALL | dict(pool=pool, out=str(tmp_path), device='cpu'))
    train.train(settings.resolve())
    evaluate.main([str(tmp_path / 'checkpoint.pt'), '--device', 'cpu'])
    printed = capsys.readouterr().out
    assert f'backbone in {half}' in printed
    trained, again = [line for line in printed.splitlines() if line.startswith('mean')]
    assert trained == again and 'nan' not in trained
