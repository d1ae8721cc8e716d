"Text, tables and paths as other programs and machines write them."

import pytest

from closp_nb.core import DamagedError, InputError, NotFoundError, read_rows, read_text, stored_path


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'cp1252', 'latin-1'])
def test_text_is_read_or_refused(tmp_path, encoding):
    said = 'Zürich, ±5\r\n'
    (tmp_path / 'a.txt').write_bytes(said.encode(encoding))
    if encoding == 'utf-16-le':  # no mark: nothing tells it from a binary file
        with pytest.raises(DamagedError, match='no text'):
            read_text(tmp_path / 'a.txt')
        return
    text, remark = read_text(tmp_path / 'a.txt')
    assert text == said and bool(remark) == (encoding in ('cp1252', 'latin-1'))


@pytest.mark.parametrize('raw', [b'PK\3\4\0\0', b'\xff\xfea', b'\xff\xfe\x00\xd8', b'caf\xe9 \x81'])
def test_what_is_no_text(tmp_path, raw):
    (tmp_path / 'a.csv').write_bytes(raw)
    with pytest.raises(DamagedError, match='no text'):
        read_text(tmp_path / 'a.csv')
    with pytest.raises(NotFoundError):
        read_text(tmp_path)


def test_rows_know_their_numbers(tmp_path):
    p = tmp_path / 'a.csv'
    p.write_text('\n sep=,\n')
    with pytest.raises(InputError, match='no id'):
        read_rows(p, ('id',))
    p.write_text('sep=;\n\n"ID" ; Note\na;1\n\n;\nb;"two\nlines";\nc\nd;4;5\n')
    rows, left, remark = read_rows(p, ('id',))
    assert rows == [(4, 'a'), (6, ''), (7, 'b')] and [n for n, _ in left] == [9, 10] and remark == ''


@pytest.mark.parametrize(
    'said,means',
    [
        (r'sub dir\a.tif', 'sub dir/a.tif'),
        (r'sub dir\..\b.tif', 'sub dir/../b.tif'),
        ('sub%20dir/a.tif', 'sub dir/a.tif'),
        ('100%25.tif', '100%25.tif'),
        ('not there%20.tif', 'not there%20.tif'),
        (r'not\there.tif', 'not/there.tif'),
        ('b.tif', 'b.tif'),
    ],
)
def test_paths_of_other_machines(tmp_path, said, means):
    for name in ('sub dir/a.tif', 'b.tif', '100%25.tif'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert stored_path(said, tmp_path) == f'{tmp_path}/{means}'
    for start in ('file://', 'file://localhost', 'FILE:'):
        assert stored_path(f'{start}{tmp_path}/sub%20dir/a.tif', 'elsewhere') == f'{tmp_path}/sub dir/a.tif'


def test_a_backslash_in_a_name_stays(tmp_path):
    (tmp_path / r'odd\name.tif').touch()
    assert stored_path(r'odd\name.tif', tmp_path) == rf'{tmp_path}/odd\name.tif'
