"""Settings: the fields of a dataclass, each with its command-line flag and its limits."""
import argparse
import sys
from dataclasses import asdict, field, fields

from running.errors import UserError


def setting(default, help, **about):
    """A field and its flag. about: argparse's choices (or a function that returns them) and
    metavar, the group in --help, and the least (else 0) and most that are allowed."""
    return field(default=default, metadata=dict(help=help, **about))


def add_arguments(parser, defaults):
    """A flag for every setting of a dataclass, in the groups that they name."""
    group = parser
    for each in fields(defaults):
        about = dict(each.metadata)
        if 'group' in about:
            group = parser.add_argument_group(about['group'])
        argument = {name: about[name] for name in ('help', 'metavar', 'choices') if name in about}
        if callable(argument.get('choices')):
            argument['choices'] = list(argument['choices']())
        default = getattr(defaults, each.name)
        shown = ','.join(map(str, default or ())) if each.type is list else default
        if shown not in (None, ''):
            argument['help'] += f' [{shown}]'
        if each.type is bool:
            argument['action'] = argparse.BooleanOptionalAction
        else:
            argument['type'] = comma_separated if each.type is list else each.type
            argument.setdefault('metavar', {int: 'N', float: 'X'}.get(each.type, 'NAME'))
        group.add_argument('--' + each.name.replace('_', '-'), default=default, **argument)


def comma_separated(text):
    """'4,8,12' -> [4, 8, 12]; 'layer4' -> ['layer4']."""
    return [int(part) if part.isdigit() else part for part in text.split(',') if part]


def check_limits(settings):
    """Refuse a number below its least or above its most. Errors: UserError."""
    for each in fields(settings):
        value = getattr(settings, each.name)
        least = each.metadata.get('least', 0)
        most = each.metadata.get('most', sys.float_info.max)
        if each.type in (int, float) and not least <= value <= most:
            bound = f'at most {most}' if value > least else f'at least {least}'
            raise UserError(f'--{each.name.replace("_", "-")} {value}: must be {bound}')


def refuse_changes(settings, old, may_change, path):
    """Going on with a run needs the settings it began with. old: the dict in the checkpoint at
    `path`. Errors: UserError."""
    changes = []
    for name, value in asdict(settings).items():
        if name not in may_change and value != old.get(name):
            changes.append(f'{name} was {old.get(name)}, now {value}')
    if changes:
        raise UserError(f'{path}: was trained with other settings ({"; ".join(changes)}); '
                        f'give those, another --out, or --fresh to begin anew')
