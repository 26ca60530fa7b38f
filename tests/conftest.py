"""The scripts are flat files in the root: on the path, wherever pytest is started. Tests run on the
CPU, also where a GPU is; what a GPU needs is walked by test_gpu.py."""
import os
import sys
from pathlib import Path

os.environ['CUDA_VISIBLE_DEVICES'] = ''    # before PyTorch is imported, and for what tests start

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'experiments')]


@pytest.fixture(scope='module')
def network():
    """The model of noise.py's settings, to be evaluated."""
    import torch
    from model import build_model
    from noise import SETTINGS
    torch.manual_seed(0)
    return build_model(SETTINGS)


@pytest.fixture
def doctor(monkeypatch, capsys):
    """doctor(*arguments of data.py) -> its exit code, what it prints, its lines of errors."""
    import data
    from made import exit_code

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['data.py', *map(str, arguments)])
        code = exit_code(data.main)
        out, err = capsys.readouterr()
        lines = err.replace('\r', '\n').splitlines()
        return code, out, [line for line in lines if line.startswith('data.py')]
    return run
