#!/bin/sh
# Makes the virtual environments of the systems that peers.py measures, as their dependencies may clash.
#
#     sh benchmarks/environments.sh [FOLDER] [PYTHON]
#
# FOLDER is benchmarks/.environments by default, where peers.py looks; PYTHON is python3 (3.11 or newer).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-"$here/.environments"}
python=${2:-python3}

make() { # name, packages …
    name=$1
    shift
    "$python" -m venv "$folder/$name"
    "$folder/$name/bin/pip" install --quiet --upgrade pip
    "$folder/$name/bin/pip" install --quiet "$@"
}

make jax "$here/.." keras
make tensorflow keras tensorflow-cpu
make torch keras torch lightning skorch scikit-learn
echo "Made in $folder. Now: python benchmarks/peers.py"
