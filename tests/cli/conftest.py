"A folder in which the demo has run once, and a shell in this process."

import pytest
from commandline import SMALL, closp


@pytest.fixture(scope='session')
def demo(tmp_path_factory):
    "A folder in which the demo has run once, and what it printed."
    d = tmp_path_factory.mktemp('closp')
    done = closp('demo', '--out', 'demo', *SMALL, cwd=d, cache=d / 'cache')
    assert done.returncode == 0, done.stderr[-3000:]
    return d, done


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path):
    "Run a command in this process: (exit code, standard output, standard error)."
    from closp_nb.cli.main import run_command

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))

    def run(*argv):
        code = run_command(list(argv))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
