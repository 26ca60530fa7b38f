"""The rooms are found before an installed package of the same name (Hugging Face has `datasets`)."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ['backbones', 'datasets', 'evaluation', 'objectives', 'pictures', 'running']


def namesake(name, folder):
    """A package that cannot be used in the place of ours."""
    package = folder / name
    package.mkdir()
    (package / '__init__.py').write_text(f'raise ImportError("the installed {name} was imported")')


@pytest.mark.parametrize('code', ['import train', 'import data', 'import evaluate', 'import model'])
def test_an_installed_namesake_does_not_take_a_rooms_place(code, tmp_path):
    for room in ROOMS:
        namesake(room, tmp_path)
    search = f'import sys; sys.path[:0] = [{str(ROOT)!r}]; sys.path.append({str(tmp_path)!r}); '
    done = subprocess.run([sys.executable, '-c', search + code], cwd=tmp_path.parent,
                          capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=''))
    assert done.returncode == 0, done.stderr
