# Sourced by the other scripts: prepare_environment EXTRA makes .venv with this package installed, and activates it.
# The interpreter is $PYTHON if that is set, else the first of 3.12, 3.11, 3.13, 3.10 that can make an environment.

_usable() { # a pyenv shim exists for interpreters that are not selected, so ask it to run
    "$1" -c 'import sys, ensurepip, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

_find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        _usable "$PYTHON" && echo "$PYTHON" && return
        echo "PYTHON=$PYTHON is not a Python 3.10 to 3.13 with venv and ensurepip" >&2
        return 1
    fi
    for candidate in python3.12 python3.11 python3.13 python3.10 python3 python "$HOME"/.pyenv/versions/3.1[0-3]*/bin/python; do
        _usable "$candidate" && echo "$candidate" && return
    done
    echo "no Python 3.10 to 3.13 with venv and ensurepip found (on Debian and Ubuntu: apt install python3-venv)." >&2
    echo "Install one, or name one: PYTHON=/path/to/python $0" >&2
    return 1
}

_version() {
    "$1" -c 'import sys; print(sys.version)'
}

prepare_environment() {
    local extra=$1 python stamp wanted
    if [ -n "${PYTHON:-}" ]; then
        python=$(_find_python) || return 1
    fi
    # An environment of another interpreter than the one asked for is made anew.
    if ! _usable .venv/bin/python || { [ -n "${PYTHON:-}" ] && [ "$(_version "$python")" != "$(_version .venv/bin/python)" ]; }; then
        python=$(_find_python) || return 1
        echo "making .venv with $("$python" --version)" >&2
        "$python" -m venv --clear .venv
    fi
    # Installing takes a minute even if nothing has changed, so remember what was installed from what.
    stamp=.venv/installed-$extra
    wanted=$(cat setup.cfg setup.py pyproject.toml sparsert/_version.py | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing sparsert[$extra] into .venv" >&2
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extra]"
        echo "$wanted" >"$stamp"
    fi
    # shellcheck disable=SC1091
    . .venv/bin/activate
}
