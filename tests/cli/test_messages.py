"Every message of a reader offers only what the command that prints it can be told."

import ast
import re
from pathlib import Path

import pytest

from closp_nb.cli.corpus import to_shell
from closp_nb.data.archives import ARCHIVES
from closp_nb.cli.main import make_parser, _options

LIB = Path(__file__).resolve().parents[2] / 'closp_nb'
READERS = [
    'names',
    'evidence',
    'units',
    'stac',
    'safe',
    'places',
    'labels',
    'data/rasters',
    'data/scenes',
    'data/products',
    'data/catalog',
    'data/corpus',
]


def messages():
    "(room, argument) for each text that says what to say."
    for room in READERS:
        for node in ast.walk(ast.parse((LIB / f'{room}.py').read_text(encoding='utf-8'))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for name in re.findall(r'(?:\bsay|\bor|\() ?([a-z_]{3,})=', node.value):
                    if name not in ARCHIVES:  # mmflood=FOLDER is a word of the build
                        yield room, name


OFFERS = sorted(set(messages()))


@pytest.mark.parametrize('room,name', OFFERS)
def test_an_offer_can_be_taken_up(room, name):
    "In the shell it is an option of the command, or may stand behind the folder's name."
    commands = ['corpus build'] if room in ('data/corpus', 'labels') else ['index', 'add', 'corpus build', 'demo']
    for command in commands:
        said = to_shell(f'say {name}=1', _options(make_parser(command)))
        assert said.startswith(('say --', 'say FOLDER?')), f'{room}: {command} cannot be told {name}'


def test_there_are_offers():
    assert {('units', 'offset'), ('units', 'unit'), ('evidence', 'offset')} <= set(OFFERS), OFFERS
