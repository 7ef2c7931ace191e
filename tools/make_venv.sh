#!/bin/sh
# make_venv.sh FOLDER: a virtual environment from the newest Python here that torch has packages for.
# Each candidate is run, not only looked up: a version manager leaves commands behind that exist and fail.
set -eu

works='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'
for python in ${PYTHON:-} python3.13 python3.12 python3.11 python3 python; do
    if "$python" -c "$works" >/dev/null 2>&1; then
        echo "Making $1 with $python ($("$python" --version 2>&1))"
        exec "$python" -m venv --clear "$1"
    fi
done
echo "No Python 3.11 or newer with venv was found. Install one (Debian, Ubuntu: python3 python3-venv)," >&2
echo "or name it: make PYTHON=/path/to/python3" >&2
exit 1
