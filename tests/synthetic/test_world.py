"The generated world: the same number gives the same bytes, however many processes make it."

import pickle
from closp_nb.sensors import ALL_SENSORS
from closp_nb.synthetic.world import build_world, make_tile


def test_one_worker_and_two_write_the_same_bytes(tmp_path):
    for w in (1, 2):
        build_world(tmp_path / str(w), 40, seed=3, geotiffs=2, workers=w, progress=False)
    one, two = (
        {p.relative_to(tmp_path / w): p.read_bytes() for p in sorted((tmp_path / w).rglob('*')) if p.is_file()}
        for w in '12'
    )
    assert len(one) > 4 and one.keys() == two.keys() and not [k for k in one if one[k] != two[k]]


def test_a_sensor_is_itself_after_a_process_pool():
    for s in ALL_SENSORS.values():
        assert pickle.loads(pickle.dumps(s)) == s and hash(pickle.loads(pickle.dumps(s))) == hash(s)
    assert len(set(ALL_SENSORS.values())) == len(ALL_SENSORS)
    t = pickle.loads(pickle.dumps(make_tile(1)))
    assert t.sensor in ALL_SENSORS.values() and t.sensor != ALL_SENSORS['s1']
