"Tiles and files that cannot be used are refused in one line that names the mend."

import numpy as np
import pytest
import rasterio

from closp_nb.core import MARK, atomic_folder, DamagedError, InputError, NotFoundError, sign_folder
from closp_nb.data.hdf5 import read_corpus, write_corpus
from closp_nb.data.products import band_files, read_bands, read_geotiff
from closp_nb.data.rasters import write_geotiff
from closp_nb.labels import LABELS, harmonize
from closp_nb.sensors import S1, S2, Tile
from closp_nb.units import to_unit


def tile(s=S2, **kw):
    rng = np.random.default_rng(0)
    x = s.mean[:, None, None] + 0.1 * s.std[:, None, None] * rng.standard_normal((len(s.bands), 120, 120))
    source = 'benv2s2' if s == S2 else 'benv2s1'
    return Tile(
        **(
            dict(
                id=f'{source}_0',
                sensor=s,
                pixels=x,
                labels=('Mixed forest',),
                lonlat=(11.0, 48.0),
                time='2021-07-01',
                crs='EPSG:32632',
                bounds=(600_000.0, 5_300_000.0, 601_200.0, 5_301_200.0),
            )
            | kw
        )
    )


@pytest.mark.parametrize(
    'make,words,error',
    [
        (lambda d: tile(pixels=np.full((12, 120, 120), np.nan)), 'missing', InputError),
        (lambda d: tile(pixels=np.ones((3, 120, 120))), 'have 12 bands', InputError),
        (lambda d: tile(pixels=5000 * np.ones((12, 120, 120))), 'divide by 10000', InputError),
        (lambda d: tile(S1, pixels=400 * np.ones((2, 120, 120))), 'log10', InputError),
        (lambda d: tile(lonlat=(48.0, 111.0)), 'longitude comes first', InputError),
        (lambda d: harmonize(['Mixed forrest']), 'mixed forest', InputError),
        (lambda d: read_geotiff(d / 'nowhere.tif'), 'not there', NotFoundError),
        (lambda d: read_geotiff(write_geotiff(tile(), d / 'a.tif'), S1), 'lacks VV, VH', NotFoundError),
        (lambda d: write_geotiff(tile(), write_geotiff(tile(), d / 'b.tif')), 'overwrite=True', InputError),
        (lambda d: write_corpus(d / 'c', [tile(id='landsat_0')]), 'known source', InputError),
        (lambda d: read_corpus(d / 'nowhere.h5', 'x'), 'not there', NotFoundError),
    ],
    ids=range(11),
)
def test_bad_input_names_the_mend(tmp_path, make, words, error):
    with pytest.raises(error, match=words) as e:
        make(tmp_path)
    assert '\n' not in str(e.value)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith('.')], 'nothing half-written is left'


def test_truncated_corpus(tmp_path):
    write_corpus(tmp_path / 'corpus', [tile(), tile(S1)])
    shard = tmp_path / 'corpus' / 'benv2s2_part1.h5'
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 3])
    with pytest.raises(DamagedError, match='fetch'):
        read_corpus(tmp_path / 'corpus' / 'crisislandmark.h5', 'benv2s2_0')
    assert read_corpus(tmp_path / 'corpus' / 'crisislandmark.h5', 'benv2s1_0').sensor == S1


def test_linear_radar_becomes_db(tmp_path):
    power = np.random.default_rng(0).gamma(4, 0.02, (2, 120, 120)).astype('float32')
    t = tile(S1)
    t.pixels = power
    path = write_geotiff(t, tmp_path / 'power.tif')
    with pytest.raises(InputError, match='declared dB but look like'):  # what our own file says of its unit
        read_geotiff(path)
    with rasterio.open(path, 'r+') as d:
        d.units = ('', '')
    with pytest.raises(InputError, match="unit='linear'"):  # both echoes alike: the pixels do not decide
        read_geotiff(path)
    t = read_geotiff(path, unit='linear')
    np.testing.assert_allclose(t.pixels, 10 * np.log10(power), atol=1e-3)
    assert {'unit linear (told)', 'linear power turned into dB'} <= set(t.notes)


def test_every_label_is_known_to_itself():
    assert harmonize(LABELS) == LABELS


def test_two_patches_in_one_folder_are_not_mixed(tmp_path):
    for p, bands in (('P1', S2.names), ('P2', S2.names[:-1])):
        for b in bands:
            with rasterio.open(
                tmp_path / f'{p}_{b}.tif', 'w', driver='GTiff', count=1, height=120, width=120, dtype='uint16'
            ) as d:
                d.write(np.full((120, 120), 900 if p == 'P1' else 400, 'uint16'), 1)
    with pytest.raises(InputError, match='folder of its own'):
        read_bands(band_files(tmp_path))
    from closp_nb.data.catalog import Catalog

    cat, left = Catalog.from_rasters(tmp_path, offset=0, progress=False)
    assert cat.frame.id.tolist() == ['P1', 'P2'] and not len(left)
    assert [len(cat[i].bands) for i in (0, 1)] == [12, 11] and np.nanmax(cat[1].pixels) == np.float32(0.04)


def test_nodata_of_a_new_product_is_a_gap(tmp_path):
    x = np.full((12, 120, 120), 2000.0)
    x[:, :10] = 0
    y, _ = to_unit(x, S2, 1000.0)
    assert np.isnan(y[:, :10]).all() and np.allclose(y[:, 10:], 0.1)


def test_no_power_is_a_gap_and_power_is_not_db():
    x = np.random.default_rng(0).gamma(4, 0.02, (2, 120, 120))
    x[:, :20], x[0, 50, 50] = 0, -1e-4
    y, notes = to_unit(x, S1, unit='linear')
    assert np.isnan(y[:, :20]).all() and notes and np.nanmedian(y) < -5
    with pytest.raises(InputError, match='log10'):
        tile(S1, pixels=np.abs(x) + 0.01)


def test_a_file_that_breaks_off_does_not_end_a_scan(tmp_path):
    from closp_nb.data.catalog import Catalog

    write_geotiff(tile(), tmp_path / 'whole.tif')
    with rasterio.open(tmp_path / 'cut.tif', 'w', driver='GTiff', count=12, height=240, width=240, dtype='uint16') as d:
        d.write(np.full((12, 240, 240), 900, 'uint16'))
        d.descriptions = S2.names
    (tmp_path / 'cut.tif').write_bytes((tmp_path / 'cut.tif').read_bytes()[:800_000])
    (tmp_path / 'labels.csv').write_text('path,labels\nwhole.tif,Water bodies\nlost.tif,Pastures\n')
    cat, left = Catalog.from_rasters(tmp_path, progress=False)
    assert cat.frame.caption.tolist() == ['water'] and {p.partition('@')[0] for p, _ in left} == {'cut.tif', 'lost.tif'}


def test_remains_of_a_kill_are_no_obstacle(tmp_path):
    for name in ('.o.old', '.o.part', 'o'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'x').write_text('x')
    sign_folder(tmp_path / 'o')
    with atomic_folder(tmp_path / 'o', overwrite=True) as p:
        (p / 'new').write_text('new')
    assert [f.name for f in tmp_path.iterdir()] == ['o'] and {f.name for f in (tmp_path / 'o').iterdir()} == {
        MARK,
        'new',
    }


def test_a_replaced_corpus_is_read_anew(tmp_path):
    write_corpus(tmp_path / 'c', [tile()])
    read_corpus(tmp_path / 'c' / 'crisislandmark.h5', 'benv2s2_0')
    write_corpus(tmp_path / 'c', [tile(id='benv2s2_1')], overwrite=True)
    assert read_corpus(tmp_path / 'c' / 'crisislandmark.h5', 'benv2s2_1').id == 'benv2s2_1'


def test_a_mask_that_leads_elsewhere(tmp_path):
    "GDAL opens a mask beside a raster with any driver: a VRT there reads files and addresses of its own choice."
    path = write_geotiff(tile(), tmp_path / 'a.tif')
    secret = write_geotiff(tile(S1), tmp_path / 'secret.tif')
    (tmp_path / 'a.tif.msk').write_text(
        '<VRTDataset rasterXSize="120" rasterYSize="120"><VRTRasterBand dataType="Byte" band="1">'
        f'<SimpleSource><SourceFilename>{secret}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
    )
    with pytest.raises(DamagedError, match='a.tif.msk is no mask'):
        read_geotiff(path)
