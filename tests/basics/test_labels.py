"Labels: every class of every nomenclature, the paper's mapping written anew, spellings, maps of codes, bad input."

import itertools
import os
import random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from closp_nb import labels as module
from closp_nb.core import ClospError, InputError, NotFoundError
from closp_nb.labels import (
    CORINE,
    CRISIS_LABELS,
    LABELS,
    NOMENCLATURES,
    PHRASES,
    RAW,
    SYNONYMS,
    TEMPLATES,
    caption,
    fitting,
    harmonize,
    label_codes,
    labels_by_area,
    labels_of,
    multihot,
    phrase,
    read_code_table,
    read_label_table,
    reword,
    unknown_codes,
)

# ---- oracles, written independently of the notebook

# the paper's mapping of CORINE level 3, as its dataset/mapping.py has it
PAPER = {
    'built': [
        'Continuous urban fabric',
        'Discontinuous urban fabric',
        'Industrial or commercial units',
        'Road and rail networks and associated land',
        'Port areas',
        'Airports',
    ],
    'bare': [
        'Mineral extraction sites',
        'Dump sites',
        'Construction sites',
        'Beaches, dunes, sands',
        'Bare rock',
        'Sparsely vegetated areas',
        'Salines',
        'Intertidal flats',
    ],
    'grass': ['Green urban areas', 'Sport and leisure facilities', 'Pastures', 'Natural grassland'],
    'crops': [
        'Non-irrigated arable land',
        'Permanently irrigated land',
        'Vineyards',
        'Fruit trees and berry plantations',
        'Olive groves',
        'Annual crops associated with permanent crops',
        'Complex cultivation patterns',
        'Land principally occupied by agriculture, with significant areas of natural vegetation',
    ],
    'flooded vegetation': ['Rice fields', 'Inland marshes', 'Peatbogs', 'Salt marshes'],
    'trees': ['Agro-forestry areas', 'Broad-leaved forest', 'Coniferous forest', 'Mixed forest'],
    'shrub and scrub': ['Moors and heathland', 'Sclerophyllous vegetation', 'Transitional woodland/shrub'],
    'burned area': ['Burnt areas'],
    'snow and ice': ['Glaciers and perpetual snow'],
    'water': ['Water courses', 'Water bodies', 'Coastal lagoons', 'Estuaries', 'Sea and ocean'],
}
PAIRS = [(n, label) for label, ns in PAPER.items() for n in ns]
CLC = [
    111,
    112,
    121,
    122,
    123,
    124,
    131,
    132,
    133,
    141,
    142,
    211,
    212,
    213,
    221,
    222,
    223,
    231,
    241,
    242,
    243,
    244,
    311,
    312,
    313,
    321,
    322,
    323,
    324,
    331,
    332,
    333,
    334,
    335,
    411,
    412,
    421,
    422,
    423,
    511,
    512,
    521,
    522,
    523,
]
BEN19 = [
    'Urban fabric',
    'Industrial or commercial units',
    'Arable land',
    'Permanent crops',
    'Pastures',
    'Complex cultivation patterns',
    'Land principally occupied by agriculture, with significant areas of natural vegetation',
    'Agro-forestry areas',
    'Broad-leaved forest',
    'Coniferous forest',
    'Mixed forest',
    'Natural grassland and sparsely vegetated areas',
    'Moors, heathland and sclerophyllous vegetation',
    'Transitional woodland, shrub',
    'Beaches, dunes, sands',
    'Inland wetlands',
    'Coastal wetlands',
    'Inland waters',
    'Marine waters',
]
CODES = {
    'dynamic-world': dict(
        enumerate(
            [
                'water',
                'trees',
                'grass',
                'flooded vegetation',
                'crops',
                'shrub and scrub',
                'built',
                'bare',
                'snow and ice',
            ]
        )
    ),
    'worldcover': {
        0: '',
        10: 'trees',
        20: 'shrub and scrub',
        30: 'grass',
        40: 'crops',
        50: 'built',
        60: 'bare',
        70: 'snow and ice',
        80: 'water',
        90: 'flooded vegetation',
        95: 'flooded vegetation',
        100: 'grass',
    },
    'eurosat': dict(
        enumerate(['crops', 'trees', 'grass', 'built', 'built', 'grass', 'crops', 'built', 'water', 'water'])
    ),
    'terramind': {
        0: '',
        1: 'water',
        2: 'trees',
        3: 'flooded vegetation',
        4: 'crops',
        5: 'built',
        6: 'bare',
        7: 'snow and ice',
        8: '',
        9: 'grass',
    },
    'sen12flood': {0: '', 1: 'flooded area'},
    'sen1floods11': {-1: '', 0: '', 1: 'flooded area'},
    'mmflood': {0: '', 1: 'flooded area', 255: ''},
    'cabuar': {0: '', 1: 'burned area'},
    'esri': {
        0: '',
        1: 'water',
        2: 'trees',
        3: 'grass',
        4: 'flooded vegetation',
        5: 'crops',
        6: 'shrub and scrub',
        7: 'built',
        8: 'bare',
        9: 'snow and ice',
        10: '',
        11: 'grass',
    },
    'quakeset': {0: '', 1: 'earthquake damage'},
    'bigearthnet-19': dict(
        enumerate(
            [
                'built',
                'built',
                'crops',
                'crops',
                'grass',
                'crops',
                'crops',
                'trees',
                'trees',
                'trees',
                'trees',
                'grass',
                'shrub and scrub',
                'shrub and scrub',
                'bare',
                'flooded vegetation',
                'flooded vegetation',
                'water',
                'water',
            ]
        )
    ),
}
NOTHING = {
    'terramind': {0, 8},
    'worldcover': {0},
    'mmflood': {255},
    'esri': {0, 10},
    'sen1floods11': {-1},
}  # codes without an opinion; 0 of a crisis mask is one


def names(k):
    return [n for _, n, _ in NOMENCLATURES[k]]


# ---- the table


def test_counts():
    labelled = {k: sum(bool(label) for *_, label in es) for k, es in NOMENCLATURES.items()}
    assert labelled == {
        'corine': 44,
        'bigearthnet-43': 43,
        'bigearthnet-19': 19,
        'dynamic-world': 9,
        'worldcover': 11,
        'esri': 10,
        'eurosat': 10,
        'terramind': 8,
        'sen12flood': 1,
        'sen1floods11': 1,
        'mmflood': 1,
        'cabuar': 1,
        'quakeset': 1,
    }


def test_every_entry_is_sound():
    for k, es in NOMENCLATURES.items():
        assert all(label in (*LABELS, '', None) for *_, label in es), k
        assert len({c for c, *_ in es}) == len(es) and len({n for _, n, _ in es}) == len(es), k


def test_corine_is_the_papers():
    assert len(PAIRS) == 44
    assert {(n, label) for _, n, label in NOMENCLATURES['corine'] if label} == set(PAIRS)
    assert {label: ns.split('; ') for label, ns in CORINE.items()} == {
        label: [n.lower() for n in ns] for label, ns in PAPER.items()
    }
    assert list(CORINE) == list(PAPER)  # the generated world draws from these lists in this order
    assert all(harmonize(n) == harmonize(n, 'corine') == (label,) for n, label in PAIRS)


def test_corine_has_both_its_codes():
    table = label_codes('corine')
    by_name = dict(PAIRS)
    assert [c for c, _, label in NOMENCLATURES['corine'] if label] == CLC
    assert [table[c] for c in CLC] == [table[i] for i in range(1, 45)] == [by_name[n] for n in names('corine')[:44]]
    assert (
        table[213] == 'flooded vegetation'
        and table[244] == 'trees'
        and table[422] == 'bare'
        and table[334] == 'burned area'
    )
    assert {c for c, label in table.items() if not label} == {999, 990, 995, 48, 49, 50, 255}


def test_bigearthnet():
    assert names('bigearthnet-43') == [n for n in names('corine')[:44] if n != 'Glaciers and perpetual snow']
    assert names('bigearthnet-19') == BEN19
    common = pytest.importorskip('bigearthnet_common.constants')  # the lists as its authors' package has them
    assert names('bigearthnet-43') == list(common.OLD_LABELS_ORIGINAL_ORDER)
    assert names('bigearthnet-19') == list(common.NEW_LABELS_ORIGINAL_ORDER)
    assert {str(c): n for c, n, label in NOMENCLATURES['corine'] if label} == common.CLC_CODE_TO_CLC_LV3


@pytest.mark.parametrize('k', CODES)
def test_every_code(k):
    assert label_codes(k) == CODES[k]
    assert all(harmonize(n, k) == ((label,) if label else ()) for _, n, label in NOMENCLATURES[k])


def test_no_name_means_two_things():
    said = {}
    for k, es in NOMENCLATURES.items():
        for _, n, label in es:
            if label:
                said.setdefault(''.join(filter(str.isalnum, n.lower())), set()).add(label)
    assert not {n: ls for n, ls in said.items() if len(ls) > 1}
    assert set(RAW.values()) == set(LABELS) and all(RAW[label] == label for label in LABELS)
    assert not {'true', 'false', 'no change', 'clouds'} & set(RAW)


def test_json_booleans_are_codes():
    assert [label_codes('sen12flood')[o] for o in (False, True)] == ['', 'flooded area']


# ---- spellings

LAND = [
    (k, n, label)
    for k, es in NOMENCLATURES.items()
    for _, n, label in es
    if label and k not in ('sen12flood', 'sen1floods11', 'mmflood', 'cabuar', 'quakeset')
]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(LAND), st.data())
def test_case_spaces_and_punctuation_do_not_matter(entry, data):
    k, n, label = entry
    mark = st.sampled_from([' ', '  ', '-', '_', '/', ', ', '.', '\t', ' · ', '\u00a0'])
    parts = ''.join(c if c.isalnum() else ' ' for c in n).split()
    s = ''.join(
        data.draw(mark) + ''.join(data.draw(st.sampled_from([c.lower(), c.upper()])) for c in p) for p in parts
    ) + data.draw(mark)
    assert harmonize(s) == harmonize(s, k) == harmonize([s, n]) == (label,)


def test_camel_case_and_variants():
    assert harmonize(['AnnualCrop', 'HerbaceousVegetation', 'SeaLake', 'PermanentCrop']) == ('crops', 'grass', 'water')
    assert harmonize('BroadLeavedForest') == ('trees',) and harmonize('shrub_and_scrub') == harmonize(
        'Shrub & Scrub'
    ) == harmonize('shrub') == ('shrub and scrub',)
    for n, label in {
        'Natural grasslands': 'grass',
        'Bare rocks': 'bare',
        'Peat bogs': 'flooded vegetation',
        'Transitional woodland-shrub': 'shrub and scrub',
        'Beaches dunes and sands': 'bare',
        'Land principally occupied by agriculture with significant areas of natural vegetation': 'crops',
        'burnt area': 'burned area',
    }.items():
        assert harmonize(n) == harmonize(n, 'CORINE') == (label,), n
    for n, label in {
        'Built Area': 'built',
        'Bare Ground': 'bare',
        'Snow & Ice': 'snow and ice',
        'flood': 'flooded area',
        'Flooding': 'flooded area',
        'earthquake': 'earthquake damage',
    }.items():
        assert harmonize(n) == (label,)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([n for _, n, _ in LAND]), max_size=8), st.randoms())
def test_harmonizing_twice_and_any_order(some, rnd):
    once = harmonize(some)
    assert harmonize(once) == once and harmonize(rnd.sample(some, len(some))) == once == harmonize(some + some)
    assert list(once) == [label for label in LABELS if label in once] and once == tuple(labels_of(multihot([once])[0]))


# ---- bad input


def says(f, *words):
    with pytest.raises(InputError) as e:
        f()
    text = str(e.value)
    assert '\n' not in text and len(text) < 500, text
    for w in words:
        assert w in text, text


@pytest.mark.parametrize(
    'name,word',
    [
        ('Mixed forrest', 'mixed forest'),
        ('conifer forest', 'coniferous forest'),
        ('Burned', 'burned area'),
        ('olive grove', 'olive groves'),
        ('Tree covers', 'tree cover'),
        ('AnualCrop', 'annual crop'),
        ('Rice field', 'rice fields'),
        ('Inland\nmarsch', 'inland marshes'),
    ],
)
def test_misspelled_names_get_the_nearest(name, word):
    says(lambda: harmonize(name), 'unknown label', word)


@pytest.mark.parametrize(
    'name',
    [
        'Laubwald',
        'forêt de conifères',
        '針葉樹林',
        'Хвойный лес',
        'غابة',
        'pinhal',
        'water水',
        'wåter',
        'forest?!x',
        'x' * 5000,
        'a\nb\nc',
    ],
)
def test_foreign_names(name):
    says(lambda: harmonize(name), 'unknown label')
    says(lambda: harmonize(['Mixed forest', name]), 'unknown label')
    says(lambda: harmonize(name, 'worldcover'), 'unknown label')


@pytest.mark.parametrize(
    'name', ['', '  ', '?', None, 41, 3.5, float('nan'), b'water', ['water'], ('water',), np.zeros((3, 3)), True]
)
def test_what_is_no_name(name):
    says(lambda: harmonize([name]), 'label name')
    if not isinstance(name, (list, tuple)):
        says(lambda: harmonize(name), 'label name')


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=40), st.none(), st.integers(), st.floats(), st.binary(max_size=5)))
def test_anything_else_is_bad_input(x):
    try:
        assert set(harmonize([x])) <= set(LABELS)
    except ClospError as e:
        assert '\n' not in str(e)


def test_nomenclatures():
    says(lambda: harmonize('Trees', 'CLC'), 'corine, bigearthnet-43')
    says(lambda: label_codes('worldcovre'), 'worldcover')
    says(lambda: label_codes(None), 'corine')
    says(lambda: harmonize('Rice fields', 'bigearthnet-19'), "nomenclature='corine'")
    says(lambda: harmonize('no change'), "nomenclature='cabuar'")
    says(lambda: harmonize('Clouds'), 'terramind')
    assert harmonize('Urban fabric', 'BigEarthNet 19') == ('built',) and label_codes('World_Cover')[10] == 'trees'
    assert harmonize(['Clouds', 'None', 'Rangeland'], 'terramind') == ('grass',)


# ---- maps of codes


def plain_labels_by_area(codes, k, frac):
    "A loop over pixels."
    found, seen = {label: 0 for label in LABELS}, 0
    for row in codes.tolist():
        for c in row:
            if c in NOTHING.get(k, ()):
                continue
            seen += 1
            if CODES[k][c]:
                found[CODES[k][c]] += 1
    return tuple(label for label in LABELS if found[label] and found[label] / seen >= frac)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(list(CODES)),
    st.integers(0, 2**31),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([0.001, 0.01, 0.05, 0.1, 0.125, 0.25, 0.5, 1.0]),
    st.sampled_from(['uint8', 'int16', 'float32']),
)
def test_labels_by_area(k, seed, h, w, frac, dtype):
    rng = np.random.default_rng(seed)
    dtype = 'int16' if min(CODES[k]) < 0 and dtype == 'uint8' else dtype
    codes = rng.choice(rng.permutation(list(CODES[k]))[: rng.integers(1, 5)], (h, w)).astype(dtype)
    want = plain_labels_by_area(codes, k, frac)
    assert labels_by_area(codes, k, frac) == want == labels_by_area(codes.T[::-1], k, frac)
    hole = np.ma.masked_array(np.vstack([codes, codes]), np.repeat([False, True], h)[:, None].repeat(w, 1))
    assert labels_by_area(hole, k, frac) == want
    assert labels_by_area(np.vstack([codes, np.full_like(codes, 77)]), k, frac, nodata=77) == want
    if dtype == 'float32':
        assert labels_by_area(np.vstack([codes, np.full_like(codes, np.nan)]), k, frac) == want


def test_the_limit_is_inclusive():
    x = np.full((120, 120), 1, 'uint8')
    x.flat[:720] = 0
    assert labels_by_area(x, 'dynamic-world') == ('trees', 'water')
    x.flat[719] = 1
    assert labels_by_area(x, 'dynamic-world') == ('trees',)


def test_clouds_leave_the_sum_and_zeros_stay():
    x = np.full((10, 10), 8)
    x[0] = 2
    assert labels_by_area(x, 'terramind', 1.0) == ('trees',)
    m = np.zeros((10, 10), bool)
    m[0, :4] = True
    assert labels_by_area(m, 'cabuar') == () and labels_by_area(m, 'cabuar', 0.04) == ('burned area',)
    assert (
        labels_by_area(np.full((3, 3), 255), 'mmflood')
        == labels_by_area(np.full((3, 3), np.nan), 'worldcover')
        == labels_by_area(np.zeros((0, 3)), 'worldcover')
        == ()
    )
    assert labels_by_area([[311, 24], [999, 48]], 'corine') == ('trees',)


def test_bad_maps():
    x = np.full((4, 4), 10)
    says(lambda: labels_by_area(x, 'worldcoverage'), 'use one of')
    for name in (None, ''):
        says(lambda: labels_by_area(x, name), 'use one of', 'code and label', 'codes 10 fit worldcover, esri, corine')
    for bad in (x[0], x[None], np.array([['a']]), 5, None):
        says(lambda: labels_by_area(bad, 'worldcover'), 'rows, columns')
    for frac in (0, -1, 1.5, 5, float('nan')):
        says(lambda: labels_by_area(x, 'worldcover', frac), 'min_frac')


# ---- codes that a nomenclature lacks


def test_unknown_codes_are_neither_a_class_nor_an_error():
    x = np.full((4, 4), 10)
    for odd, k in ((x + 1, 'worldcover'), (x + 0.5, 'worldcover'), (x, 'mmflood'), (x * 60, 'corine')):
        assert labels_by_area(odd, k) == () and unknown_codes(odd, k) == {odd[0, 0]: 16}
    flood = np.zeros((10, 10), 'int16')
    flood[:5] = -1  # not seen, in a mask that is read as MMFlood's
    flood[9, :4] = 1
    assert labels_by_area(flood, 'mmflood', 0.08) == ('flooded area',) and labels_by_area(flood, 'mmflood', 0.09) == ()
    assert unknown_codes(flood, 'mmflood') == {-1: 50} and unknown_codes(flood, 'sen1floods11') == {}
    flood[5, 0] = 255  # one more than half
    assert labels_by_area(flood, 'mmflood', 0.01) == ('flooded area',)  # 255 is MMFlood's own
    flood[5, 0] = 77
    assert labels_by_area(flood, 'mmflood', 0.01) == () and unknown_codes(flood, 'mmflood', nodata=77) == {-1: 50}
    assert unknown_codes(np.ma.masked_equal(flood, -1), 'mmflood') == {77: 1}


def test_fitting_names_those_that_have_all_codes():
    assert fitting([1, 2, 5, 7, 11]) == ['esri', 'corine'] and fitting([-1, 0, 1]) == ['sen1floods11']
    assert fitting([10, 20, 95]) == ['worldcover'] and fitting([1000]) == []


def test_esri_is_known_by_both_its_makers():
    assert label_codes('IO') == label_codes('Esri') == label_codes('io-lulc') and label_codes('io')[11] == 'grass'


# ---- tables of users


def table(path, text, encoding='utf-8'):
    path.write_bytes(text.encode(encoding))
    return path


def test_code_table(tmp_path):
    p = table(tmp_path / 'Mine.CSV', 'code,label\n1,Olive groves\n2,water\n3,\n0,-\n-9,?\n7.0,Tree cover\n')
    assert [(c, label) for c, _, label in read_code_table(p)] == [
        (1, 'crops'),
        (2, 'water'),
        (3, None),
        (0, ''),
        (-9, None),
        (7, 'trees'),
    ]
    x = np.array([[1, 2, 3, 3], [3, 3, 0, 0]])
    assert labels_by_area(x, p, 0.25) == labels_by_area(x, str(p), 0.25) == ('crops', 'water')
    assert labels_by_area(x, p, 0.26) == () and unknown_codes([[1, 5]], p) == {5: 1}
    assert harmonize('OLIVE groves', p) == ('crops',)
    says(lambda: harmonize('Pastures', p), 'Pastures', 'nomenclature=')
    says(lambda: harmonize('Olive grove', p), "did you mean 'olive groves'")
    p.write_text('code,label\n1,Pastures\n4,built\n')  # what was read before is not remembered for ever
    os.utime(p, ns=(1, 1))
    assert labels_by_area(np.ones((2, 2)), p) == ('grass',)


@pytest.mark.parametrize(
    'text,words',
    [
        ('code,label\n1,water\n2,wadi\n', ['row 3', 'wadi']),
        ('code,label\nx,water\n', ['row 2', 'whole number']),
        ('code,label\n1.5,water\n', ['row 2', 'whole number']),
        ('code,label\n1,water\n1,trees\n', ['row 3', 'two labels']),
        ('code,label\n1\n', ['row 2', 'cells']),
        ('code,label\n\n', ['no rows']),
        ('', ['code and label']),
        ('a,b\n1,2\n', ['code and label', 'a,b']),
        ('code,label\n1,"water\n2,trees\n', ['row 2', 'quotes']),
    ],
)
def test_a_bad_code_table_is_refused_with_its_row(tmp_path, text, words):
    says(lambda: read_code_table(table(tmp_path / 'c.csv', text)), *words)


def test_no_code_table(tmp_path):
    for f in (lambda: label_codes(tmp_path / 'none.csv'), lambda: harmonize('water', str(tmp_path / 'none.csv'))):
        with pytest.raises(NotFoundError, match='check the path'):
            f()


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'cp1252'])
@pytest.mark.parametrize('sep', [',', ';', '\t'])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_label_table_as_spreadsheets_write_it(tmp_path, encoding, sep, end):
    rows = [
        'Path,Labels',
        'Lübeck.tif,"Water bodies;Pastures"',
        r'sub\b.tif,Salines',
        './sub/b.tif,Pastures',
        'dry.tif,',
    ]
    text = end.join(s.replace(',', sep) for s in rows) + end
    named, left, remark = read_label_table(table(tmp_path / 'labels.csv', text, encoding))
    want = {'Lübeck.tif': ('Water bodies', 'Pastures'), 'sub/b.tif': ('Salines', 'Pastures'), 'dry.tif': ()}
    assert named == want and left == [] and ('cp1252' in remark) == (encoding == 'cp1252')


@pytest.mark.parametrize(
    'raw,rows,kept',
    [
        (b'', [1], 0),
        (b'\n\n', [1], 0),
        (b'a,b\nx.tif,water\n', [1], 0),
        (b'PK\3\4\0\0\0', [1], 0),
        (b'path,labels\n\x81,water\n', [1], 0),
        (b'path,labels\na.tif,water\nb.tif\nc.tif,Beaches, dunes\nd.tif,trees\n', [3, 4], 2),
        (b'path,labels\na.tif,water\n,trees\n', [3], 1),
        (b'path,labels,,\na.tif,water,,\nb.tif,trees,,,,\n', [], 2),
        (b'path,labels\na.tif,water\nb.tif,"trees\nc.tif,grass\n', [3], 1),
        (b'path,labels\na.tif,"water"s\nb.tif,trees\n', [2], 1),
        (b'sep=;\npath;labels\na.tif;water\nb.tif;trees;grass\n', [4], 1),
    ],
)
def test_a_bad_label_table_keeps_its_good_rows(tmp_path, raw, rows, kept):
    (tmp_path / 'labels.csv').write_bytes(raw)
    named, left, _ = read_label_table(tmp_path / 'labels.csv')
    assert [n for n, _ in left] == rows and len(named) == kept and not any('\n' in why for _, why in left)


# ---- captions


def test_phrase_keeps_its_forms():
    assert len(PHRASES) == 3 and PHRASES == ('{}', '{} near {}', 'a satellite image of {} and {}')
    for k in range(4):
        for ls in itertools.combinations(LABELS, k):
            assert phrase(ls) == phrase(ls[::-1], 3) == caption(ls) == '. '.join(ls)
            if not k:
                want = ('', '')
            elif k == 1:
                want = (ls[0], f'a satellite image of {ls[0]}')
            else:
                want = (
                    f"{', '.join(ls[:-1])} near {ls[-1]}",
                    f"a satellite image of {', '.join(ls[:-1])} and {ls[-1]}",
                )
            assert (phrase(ls, 1), phrase(ls, 2)) == want


def test_synonyms_belong_to_one_label():
    words = [w for ws in SYNONYMS.values() for w in ws]
    assert (
        tuple(SYNONYMS) == LABELS
        and len(words) == len(set(words))
        and all(ws[0] == label for label, ws in SYNONYMS.items())
    )
    assert TEMPLATES[0] == '{}' and all(t.count('{}') == 1 for t in TEMPLATES) and len(set(TEMPLATES)) == len(TEMPLATES)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(LABELS), unique=True, min_size=1, max_size=3), st.integers(0, 2**31))
def test_say_adds_and_drops_nothing(ls, seed):
    text = reword(ls, seed)
    assert text == reword(random.Random(seed).sample(ls, len(ls)), seed) == reword(ls, np.random.default_rng(seed))
    said = {
        ' and '.join(filter(None, [', '.join(o[:-1]), o[-1]]))
        for ws in itertools.product(*(SYNONYMS[label] for label in ls))
        for o in itertools.permutations(ws)
    }
    assert any(t.format(b) == text for t in TEMPLATES for b in said)


def test_say_bad_input():
    assert reword(()) == '' and reword('trees', 0) == reword(('trees',), 0)
    says(lambda: reword(['forest']), 'harmonize')
    says(lambda: reword([None]), 'harmonize')


def test_public_names():
    assert {
        'LABELS',
        'CRISIS_LABELS',
        'CORINE',
        'RAW',
        'PHRASES',
        'NOMENCLATURES',
        'fitting',
        'harmonize',
        'label_codes',
        'labels_by_area',
        'caption',
        'phrase',
        'read_code_table',
        'read_label_table',
        'reword',
        'unknown_codes',
        'multihot',
        'labels_of',
    } <= set(module.__all__)
    assert CRISIS_LABELS == ('flooded area', 'burned area', 'earthquake damage')
