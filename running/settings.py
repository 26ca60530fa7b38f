"""Settings: the fields of a dataclass, each with its command-line flag and its limits."""
import argparse
import sys
from dataclasses import field, fields

from running.errors import UserError


def setting(default, help, *, least=0, most=sys.float_info.max, group=None, **argument):
    """A field and its flag. least, most: what is allowed; group: a heading in --help, of this flag
    and the next ones; others: argparse's choices (or a function that returns them) and metavar."""
    about = dict(least=least, most=most, group=group, argument=dict(argument, help=help))
    return field(default=default, metadata=about)


def add_arguments(parser, defaults):
    """A flag for every setting of a dataclass, in the groups that they name."""
    group = parser
    for each in fields(defaults):
        if each.metadata['group']:
            group = parser.add_argument_group(each.metadata['group'])
        argument = dict(each.metadata['argument'])
        if callable(argument.get('choices')):
            argument['choices'] = argument['choices']()
        default = getattr(defaults, each.name)
        shown = default
        if each.type is list:
            shown = ','.join(map(str, default or ()))
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
        least = each.metadata['least']
        most = each.metadata['most']
        if each.type in (int, float) and not least <= value <= most:
            bound = f'at most {most}' if value > least else f'at least {least}'
            raise UserError(f'--{each.name.replace("_", "-")} {value}: must be {bound}')
