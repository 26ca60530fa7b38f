"""The rooms are found before an installed package of the same name (Hugging Face has `datasets`),
and nothing is imported in a circle."""
import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ['backbones', 'datasets', 'evaluation', 'objectives', 'pictures', 'running']


def test_an_installed_namesake_does_not_take_a_rooms_place(tmp_path):
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / '__init__.py').write_text('raise ImportError("the installed one")')
    code = (f'import sys; sys.path[:0] = [{str(ROOT)!r}]; sys.path.append({str(tmp_path)!r})\n'
            'import evaluate, train')
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path.parent, capture_output=True,
                          text=True, env=os.environ | dict(PYTHONPATH=''))
    assert done.returncode == 0, done.stderr


def house():
    """Every module of the house, but tests and experiments: {name: file}."""
    modules = {file.stem: file for file in ROOT.glob('*.py')}
    for room in ROOMS:
        for file in (ROOT / room).glob('*.py'):
            modules[f'{room}.{file.stem}'] = file
    return modules


def imported_above(file, modules):
    """What a module of the house imports of the house before anything in it runs."""
    found = set()
    for node in ast.parse(file.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found & modules.keys()


def test_lstp_and_mtf_import_nothing_of_the_house():
    modules = house()
    for name in 'lstp', 'mtf':
        assert imported_above(modules[name], modules) == set()


def test_nothing_is_imported_in_a_circle():
    """Modules whose imports are all known go first, until none is left."""
    modules = house()
    waiting = {name: imported_above(file, modules) for name, file in modules.items()}
    while waiting:
        ready = [name for name, needs in waiting.items() if not needs & waiting.keys()]
        assert ready, f'in a circle, or behind one: {waiting}'
        for name in ready:
            del waiting[name]
