"Splits and queries against brute force: blocks on the sphere, whole events, the strip, leaks pair by pair; grades word for word, qrels there and back."
import hashlib

import ir_measures
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings, strategies as st
from ir_measures import nDCG

from closp_nb.catalog import Catalog, pixel_hash
from closp_nb.core import BadInput
from closp_nb.labels import CRISES, LABELS, caption
from closp_nb.metrics import exponential_gain, ndcg
from closp_nb.queries import make_queries, read_qrels, read_queries, relevance, say_place, write_queries
from closp_nb.splits import EARTH, km_between, leaks, nearest_km, place_block, split_blocks, split_catalog, stratify, to_xyz
