# Sourced by the other scripts: environments with this package installed.
#   prepare_environment EXTRA: .venv, of $PYTHON if that is set, else of the first Python that can make an environment.
#   prepare_oldest_environment: .venv-oldest, of the oldest Python here, with the oldest dependencies that setup.cfg allows.
# setup.cfg says which Python is the oldest. Whether the newest one has all packages, pip says.

_least=$(sed -n 's/^python_requires *= *>=3\.//p' setup.cfg)

_usable() { # a pyenv shim exists for interpreters that are not selected, so ask it to run
    "$1" -c "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, $_least))" >/dev/null 2>&1
}

_candidates() {
    printf '%s\n' python3 python
    compgen -c python3. | grep -E '^python3\.[0-9]+$' | sort -u -t. -k2nr
    ls -d "$HOME"/.pyenv/versions/*/bin/python 2>/dev/null | sort -Vr
}

_find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        _usable "$PYTHON" && echo "$PYTHON" && return
        echo "PYTHON=$PYTHON is not a Python 3.$_least or newer with venv and ensurepip" >&2
        return 1
    fi
    for candidate in $(_candidates); do
        _usable "$candidate" && echo "$candidate" && return
    done
    echo "no Python 3.$_least or newer with venv and ensurepip found (on Debian and Ubuntu: apt install python3-venv)." >&2
    echo "Install one, or name one: PYTHON=/path/to/python $0" >&2
    return 1
}

_find_oldest_python() {
    local candidate
    for candidate in $(_candidates); do
        if _usable "$candidate"; then
            "$candidate" -c 'import sys; print(*sys.version_info[:3], sys.executable)'
        fi
    done | sort -k1,1n -k2,2n -k3,3n | head -n 1 | cut -d ' ' -f 4-
}

_version() {
    "$1" -c 'import sys; print(sys.version)'
}

_install() { # an environment of $2 in folder $1, with extra $3, and pip's options from $4 on
    local folder=$1 python=$2 extra=$3 stamp wanted
    shift 3
    # An environment of another interpreter than the one asked for is made anew.
    if ! _usable "$folder/bin/python" || [ "$(_version "$python")" != "$(_version "$folder/bin/python")" ]; then
        echo "making $folder with $("$python" --version)" >&2
        "$python" -m venv --clear "$folder"
    fi
    # Installing takes a minute even if nothing has changed, so remember what was installed from what.
    stamp=$folder/installed-$extra
    wanted=$(cat setup.cfg setup.py pyproject.toml sparsert/_version.py | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing sparsert[$extra] into $folder" >&2
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@" --editable ".[$extra]" || return 1
        echo "$wanted" >"$stamp"
    fi
    # shellcheck disable=SC1091
    . "$folder/bin/activate"
}

prepare_environment() {
    local python=.venv/bin/python
    if [ -n "${PYTHON:-}" ] || ! _usable "$python"; then
        python=$(_find_python) || return 1
    fi
    _install .venv "$python" "$1"
}

prepare_oldest_environment() {
    local python
    python=$(_find_oldest_python)
    [ -n "$python" ] || python=$(_find_python) || return 1 # which says what is missing
    if ! "$python" -c "import sys; sys.exit(sys.version_info[:2] != (3, $_least))"; then
        echo "the oldest Python here is $("$python" --version), $python, which need not have the oldest dependencies." >&2
        echo "Install Python 3.$_least, with venv and ensurepip." >&2
        return 1
    fi
    # In a subshell, which removes the file whatever happens.
    (
        bounds=$(mktemp)
        trap 'rm -f "$bounds"' EXIT
        "$python" scripts/lower_bounds.py >"$bounds" || exit 1
        _install .venv-oldest "$python" dev --constraint "$bounds"
    ) || return 1
    # shellcheck disable=SC1091
    . .venv-oldest/bin/activate
}
