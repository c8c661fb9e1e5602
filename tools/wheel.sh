#!/bin/sh
# make wheel: the wheel of this machine, without CUDA, and the source archive, checked as an index would check them; into dist.
# Usage: tools/wheel.sh FOLDER-OF-PYTHON. The platform tag is what the libraries of this machine allow; the wheels of a release
# come from cibuildwheel, in containers with older ones (.github/workflows/wheels.yml).
set -eu
bin=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
largest=2000000  # bytes
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
rm -rf dist

FASTGAN_REQUIRE_NATIVE=1 "$bin/python" -m build --outdir "$built" -C cmake.define.FASTGAN_CUDA=OFF .
mkdir -p dist
mv "$built"/*.tar.gz dist
case $(uname -s) in
Linux) PATH="$bin:$PATH" "$bin/python" -m auditwheel repair --strip -w dist "$built"/*.whl ;;
*) mv "$built"/*.whl dist ;;
esac
"$bin/python" -m twine check --strict dist/*

for wheel in dist/*.whl; do
  size=$(($(wc -c < "$wheel")))
  echo "$wheel: $size bytes"
  if [ "$size" -gt "$largest" ]; then
    echo "wheel.sh: the wheel must be at most $largest bytes, got $size" >&2
    exit 1
  fi
done
