"HDF5 files of strangers: nothing outside a file is read, and nothing is believed that it only claims."

import os
import shutil
import threading

import h5py
import numpy as np
import pytest

from closp_nb.core import ClospError, DamagedError
from closp_nb.data.archives import archive, read_item
from closp_nb.data.catalog import corpus_catalog
from closp_nb.data.hdf5 import close_corpora, corpus_about, read_array, read_pixels
from closp_nb.synthetic.archives import write_cabuar, write_quakeset

MAIN = 'crisislandmark.h5'


@pytest.fixture
def folder(world, shared_folder, tmp_path):
    "A corpus that may be hurt, beside a folder that is none of its business."
    close_corpora()
    shutil.copytree(shared_folder / 'world', tmp_path / 'corpus')
    shutil.copytree(shared_folder / 'world', tmp_path / 'elsewhere')
    yield tmp_path / 'corpus'
    close_corpora()


@pytest.fixture
def home(folder):
    "Key and shard of an optical tile."
    with h5py.File(folder / MAIN) as f:
        key = next(k for k in f if k.startswith('benv2s2'))
        return key, f.get(key, getlink=True).filename


def elsewhere(folder, shard):
    return str(folder.parent / 'elsewhere' / shard)


def external_storage(folder, key, shard):
    (folder.parent / 'secret').write_bytes(bytes(12 * 120 * 120 * 4))
    with h5py.File(folder / shard, 'a') as f:
        del f[key]['image']
        f[key].create_dataset('image', (12, 120, 120), 'f4', external=[(str(folder.parent / 'secret'), 0, 691_200)])


def second_link(folder, key, shard):
    with h5py.File(folder / shard, 'a') as f:
        del f[key]
        f[key] = h5py.ExternalLink(elsewhere(folder, shard), f'/{key}')


def virtual(folder, key, shard):
    with h5py.File(folder / shard, 'a') as f:
        del f[key]['image']
        layout = h5py.VirtualLayout((12, 120, 120), 'f4')
        layout[:] = h5py.VirtualSource(elsewhere(folder, shard), f'{key}/image', (12, 120, 120))
        f[key].create_virtual_dataset('image', layout)


def image_link(folder, key, shard):
    with h5py.File(folder / shard, 'a') as f:
        del f[key]['image']
        f[key]['image'] = h5py.ExternalLink(elsewhere(folder, shard), f'/{key}/image')


def coords_link(folder, key, shard):
    with h5py.File(folder / shard, 'a') as f:
        del f[key]['coords']
        f[key]['coords'] = h5py.ExternalLink(elsewhere(folder, shard), f'/{key}/coords')


def soft_way(folder, key, shard):
    "A second name in the same file for a link out of it."
    with h5py.File(folder / shard, 'a') as f:
        del f[key]
        f['door'] = h5py.ExternalLink(elsewhere(folder, shard), '/')
        f[key] = h5py.SoftLink(f'/door/{key}')


def linked_shard(folder, key, shard):
    (folder / shard).unlink()
    (folder / shard).symlink_to(elsewhere(folder, shard))


def soft_main(folder, key, shard):
    "The main file itself holds a second name for a link out of it."
    with h5py.File(folder / MAIN, 'a') as f:
        del f[key]
        f['door'] = h5py.ExternalLink(elsewhere(folder, shard), '/')
        f[key] = h5py.SoftLink(f'/door/{key}')


WAYS_OUT = [
    external_storage,
    second_link,
    virtual,
    image_link,
    coords_link,
    soft_way,
    linked_shard,
    soft_main,
]


@pytest.mark.parametrize('way', WAYS_OUT, ids=lambda w: w.__name__)
def test_no_way_out_of_a_shard(folder, home, way):
    key, shard = home
    way(folder, key, shard)
    read = corpus_about if way is coords_link else read_pixels
    with pytest.raises(DamagedError):
        read(folder / MAIN, key)


def claimed(name, shape, **kwargs):
    "Put a dataset of any size in the place of a tile's own."

    def claim(folder, key, shard):
        with h5py.File(folder / shard, 'a') as f:
            del f[key][name]
            f[key].create_dataset(name, shape, **{'dtype': 'f4'} | kwargs)

    return claim


def image(shape, **kwargs):
    return claimed('image', shape, **kwargs)


def coords(shape, **kwargs):
    return claimed('coords', shape, **kwargs)


def long_labels(folder, key, shard):
    with h5py.File(folder / shard, 'a', libver='latest') as f:
        f.move(key, 'old')
        for k in ('image', 'coords'):
            f[f'{key}/{k}'] = f[f'old/{k}']
        f[key].attrs.update(crs=f['old'].attrs['crs'], labels=np.zeros(400_000, 'S8'))


CLAIMS = {
    'wide image': image((12, 32_000, 32_000), chunks=(1, 120, 120)),
    'deep image': image((10**9, 120, 120), chunks=(1, 120, 120)),
    'image without data': image((12, 120, 120)),
    'large chunk': image((12, 120, 120), maxshape=(None, 120, 120), chunks=(4096, 120, 120)),
    'fat numbers': image((12, 120, 120), dtype='S100000', chunks=(1, 1, 1)),
    'wide coords': coords((2, 64_000, 64_000), chunks=(1, 120, 120)),
    'text coords': coords((2, 120, 120), dtype='S9'),
    'long labels': long_labels,
}


@pytest.mark.parametrize('claim', CLAIMS)
def test_claims_are_not_believed(folder, home, claim):
    import tracemalloc

    key, shard = home
    CLAIMS[claim](folder, key, shard)
    tracemalloc.start()
    with pytest.raises(DamagedError):
        read_pixels(folder / MAIN, key)
        corpus_about(folder / MAIN, key)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_pipe_is_not_waited_for(folder, home):
    key, shard = home
    (folder / shard).unlink()
    os.mkfifo(folder / shard)
    done = []

    def read():
        with pytest.raises(ClospError, match='not there as a file'):
            read_array(folder / MAIN, key, 'image')
        done.append(True)

    t = threading.Thread(target=read, daemon=True)
    t.start()
    t.join(20)
    assert done


def test_a_cache_of_links_is_read(folder):
    "As the Hugging Face Hub keeps a download: names that are links to blobs in one folder."
    blobs, names = folder.parent / 'blobs', folder.parent / 'names'
    blobs.mkdir()
    names.mkdir()
    for i, p in enumerate(sorted(folder.glob('*.h5')) + [folder / 'metadata.parquet']):
        p.rename(blobs / f'{i:04x}')
        (names / p.name).symlink_to(blobs / f'{i:04x}')
    assert len(corpus_catalog(names, progress=False)) == 80


def tiles(key, folder):
    a = archive(key)
    return [t for item in a.find(folder) for t in read_item(a, folder, item)]


def test_ways_out_of_archives(tmp_path):
    "The same in the archives that come as HDF5: no group, image, mask or axis lies in another file."
    write_cabuar(tmp_path / 'own')
    write_cabuar(tmp_path / 'other')
    other = str(tmp_path / 'other' / '512x512.hdf5')
    with h5py.File(tmp_path / 'own' / '512x512.hdf5', 'a') as f:
        a, b = f
        for name in (f'{a}/mask', f'{a}/pre_fire', b):
            del f[name]
            f[name] = h5py.ExternalLink(other, f'/{name}')
    got = tiles('cabuar', tmp_path / 'own')
    assert len(got) == 3 and all('is a link' in t.reason for t in got), got
    write_quakeset(tmp_path / 'quake')
    with h5py.File(tmp_path / 'quake' / 'earthquakes.h5', 'a') as f:
        event = next(iter(f))
        del f[event]['x']
        f[event]['x'] = h5py.ExternalLink(other, '/x')
    assert any('is a link' in t.reason for t in tiles('quakeset', tmp_path / 'quake') if hasattr(t, 'reason'))


def test_claims_of_archives(tmp_path):
    write_cabuar(tmp_path / 'fire')
    with h5py.File(tmp_path / 'fire' / '512x512.hdf5', 'a') as f:
        a, b = f
        del f[a]['post_fire'], f[b]['mask']
        f[a].create_dataset('post_fire', (10**6, 10**6, 12), 'u2', chunks=(64, 64, 12))
        f[b].create_dataset('mask', (512, 512, 10**6), 'u2', chunks=(64, 64, 1))
    left = [t.reason for t in tiles('cabuar', tmp_path / 'fire') if hasattr(t, 'reason')]
    assert any('claims' in r for r in left) and len(left) == 2


def test_a_careful_check_survives_what_hdf5_does(folder, monkeypatch):
    "A tile that hangs the process and one that ends it are named, and all others are read."
    from closp_nb.data import report

    sick = folder.parent / 'site'
    sick.mkdir()
    keys = sorted(corpus_catalog(folder, progress=False).table.id)
    (sick / 'sitecustomize.py').write_text(
        'import os, time\n'
        'from closp_nb.data import report\n'
        'well = report.read_corpus\n'
        f'def ill(path, key):\n'
        f'    time.sleep(1000 * (key == {keys[7]!r}))\n'
        f'    os._exit(9) if key == {keys[30]!r} else None\n'
        f'    return well(path, key)\n'
        'report.read_corpus = ill\n'
    )
    monkeypatch.setenv('PYTHONPATH', f'{sick}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')
    n, bad = report.read_carefully(folder, seconds=15)
    assert n == len(keys) and sorted(k for k, _ in bad) == [keys[7], keys[30]]
    assert {w for _, w in bad} == {'takes more than 15 seconds', 'ends the process that reads it'}
    with pytest.raises(ClospError, match='holds no catalog'):
        report.read_carefully(folder.parent / 'nowhere')
