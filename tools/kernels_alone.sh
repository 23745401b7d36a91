#!/usr/bin/env bash
# The attention library by itself: for each interpreter an empty environment, `pip install` of kernels/ as a
# folder and as a source distribution, one forward and backward, and its own tests. Nothing of the checkout
# can be imported there. Takes minutes and 5 GB for each interpreter, which are PyTorch.
#
#   tools/kernels_alone.sh OUT [PYTHON ...]
#
# TORCH, such as 'torch==2.11.0', says which PyTorch (default: the newest). TESTS: words for pytest.
set -euo pipefail

usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }
[ $# -ge 1 ] || { usage >&2; exit 2; }
case $1 in -h | --help) usage; exit 0 ;; esac
out=$(realpath -m "$1")
shift
pythons=("$@")
[ $# -gt 0 ] || pythons=(python3)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH PYTHONHOME
export PYTHONSAFEPATH=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export XDG_CACHE_HOME=$out/cache # the engine is compiled here, too
mkdir -p "$out"

# a copy, for a build leaves its files in the folder
rm -rf "$out/kernels" "$out/tests"
cp -r kernels "$out/kernels"
rm -rf "$out"/kernels/build "$out"/kernels/*.egg-info
mkdir "$out/tests"
cp -r kernels/tests kernels/README.md kernels/pyproject.toml "$out/tests"

alone() { # ENVIRONMENT: what is installed there, and one call
    local foreign
    "$1/bin/python" -m pip check
    foreign=$("$1/bin/python" -m pip list --format freeze | grep -iE '^(lhotse|sentencepiece|torchaudio|sigmoid-asr)=' || true)
    [ -z "$foreign" ] || { echo "installed as well: $foreign" >&2; return 1; }
    (cd "$out" && "$1/bin/python" -c '
import sigmoid_attention, torch
q = torch.randn(2, 4, 50, 16, requires_grad=True)
weighting = sigmoid_attention.Weighting.sigmoid()
sigmoid_attention.attend(q, q, q, weighting=weighting).sum().backward()
assert q.grad.isfinite().all()
print("torch", torch.__version__, "sigmoid_attention", sigmoid_attention.__version__, sigmoid_attention.__file__)
')
}

for python in "${pythons[@]}"; do
    name=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    environment=$out/$name
    echo "== $name: an empty environment"
    rm -rf "$environment"
    "$python" -m venv "$environment"
    # shellcheck disable=SC2086  # TORCH and TESTS are words
    "$environment/bin/python" -m pip install --quiet "$out/kernels" ${TORCH:-}
    alone "$environment"
    echo "== $name: from the source distribution"
    "$environment/bin/python" -m pip install --quiet build
    "$environment/bin/python" -m build --sdist --outdir "$out/dist-$name" "$out/kernels" >"$out/build-$name.txt" 2>&1
    "$environment/bin/python" -m pip install --quiet --force-reinstall --no-deps "$out/dist-$name"/*.tar.gz
    alone "$environment"
    echo "== $name: its tests"
    "$environment/bin/python" -m pip install --quiet "$(echo "$out/dist-$name"/*.tar.gz)[test]"
    # shellcheck disable=SC2086
    (cd "$out/tests" && "$environment/bin/python" -m pytest -q -p no:cacheprovider ${TESTS:-})
done
