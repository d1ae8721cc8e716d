"Nothing lost, nothing half: what may be replaced, who writes, and what a kill at any moment leaves."

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from closp_nb import core
from closp_nb.core import (
    MARK,
    InPath,
    InputError,
    OutPath,
    atomic_folder,
    atomic_write,
    check_writable,
    guarded,
    lock_target,
    note_input,
    put_back,
    sign_folder,
)

ROOT = Path(__file__).resolve().parents[2]
ENV = os.environ | {'PYTHONPATH': str(ROOT)}


def write(folder, text='new', overwrite=True):
    with atomic_folder(folder, overwrite) as p:
        (p / 'result.txt').write_text(text)
    return folder


def read(folder):
    return (folder / 'result.txt').read_text()


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def python(code, *args):
    return subprocess.Popen(
        [sys.executable, '-c', code, *map(str, args)], env=ENV, stdin=-1, stdout=-1, stderr=-1, text=True
    )


@pytest.fixture(params=[True, False], ids=['exchange', 'renames'])
def swaps(request, monkeypatch):
    "A system that can exchange two names, and one that cannot."
    if not request.param:
        monkeypatch.setattr(core, '_swap', lambda a, b: False)
    return request.param


# ---- what may be replaced


def stranger(d):
    (write(d / 'r') / 'thesis.docx').write_text('x')


def stranger_inside(d):
    (write(d / 'r') / 'inside').mkdir()
    (d / 'r' / 'inside' / 'thesis.docx').write_text('x')


def never_ours(d):
    (d / 'r').mkdir()
    (d / 'r' / 'thesis.docx').write_text('x')


def repository(d):
    (write(d / 'r') / '.git').mkdir()
    (d / 'r' / '.git' / 'HEAD').write_text('x')


def linked(d):
    (write(d / 'r') / 'data').symlink_to(d)


def later_result(d):
    write(write(d / 'r') / 'second')


@pytest.mark.parametrize('make', [stranger, stranger_inside, never_ours, repository, linked, later_result])
def test_only_what_we_wrote_is_replaced(tmp_path, make):
    make(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    for f in (lambda: write(tmp_path / 'r'), lambda: check_writable(tmp_path / 'r', overwrite=True)):
        with pytest.raises(InputError, match='which closp did not write') as e:
            f()
        assert '\n' not in str(e.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()} == before


def test_a_result_in_a_result_is_ours(tmp_path):
    with atomic_folder(tmp_path / 'r') as p:
        write(p / 'inside')
        (p / 'table.csv').write_text('x')
    write(tmp_path / 'r' / 'inside', 'changed later')
    sign_folder(tmp_path / 'r', 'more/*.tif')
    (tmp_path / 'r' / 'more').mkdir()
    (tmp_path / 'r' / 'more' / '1.tif').write_text('x')
    assert read(write(tmp_path / 'r')) == 'new' and names(tmp_path / 'r') == [MARK, 'result.txt']


@pytest.mark.parametrize(
    'kind', ['index.json codes.faiss', 'model.json', 'crisislandmark.h5 corpus.json', 'parts.json part-00001.npy']
)
def test_results_older_than_the_mark_are_known(tmp_path, kind):
    (tmp_path / 'r').mkdir()
    for n in kind.split():
        (tmp_path / 'r' / n).write_text('x')
    check_writable(tmp_path / 'r', overwrite=True)
    (tmp_path / 'r' / 'notes.txt').write_text('x')
    with pytest.raises(InputError, match='holds notes.txt, which closp did not write'):
        write(tmp_path / 'r')


def test_a_folder_is_no_file(tmp_path):
    write(tmp_path / 'folder')
    (tmp_path / 'file').write_text('x')
    os.mkfifo(tmp_path / 'pipe')
    for name, writer, words in (
        ('folder', atomic_write, 'is a folder, and a file is to be written'),
        ('file', atomic_folder, 'is a file, and a folder is to be written'),
        ('pipe', atomic_write, 'neither a file nor a folder'),
    ):
        with pytest.raises(InputError, match=words), writer(tmp_path / name, overwrite=True):
            raise AssertionError('the work had begun')
    assert names(tmp_path) == ['file', 'folder', 'pipe']


def test_links_are_followed(tmp_path, swaps):
    real = write(tmp_path / 'disk' / 'results', 'old')
    (tmp_path / 'link').symlink_to(real)
    write(tmp_path / 'link')
    assert (tmp_path / 'link').is_symlink() and read(real) == 'new' and names(tmp_path / 'disk') == ['results']
    (tmp_path / 'file').symlink_to(tmp_path / 'disk' / 'table.csv')
    (tmp_path / 'round').symlink_to(tmp_path / 'round')
    for name in ('file', 'round'):
        with pytest.raises(InputError, match='a link that leads nowhere'), atomic_write(tmp_path / name):
            raise AssertionError('the work had begun')
    (tmp_path / 'disk' / 'table.csv').write_text('old')
    with atomic_write(tmp_path / 'file', overwrite=True) as p:
        p.write_text('new')
    assert (tmp_path / 'file').is_symlink() and (tmp_path / 'disk' / 'table.csv').read_text() == 'new'


def test_mount_points_are_told_before_the_work(tmp_path, monkeypatch):
    write(tmp_path / 'r')
    monkeypatch.setattr(core, '_mounts', lambda: {'/', str(tmp_path / 'r'), str(tmp_path / 'above' / 'disk')})
    (tmp_path / 'above' / 'disk').mkdir(parents=True)
    for name in ('r', 'above'):
        with pytest.raises(InputError, match='mount point'), atomic_folder(tmp_path / name, overwrite=True):
            raise AssertionError('the work had begun')
    write(tmp_path / 'r' / 'inside')
    monkeypatch.undo()
    with pytest.raises(InputError, match='mount point'):
        check_writable('/proc')


def test_names_as_long_as_a_disk_allows(tmp_path):
    long = tmp_path / ('n' * 255)
    write(long)
    assert read(write(long, 'again')) == 'again' and names(tmp_path) == [long.name]


# ---- one writer at a time

HOLD = '''
import sys
from closp_nb.core import lock_target
with lock_target(sys.argv[1]) as part:
    part.mkdir()
    (part / 'half').write_text('half')
    print('held', flush=True)
    input()
'''


@pytest.fixture
def holder(tmp_path):
    "Another process that is writing `tmp_path / 'r'`."
    write(tmp_path / 'r', 'old')
    p = python(HOLD, tmp_path / 'r')
    assert p.stdout.readline() == 'held\n'
    yield p
    p.kill()
    p.communicate()


def test_a_second_writer_is_told_who_writes(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(core, 'WAIT', 0.1)
    for name in ('r', 'r/inside'):
        with pytest.raises(InputError, match=f'another closp writes .*{"" if "/" in name else holder.pid}') as e:
            with lock_target(tmp_path / name, 0.1):
                raise AssertionError('both write')
        assert 'wait for it, then call again' in str(e.value)
    (tmp_path / 'link').symlink_to(tmp_path / 'r')
    with pytest.raises(InputError, match='another closp'), lock_target(tmp_path / 'link', 0.1):
        raise AssertionError('both write')
    assert read(tmp_path / 'r') == 'old'


def test_a_folder_is_not_replaced_while_something_in_it_is_written(tmp_path):
    write(tmp_path / 'r' / 'ix')
    sign_folder(tmp_path / 'r')
    p = python(HOLD, tmp_path / 'r' / 'ix')
    p.stdout.readline()
    with pytest.raises(InputError, match='another closp writes into'):
        write(tmp_path / 'r')
    p.communicate('\n')
    write(tmp_path / 'r')


def test_a_writer_can_wait_its_turn(tmp_path, holder, capsys):
    threading.Timer(2, lambda: holder.communicate('\n')).start()
    with lock_target(tmp_path / 'r', wait=None):
        assert holder.wait() == 0
    assert f'waiting: another closp writes {tmp_path / "r"} (process {holder.pid} on ' in capsys.readouterr().err


def test_threads_exclude_each_other(tmp_path):
    inside, most = [], []

    def work(n):
        for _ in range(5):
            with lock_target(tmp_path / 'r', None), lock_target(tmp_path / 'r'):
                inside.append(n)
                most.append(len(inside))
                time.sleep(0.002)
                inside.remove(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert max(most) == 1 and len(most) == 20 and names(tmp_path) == []


def test_a_killed_writer_leaves_no_lock_and_no_part(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert len(names(tmp_path)) == 3  # the folder, the lock, the part
    write(tmp_path / 'r')
    assert names(tmp_path) == ['r'] and read(tmp_path / 'r') == 'new'


def test_a_lock_names_only_its_own_part(tmp_path):
    (tmp_path / 'precious').write_text('x')
    for left in ('precious', '../precious', '.r.12345678.part/../precious', 5, None):
        (tmp_path / '.r.lock').write_text(f'{{"part": {left!r}}}'.replace("'", '"').replace('None', 'null'))
        write(tmp_path / 'r')
    assert names(tmp_path) == ['precious', 'r']


def test_a_forked_process_inherits_no_lock(tmp_path):
    with lock_target(tmp_path / 'r'):
        pid = os.fork()
        if pid == 0:
            time.sleep(1.5)
            os._exit(0)
    with lock_target(tmp_path / 'r', 0.5):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


# ---- kills


def test_a_kill_between_two_renames_loses_nothing(tmp_path, monkeypatch):
    write(tmp_path / 'r', 'old')
    os.rename(tmp_path / 'r', tmp_path / '.r.old')
    put_back(tmp_path / 'r' / 'result.txt')
    assert read(tmp_path / 'r') == 'old' and names(tmp_path) == ['r']
    os.rename(tmp_path / 'r', tmp_path / '.r.old')
    with pytest.raises(InputError, match='overwrite=True'):  # a writer that may not replace it
        write(tmp_path / 'r', overwrite=False)
    assert read(tmp_path / 'r') == 'old' and names(tmp_path) == ['r']


KILL = '''
import os, signal, sys
from closp_nb import core
names, at = sys.argv[2].split('.'), int(sys.argv[3])
if sys.argv[4] == 'renames':
    core._swap = lambda a, b: False
count = 0
def dying(f):
    def g(*args, **kw):
        global count
        count += 1
        if count == at: os.kill(os.getpid(), signal.SIGKILL)
        return f(*args, **kw)
    return g
for o, n in ((os, 'rename'), (os, 'replace'), (os, 'fsync'), (core, '_swap'), (core, '_remove'), (os, 'open')):
    setattr(o, n, dying(getattr(o, n)))
with core.atomic_folder(sys.argv[1], True) as p:
    (p / 'result.txt').write_text('new')
'''


@pytest.mark.kills
@pytest.mark.parametrize('how', ['exchange', 'renames'])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path, how):
    seen, at = set(), 1
    while True:
        write(tmp_path / 'r', 'old')
        p = python(KILL, tmp_path / 'r', 'x.y', at, how)
        err = p.communicate()[1]
        if p.returncode == 0:
            break
        assert p.returncode == -signal.SIGKILL, err
        put_back(tmp_path / 'r')
        seen.add(read(tmp_path / 'r'))
        write(tmp_path / 'r', 'old')
        assert names(tmp_path) == ['r'], at
        at += 1
    assert at > 10 and seen == {'old', 'new'}


def test_a_failing_rename_leaves_the_old(tmp_path, monkeypatch):
    write(tmp_path / 'r', 'old')
    monkeypatch.setattr(core, '_swap', lambda a, b: False)
    rename, calls = os.rename, []

    def fails(a, b):
        calls.append(a)
        if len(calls) == 2:
            raise OSError(5, 'Input/output error')
        rename(a, b)

    monkeypatch.setattr(os, 'rename', fails)
    with pytest.raises(OSError, match='Input/output'):
        write(tmp_path / 'r')
    assert read(tmp_path / 'r') == 'old' and names(tmp_path) == ['r']


def test_bytes_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    did, real, swap = [], os.fsync, core._swap

    def sync(fd):
        did.append(os.readlink(f'/proc/self/fd/{fd}'))
        real(fd)

    monkeypatch.setattr(os, 'fsync', sync)
    monkeypatch.setattr(core, '_swap', lambda a, b: did.append('swap') or swap(a, b))
    write(tmp_path / 'r')
    did.clear()
    write(tmp_path / 'r', 'again')
    before, after = did[: did.index('swap')], did[did.index('swap') + 1 :]
    assert {Path(p).name for p in before} >= {'result.txt', MARK} and any(p.endswith('.part') for p in before)
    assert after == [str(tmp_path)]


# ---- what a command reads


@guarded
def command(data: InPath, out: OutPath = 'out', labels: InPath | None = None, more: list[InPath] | None = None):
    note_input('m/model')
    return 'done'


@pytest.mark.parametrize(
    'args,kw',
    [
        (('a/b', 'a'), {}),
        (('a', 'a'), {}),
        (('a',), dict(out='b', labels='b/labels')),
        (('a', 'b'), dict(more=['c', './b/../b/d'])),
        (('a', 'm'), {}),  # known only later
    ],
)
def test_a_command_never_replaces_what_it_reads(tmp_path, monkeypatch, args, kw):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='holds what is to be read and would be replaced'):
        command(*args, **kw)
    assert command('a', 'elsewhere', 'b', ['c']) == 'done'
    note_input('m/model')  # outside of a command all may be read
