"Everything that setup says is read from settings.ini, the live configuration of nbdev 2."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read('settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
needs = {k.removesuffix('_requirements'): cfg[k].split() for k in cfg if k.endswith('_requirements')}

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    long_description=Path('README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    author=cfg['author'], author_email=cfg['author_email'], keywords=cfg['keywords'], license='Apache-2.0',
    url='https://github.com/closp-nb/closp_nb', python_requires='>=' + cfg['min_python'],
    classifiers=['Intended Audience :: Science/Research', 'Topic :: Scientific/Engineering :: GIS', 'Typing :: Typed',
                 *(f'Programming Language :: Python :: {v}' for v in cfg['pythons'].split())],
    packages=find_packages(include=['closp_nb', 'closp_nb.*']), package_data={'closp_nb': ['py.typed', 'assets/*.csv', 'assets/*.geojson']},
    install_requires=cfg['requirements'].split(), extras_require=needs,
    entry_points={'console_scripts': cfg['console_scripts'].split()},
)
