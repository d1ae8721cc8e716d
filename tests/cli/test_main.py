"The door: from words to a call, from an error to one line."

import inspect
import subprocess
import sys

import pandas as pd
import pytest
from commandline import ENV, SMALL, closp, one_line

from closp_nb.cli import main as room
from closp_nb.cli.index import _ids
from closp_nb.cli.main import COMMANDS, make_parser, normalize_words, to_shell
from closp_nb.core import ClospError, InputError, MissingDependencyError, NotFoundError, check_writable
from closp_nb.synthetic.world import build_world

# ---- help


def test_help_lists_every_command(shell):
    code, said, err = shell('--help')
    assert code == 0 and not err
    for name, f in COMMANDS.items():
        assert name in said and f.__doc__ in said


@pytest.mark.parametrize('name', COMMANDS)
def test_help_is_complete(name, capsys):
    "Every parameter is an option or a word, and says what it is."
    with pytest.raises(SystemExit) as done:
        make_parser(name).parse_args(['--help'])
    assert done.value.code == 0 and COMMANDS[name].__doc__ in ' '.join(capsys.readouterr().out.split())
    actions = {a.dest: a for a in make_parser(name)._actions}
    for p in inspect.signature(COMMANDS[name]).parameters:
        assert p in actions and len(actions[p].help.partition(' (default')[0]) > 4, f'{name}: say what {p} is'


def test_help_loads_no_heavy_library():
    heavy = 'torch fastai faiss rasterio ipywidgets geopandas h5py pandas scipy matplotlib'.split()
    code = (
        f'import sys; from closp_nb.cli.main import run_command; run_command(["search", "--near"]); '
        f'run_command([]); print("loaded:", *[m for m in {heavy} if m in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], env=ENV, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.strip().endswith('loaded:'), done.stdout + done.stderr


# ---- words


def test_hyphens_and_underscores_are_one(shell):
    options = room._options(make_parser('search'))
    for word in ('--max-cloud', '--max_cloud'):
        args = make_parser('search').parse_args(normalize_words(['x', word, '.5'], options))
        assert args.max_cloud == 0.5
    args = make_parser('demo').parse_args(normalize_words(['--text-encoder=tiny'], ['--text_encoder']))
    assert args.text_encoder == 'tiny'
    code, _, err = shell('search', 'x', '--max-clouds', '.5')
    assert code == 1 and '--max_clouds' in one_line(err) and 'closp search --help' in err


def test_a_minus_is_a_number(shell):
    options = room._options(make_parser('search'))
    assert normalize_words(['x', '--near', '-122,38,50'], options) == ['x', '--near=-122,38,50']
    assert normalize_words(['x', '--k', '-3'], options) == ['x', '--k', '-3']
    code, _, err = shell('search', 'x', '--location', '-50')
    assert code == 1 and one_line(err).endswith("--location lon,lat takes 2 numbers; got '-50'")


def test_lists_and_optional_numbers():
    assert make_parser('compare').parse_args(['a', 'b', '--out', 'c']).folders == ['a', 'b']
    assert make_parser('demo').parse_args([]).epochs is None
    assert make_parser('demo').parse_args(['--epochs', '3']).epochs == 3
    with pytest.raises(InputError, match="--epochs: invalid int value: 'two'; closp demo --help tells"):
        make_parser('demo').parse_args(['--epochs', 'two'])


# ---- messages


@pytest.mark.parametrize(
    'message,said',
    [
        ('say overwrite=True to replace it', 'say --force to replace it'),
        ('read with workers=2, or (workers=4)', 'read with --workers 2, or (--workers 4)'),
        ('lower min_frac=.05.', 'lower --min_frac .05.'),
        ('choose workers=...', 'choose --workers ...'),
        ('on land, location=(12.5, 41.9)', 'on land, --location 12.5,41.9'),
        ('location=lon,lat takes 2', '--location lon,lat takes 2'),
        ("bands=('B02',) or bands=['B02', 'B03']", '--bands B02 or --bands B02,B03'),
        ("change='epoch=2' is none", '--change epoch=2 is none'),
        ("change='a b' is none", "--change 'a b' is none"),
        ('say replace=False', 'say no --replace'),
        # what stays: names that the command does not have, paths, quotations, options
        ('name it with model=FOLDER', 'name it with model=FOLDER'),
        ('a/workers=2/x.tif is damaged', 'a/workers=2/x.tif is damaged'),
        ("no band 'workers=2'", "no band 'workers=2'"),
        ('--workers=2 is too few', '--workers=2 is too few'),
        ('a == b and workers = 2', 'a == b and workers = 2'),
    ],
)
def test_messages_name_options(message, said):
    options = ['--force', '--workers', '--min_frac', '--location', '--bands', '--change', '--replace']
    assert to_shell(message, options) == said


def test_only_the_command_that_runs_is_meant(monkeypatch, shell, tmp_path):
    def count(out: str = 'x'):
        "Count."
        check_writable(out)

    monkeypatch.setitem(COMMANDS, 'search', count)
    (tmp_path / 'taken').mkdir()
    (tmp_path / 'taken' / 'file').write_text('x')
    code, _, err = shell('search', '--out', str(tmp_path / 'taken'))
    assert code == 1 and 'overwrite=True' in one_line(err)  # this one has no --force
    code, _, err = shell('corpus', 'show', str(tmp_path), '--out', str(tmp_path / 'taken'))
    assert code == 1 and 'overwrite=True' not in err


# ---- errors


def failing(error):
    def command(
        k: int = 1,  # a number
    ):
        "Fail."
        raise error

    return command


def test_own_errors_are_one_line(monkeypatch, shell):
    missing = MissingDependencyError("training needs fastai; pip install 'closp_nb[train]'")
    for error in (InputError('no k=1; choose k=2'), NotFoundError('a is not there'), missing):
        monkeypatch.setitem(COMMANDS, 'search', failing(error))
        code, _, err = shell('search')
        assert code == 1 and one_line(err) == 'closp: ' + str(error).replace('k=1', '--k 1').replace('k=2', '--k 2')


def test_a_bug_shows_as_a_bug(monkeypatch, shell):
    for error in (ZeroDivisionError('division by zero'), KeyError('split'), ValueError('shapes'), ImportError('x')):
        monkeypatch.setitem(COMMANDS, 'search', failing(error))
        with pytest.raises(type(error)):
            shell('search')


def test_a_bug_has_a_traceback_in_a_process_of_its_own(tmp_path):
    code = (
        'from closp_nb.cli import main as room\n'
        'def search():\n    "Fail."\n    1 / 0\n'
        "room.COMMANDS['search'] = search\n"
        "import sys; sys.argv = ['closp', 'search']; room.main()"
    )
    path = tmp_path / 'bug.py'
    path.write_text(code)
    done = subprocess.run([sys.executable, str(path)], env=ENV, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and 'Traceback' in done.stderr and 'ZeroDivisionError' in done.stderr


def test_what_the_system_refuses_is_one_line(monkeypatch, shell):
    monkeypatch.setitem(COMMANDS, 'search', failing(PermissionError(13, 'Permission denied', 'a.tif')))
    code, _, err = shell('search')
    assert code == 1 and one_line(err).startswith('closp: a.tif: Permission denied; check the path')
    monkeypatch.setitem(COMMANDS, 'search', failing(KeyboardInterrupt()))
    code, _, err = shell('search')
    assert code == 130 and one_line(err) == 'closp: stopped; nothing half-written is left'


def test_a_note_of_an_error_is_told(monkeypatch, shell):
    error = InputError('no band')
    error.add_note("the self-test failed at 'world'")
    monkeypatch.setitem(COMMANDS, 'doctor', failing(error))
    assert one_line(shell('doctor')[2]) == "closp: no band; the self-test failed at 'world'"


@pytest.mark.slow
def test_a_library_that_is_missing_is_named_with_its_extra(tmp_path):
    code = (
        "import sys; sys.modules['fastai'] = sys.modules['fastai.callback.core'] = None; "
        "from closp_nb.cli import main as room; "
        "room.extra_of = lambda n: 'train' if n.startswith('fastai') else ''; "
        "sys.exit(room.run_command(['demo', '--out', 'd', '--n', '24', '--offline']))"
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=300
    )
    line = one_line(done.stderr)
    assert done.returncode == 1 and 'fastai' in line and "pip install 'closp_nb[train]'" in line
    assert not list(tmp_path.iterdir())


# ---- on the folder of a demo


@pytest.mark.slow
@pytest.mark.xdist_group('demo')
def test_taken_folder_is_refused(demo):
    d, _ = demo
    before = (d / 'demo' / 'results.csv').read_bytes()
    done = closp('demo', '--out', 'demo', *SMALL, cwd=d, cache=d / 'cache')
    assert done.returncode == 1 and '--force' in one_line(done.stderr)
    assert (d / 'demo' / 'results.csv').read_bytes() == before


@pytest.mark.slow
@pytest.mark.xdist_group('demo')
def test_search_and_index(demo, shell, monkeypatch, tmp_path):
    d, _ = demo
    monkeypatch.chdir(d)
    hits, mine = str(tmp_path / 'hits.geojson'), str(tmp_path / 'mine')
    code, said, err = shell('search', 'flooded area seen by radar', '--save', hits)
    assert code == 0 and ' s2 ' not in said and (tmp_path / 'hits.geojson').exists(), err
    code, _, err = shell('search', 'water', '--save', hits)
    assert code == 1 and '--force' in one_line(err)
    assert shell('search', 'water', '--save', hits, '--force')[0] == 0
    assert shell('index', 'demo/world/geotiff', '--out', mine)[0] == 0
    assert shell('search', 'water', '--index', mine)[0] == 0


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_lists_of_ids_as_spreadsheets_write_them(tmp_path, encoding):
    for name, text in (
        ('a.txt', 'a b\r\nc\r\n\r\na b\r\n'),
        ('a.csv', 'id,score\r\na b,1\r\nc,2\r\n'),
        ('b.CSV', 'rank;ID\r\n1;a b\r\n2;c\r\n'),
    ):
        (tmp_path / name).write_bytes(text.encode(encoding))
        assert _ids([str(tmp_path / name)]) == ['a b', 'c']
    for name, text, why in (('c.csv', 'id,x\na\n', 'row 2'), ('d.txt', '\n', 'no ids'), ('e.csv', 'x,y\n', 'no id')):
        (tmp_path / name).write_bytes(text.encode(encoding))
        with pytest.raises(ClospError, match=why):
            _ids([str(tmp_path / name)])


def test_check_of_an_index_says_what_can_be_said(shell, tmp_path):
    "It has no training tiles, and the whole report was lost for that."
    world = build_world(tmp_path / 'world', 30, geotiffs=0, progress=False)
    world.where(split='gallery').save(tmp_path / 'rows.parquet')
    code, said, err = shell('corpus', 'check', str(tmp_path / 'rows.parquet'), '--per_group', '1')
    assert code == 0 and 'captions;' in said and "leaks are not measured: no tile has the split 'train'" in said, err


@pytest.mark.slow
@pytest.mark.xdist_group('demo')
@pytest.mark.parametrize(
    'argv,words',
    [
        (['demo', '--out', 'x', '--image_encoder', 'resnet5'], ['tiny', 'resnet50']),
        (['demo', '--out', 'x', '--n', '1'], ['at least 2']),
        (['demo', '--out', 'x', '--n', '20'], ['too few']),
        (['demo', '--out', 'x', '--epochs', '0'], ['epoch']),
        (['demo', '--out', 'x', '--tiles', 'nowhere', '--n', '40'], ['nowhere', 'check the path']),
        (['train', 'nowhere', '--change', 'text=tiny'], ['--change text=tiny', 'text_encoder', 'valid_frac']),
        (['train', 'nowhere', '--change', 'epochs=two'], ['--change epochs=two', 'a whole number']),
        (['train', 'demo/world', '--out', 'demo', '--force'], ['holds what is to be read']),
        (['search', 'flood', '--index', 'nowhere'], ['no index folder']),
        (['search', ' ', '--index', 'demo/index'], ['empty']),
        (['search', 'flood', '--bbox', '1,2,3'], ['--bbox west']),
        (['search', 'flood', '--since', 'someday'], ['2021-07-31']),
        (['search', 'flood', '--sensor', 's3'], ['s1, s2']),
        (['search', 'flood', '--weight', '.3'], ['--weight 0.3', '--location lon,lat']),
        (['search', '--near', '90,23.5,500'], ['--location lon,lat', '--near lon,lat,km']),
        (['index', 'nowhere'], ['nowhere is not there']),
        (['remove', 'demo/index', 'unknown'], ['unknown']),
        (['sample'], ['samples']),
        (['corpus', 'chek', 'demo'], ['corpus check']),
    ],
    ids=lambda v: '_'.join(v)[:40],
)
def test_user_errors(demo, shell, monkeypatch, argv, words):
    d, _ = demo
    monkeypatch.chdir(d)
    argv = argv + (['--offline', '--workers', '1', '--text_encoder', 'tiny'] if argv[0] == 'demo' else [])
    code, said, err = shell(*argv)
    line = one_line(err)
    assert code == (2 if argv[0] in ('sample', 'corpus') else 1)
    for w in words:
        assert w in line, line
    assert not (d / 'x').exists() and not list(d.glob('.x.*'))


def test_what_was_left_out_is_kept(tmp_path, capsys):
    "An index and what is added to it keep one table of what was left out, and of where the tiles are."
    from closp_nb.data.rasters import write_geotiff
    from closp_nb.models.closp import new_model
    from closp_nb.models.config import CLOSP_NB
    from closp_nb.models.folder import save_model
    from closp_nb.search.index import Index
    from closp_nb.synthetic.world import make_tile

    for folder, kinds in (('a', (0, 1)), ('b', (2, 3))):
        for i, k in enumerate(kinds):
            write_geotiff(make_tile(k), tmp_path / folder / f'{i}.tif')
        (tmp_path / folder / 'broken.tif').write_bytes(b'II*\0 not really')
        (tmp_path / folder / 'notes.txt').write_text('x')
    save_model(new_model(CLOSP_NB.change(text_encoder="tiny")).eval(), tmp_path / 'model')
    model = ['--model', str(tmp_path / 'model')]
    assert room.run_command(['index', str(tmp_path / 'a'), '--out', str(tmp_path / 'ix'), *model]) == 0
    seen = capsys.readouterr()
    assert '4 files seen, of other kinds: 1 .txt; 2 tiles read, 1 left out' in seen.err and 'broken.tif' in seen.err
    assert room.run_command(['add', str(tmp_path / 'ix'), str(tmp_path / 'b'), *model]) == 0  # files of equal names
    assert 'got the name of their folder' in capsys.readouterr().out
    ix = Index.load(tmp_path / 'ix')
    assert ix.cat.table.id.tolist() == ['0.tif', '1.tif', 'b/0.tif', 'b/1.tif']
    left = pd.read_csv(tmp_path / 'ix' / 'left.csv')
    assert left.id.tolist() == ['broken.tif'] * 2 and left.reason.notna().all()
    assert room.run_command(['add', str(tmp_path / 'ix'), str(tmp_path / 'b'), '--replace', *model]) == 0
    assert '2 of them replaced' in capsys.readouterr().out and len(Index.load(tmp_path / 'ix')) == 4
    assert room.run_command(['index', str(tmp_path / 'a'), '--out', str(tmp_path / 'no'), '--strict', *model]) == 1
    assert '--strict' in capsys.readouterr().err and not (tmp_path / 'no').exists()
