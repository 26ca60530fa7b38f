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
from torch.serialization import skip_data
from torch.utils._python_dispatch import TorchDispatchMode

import data
import evaluate
import train
from backbones.weights import load_checkpoint
from datasets.synthetic import synthetic
from evaluation import command
from evaluation.focus import focus
from model import load_model
from pictures import figures
from running import run

DEVICE = torch.device('cuda', 0)
HALVES = [torch.bfloat16, torch.float16]
VIDEOS = {split: few[:2] for split, few in synthetic(train=1, val=1).items()}
SMALL = dict(backbone='tiny', weights='random', image_size=24, layers=[1], depth=1, frames=4,
             batch=2, epochs=1, workers=0, compile=False, jitter=0., hue=0.)
# every pooler, one of each kind of backbone, parts of one that are trained
MODELS = [dict(readout='avg', merge=2, disjoint=True, negatives='batch', jitter=0.8, hue=0.2),
          dict(pool='avg', train_backbone=['patch_embed'], compile=True),
          dict(pool='fwb', backbone='dinov2_vits14_reg', image_size=56),
          dict(pool='cls', backbone='dinov3_vits16', image_size=64),
          dict(pool='max', backbone='resnet50', image_size=64, train_backbone=['layer4'])]
CASES = [(half, kind) for half in HALVES for kind in MODELS]
CASES += [(torch.bfloat16, dict(loss=name)) for name in train.OBJECTIVES]


class Gpu(TorchDispatchMode):
    """Over a FakeTensorMode: what is on the CPU stays real. Collects the copies between the two
    that the CPU waits for, and float64, which MPS lacks. (Reading a fake value is an error.)"""
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
    assert tensor.device.type == 'cpu' and tensor.dtype != torch.bfloat16
    return np.zeros(tuple(tensor.shape), str(tensor.dtype).removeprefix('torch.'))


def moved(module, to):
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            moved = weight.detach().to(to)
            part._parameters[name] = torch.nn.Parameter(moved, weight.requires_grad)
        for name, buffer in part.named_buffers(recurse=False):
            if isinstance(to, torch.device) or buffer.is_floating_point():
                part._buffers[name] = buffer.to(to)
    return module


def clipped(weights, _):
    for weight in weights:
        weight.grad = torch.zeros_like(weight)           # `backward` is left out
    return weights[0].grad.norm()


@pytest.fixture
def step(half, monkeypatch, tmp_path):
    """A machine whose GPU has bfloat16 or not -> step(**settings), train.train for one step -> what
    it logs, and the model. Checkpoints are files without values."""
    replace = monkeypatch.setattr
    replace(torch.cuda.amp.common, 'amp_definitely_not_available', lambda: False)
    replace(torch.cuda, 'is_bf16_supported', lambda **_: half == torch.bfloat16)
    replace(torch, 'load', unset_fake_temporarily()(torch.load))
    replace(torch.nn.Module, 'to', moved)
    replace(torch.nn.Module, 'compile', lambda _: None)
    replace(torch.nn.utils, 'clip_grad_norm_', clipped)
    replace(torch.Tensor, 'backward', lambda _: None)
    replace(FakeTensor, '__deepcopy__', lambda weight, _: weight.detach().clone(), raising=False)
    replace(data, 'load', lambda *_, **__: VIDEOS)
    replace(train, 'join_processes', lambda _: (0, 1, DEVICE))
    replace(train.Log, 'report', lambda _: None)
    replace(train.Log, 'add', lambda _, *values: logged.extend(values[3:]))
    replace(train, 'announce', lambda *_: Gpu.faults.clear())    # the steps begin
    replace(evaluate, 'evaluate', lambda model, *_, **__: logged.append(model))
    logged = []

    def step(**changes):
        train.train(train.Settings(**SMALL | dict(out=str(tmp_path)) | changes))
        return logged

    data.statistics.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True), Gpu(), skip_data(True):
        data.statistics(DEVICE)                           # sent once, before the first step
        yield step


@pytest.mark.parametrize('half, changes', CASES, ids=str)
def test_a_step_stays_on_the_gpu(half, changes, step):
    *logged, model = step(**changes)
    assert not Gpu.faults
    assert {value.device for value in logged} == {DEVICE} and logged[0].dtype == torch.float32
    stays = 'train_backbone' in changes or half == torch.float16 and 'dinov3' in str(changes)
    assert next(model.backbone.parameters()).dtype == (torch.float32 if stays else half)


@pytest.mark.parametrize('half', HALVES, ids=str)
def test_an_evaluation_ends_in_numpy(half, step, monkeypatch):
    for name, value in dict(numpy=as_array, item=lambda _: 0., __bool__=lambda _: True).items():
        monkeypatch.setattr(FakeTensor, name, value, raising=False)
    model = step()[-1]
    result = evaluate.assess({'a': model}, VIDEOS, vars(train.Settings(**SMALL)), controls=False)
    assert result['embeddings']['a']['val'][0].dtype == np.float32
    look = figures.look_at(model, VIDEOS['val'][0], [0, 1])
    for attention in look.entities, look.heads:
        shares = focus(attention, look.actor).values()
        assert {share.dtype for share in shares} == {torch.float32}
        assert figures.tinted(look.images, attention[:, 0]).dtype == np.uint8


@pytest.mark.parametrize('half', HALVES, ids=str)
def test_a_checkpoint_goes_to_the_cpu_and_back(half, step, tmp_path):
    model = step()[-1]
    for weight in load_model(tmp_path).parameters():
        assert weight.device.type == 'cpu' and weight.dtype == torch.float32
    adam = torch.optim.Adam(weight for weight in model.parameters() if weight.requires_grad)
    assert run.resume(load_checkpoint(tmp_path), VIDEOS['train'], adam, None, tmp_path) == 1
    assert {state['exp_avg'].device for state in adam.state.values()} == {DEVICE}


@pytest.mark.parametrize('half, pool', zip(HALVES, ['lstp', 'fwb']), ids=str)
def test_training_and_evaluation_in_half_precision(half, pool, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(data, 'load', lambda *_, **__: VIDEOS)
    for place in run, command:
        monkeypatch.setattr(place, 'half_dtype', lambda device: half)
    autocast = torch.autocast('cpu', torch.bfloat16) if half == torch.bfloat16 else nullcontext()
    monkeypatch.setattr(train, 'mixed_precision', lambda device: autocast)
    train.train(train.Settings(**SMALL | dict(pool=pool, out=str(tmp_path), device='cpu')))
    evaluate.main([str(tmp_path), '--device', 'cpu'])
    printed = capsys.readouterr().out
    assert f'backbone in {half}' in printed
    trained, again = [line for line in printed.splitlines() if line.startswith('mean')]
    assert trained == again and 'nan' not in trained
